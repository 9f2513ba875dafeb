"""What retention takes from durable subscriptions, until they have been told.

While records are there, it is known who would have been given them: so that is found out as they
are removed. Each subscription has one row, however much it loses before it comes back. It stays
until the subscription has passed all that was lost: what it has read, and not begun, is not there
any more either.
"""

__all__ = ("Loss", "count_lost", "give_up", "note_losses", "still_kept", "tell")

import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pydantic_core import from_json, to_json

from eventbus.transports.sqlite.damage import legible
from eventbus.transports.sqlite.wanting import wants


class Loss(NamedTuple):
    """What a subscription, by its number, will never be given: so many messages between two."""

    subscription: int
    messages: int
    first: int
    last: int


# --- noting ---------------------------------------------------------------------------------------


def note_losses(connection: sqlite3.Connection, where: str, which: int | str) -> None:
    """Note who loses what with the records at some positions, which are still there.

    `where` asks for their positions, and takes `which`. What a process has in hand is not lost yet.
    """
    losses = [*_unsettled(connection, where, which), *_unread(connection, where, which)]
    connection.executemany(
        "INSERT INTO loss (subscription, messages, first, last) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (subscription) DO UPDATE SET messages = messages + excluded.messages, "
        "first = CASE messages WHEN 0 THEN excluded.first ELSE min(first, excluded.first) END, "
        "last = max(last, excluded.last)",
        losses,
    )
    count_lost(connection, sum(one.messages for one in losses))


def _unsettled(connection: sqlite3.Connection, where: str, which: int | str) -> Iterator[Loss]:
    """Tell what is nobody's, or waits for a dead letter."""
    (rows,) = connection.execute(
        "SELECT json_group_array(json_array(subscription, messages, first, last)) FROM ("
        "SELECT subscription, count(*) AS messages, min(position) AS first, max(position) AS last "
        f"FROM (SELECT subscription, position FROM delivery WHERE {where} AND owner IS NULL "
        f"UNION ALL SELECT subscription, position FROM waiting WHERE {where}) "
        "GROUP BY subscription)",
        (which, which),
    ).fetchone()
    return (Loss(*row) for row in from_json(rows))


def _unread(connection: sqlite3.Connection, where: str, which: int | str) -> Iterator[Loss]:
    """Tell what is wanted, but was not read by then."""
    (behind,) = connection.execute(
        "SELECT json_group_array(json_array(id, patterns, cursor)) FROM subscription "
        f"WHERE cursor < (SELECT max(position) FROM log WHERE {where})",
        (which,),
    ).fetchone()
    for subscription, patterns, cursor in from_json(behind):
        (topics,) = connection.execute(
            "SELECT json_group_array(json_array(hex(topic), messages, first, last)) FROM ("
            "SELECT topic, count(*) AS messages, min(position) AS first, max(position) AS last "
            f"FROM log WHERE {where} AND position > ? GROUP BY topic)",
            (which, cursor),
        ).fetchone()
        is_wanted = wants(from_json(patterns))
        for topic, *loss in from_json(topics):
            if is_wanted(legible(topic)):
                yield Loss(subscription, *loss)


def give_up(connection: sqlite3.Connection, subscription: int, positions: Sequence[int]) -> None:
    """Count deliveries as lost that turn out to have no records any more, and end them."""
    connection.execute(
        "DELETE FROM delivery WHERE subscription = ? "
        "AND position IN (SELECT value FROM json_each(?))",
        (subscription, to_json(positions).decode()),
    )
    count_lost(connection, len(positions))


def count_lost(connection: sqlite3.Connection, messages: int) -> None:
    """Count messages as lost."""
    if messages:
        connection.execute("UPDATE meta SET lost = lost + ?", (messages,))


# --- telling --------------------------------------------------------------------------------------


def tell(connection: sqlite3.Connection, subscription: int, cursor: int) -> Loss | None:
    """Give what a subscription has lost and not been told of, now that it has come so far."""
    row = connection.execute(
        "SELECT subscription, messages, first, last FROM loss "
        "WHERE subscription = ? AND messages > 0",
        (subscription,),
    ).fetchone()
    connection.execute("UPDATE loss SET messages = 0 WHERE subscription = ?", (subscription,))
    connection.execute(
        "DELETE FROM loss WHERE subscription = ? AND last <= ?", (subscription, cursor)
    )
    return None if row is None else Loss(*row)


def still_kept(connection: sqlite3.Connection, positions: Sequence[int]) -> frozenset[int]:
    """Tell which of these records are still there."""
    (kept,) = connection.execute(
        "SELECT json_group_array(position) FROM log "
        "WHERE position IN (SELECT value FROM json_each(?))",
        (to_json(positions).decode(),),
    ).fetchone()
    return frozenset(from_json(kept))
