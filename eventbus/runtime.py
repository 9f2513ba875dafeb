"""What a bus has only while it runs: its task group, and what the tasks in it share."""

__all__ = ("Runtime", "is_handler_of")

from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from threading import get_ident
from typing import Any, cast

from anyio import create_task_group

from eventbus._loop import call_soon, wake_up_type
from eventbus.activity import Activity
from eventbus.clock import Clock
from eventbus.dispatch import run_worker
from eventbus.errors import EventBusError
from eventbus.forks import forks_so_far
from eventbus.inbox import INBOX_SIZE, Inbox
from eventbus.message import Message
from eventbus.subscription import Worker
from eventbus.threads import Threads
from eventbus.timers import Timers
from eventbus.watchdog import Watchdog

_serving: ContextVar[tuple[object, ...]] = ContextVar("eventbus_serving", default=())
"""The buses in whose handlers this code runs."""


def is_handler_of(bus: object) -> bool:
    """Tell whether the caller is a handler of that bus, or was started by one."""
    return bus in _serving.get()


class Runtime:
    """One run of a bus, on the event loop that runs when it is made.

    Workers run in a copy of the context in which it is made, never in that of a publisher.
    """

    def __init__(
        self,
        bus: object,
        clock: Clock,
        timers: Timers,
        activity: Activity,
        *,
        threads: int,
        refuse_copies: Callable[[], None],
    ) -> None:
        self.threads = Threads(threads)
        self.new_wake_up = wake_up_type()
        self.call_soon = call_soon()
        self.inbox = Inbox[Message](
            INBOX_SIZE, activity, self.call_soon, self.new_wake_up, refuse_copies
        )
        self._thread = get_ident()
        self._forks = forks_so_far()
        self._timers = timers
        self._watchdog = Watchdog(clock)
        self._variables = copy_context()
        self._variables.run(_serving.set, (*_serving.get(), bus))
        self._task_group = create_task_group()

    @property
    def is_copy(self) -> bool:
        """Whether the process was forked since: the tasks have stayed with the parent."""
        return forks_so_far() != self._forks

    def is_in_its_thread(self) -> bool:
        """Tell whether the caller runs in the thread of the bus's event loop."""
        return get_ident() == self._thread

    async def start(self) -> None:
        """Begin to look after timers and time limits."""
        await self._task_group.__aenter__()
        self._task_group.start_soon(self._timers.run)
        self._task_group.start_soon(self._watchdog.run)

    async def stop(self) -> None:
        """Cancel every task and wait until all have ended.

        Raises:
            EventBusError: The transport can serve no longer, as StoreCorrupt says.
            ExceptionGroup: The machinery failed; errors of handlers never come here.
            SystemExit, KeyboardInterrupt: One came from a handler, and nothing else.
        """
        self._task_group.cancel_scope.cancel()
        try:
            # No error is handed over: that of the bus's block is to leave it as it is, in no group.
            await self._task_group.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            raise _sole_cause_of(group) or group from None
        finally:
            self.threads.close()

    def start_soon(
        self, function: Callable[..., Coroutine[Any, Any, object]], *arguments: object
    ) -> None:
        """Start a task of the bus."""
        self._task_group.start_soon(function, *arguments)

    async def start_task(self, function: Callable[..., Coroutine[Any, Any, object]]) -> None:
        """Start a task of the bus, and wait until it says that it has begun.

        Raises what the task raises before that.
        """
        await self._task_group.start(function)

    def spawn(self, worker: Worker) -> None:
        """Start a worker."""
        self._variables.copy().run(self._task_group.start_soon, run_worker, worker)

    def watch(self, worker: Worker, seconds: float) -> None:
        """Look after a worker whose attempts have a time limit."""
        self._watchdog.watch(worker, seconds)

    def unwatch(self, worker: Worker) -> None:
        """Look after a worker no more."""
        self._watchdog.unwatch(worker)


def _sole_cause_of(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """Find what ends the program, or the bus, if that is all there is.

    In a group the one would not be heard, and the other caught by nobody who names it. Several of
    a kind tell of one cause, as damage that several subscriptions come upon.
    """
    for kinds in ((SystemExit, KeyboardInterrupt), EventBusError):
        found, others = group.split(kinds)
        if others is None:
            return _first_of(found)
    return None


def _first_of(error: BaseException | None) -> BaseException | None:
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
