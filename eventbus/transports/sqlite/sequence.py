"""What waits behind a dead letter: later messages of its key, where dead letters are sequenced.

A letter that names a lane closes it. Messages of that key are no deliveries meanwhile, so that
nobody has to look at them: they become some when no letter of the lane is left.
"""

__all__ = ("COUNT", "Behind", "hold_back", "leave_waiting", "let_go")

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from pydantic_core import from_json, to_json

COUNT = (
    "(SELECT count(*) FROM waiting JOIN subscription ON subscription.id = waiting.subscription "
    "WHERE subscription.name = dead_letter.subscription AND waiting.key = dead_letter.lane)"
)
"""How many messages wait for a dead letter."""

_OPEN = (
    "FROM waiting WHERE NOT EXISTS (SELECT 1 FROM dead_letter JOIN subscription "
    "ON subscription.name = dead_letter.subscription "
    "WHERE subscription.id = waiting.subscription AND dead_letter.lane = waiting.key)"
)


class Behind(NamedTuple):
    """What is to wait for a dead letter: messages of its key, some of which were ours."""

    lane: str
    positions: Sequence[int]


def leave_waiting(
    connection: sqlite3.Connection, subscription: int, entries: list[tuple[int, str | None]]
) -> list[tuple[int, str | None]]:
    """Keep those waiting whose lane is closed; give the others. Each is a position and a key."""
    (lanes,) = connection.execute(
        "SELECT json_group_array(DISTINCT lane) FROM dead_letter WHERE lane IS NOT NULL "
        "AND subscription = (SELECT name FROM subscription WHERE id = ?)",
        (subscription,),
    ).fetchone()
    closed = frozenset(from_json(lanes))
    if not closed:
        return entries
    _keep(connection, subscription, [entry for entry in entries if entry[1] in closed])
    return [entry for entry in entries if entry[1] not in closed]


def _keep(
    connection: sqlite3.Connection, subscription: int, entries: Sequence[tuple[int, str | None]]
) -> None:
    connection.execute(
        "INSERT INTO waiting (subscription, key, position) "
        "SELECT ?, value ->> 1, value ->> 0 FROM json_each(?)",
        (subscription, to_json(entries).decode()),
    )


def hold_back(
    connection: sqlite3.Connection, subscription: int, session: int, *, lane: str, after: int
) -> None:
    """Let deliveries of a lane wait that are ours or nobody's, and come after a dead letter."""
    chosen = (subscription, lane, after, session)
    ours = "FROM delivery WHERE subscription = ? AND key = ? AND position > ? AND ifnull(owner, ?) "
    connection.execute(
        "INSERT INTO waiting (subscription, key, position) "
        f"SELECT subscription, key, position {ours} = ?",
        (*chosen, session),
    )
    connection.execute(f"DELETE {ours} = ?", (*chosen, session))


def let_go(connection: sqlite3.Connection) -> None:
    """Make deliveries, in their order, of what waits for no letter any more."""
    connection.execute(
        "INSERT INTO delivery (subscription, position, key) "
        f"SELECT subscription, position, key {_OPEN}"
    )
    connection.execute(f"DELETE {_OPEN}")
