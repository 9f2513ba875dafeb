"""Requests that wait for their replies, and how long they may.

Each request has an address of its own, `$reply.<bus>.<number>`, which its message shows as
`reply_to`. Nobody subscribes to it: within a bus a reply goes straight to who waits, and to another
bus by a carrier, who brings it to the bus that the address names.

Deadlines stand in a heap, and only the earliest has a timer. A request that has its reply may leave
its deadline behind there, until it comes first or most are such: then they are swept out. So a
request costs neither a timer nor a cancel scope, and the heap stays in proportion to what waits.
"""

__all__ = ("REQUESTS_WAITING", "Asking", "AwaitedReply", "End", "Replies")

import heapq
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from enum import Enum, auto
from itertools import count
from typing import Protocol, cast

from anyio import CancelScope, get_current_task

from eventbus._loop import WakeUp
from eventbus.answers import Failure, WrittenReply, read_answer, write_answer
from eventbus.clock import Clock, uuid7_text
from eventbus.codec import JsonCodec
from eventbus.deadlocks import Server, begin_wait, end_wait
from eventbus.errors import EventBusError, QueueFull
from eventbus.message import ReplyTo
from eventbus.timers import Timer, Timers

REQUESTS_WAITING = 100_000
"""How many requests of one bus may wait for replies at once."""

_DEADLINES_LEFT_BEHIND = 1_000


class End(Enum):
    """Why a request stopped waiting before its replies were there."""

    OVERDUE = auto()
    CLOSED = auto()


class Responder(Protocol):
    """What answers requests, as a handler sees it that waits for the reply."""

    def blockers_of(self, reply_to: ReplyTo) -> Sequence[Server]:
        """Name the servers of which one has to go on before it answers, as `Awaited` does."""
        ...


class Carrier(Protocol):
    """What brings replies from bus to bus."""

    @property
    def inbox(self) -> str:
        """The address of this bus, as others know it."""
        ...

    def reply(self, reply_to: ReplyTo, text: str) -> None:
        """Send a reply to another bus, without waiting until it is there."""
        ...


class Asking:
    """One request that waits for so many replies at most."""

    end: End | None = None
    scope: CancelScope | None = None
    failures: Sequence[Failure] = ()
    responders: Sequence[Responder] = ()

    def __init__(self, wake_up: WakeUp, most: int) -> None:
        self.wake_up = wake_up
        self.awaited = most
        self.replies: list[object] = []
        self.variables = copy_context()  # they tell whether a handler asks

    def stop(self, end: End) -> None:
        """Let the request wait no more."""
        self.end = end
        self.awaited = 0
        self.wake_up.set()
        if self.scope is not None:
            self.scope.cancel()

    @contextmanager
    def limited(self) -> Generator[None]:
        """Leave the block when the request has waited enough; for what may wait for room."""
        with CancelScope() as self.scope:
            try:
                yield
            finally:
                self.scope = None


class AwaitedReply:
    """The one reply to a request, as what the handler that asked waits for."""

    def __init__(self, asking: Asking, reply_to: ReplyTo) -> None:
        self.refusal: EventBusError | None = None
        self._asking = asking
        self._reply_to = reply_to
        self._task = get_current_task()

    @property
    def is_pending(self) -> bool:
        """Whether the handler still waits."""
        is_over = self.refusal is not None or not self._asking.awaited
        return not (is_over or self._task.has_pending_cancellation())

    def blockers(self) -> Sequence[Server]:
        """Name whom the reply depends on; none where several may answer."""
        if len(self._asking.responders) != 1:
            return ()
        return self._asking.responders[0].blockers_of(self._reply_to)

    def refuse(self, error: EventBusError) -> None:
        """Tell the handler that there will be no reply, and why."""
        self.refusal = error
        self._asking.wake_up.set()

    async def wait(self) -> None:
        """Wait for the reply.

        Raises:
            DeadlockError: It would never have come.
        """
        handler = begin_wait([self])
        try:
            await self._asking.wake_up.wait()
        finally:
            end_wait(handler)
        if self.refusal is not None:
            raise self.refusal


