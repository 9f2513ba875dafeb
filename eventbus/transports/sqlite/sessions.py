"""Which buses have the store open, and what becomes of what those had that are gone.

A session gives a sign of life by counting on. Others judge it by how long, on their own monotonic
clock, they have seen the same count: clocks that jump mean nothing here.
"""

__all__ = ("Session", "beat", "begin", "end", "free", "others")

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from pydantic_core import from_json, to_json

from eventbus.transports.sqlite.damage import legible
from eventbus.transports.sqlite.presence import this_place, this_process


class Session(NamedTuple):
    """A bus that has the store open, as another sees it."""

    id: int
    place: str
    process: int
    beat: int


def begin(connection: sqlite3.Connection) -> int:
    """Begin a session; give its number."""
    cursor = connection.execute(
        "INSERT INTO session (place, process, beat) VALUES (?, ?, 0)",
        (this_place(), this_process()),
    )
    return cursor.lastrowid or 0


def beat(connection: sqlite3.Connection, session: int) -> None:
    """Give a sign of life."""
    connection.execute("UPDATE session SET beat = beat + 1 WHERE id = ?", (session,))


def others(connection: sqlite3.Connection, session: int) -> list[Session]:
    """List all sessions but one's own."""
    (rows,) = connection.execute(
        "SELECT json_group_array(json_array(id, place, process, beat)) FROM session WHERE id <> ?",
        (session,),
    ).fetchone()
    return [Session(*row) for row in from_json(rows)]


def free(
    connection: sqlite3.Connection,
    session: int,
    *,
    now: int,
    subscriptions: Sequence[int] | None = None,
) -> dict[str, int]:
    """Free what a session had that does not answer; give how many deliveries of which subscription.

    What was waiting to be tried again cannot have been what killed it; all else is suspect. Without
    `subscriptions` the session is gone, and forgotten.
    """
    chosen = None if subscriptions is None else to_json(subscriptions).decode()
    had = "owner = ? AND (? IS NULL OR subscription IN (SELECT value FROM json_each(?)))"
    (freed,) = connection.execute(
        "SELECT json_group_array(json_array(hex(name), deliveries)) FROM ("
        "SELECT name, count(*) AS deliveries FROM delivery JOIN subscription ON id = subscription "
        f"WHERE {had} GROUP BY id ORDER BY name)",
        (session, chosen, chosen),
    ).fetchone()
    connection.execute(
        f"UPDATE delivery SET owner = NULL, suspect = max(suspect, due <= ?) WHERE {had}",
        (now, session, chosen, chosen),
    )
    if subscriptions is None:
        _forget(connection, session)
    return {legible(name): deliveries for name, deliveries in from_json(freed)}


def end(connection: sqlite3.Connection, session: int) -> None:
    """Give back all that a session has, as if it had not been taken, and forget it."""
    connection.execute(
        "UPDATE delivery SET owner = NULL, attempts = max(0, attempts - suspect) WHERE owner = ?",
        (session,),
    )
    _forget(connection, session)


def _forget(connection: sqlite3.Connection, session: int) -> None:
    connection.execute("DELETE FROM responder WHERE session = ?", (session,))
    connection.execute("DELETE FROM reply WHERE session = ?", (session,))
    connection.execute("DELETE FROM session WHERE id = ?", (session,))
