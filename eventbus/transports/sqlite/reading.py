"""Reading the log once more, from one position to another, and leaving no trace.

Each page is read by a statement of its own, so that no transaction lasts; the next one is read
while the one before it is worked on. So at most two pages are held.
"""

__all__ = ("LogReading", "begin_reading")

import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple, TypeAlias

from eventbus.errors import InvalidOption, PositionGone
from eventbus.message import Message
from eventbus.transports.base import Place
from eventbus.transports.sqlite.clerks import Look
from eventbus.transports.sqlite.damage import OnDamage
from eventbus.transports.sqlite.desk import Desk, Job
from eventbus.transports.sqlite.limits import KEEP_MORE
from eventbus.transports.sqlite.log import (
    first_and_last,
    read_at,
    read_between,
)
from eventbus.transports.sqlite.newest import newest_per_key
from eventbus.transports.sqlite.records import message_of
from eventbus.transports.sqlite.scan import RECORDS_PER_PAGE
from eventbus.transports.sqlite.searching import first_since, last_until
from eventbus.transports.sqlite.wanting import wants


class _Batch(NamedTuple):
    """What is wanted of a page: `reached` is where the page ends, `seen` how much was in it."""

    messages: Sequence[Message]
    reached: int
    removed: int
    seen: int


_ReadAfter: TypeAlias = Callable[[sqlite3.Connection, int], _Batch]


class LogReading:
    """Messages between two positions, page by page."""

    def __init__(self, desk: Desk, first: int, end: int, read: _ReadAfter, seen: int = 0) -> None:
        self.first = first
        self.end = end
        self.reached = first - 1
        self.seen = seen
        self._desk = desk
        self._read = read
        self._next: Job[_Batch] | None = None

    async def read_on(self) -> Sequence[Message]:
        """Give what is wanted of the next page; nothing once the end is reached.

        Raises:
            PositionGone: Retention has removed what comes next; the next call goes on behind it.
            StoreCorrupt: A record is damaged or missing.
            StoreError: The store cannot be read now.
        """
        if self.reached >= self.end:
            return ()
        job, self._next = self._next or self._look_ahead(), None
        batch = await self._desk.wait(job)
        if batch.removed > self.reached:
            self._pass_over_removed(batch.removed)
        self.reached = batch.reached
        self.seen += batch.seen
        if self.reached < self.end:
            self._next = self._look_ahead()
        return batch.messages

    def _look_ahead(self) -> Job[_Batch]:
        after = self.reached
        return self._desk.submit(Look(lambda connection: self._read(connection, after)))

    def _pass_over_removed(self, removed: int) -> None:
        begin, self.reached = self.reached + 1, min(removed, self.end)
        raise PositionGone(
            f"retention has removed positions {begin} to {self.reached} before they were read: ask "
            f"for the next to go on behind them, or {KEEP_MORE}"
        )


# --- beginning ------------------------------------------------------------------------------------


async def begin_reading(
    desk: Desk,
    patterns: Sequence[str],
    since: Place | None,
    until: Place | None,
    *,
    last_per_key: bool,
    on_damage: OnDamage,
) -> LogReading:
    """Begin to read what is stored now from one place to another; see `KeepsMessages.read`."""
    removed, last = await desk.ask(Look(first_and_last))
    first = await _first_of(desk, since, removed, last)
    end = await _end_of(desk, until, removed, last)
    is_wanted = wants(patterns)
    if not last_per_key:
        read = partial(_read_all, end=end, is_wanted=is_wanted, on_damage=on_damage)
        return LogReading(desk, first, end, read)
    chosen = await newest_per_key(desk, first, end, is_wanted, on_damage)
    read = partial(_read_chosen, end=end, chosen=chosen, on_damage=on_damage)
    return LogReading(desk, first, end, read, seen=max(0, end - first + 1))


async def _first_of(desk: Desk, since: Place | None, removed: int, last: int) -> int:
    if isinstance(since, datetime):
        return await first_since(desk, since, removed, last)
    if since is None:
        return removed + 1
    if since > last + 1:
        raise InvalidOption(
            f"since={since} is not in the log, which ends at {last}: give a position up to "
            f"{last + 1}, or leave it out"
        )
    if since <= removed:
        raise PositionGone(
            f"since={since}: retention has removed the positions up to {removed}; begin at "
            f"{removed + 1} or later, or leave it out"
        )
    return since


async def _end_of(desk: Desk, until: Place | None, removed: int, last: int) -> int:
    if isinstance(until, datetime):
        return await last_until(desk, until, removed, last)
    if until is None:
        return last
    if until <= removed:
        raise PositionGone(
            f"until={until}: retention has removed the positions up to {removed}; end at "
            f"{removed + 1} or later, or leave it out"
        )
    return min(until, last)


# --- pages ----------------------------------------------------------------------------------------


def _read_all(
    connection: sqlite3.Connection,
    after: int,
    *,
    end: int,
    is_wanted: Callable[[str], bool],
    on_damage: OnDamage,
) -> _Batch:
    page = read_between(connection, after, end, RECORDS_PER_PAGE, on_damage)
    messages = [message_of(one) for one in page.records if is_wanted(one.topic)]
    return _Batch(messages, page.reached, page.removed, len(page.records))


def _read_chosen(
    connection: sqlite3.Connection,
    after: int,
    *,
    end: int,
    chosen: Sequence[int],
    on_damage: OnDamage,
) -> _Batch:
    begin = bisect_right(chosen, after)
    positions = list(chosen[begin : begin + RECORDS_PER_PAGE])
    page = read_at(connection, positions, on_damage)
    reached = positions[-1] if begin + len(positions) < len(chosen) else end
    # That others were removed meanwhile is no loss: each of those has a newer one.
    removed = page.removed if positions and positions[0] <= page.removed else 0
    return _Batch([message_of(one) for one in page.records], reached, removed, 0)
