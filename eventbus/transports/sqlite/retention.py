"""Removing what is too old, too much or too large, a little at a time."""

__all__ = ("expire", "remove")

import sqlite3
from collections.abc import Sequence

from eventbus.transports.sqlite.log import first_and_last
from eventbus.transports.sqlite.removal import remove_at, remove_up_to
from eventbus.transports.sqlite.settings import Settings
from eventbus.transports.sqlite.sweep import BYTES_PER_RECORD

PER_ROUND = 1000
"""Records removed in one transaction at most, so that publishers do not wait for more."""

DUPLICATES_SECONDS = 120
"""For how long the id of a removed record is still known as published."""


def expire(connection: sqlite3.Connection, settings: Settings, now: int) -> int:
    """Remove the oldest records that are beyond what is kept; give how many, of one round.

    `now` is in microseconds.
    """
    removed, last = first_and_last(connection)
    cut = min(max(_cuts(connection, settings, now, removed, last)), removed + PER_ROUND, last)
    if cut <= removed:
        return 0
    return remove_up_to(connection, cut, remember_since=now - DUPLICATES_SECONDS * 1_000_000)


def remove(connection: sqlite3.Connection, positions: Sequence[int], now: int) -> int:
    """Remove records, wherever they stand; give how many. `now` is in microseconds."""
    return remove_at(connection, positions, remember_since=now - DUPLICATES_SECONDS * 1_000_000)


def _cuts(
    connection: sqlite3.Connection, settings: Settings, now: int, removed: int, last: int
) -> list[int]:
    """Tell for each limit the last position beyond it, as far as one round can go."""
    cuts = [removed]
    if settings.max_count is not None:
        cuts.append(last - settings.max_count)
    if settings.max_age is not None:
        cuts.append(_last_older(connection, now - round(settings.max_age * 1e6), removed))
    if settings.max_bytes is not None:
        cuts.append(_last_in_excess(connection, settings.max_bytes, removed))
    return cuts


def _last_older(connection: sqlite3.Connection, moment: int, removed: int) -> int:
    (first_younger,) = connection.execute(
        "SELECT min(position) FROM (SELECT position, time FROM log ORDER BY position LIMIT ?) "
        "WHERE time >= ?",
        (PER_ROUND, moment),
    ).fetchone()
    return removed + PER_ROUND if first_younger is None else first_younger - 1


def _last_in_excess(connection: sqlite3.Connection, most: int, removed: int) -> int:
    """Tell the last of the oldest records that make up a half of what is too much.

    Not of all of it: what a record takes of a page is up to twice its bytes. The next round goes on
    from there.
    """
    excess = _used_bytes(connection) - most
    if excess > 0:
        excess -= _bytes_of_others(connection)
    if excess <= 0:
        return removed
    (last,) = connection.execute(
        "SELECT min(position) FROM (SELECT position, sum(size) OVER (ORDER BY position) AS total "
        "FROM (SELECT position, length(payload) + length(topic) + ifnull(length(traits), 0) + ? "
        "AS size FROM log ORDER BY position LIMIT ?)) WHERE total >= ?",
        (BYTES_PER_RECORD, PER_ROUND, excess // 2),
    ).fetchone()
    return removed + PER_ROUND if last is None else last


def _bytes_of_others(connection: sqlite3.Connection) -> int:
    """Tell what records take that are not in the log: to remove it would not make them fewer."""
    (size,) = connection.execute(
        "SELECT (SELECT ifnull(sum(length(payload) + length(topic) + ifnull(length(traits), 0) "
        "+ length(error) + length(traceback) + ?), 0) FROM dead_letter) "
        "+ (SELECT ifnull(sum(length(payload) + length(topic) + ifnull(length(traits), 0) + ?), 0) "
        "FROM scheduled)",
        (BYTES_PER_RECORD, BYTES_PER_RECORD),
    ).fetchone()
    used: int = size
    return used


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    used: int = (pages - free) * size
    return used
