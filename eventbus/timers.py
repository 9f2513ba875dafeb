"""Things due later, in one heap and one task."""

__all__ = ("Timer", "Timers")

import heapq
from collections.abc import Callable
from itertools import count

import anyio
from anyio import CancelScope

from eventbus.clock import Clock


class Timer:
    """One thing due: `fire` is called then, or `drop` if it never will be."""

    __slots__ = ("drop", "due", "fire", "order")

    def __init__(
        self, due: float, order: int, fire: Callable[[], None], drop: Callable[[], None]
    ) -> None:
        self.due = due
        self.order = order
        self.fire = fire
        self.drop = drop

    def __lt__(self, other: "Timer") -> bool:
        return (self.due, self.order) < (other.due, other.order)


class Timers:
    """Call back at due times on a clock; ties in the order they were set."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[Timer] = []
        self._orders = count()
        self._nap: CancelScope | None = None

    def call_later(
        self, seconds: float, fire: Callable[[], None], *, drop: Callable[[], None]
    ) -> Timer:
        """Set a timer; neither callback may raise or wait."""
        timer = Timer(self._clock.monotonic() + seconds, next(self._orders), fire, drop)
        heapq.heappush(self._heap, timer)
        if self._heap[0] is timer and self._nap is not None:
            self._nap.cancel()
        return timer

    def forget(self, timer: Timer) -> bool:
        """Forget one timer, calling neither of its callbacks; False if it is no longer set."""
        if timer not in self._heap:
            return False
        self._heap.remove(timer)
        heapq.heapify(self._heap)
        return True

    def drop(self, timer: Timer) -> None:
        """Drop one timer; nothing happens if it has fired or was dropped."""
        if self.forget(timer):
            timer.drop()

    def clear(self) -> None:
        """Forget all timers; none of their callbacks is called."""
        self._heap.clear()

    def drop_after(self, due: float) -> None:
        """Drop every timer due later than that."""
        late = sorted(timer for timer in self._heap if timer.due > due)
        self._heap = [timer for timer in self._heap if timer.due <= due]
        heapq.heapify(self._heap)
        for timer in late:
            timer.drop()

    async def run(self) -> None:
        """Fire timers until cancelled."""
        try:
            while True:
                with CancelScope() as self._nap:
                    await self._sleep_until_next()
                self._fire_due()
        finally:
            self._nap = None  # a scope belongs to its event loop, and the next run may have another

    async def _sleep_until_next(self) -> None:
        if self._heap:
            await self._clock.sleep(max(0.0, self._heap[0].due - self._clock.monotonic()))
        else:
            await anyio.sleep_forever()

    def _fire_due(self) -> None:
        now = self._clock.monotonic()
        while self._heap and self._heap[0].due <= now:
            heapq.heappop(self._heap).fire()
