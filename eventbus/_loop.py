"""The seam to the event loops, for what anyio cannot say."""

__all__ = (
    "Bell",
    "CallSoon",
    "WakeUp",
    "call_soon",
    "current_task",
    "is_foreign_cancellation",
    "serving_thread",
    "threads_outlive",
    "wake_up_type",
)

import asyncio
import math
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Protocol, TypeAlias

import anyio
from anyio import CancelScope

# No public name of anyio's makes `anyio.from_thread` work in a thread that anyio has not started.
from anyio._core._eventloop import claim_worker_thread, get_async_backend, threadlocals

CallSoon: TypeAlias = Callable[[Callable[[], object]], object]


class WakeUp(Protocol):
    """What one task waits for and others set: all that is needed of an event to park a worker."""

    def set(self) -> None:
        """Let the waiting task go on; once."""
        ...

    def wait(self) -> Awaitable[object]:
        """Wait until it is set."""
        ...


class _Future(asyncio.Future[None]):
    """A wake-up on asyncio: a future of the loop, where `anyio.Event` wraps another event.

    It takes the latency of a message to a parked worker from 1.8 to 1.4 of a parked queue's.
    """

    def set(self) -> None:
        if not self.done():
            self.set_result(None)

    def wait(self) -> Awaitable[None]:
        return self


def wake_up_type() -> Callable[[], WakeUp]:
    """Give what makes the cheapest kind of wake-up for the loop that runs now."""
    if _is_asyncio():
        return partial(_Future, loop=asyncio.get_running_loop())
    return type(anyio.Event())  # of the backend: asking for it anew each time costs 0.05 F


def call_soon() -> CallSoon:
    """Give what has a function called on the loop that runs now, soon, from any thread.

    It raises `RuntimeError` once the loop has ended.
    """
    if _is_asyncio():
        return asyncio.get_running_loop().call_soon_threadsafe
    from trio.lowlevel import current_trio_token  # no dependency: who runs trio has it

    return current_trio_token().run_sync_soon


def current_task() -> object:
    """Give the task that runs now, by an object that ends with it, and can be kept weakly."""
    if _is_asyncio():
        return asyncio.current_task()
    from trio.lowlevel import current_task  # no dependency: who runs trio has it

    return current_task()


def threads_outlive() -> bool:
    """Tell whether the loop's worker threads keep the interpreter from exiting: asyncio's do."""
    return _is_asyncio()


def serving_thread() -> Callable[[CancelScope, Callable[[], None]], None]:
    """Give what calls a function in a thread as a worker of the loop that runs now.

    Then `anyio.from_thread` works in it; `check_cancelled` there asks the scope.
    """
    backend, loop = get_async_backend(), asyncio.get_running_loop()

    def serve(scope: CancelScope, function: Callable[[], None]) -> None:
        with claim_worker_thread(backend, loop), _cancelled_by(scope), _no_library():
            function()

    return serve


@contextmanager
def _cancelled_by(scope: CancelScope) -> Generator[None]:
    threadlocals.current_cancel_scope = scope
    try:
        yield
    finally:
        del threadlocals.current_cancel_scope


@contextmanager
def _no_library() -> Generator[None]:
    """Let the thread run a loop of its own: in its copy of the context another one runs."""
    with suppress(ImportError):
        from sniffio import current_async_library_cvar

        current_async_library_cvar.set(None)
    yield


def _is_asyncio() -> bool:
    return type(anyio.Event()).__module__ == "anyio._backends._asyncio"


def is_foreign_cancellation(error: BaseException) -> bool:
    """Tell whether a cancellation was meant for somebody else.

    True when a handler awaited a task that a third party had cancelled: then neither a scope around
    the running task is cancelled, nor the task itself. Trio's `Cancelled` never leaves the scope it
    belongs to, so only asyncio's can be foreign.
    """
    if not isinstance(error, asyncio.CancelledError):
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no asyncio loop: whatever raised this, it was not our loop
        return True
    is_ours = task is not None and task.cancelling() > 0
    return not is_ours and anyio.current_effective_deadline() != -math.inf


class Bell:
    """Lets threads call into the event loop that runs when it is made.

    `answer` is called in the loop soon after a ring; rings before that are answered by one call.
    """

    def __init__(self, answer: Callable[[], None]) -> None:
        self._answer = answer
        self._post = call_soon()
        self._is_rung = False

    def ring(self) -> None:
        """Have `answer` called, from any thread; nothing happens once the loop has ended."""
        if not self._is_rung:
            self._is_rung = True
            with suppress(RuntimeError):  # the loop has ended, and who was to be told with it
                self._post(self._hear)

    def _hear(self) -> None:
        # Race: what rings from here on may have come too late for this answer, and needs another.
        self._is_rung = False
        self._answer()