class Replies:
    """Brings the replies of a bus to who waits for them.

    `late` counts those that found nobody waiting any more, `codec` writes them where they travel,
    or would, and `carrier` brings them to other buses.
    """

    def __init__(
        self,
        clock: Clock,
        timers: Timers,
        codec: JsonCodec | None,
        carrier: Carrier | None = None,
    ) -> None:
        self.late = 0
        self.codec = codec
        self._carrier = carrier
        self._clock = clock
        self._timers = timers
        self._waiting: dict[int, Asking] = {}
        self._inbox = ""
        self._numbers = count(1)
        self._deadlines: list[tuple[float, int]] = []
        self._timer: Timer | None = None
        self._next_look = math.inf

    def __len__(self) -> int:
        """Count the requests that wait."""
        return len(self._waiting)

    # --- who asks -------------------------------------------------------------------------------

    def open(self, asking: Asking, seconds: float) -> ReplyTo:
        """Let a request wait for so long; gives its address, to be closed in the end.

        Raises:
            QueueFull: Too many are waiting.
        """
        if len(self._waiting) >= REQUESTS_WAITING:
            raise QueueFull(
                f"{REQUESTS_WAITING} requests wait for replies already: ask later, or fewer at once"
            )
        number = next(self._numbers)
        self._waiting[number] = asking
        due = self._clock.monotonic() + seconds
        heapq.heappush(self._deadlines, (due, number))
        if due < self._next_look:
            self._look_at(due, seconds)
            self._inbox = self._inbox or f"$reply.{uuid7_text(self._clock.now())}"
        if self._carrier is not None:
            self._inbox = self._carrier.inbox
        return self._inbox, number

    def close(self, reply_to: ReplyTo) -> None:
        """Forget a request; replies to it are late from now on."""
        waiting, deadlines = self._waiting, self._deadlines
        waiting.pop(reply_to[1], None)
        while deadlines and deadlines[0][1] not in waiting:
            heapq.heappop(deadlines)
        if len(deadlines) > _DEADLINES_LEFT_BEHIND + 2 * len(waiting):
            self._sweep()

    def asking_at(self, reply_to: ReplyTo | None) -> Asking | None:
        """Give the request that waits at an address, if it still does."""
        return None if reply_to is None else self._waiting.get(reply_to[1])

    def end_all(self, *, but: Callable[[Asking], bool] = lambda _: False) -> None:
        """Tell who waits, but for some, that there will be no reply."""
        for number, asking in list(self._waiting.items()):
            if not but(asking):
                del self._waiting[number]
                asking.stop(End.CLOSED)
        if not self._waiting:
            self._deadlines.clear()
            self._forget_timer()

    # --- who answers ----------------------------------------------------------------------------

    def answer(self, reply_to: ReplyTo, reply: object) -> None:
        """Bring a reply to who waits for it; else it is dropped and counted as late."""
        if self._carrier is not None and reply_to[0] != self._carrier.inbox:
            self._carrier.reply(reply_to, write_answer(cast("WrittenReply", reply)))
            return
        asking = self._waiting.get(reply_to[1])
        if asking is None or not asking.awaited:
            self.late += 1
            return
        asking.replies.append(reply)
        asking.awaited -= 1
        if not asking.awaited:
            asking.wake_up.set()

    def fail(self, reply_to: ReplyTo, failure: Failure) -> None:
        """Tell who waits that a responder has no reply for it."""
        if self._carrier is not None and reply_to[0] != self._carrier.inbox:
            self._carrier.reply(reply_to, write_answer(failure))
            return
        asking = self._waiting.get(reply_to[1])
        if asking is None or not asking.awaited:
            self.late += 1
            return
        asking.failures = (*asking.failures, failure)
        asking.awaited -= 1
        if not asking.awaited:
            asking.wake_up.set()

    def receive(self, number: int, text: str) -> None:
        """Take what another bus answers to a request of this one."""
        answer, reply_to = read_answer(text), (self._inbox, number)
        if isinstance(answer, Failure):
            self.fail(reply_to, answer)
        else:
            self.answer(reply_to, answer)

    # --- deadlines ------------------------------------------------------------------------------

    def _look_at(self, due: float, seconds: float) -> None:
        self._forget_timer()
        self._next_look = due
        self._timer = self._timers.call_later(seconds, self._look, drop=self._drop)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timers.forget(self._timer)
        self._drop()

    def _drop(self) -> None:
        """Note that nobody looks: what ends the bus tells who waits itself."""
        self._timer = None
        self._next_look = math.inf

    def _look(self) -> None:
        """Stop whose time is up, and look again when the next one's is."""
        self._drop()
        now = self._clock.monotonic()
        while self._deadlines:
            due, number = self._deadlines[0]
            if number in self._waiting:
                if due > now:
                    self._look_at(due, due - now)
                    return
                self._waiting.pop(number).stop(End.OVERDUE)
            heapq.heappop(self._deadlines)

    def _sweep(self) -> None:
        self._deadlines = [one for one in self._deadlines if one[1] in self._waiting]
        heapq.heapify(self._deadlines)
