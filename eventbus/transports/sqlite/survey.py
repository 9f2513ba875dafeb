"""What a store holds, and how far its subscriptions are."""

__all__ = ("MOST_COUNTED", "survey")

import sqlite3
from typing import NamedTuple

from pydantic_core import from_json

from eventbus.transports.figures import StoreFigures, SubscriptionFigures
from eventbus.transports.sqlite.gaps import count_removed
from eventbus.transports.sqlite.log import first_and_last
from eventbus.transports.sqlite.wanting import wants

MOST_COUNTED = 100_000
"""How many records a subscription has yet to read are told apart by their topics; what follows
counts as meant for it."""


class _Row(NamedTuple):
    """A subscription, as stored, and what of its deliveries is not settled."""

    id: int
    name: str
    patterns: str
    cursor: int
    open: int
    owned: int
    tried: int
    first: int | None
    dead: int


class _Ahead(NamedTuple):
    """What a subscription has yet to read: how much of it is wanted, and the first of that."""

    wanted: int
    first: int | None


def survey(connection: sqlite3.Connection, now: float) -> StoreFigures:
    """Read the figures of a store at that wall time, of one moment if in a transaction."""
    connection.execute("BEGIN")
    try:
        return _survey(connection, now)
    finally:
        connection.execute("ROLLBACK")


def _survey(connection: sqlite3.Connection, now: float) -> StoreFigures:
    removed, last = first_and_last(connection)
    buses, dead, scheduled, lost = connection.execute(
        "SELECT (SELECT count(*) FROM session), "
        "(SELECT count(*) FROM dead_letter WHERE is_sent = 0), kept, lost FROM schedule, meta"
    ).fetchone()
    return StoreFigures(
        first=removed + 1,
        last=last,
        size=_size(connection),
        buses=buses,
        dead_letters=dead,
        scheduled=scheduled,
        removed=count_removed(connection),
        lost=lost,
        subscriptions=[_figures(connection, row, last, now) for row in _rows(connection)],
    )


def _rows(connection: sqlite3.Connection) -> list[_Row]:
    (rows,) = connection.execute(
        "SELECT json_group_array(json_array(id, name, patterns, cursor, open, owned, tried, first, "
        "(SELECT count(*) FROM dead_letter WHERE is_sent = 0 AND subscription = name))) FROM ("
        "SELECT id, name, patterns, cursor, count(position) + "
        "(SELECT count(*) FROM waiting WHERE subscription = id) AS open, count(owner) AS owned, "
        "count(CASE WHEN attempts > 0 THEN 1 END) AS tried, min(position) AS first "
        "FROM subscription LEFT JOIN delivery ON delivery.subscription = id "
        "GROUP BY id ORDER BY name)"
    ).fetchone()
    return [_Row(*row) for row in from_json(rows)]


def _figures(
    connection: sqlite3.Connection, row: _Row, last: int, now: float
) -> SubscriptionFigures:
    patterns = from_json(row.patterns)
    ahead = _ahead(connection, row.cursor, last, patterns)
    first = ahead.first if row.first is None else row.first
    return SubscriptionFigures(
        name=row.name,
        patterns=patterns,
        passed=max(0, row.cursor - row.open),
        lag=row.open + ahead.wanted,
        in_flight=row.owned,
        retrying=row.tried,
        dead_letters=row.dead,
        oldest_age=0.0 if first is None else _age(connection, first, now),
    )


def _ahead(connection: sqlite3.Connection, cursor: int, last: int, patterns: list[str]) -> _Ahead:
    (rows,) = connection.execute(
        "SELECT json_group_array(json_array(topic, many, first)) FROM ("
        "SELECT topic, count(*) AS many, min(position) AS first FROM ("
        "SELECT topic, position FROM log WHERE position > ? ORDER BY position LIMIT ?) "
        "GROUP BY topic)",
        (cursor, MOST_COUNTED),
    ).fetchone()
    is_wanted, counts = wants(patterns), from_json(rows)
    wanted = [(many, first) for topic, many, first in counts if is_wanted(topic)]
    are_all = sum(many for _, many, _ in counts) < MOST_COUNTED
    beyond = 0 if are_all else max(0, last - cursor - MOST_COUNTED)
    return _Ahead(
        sum(many for many, _ in wanted) + beyond, min((first for _, first in wanted), default=None)
    )


def _age(connection: sqlite3.Connection, position: int, now: float) -> float:
    """Tell how old a record is; a dead letter sent again, at a negative position, is one too."""
    row = connection.execute(
        "SELECT time FROM log WHERE position = ? "
        "UNION ALL SELECT time FROM dead_letter WHERE number = -?",
        (position, position),
    ).fetchone()
    return 0.0 if row is None else max(0.0, now - row[0] / 1e6)


def _size(connection: sqlite3.Connection) -> int:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    return int(pages * size)
