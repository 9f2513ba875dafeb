"""Things due later, in two heaps and one task.

Durations run on the monotonic clock: setting the wall clock neither shortens nor lengthens them.
Moments are dates on the wall clock, and follow it when it is set; as nothing tells that it was, it
is looked at every ten seconds while there is one.

A timer that is forgotten lies in its heap until it would be due, or until half of the heap are such
ones. So forgetting costs the same however many timers are set.
"""

__all__ = ("Due", "Timer", "Timers")

import math
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Protocol

import anyio
from anyio import CancelScope
from anyio.lowlevel import checkpoint

from eventbus.clock import Clock

LOOK_SECONDS = 10.0
FIRED_PER_CHECKPOINT = 64
FEW = 64  # forgotten timers that are not worth tidying up


class Due(Protocol):
    """What can be set, once: `fire` is called then, or `drop` if it never will be.

    Neither may raise or wait. `heap` is where it is set, and None before and after.
    """

    heap: "Heap | None"

    def fire(self) -> None:
        """Do what was to be done."""
        ...

    def drop(self) -> None:
        """Tell that it will not be done."""
        ...


class Timer:
    """Two callbacks, of which one is called, or none."""

    __slots__ = ("_drop", "_fire", "heap")

    def __init__(self, fire: Callable[[], None], drop: Callable[[], None]) -> None:
        self._fire = fire
        self._drop = drop
        self.heap: Heap | None = None

    def fire(self) -> None:
        """Call the one."""
        self._fire()

    def drop(self) -> None:
        """Call the other."""
        self._drop()


class Heap:
    """What is set on one clock, soonest first, ties in the order they were set."""

    __slots__ = ("_entries", "_forgotten", "_orders")

    def __init__(self) -> None:
        # Tuples, since comparing them takes no call of ours: of a million, one has 20 comparisons.
        self._entries: list[tuple[float, int, Due]] = []
        self._orders = count()
        self._forgotten = 0

    def __len__(self) -> int:
        """Count what is set."""
        return len(self._entries) - self._forgotten

    def add(self, due: float, timer: Due) -> None:
        """Set a timer."""
        timer.heap = self
        heappush(self._entries, (due, next(self._orders), timer))

    def next_due(self) -> float:
        """Tell when the first is due; infinite if none is set."""
        entries = self._entries
        while entries and entries[0][2].heap is None:
            heappop(entries)
            self._forgotten -= 1
        return entries[0][0] if entries else math.inf

    def take(self, now: float) -> Due | None:
        """Take the first, if it is due."""
        if self.next_due() > now:
            return None
        _, _, timer = heappop(self._entries)
        timer.heap = None
        return timer

    def take_after(self, due: float) -> list[Due]:
        """Take all that are due later than that, soonest first."""
        late = sorted(entry for entry in self._entries if entry[0] > due)
        self._keep(entry for entry in self._entries if entry[0] <= due)
        taken = [timer for _, _, timer in late if timer.heap is not None]
        for timer in taken:
            timer.heap = None
        return taken

    def forget(self, timer: Due) -> None:
        """Forget one that is set."""
        timer.heap = None
        self._forgotten += 1
        if self._forgotten > max(FEW, len(self._entries) // 2):
            self._keep(self._entries)

    def clear(self) -> None:
        """Forget all."""
        for _, _, timer in self._entries:
            timer.heap = None
        self._keep(())

    def _keep(self, entries: Iterable[tuple[float, int, Due]]) -> None:
        self._entries = [entry for entry in entries if entry[2].heap is not None]
        self._forgotten = 0
        heapify(self._entries)


class Timers:
    """Call back at due times on a clock; ties in the order they were set."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._durations = Heap()
        self._moments = Heap()
        self._nap: CancelScope | None = None

    def __len__(self) -> int:
        """Count what is set."""
        return len(self._durations) + len(self._moments)

    def call_later(
        self, seconds: float, fire: Callable[[], None], *, drop: Callable[[], None]
    ) -> Timer:
        """Set a timer; neither callback may raise or wait."""
        timer = Timer(fire, drop)
        self.set_later(seconds, timer)
        return timer

    def set_later(self, seconds: float, timer: Due) -> None:
        """Set what is due when so many seconds have passed, whatever the wall clock says."""
        self._set(self._durations, self.clock.monotonic() + seconds, timer)

    def set_at(self, moment: float, timer: Due) -> None:
        """Set what is due at a wall time, in seconds since the epoch."""
        self._set(self._moments, moment, timer)

    def forget(self, timer: Due) -> bool:
        """Forget one timer, calling neither of its callbacks; False if it is no longer set."""
        if timer.heap is None:
            return False
        timer.heap.forget(timer)
        return True

    def drop(self, timer: Due) -> None:
        """Drop one timer; nothing happens if it has fired or was dropped."""
        if self.forget(timer):
            timer.drop()

    def clear(self) -> None:
        """Forget all timers; none of their callbacks is called."""
        self._durations.clear()
        self._moments.clear()

    def drop_after(self, due: float) -> None:
        """Drop every timer due later than that monotonic time."""
        for timer in self._durations.take_after(due):
            timer.drop()
        for timer in self._moments.take_after(self.clock.now() + due - self.clock.monotonic()):
            timer.drop()

    async def run(self) -> None:
        """Fire timers until cancelled."""
        try:
            while True:
                with CancelScope() as self._nap:
                    await self._sleep_until_next()
                await self._fire_due()
        finally:
            self._nap = None  # a scope belongs to its event loop, and the next run may have another

    def _set(self, heap: Heap, due: float, timer: Due) -> None:
        is_first = due < heap.next_due()
        heap.add(due, timer)
        if is_first and self._nap is not None:
            self._nap.cancel()

    async def _sleep_until_next(self) -> None:
        seconds = min(
            self._durations.next_due() - self.clock.monotonic(),
            self._moments.next_due() - self.clock.now(),
            LOOK_SECONDS if self._moments else math.inf,
        )
        if seconds < math.inf:
            await self.clock.sleep(max(0.0, seconds))
        else:
            await anyio.sleep_forever()

    async def _fire_due(self) -> None:
        """Fire all that are due, giving way to others now and then: there may be a million."""
        for number in count(1):
            timer = self._take_due()
            if timer is None:
                return
            timer.fire()
            if number % FIRED_PER_CHECKPOINT == 0:
                await checkpoint()

    def _take_due(self) -> Due | None:
        due = self._durations.take(self.clock.monotonic())
        return due or self._moments.take(self.clock.now())
