"""Time that moves only when a test says so."""

__all__ = ("ManualClock",)

from dataclasses import dataclass, field
from itertools import count
from operator import attrgetter

import anyio
from anyio.lowlevel import checkpoint


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
