"""Worker threads for handlers that are not async."""

__all__ = ("Threads",)

import math
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import TypeVar, cast

from anyio import CapacityLimiter, from_thread, to_thread

R = TypeVar("R")


class Threads:
    """Runs functions in worker threads, at most so many at once.

    A thread cannot be cancelled. Who waits for it can be: then the thread runs on by itself and
    keeps its place until it returns, so that stuck ones never add up to more than there are places.
    """

    def __init__(self, most: int) -> None:
        self._places = CapacityLimiter(most)
        # anyio's own accounting is switched off: on asyncio it frees the place of an abandoned
        # thread at once.
        self._unlimited = CapacityLimiter(math.inf)

    async def run(self, function: Callable[[], R]) -> R:
        """Run a function in a thread and wait for it; waits for a place first.

        Cancelled before the thread begins, the function is not called.
        """
        place = _Place(self._places)
        await self._places.acquire_on_behalf_of(place)
        try:
            return await to_thread.run_sync(
                place.call, function, abandon_on_cancel=True, limiter=self._unlimited
            )
        finally:
            place.leave()


class _Place:
    """One thread's place, given back by whoever leaves last: the waiting task or the thread."""

    def __init__(self, places: CapacityLimiter) -> None:
        self._places = places
        self._lock = Lock()
        self._is_running = False
        self._is_deserted = False

    def call(self, function: Callable[[], R]) -> R:
        """Call the function, in the thread."""
        with self._lock:
            if self._is_deserted:  # cancelled before the thread began
                return cast("R", None)
            self._is_running = True
        try:
            return function()
        finally:
            self._return()

    def _return(self) -> None:
        with self._lock:
            self._is_running = False
            is_last = self._is_deserted
        if is_last:
            self._give_back_from_thread()

    def leave(self) -> None:
        """Stop waiting, in the loop."""
        with self._lock:
            self._is_deserted = True
            if self._is_running:
                return
        self._places.release_on_behalf_of(self)

    def _give_back_from_thread(self) -> None:
        with suppress(RuntimeError):  # the loop has ended, and its places with it
            from_thread.run_sync(self._places.release_on_behalf_of, self)
