"""Finding a place in the log by time or topic, a little at a time.

There is no index of either, which each publish would pay for: so what is looked for may be anywhere
in a long log. The reader looks, and in small steps: publishers do not wait, and others that read
have their turn.
"""

__all__ = ("first_since", "last_until", "look_for")

import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from pydantic_core import from_json

from eventbus.transports.base import Start
from eventbus.transports.sqlite.beginning import Begin
from eventbus.transports.sqlite.clerks import Look
from eventbus.transports.sqlite.damage import legible
from eventbus.transports.sqlite.desk import Desk
from eventbus.transports.sqlite.log import first_and_last
from eventbus.transports.sqlite.wanting import wants

SEARCHED_AT_ONCE = 20_000
"""Records that are searched for a time in one transaction: some ten milliseconds of work."""

TOPICS_AT_ONCE = 5_000
"""Records whose topics are looked at in one transaction: about as much."""


async def first_since(desk: Desk, moment: datetime, removed: int, last: int) -> int:
    """Give the position of the first record stored at a time or later; `last + 1` if there is none.

    First in the order of positions, whatever clocks have done.
    """
    for before in range(removed, last, SEARCHED_AT_ONCE):
        end = min(last, before + SEARCHED_AT_ONCE)
        found = await desk.ask(Look(partial(_first_since, moment=moment, after=before, end=end)))
        if found is not None:
            return found
    return last + 1


async def last_until(desk: Desk, moment: datetime, removed: int, last: int) -> int:
    """Give the position of the last record stored at a time or earlier; `removed` if none is."""
    for end in range(last, removed, -SEARCHED_AT_ONCE):
        before = max(removed, end - SEARCHED_AT_ONCE)
        found = await desk.ask(Look(partial(_last_until, moment=moment, after=before, end=end)))
        if found is not None:
            return found
    return removed


async def _newest_wanted(
    desk: Desk, is_wanted: Callable[[str], bool], removed: int, last: int
) -> int:
    """Give the position of the newest record that is wanted; `last + 1` if none is."""
    for end in range(last, removed, -TOPICS_AT_ONCE):
        before = max(removed, end - TOPICS_AT_ONCE)
        newest = await desk.ask(Look(partial(_newest_by_topic, after=before, end=end)))
        found = [position for topic, position in newest if is_wanted(topic)]
        if found:
            return max(found)
    return last + 1


async def look_for(desk: Desk, start: Start, patterns: Sequence[str], begin: Begin) -> Begin:
    """Find a start that is sought, in what was there when the subscription began."""
    removed, _ = await desk.ask(Look(first_and_last))
    if isinstance(start, datetime):
        found = await first_since(desk, start, removed, begin.began)
    else:
        found = await _newest_wanted(desk, wants(patterns), removed, begin.began)
    return begin._replace(cursor=found - 1)


# --- one step -------------------------------------------------------------------------------------


def _first_since(
    connection: sqlite3.Connection, moment: datetime, after: int, end: int
) -> int | None:
    (position,) = connection.execute(
        "SELECT min(position) FROM log WHERE position > ? AND position <= ? AND time >= ?",
        (after, end, _micros(moment)),
    ).fetchone()
    found: int | None = position
    return found


def _last_until(
    connection: sqlite3.Connection, moment: datetime, after: int, end: int
) -> int | None:
    (position,) = connection.execute(
        "SELECT max(position) FROM log WHERE position > ? AND position <= ? AND time <= ?",
        (after, end, _micros(moment)),
    ).fetchone()
    found: int | None = position
    return found


def _newest_by_topic(connection: sqlite3.Connection, after: int, end: int) -> list[tuple[str, int]]:
    (topics,) = connection.execute(
        "SELECT json_group_array(json_array(hex(topic), newest)) FROM ("
        "SELECT topic, max(position) AS newest FROM log WHERE position > ? AND position <= ? "
        "GROUP BY topic)",
        (after, end),
    ).fetchone()
    return [(legible(topic), newest) for topic, newest in from_json(topics)]


def _micros(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6)
