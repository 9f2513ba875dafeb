"""Publishers that wait for a place in a full queue: one by one, or for several at once."""

__all__ = ("Line", "RoomWaiter", "Waiter", "wait_for_places")

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from anyio import Event, TaskInfo, get_current_task
from anyio.lowlevel import checkpoint

from eventbus.deadlocks import Server, begin_wait, end_wait
from eventbus.errors import EventBusError

T = TypeVar("T")


class Line(Protocol[T]):
    """What a waiter asks of the queue it waits for."""

    def blockers(self) -> Sequence[Server]:
        """Name whom a place depends on; none if it may come anyway."""
        ...

    def leave_line(self, waiter: "Waiter[T]") -> None:
        """Take a waiter out of the line; idempotent."""
        ...


class Waiter(Generic[T]):
    """A publisher that waits with its entry for a place in one queue."""

    __slots__ = (
        "_is_settled",
        "_queue",
        "_refusal",
        "_settled",
        "_task",
        "_then",
        "entry",
        "is_taken",
    )

    is_for_room = False

    def __init__(self, queue: "Line[T]", entry: T) -> None:
        self.entry = entry
        self._queue = queue
        self._task: TaskInfo | None = get_current_task()
        self._is_settled = False
        self._settled: Event | None = None  # made by a task that waits
        self._then: Callable[[bool], None] | None = None
        self._refusal: EventBusError | None = None
        self.is_taken = False

    def is_gone(self) -> bool:
        """Tell whether the publisher was cancelled or refused, even if it has not run since."""
        is_cancelled = self._task is not None and self._task.has_pending_cancellation()
        return is_cancelled or self._refusal is not None

    @property
    def is_pending(self) -> bool:
        """Whether the publisher still waits."""
        return not (self._is_settled or self.is_gone())

    def blockers(self) -> Sequence[Server]:
        """Name whom the place depends on; none if it may come anyway."""
        return self._queue.blockers()

    def admit(self) -> None:
        """Let the publisher go on: its entry is in the queue."""
        self.is_taken = True
        self._settle()

    def dismiss(self) -> None:
        """Let the publisher go on, though nobody will ever want its entry."""
        self._settle()

    def refuse(self, error: EventBusError) -> None:
        """Tell the publisher that its entry is not taken, and why."""
        self._refusal = error
        self._settle()

    def then(self, tell: Callable[[bool], None]) -> None:
        """Stay in line without a task that waits: tell, once, whether it was not refused."""
        self._task = None
        self._then = tell
        if self._is_settled:
            self._settle()

    def _settle(self) -> None:
        self._is_settled = True
        if self._settled is not None:
            self._settled.set()
        tell, self._then = self._then, None
        if tell is not None:
            tell(self._refusal is None)

    def withdraw(self) -> None:
        """Take the entry back, unless it has moved up already; idempotent."""
        self._queue.leave_line(self)

    async def wait(self) -> None:
        """Wait for the place.

        Raises:
            BusClosed: The bus stopped first; the entry did not reach this queue.
            DeadlockError: The place would never have come.
        """
        if not self._is_settled:  # Race: being cancelled now would deny what has happened.
            self._settled = Event()
            await self._settled.wait()
        if self._refusal is not None:
            await checkpoint()  # who tries again and again must let the others run
            raise self._refusal


class RoomWaiter(Waiter[T]):
    """Who waits with nothing, until half of the queue is free."""

    __slots__ = ()

    is_for_room = True


async def wait_for_places(waiters: Sequence[Waiter[T]]) -> None:
    """Wait for all of them together; cancelled, what has not moved up is withdrawn.

    Raises:
        BusClosed: The bus stopped first.
        DeadlockError: A handler waits, and only handlers that wait so could let it go on.
    """
    if not waiters:
        return
    handler = begin_wait(waiters)
    try:
        for waiter in waiters:
            await waiter.wait()
    except BaseException:
        for waiter in waiters:
            waiter.withdraw()
        raise
    finally:
        end_wait(handler)
