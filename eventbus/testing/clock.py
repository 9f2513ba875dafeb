"""Clocks for tests: one that follows the event loop, one whose hands the test turns."""

__all__ = ("ManualClock", "VirtualClock")

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from operator import attrgetter

import anyio
from anyio.lowlevel import checkpoint

from eventbus.clock import SystemClock


class VirtualClock:
    """A `Clock` that shows the time of the event loop, virtual or not.

    The wall time begins with `start`, by default now, when the clock is first asked, and goes on as
    the loop's time does. Handlers in threads may ask it too.
    """

    def __init__(self, start: datetime | None = None) -> None:
        self._wall = SystemClock.now() if start is None else start.timestamp()
        self._read: Callable[[], float] | None = None
        self._offset = 0.0

    def now(self) -> float:
        """Tell the wall time, in seconds since the epoch."""
        monotonic = self.monotonic()
        return self._offset + monotonic

    def monotonic(self) -> float:
        """Tell the loop's time, in seconds."""
        read = _time_of_running_loop()
        if read is None:  # in a thread: the loop that asked last is the one it works for
            return self._read() if self._read is not None else self._wall - self._offset
        if read != self._read:
            self._wall = self._wall if self._read is None else self._offset + self._read()
            self._offset = self._wall - read()
            self._read = read
        return read()

    async def sleep(self, seconds: float) -> None:
        """Wait that many seconds of the loop's time."""
        await anyio.sleep(seconds)


def _time_of_running_loop() -> Callable[[], float] | None:
    if sys.modules.get("trio") is not None:
        from trio.lowlevel import current_clock, in_trio_run

        if in_trio_run():
            return current_clock().current_time
    try:
        return asyncio.get_running_loop().time
    except RuntimeError:
        return None


@dataclass(eq=False)
class _Sleeper:
    due: float
    order: int
    woken: anyio.Event = field(default_factory=anyio.Event)


class ManualClock:
    """A `Clock` whose hands the test turns, with `advance`.

    Its monotonic time begins at 1,000 seconds, its wall time on 2023-11-14.
    """

    def __init__(self) -> None:
        self._monotonic = 1_000.0
        self._wall_offset = 1_699_999_000.0
        self._sleepers: list[_Sleeper] = []
        self._order = count()

    def now(self) -> float:
        """Tell the wall time, in seconds since the epoch."""
        return self._wall_offset + self._monotonic

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock forward, or back, by that many seconds: no time passes."""
        self._wall_offset += seconds

    def monotonic(self) -> float:
        """Tell the time in seconds that never goes back."""
        return self._monotonic

    @property
    def sleeping(self) -> int:
        """How many tasks wait in `sleep`."""
        return len(self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Wait until the hands have moved on by that many seconds; a checkpoint even for none."""
        if seconds <= 0:
            await checkpoint()
            return
        sleeper = _Sleeper(self._monotonic + seconds, next(self._order))
        self._sleepers.append(sleeper)
        try:
            await sleeper.woken.wait()
        finally:
            self._sleepers.remove(sleeper)

    async def advance(self, seconds: float) -> None:
        """Move the hands on, waking the sleepers on the way in the order in which they are due.

        Between two of them, before the first and after the last, every task runs until it waits;
        who goes to sleep on the way, and is due before the end, is woken too.
        """
        end = self._monotonic + seconds
        await self.settle()
        while (sleeper := self._next_due(end)) is not None:
            self._monotonic = sleeper.due
            sleeper.woken.set()
            await self.settle()
        self._monotonic = end

    async def settle(self) -> None:
        """Let every task run until it waits for something."""
        # On asyncio anyio looks again only after 0.1 s: most chains of wake-ups end in these turns.
        for _ in range(20):
            await checkpoint()
        await anyio.wait_all_tasks_blocked()

    def _next_due(self, end: float) -> _Sleeper | None:
        due = [sleeper for sleeper in self._sleepers if sleeper.due <= end]
        return min(due, key=attrgetter("due", "order"), default=None)
