"""Who answers requests in which session, and the replies on their way to who asked."""

__all__ = ("announce", "elsewhere", "keep_reply", "read_replies", "remove_replies", "withdraw")

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from pydantic_core import from_json

from eventbus.topics import matches
from eventbus.transports.sqlite.presence import is_gone


class Reply(NamedTuple):
    """A reply, by its place among all there ever were, and that of its request in the session."""

    number: int
    request: int
    text: str


def announce(
    connection: sqlite3.Connection,
    session: int,
    name: str,
    patterns: Sequence[str],
    *,
    is_shared: bool,
) -> None:
    """Note that a session answers requests under a name, which others may share."""
    connection.executemany(
        "INSERT OR REPLACE INTO responder (session, name, pattern, is_shared) VALUES (?, ?, ?, ?)",
        [(session, name, pattern, is_shared) for pattern in patterns],
    )


def withdraw(connection: sqlite3.Connection, session: int, name: str) -> None:
    """Note that it does so no more."""
    connection.execute("DELETE FROM responder WHERE session = ? AND name = ?", (session, name))


def elsewhere(connection: sqlite3.Connection, session: int, topic: str) -> frozenset[str]:
    """Name who answers requests to a topic in other sessions that live; shared ones once."""
    (rows,) = connection.execute(
        "SELECT json_group_array(json_array(session, name, pattern, is_shared, place, process)) "
        "FROM responder JOIN session ON session.id = responder.session WHERE session <> ?",
        (session,),
    ).fetchone()
    return frozenset(
        name if is_shared else f"{name} of {other}"
        for other, name, pattern, is_shared, place, process in from_json(rows)
        if matches(pattern, topic) and not is_gone(place, process)
    )


def keep_reply(connection: sqlite3.Connection, session: int, request: int, text: str) -> bool:
    """Keep a reply for a session; False if that has ended."""
    kept = connection.execute(
        "INSERT INTO reply (session, request, text) SELECT id, ?, ? FROM session WHERE id = ?",
        (request, text, session),
    )
    return kept.rowcount > 0


def read_replies(connection: sqlite3.Connection, session: int, after: int) -> list[Reply]:
    """Read the replies to a session that came after one."""
    (rows,) = connection.execute(
        "SELECT json_group_array(json_array(number, request, text)) FROM ("
        "SELECT * FROM reply WHERE session = ? AND number > ? ORDER BY number)",
        (session, after),
    ).fetchone()
    return [Reply(*row) for row in from_json(rows)]


def remove_replies(connection: sqlite3.Connection, session: int, up_to: int) -> None:
    """Remove the replies that a session has read."""
    connection.execute("DELETE FROM reply WHERE session = ? AND number <= ?", (session, up_to))
