"""Worker threads for handlers that are not async.

A thread cannot be stopped. Who waits for it can be: then it runs on by itself and keeps its place
until it returns, so that stuck ones never add up to more than there are places. It is known by
name, and keeps nobody waiting when the bus closes, nor the interpreter when it exits.
"""

__all__ = ("Threads", "busy_threads")

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Generic, TypeVar, cast
from weakref import WeakSet

from anyio import CancelScope, CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from eventbus._loop import (
    CallSoon,
    WakeUp,
    call_soon,
    serving_thread,
    threads_outlive,
    wake_up_type,
)

R = TypeVar("R")


def busy_threads() -> int:
    """Count the threads at work for buses of the loop that runs now, without the loop's own."""
    return sum(pool.busy for pool in _POOLS.get(WeakSet[_Pool]()))


class Threads:
    """Runs functions in worker threads of the loop that runs now, at most so many at once."""

    def __init__(self, most: int) -> None:
        self._places = CapacityLimiter(most)
        # The loop's own accounting is switched off: asyncio's frees the place of an abandoned
        # thread at once.
        self._unlimited = CapacityLimiter(math.inf)
        self._call_soon = call_soon()
        self._pool = _Pool(self._call_soon) if threads_outlive() else None
        self._deserted: dict[_Place, str] = {}

    @property
    def stuck(self) -> Sequence[str]:
        """Whose functions still run though nobody waits for them: a name for each thread."""
        return tuple(self._deserted.values())

    async def run(self, function: Callable[[], R], name: str = "") -> R:
        """Run somebody's function in a thread and wait for it; waits for a place first.

        Cancelled before the thread begins, the function is not called.
        """
        place = _Place(self._give_back_soon)
        await self._places.acquire_on_behalf_of(place)
        try:
            return await self._call(lambda: place.call(function))
        finally:
            if place.leave():
                self._deserted[place] = name
            else:
                self._places.release_on_behalf_of(place)

    def close(self) -> None:
        """End the threads that have nothing to do; the others end when they return."""
        if self._pool is not None:
            self._pool.close()

    async def _call(self, function: Callable[[], R]) -> R:
        if self._pool is not None:
            return await self._pool.run(function)
        return await to_thread.run_sync(function, abandon_on_cancel=True, limiter=self._unlimited)

    def _give_back_soon(self, place: "_Place") -> None:
        with suppress(RuntimeError):  # the loop has ended, and its places with it
            self._call_soon(lambda: self._give_back(place))

    def _give_back(self, place: "_Place") -> None:
        del self._deserted[place]
        self._places.release_on_behalf_of(place)


class _Place:
    """One thread's place, given back by whoever leaves last: the waiting task or the thread."""

    def __init__(self, give_back: Callable[["_Place"], None]) -> None:
        self._give_back = give_back
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
            self._give_back(self)

    def leave(self) -> bool:
        """Stop waiting, in the loop; tell whether the thread is left alone with the place."""
        with self._lock:
            self._is_deserted = True
            return self._is_running


class _Pool:
    """Threads that an exiting interpreter does not wait for, as it does for anyio's on asyncio."""

    def __init__(self, call_soon: CallSoon) -> None:
        self._call_soon = call_soon
        self._serve = serving_thread()
        self._new_wake_up = wake_up_type()
        self._idle: list[_Thread] = []
        self._is_closed = False
        self.busy = 0
        pools = _POOLS.get(WeakSet[_Pool]())
        pools.add(self)
        _POOLS.set(pools)

    async def run(self, function: Callable[[], R]) -> R:
        """Run a function in a thread and wait for it; cancelled, the thread runs on."""
        thread = self._idle.pop() if self._idle else _Thread()
        call = _Call(function, self._new_wake_up())
        context = copy_context()
        with CancelScope() as scope:

            def serve() -> None:
                context.run(self._serve, scope, call.make)
                self._call_soon(lambda: self._returned(thread, call))

            self.busy += 1
            thread.jobs.put(serve)
            await call.made.wait()
        return call.outcome()

    def close(self) -> None:
        """End the idle threads, and each other one when it returns."""
        self._is_closed = True
        for thread in self._idle:
            thread.jobs.put(None)
        for thread in self._idle:
            thread.join()
        self._idle.clear()

    def _returned(self, thread: "_Thread", call: "_Call[R]") -> None:
        self.busy -= 1
        if self._is_closed:
            thread.jobs.put(None)
        else:
            self._idle.append(thread)
        call.made.set()


_POOLS: RunVar[WeakSet[_Pool]] = RunVar("eventbus thread pools")


class _Thread(Thread):
    """Does one job after the other, until it is given none, or its loop has ended."""

    def __init__(self) -> None:
        super().__init__(name="eventbus handler", daemon=True)
        self.jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.start()

    def run(self) -> None:
        with suppress(RuntimeError):  # of `call_soon`: functions' errors are outcomes
            while (job := self.jobs.get()) is not None:
                job()
                del job  # until the next one comes, it would keep what it was about


class _Call(Generic[R]):
    """A function called in a thread, and what came of it."""

    __slots__ = ("_error", "_function", "_result", "made")

    def __init__(self, function: Callable[[], R], made: WakeUp) -> None:
        self.made = made
        self._function = function
        self._result: R | None = None
        self._error: BaseException | None = None

    def make(self) -> None:
        """Call the function, in the thread."""
        try:
            self._result = self._function()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._error = error

    def outcome(self) -> R:
        """Give the result, or raise the error."""
        error, self._error = self._error, None
        if error is None:
            return cast("R", self._result)
        try:
            raise error
        finally:
            del error  # a circle through this frame would keep it and all it refers to
