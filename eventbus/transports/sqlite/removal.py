"""Removing records from the log, from its begin or its middle, and what belongs to them."""

__all__ = ("remove_at", "remove_up_to")

import sqlite3
from collections.abc import Sequence

from pydantic_core import to_json

from eventbus.transports.sqlite.gaps import absorb, widen
from eventbus.transports.sqlite.losses import note_losses


def remove_up_to(connection: sqlite3.Connection, position: int, *, remember_since: int) -> int:
    """Remove the oldest records up to a position; give how many.

    Ids of records published since a time, in microseconds, are remembered: to publish them again
    stays without effect. What of them subscriptions were still to be given is noted as lost.
    """
    count = _remove(connection, _UP_TO, position, remember_since)
    connection.execute("UPDATE meta SET removed = max(removed, ?)", (position,))
    absorb(connection)
    return count


def remove_at(
    connection: sqlite3.Connection, positions: Sequence[int], *, remember_since: int
) -> int:
    """Remove the records at these positions, which rise, as `remove_up_to`; give how many.

    The newest of all must not be among them: it tells where the log ends.
    """
    count = _remove(connection, _AT, to_json(positions).decode(), remember_since)
    widen(connection, positions)
    absorb(connection)
    return count


_UP_TO = "position BETWEEN 1 AND ?"
_AT = "position IN (SELECT value FROM json_each(?))"


def _remove(
    connection: sqlite3.Connection, where: str, which: int | str, remember_since: int
) -> int:
    connection.execute("DELETE FROM seen WHERE time < ?", (remember_since,))
    connection.execute(
        f"INSERT OR IGNORE INTO seen SELECT id, position, time FROM log WHERE {where} "
        "AND time >= ?",
        (which, remember_since),
    )
    note_losses(connection, where, which)
    connection.execute(f"DELETE FROM delivery WHERE {where} AND owner IS NULL", (which,))
    connection.execute(f"DELETE FROM waiting WHERE {where}", (which,))
    return connection.execute(f"DELETE FROM log WHERE {where}", (which,)).rowcount
