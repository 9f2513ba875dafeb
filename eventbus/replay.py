"""Reading again what was published, in the order of the log: the iterator of `bus.replay`."""

__all__ = ("Pace", "Replay", "ReplayProgress")

import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from anyio import CancelScope, Lock
from anyio.lowlevel import checkpoint

from eventbus.bus_logger import BusLogger
from eventbus.clock import Clock
from eventbus.context import Context
from eventbus.contracts import Contracts, Topic
from eventbus.errors import BusClosed, EventBusError, InvalidEvent, UnsupportedByTransport
from eventbus.message import Entry, Message, converted, went_out_at
from eventbus.publishing import PublishOptions
from eventbus.schema import Schema, flaws_of
from eventbus.settling import REPLAYED, Asked
from eventbus.transports.base import Reading

M_co = TypeVar("M_co", covariant=True)
T = TypeVar("T")

SET_BACK_SECONDS = 1.0
"""By how much times may be out of order before that means that a clock was set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayProgress:
    """How far a replay is.

    `position` is the one up to which everything was given or passed by, `end` the one where it
    ends; both are 0 before its first step. `seen` counts the messages looked at, wanted or not, and
    may be a page ahead; `given` those that were given, `invalid` those that the model refused.
    `fraction` is how much is done, from 0.0 to 1.0.
    """

    position: int
    end: int
    seen: int
    given: int
    invalid: int
    fraction: float


class Pace:
    """Tells how long to wait before each message, so that they come as they were published.

    A slow reader is not made to wait for what has passed meanwhile. Where the times of messages go
    back, no time passes between them; by more than a second, a clock was set, and what follows is
    as far apart as it was.
    """

    def __init__(self, speed: float, clock: Clock) -> None:
        self._speed = speed
        self._clock = clock
        self._latest: float | None = None
        self._due = 0.0

    def seconds_before(self, seconds: float) -> float:
        """Tell how long to wait before a message of that wall time; 0 if it is due."""
        now = self._clock.monotonic()
        if self._latest is None:
            self._latest, self._due = seconds, now
        elif self._latest < seconds:
            self._due += (seconds - self._latest) / self._speed
            self._latest = seconds
        elif seconds < self._latest - SET_BACK_SECONDS:
            self._latest = seconds
        return max(0.0, self._due - now)


class _Origin:
    """What contexts of a replay were delivered to: nobody, so that there is nothing to settle."""

    name = "replay"
    max_attempts = 1
    replayed_up_to = sys.maxsize

    def __init__(self, patterns: Sequence[str], clock: Clock, logger: BusLogger) -> None:
        self.patterns = patterns
        self.clock = clock
        self.logger = logger

    def require_transactions(self) -> None:
        """Refuse SQL that would run when a handler succeeds.

        Raises:
            UnsupportedByTransport: Always.
        """
        raise UnsupportedByTransport(
            "context.transaction: what is replayed is not acknowledged; use a connection of your "
            "own"
        )

    def tell_failures(self, listener: Callable[[Entry], None]) -> None:
        """Tell of none: there are no attempts."""

    def prepare(
        self, topic: Topic[Any] | str, event: object, options: PublishOptions, cause: Message
    ) -> NoReturn:
        """Refuse what would be sent when a handler succeeds.

        Raises:
            EventBusError: Always.
        """
        raise EventBusError(
            f"{cause!r} is replayed to no handler, whose success would send what its context "
            "publishes: publish with bus.publish"
        )


class Replay(Generic[M_co]):
    """Iterates once over stored messages; see `bus.replay`.

    Cancelled while it waits, nothing is lost: the next step goes on where it was, as it does after
    an error. Leaving the loop leaves nothing behind. Several tasks may take from one.
    """

    def __init__(
        self,
        begin: Callable[[], Awaitable[Reading]],
        patterns: Sequence[str],
        schema: Schema[Any] | None,
        clock: Clock,
        logger: BusLogger,
        contracts: Contracts,
        *,
        speed: float | None,
        skips_invalid: bool,
    ) -> None:
        self._begin = begin
        self._schema = schema
        self._clock = clock
        self._contracts = contracts
        self._pace = None if speed is None else Pace(speed, clock)
        self._skips_invalid = skips_invalid
        self._origin = _Origin(patterns, clock, logger)
        self._settled = Asked()
        self._settled.verdict = REPLAYED
        self._reading: Reading | None = None
        self._ahead: deque[Message] = deque()
        self._given = 0
        self._invalid = 0
        self._turn: Lock | None = None
        self._scopes: set[CancelScope] = set()
        self._is_closed = False

    def __aiter__(self) -> AsyncIterator[Context[M_co]]:
        return self

    async def __anext__(self) -> Context[M_co]:
        while True:
            if self._ahead and self._pace is None:
                message = self._ahead.popleft()
            else:
                message = await self._next_in_turn()
            try:
                event = self._event_of(message)
            except Exception as error:  # noqa: BLE001 - a model's own validators may raise anything
                self._refuse(message, error)
            else:
                return self._give(message, event)

    @property
    def progress(self) -> ReplayProgress:
        """How far it is, now."""
        reading = self._reading
        if reading is None:
            return ReplayProgress(position=0, end=0, seen=0, given=0, invalid=0, fraction=0.0)
        position, length = self._position(reading), reading.end - reading.first + 1
        return ReplayProgress(
            position=position,
            end=reading.end,
            seen=reading.seen,
            given=self._given,
            invalid=self._invalid,
            fraction=1.0 if length <= 0 else (position - reading.first + 1) / length,
        )

    def close(self) -> None:
        """Give nothing more, and tell who waits: the bus closes."""
        self._is_closed = True
        self._ahead.clear()
        for scope in self._scopes:
            scope.cancel()

    def _position(self, reading: Reading) -> int:
        following = self._ahead[0].position if self._ahead else None
        return reading.reached if following is None else following - 1

    # --- what comes next ------------------------------------------------------------------------

    async def _next_in_turn(self) -> Message:
        """Read on, and wait until what comes is due: one task after the other."""
        if self._turn is None:
            self._turn = Lock()
        async with self._turn:
            while not self._ahead:
                self._ahead.extend(await self._unless_closed(self._read_on))
            await self._unless_closed(self._wait_until_due)
            return self._ahead.popleft()

    async def _read_on(self) -> Sequence[Message]:
        if self._reading is None:
            self._reading = await self._begin()
        if self._reading.reached >= self._reading.end:
            await checkpoint()
            raise StopAsyncIteration
        return await self._reading.read_on()

    async def _wait_until_due(self) -> None:
        seconds = 0.0
        if self._pace is not None:
            seconds = self._pace.seconds_before(went_out_at(self._ahead[0]))
        await (self._clock.sleep(seconds) if seconds else checkpoint())

    async def _unless_closed(self, work: Callable[[], Awaitable[T]]) -> T:
        if not self._is_closed:
            with CancelScope() as scope:
                self._scopes.add(scope)
                try:
                    return await work()
                finally:
                    self._scopes.discard(scope)
        await checkpoint()
        raise BusClosed("the bus closed before the replay was at its end: replay while it runs")

    # --- what is given --------------------------------------------------------------------------

    def _event_of(self, message: Message) -> object:
        if self._schema is None:
            return message.decoded()
        if isinstance(message.event, InvalidEvent):
            raise message.event
        if (version := message.head[3]) > 1:
            self._contracts.refuse_newer(message.topic, version)
        return self._schema.validate(message.event)

    def _refuse(self, message: Message, error: Exception) -> None:
        self._invalid += 1
        if not self._skips_invalid:
            raise InvalidEvent(
                f"the model refuses {message!r} at position {message.position}: "
                f"{flaws_of(error)}; ask for the next to go on behind it, or pass such messages "
                "over with invalid='skip'"
            ) from error

    def _give(self, message: Message, event: object) -> Context[M_co]:
        self._given += 1
        context: Context[M_co] = Context()
        context.entry = converted(message, event)
        context.origin = self._origin
        context.lagged = 0
        context.is_handled = True
        context.asked = self._settled
        return context
