"""What a transport promises to the bus.

A transport accepts messages and hands each subscription its own, in order, through a `Source`. How
the bus uses it:

- `publish` returns when the messages are accepted: in the queues, on disk, acknowledged by a
  server.
- `open` gives one source per subscription. The bus asks it for what the subscription's queue can
  hold, and tells it how each delivery ended. A transport whose capabilities say `feeds` puts
  messages into the queues itself as they are published; its sources are never asked.
- `serve` is what the transport has to do meanwhile; it runs in the bus's own task group.
- Whatever the transport, messages go through the same queues to the same workers.
"""

__all__ = (
    "Ack",
    "Capabilities",
    "CarriesRequests",
    "CatchesUp",
    "Commit",
    "Dead",
    "JoinsTransactions",
    "KeepsDeadLetters",
    "KeepsMessages",
    "KeepsSchedule",
    "KeepsSubscriptions",
    "KeepsTime",
    "LogsAsBus",
    "Outcome",
    "Place",
    "Reading",
    "Released",
    "RetryLater",
    "Sequences",
    "Source",
    "SourceSpec",
    "Start",
    "Transport",
)

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

from eventbus.bus_logger import BusLogger
from eventbus.clock import Clock
from eventbus.context import FailedDelivery
from eventbus.message import Delivery, Message, Receipt, ReplyTo
from eventbus.transaction import Transaction

Spec_contra = TypeVar("Spec_contra", bound="SourceSpec", contravariant=True)

Start: TypeAlias = Literal["new", "first", "last"] | int | datetime
"""Where a subscription begins: with what comes, all that is kept, the newest that is kept and on, a
position, or the first message stored at or after a time."""

Place: TypeAlias = int | datetime
"""A place in the log: a position, or a time at which messages were stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a transport can do; the bus refuses at its start what a subscription asks beyond it."""

    feeds: bool = False
    """Puts published messages into the queues itself."""
    durable: bool = False
    """What was accepted survives the process, and subscriptions go on where they were."""
    replay: bool = False
    """Keeps messages, so that a subscription can start before now, and `KeepsMessages.read` gives
    them again."""
    nowait: bool = True
    """Accepts messages without waiting."""
    delay: bool = False
    """Keeps messages that are published for later, until then; see `KeepsSchedule`."""
    groups: bool = False
    """Gives each message to one member of a group, wherever its members are."""
    requests: bool = False
    """Brings replies to who asked; see `CarriesRequests`."""
    dead_letters: bool = False
    """Keeps dead letters."""
    sequences: bool = False
    """Keeps messages of a key waiting behind a dead letter of that key."""
    transactions: bool = False
    """Runs SQL of handlers in the commit that acknowledges their deliveries."""
    cross_process: bool = False
    """Reaches subscriptions of other processes."""
    backends: frozenset[str] = frozenset({"asyncio", "trio"})
    """The event loops it runs on."""


@dataclass(frozen=True, slots=True)
class Ack:
    """The delivery is done; an urgent one is safe when `settle` returns."""

    is_urgent: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    """The delivery is done together with what its handler recorded and published.

    All of that is safe when `settle` returns. Where it raises, nothing of it was done: `Overtaken`
    if the delivery is another's by now, else the delivery is still to be settled.
    """

    transaction: Transaction


@dataclass(frozen=True, slots=True)
class RetryLater:
    """The delivery is to come again, `delay` seconds from now, as the attempt after its own.

    `then` is called once it has, or once it is certain that it never will.
    """

    delay: float
    then: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Dead:
    """The subscription gave up; keep the failure if it wants dead letters."""

    failure: FailedDelivery
    keep: bool


@dataclass(frozen=True, slots=True)
class Released:
    """The delivery was never begun, or was interrupted by the bus: as if it had not been taken."""


Outcome: TypeAlias = Ack | Commit | RetryLater | Dead | Released


class SourceSpec(Protocol):
    """What a subscription asks for."""

    @property
    def name(self) -> str:
        """What it is called: a durable subscription goes on under its name."""
        ...

    @property
    def patterns(self) -> Sequence[str]:
        """What it listens to."""
        ...

    @property
    def is_durable(self) -> bool:
        """Whether it is to survive the process, under its name."""
        ...

    @property
    def start(self) -> Start:
        """Where it begins when it is new."""
        ...

    @property
    def ack_wait(self) -> float:
        """Seconds after which deliveries of a process that gives no sign are given to another."""
        ...

    @property
    def max_deliveries(self) -> int:
        """How often a message is delivered at most, to processes that died of it included.

        Where it is not known whether an attempt had begun, 1 may be exceeded by one.
        """
        ...

    @property
    def is_sequenced(self) -> bool:
        """Whether messages of a key wait for a dead letter of it that was there before."""
        ...

    def order_of(self, message: Message) -> str | None:
        """Tell the key that orders a message among others; None if nothing does."""
        ...

    def note_lost(self, messages: int) -> None:
        """Count messages that it will never be given, as by retention; called in the loop."""
        ...


class Source(Protocol):
    """One subscription's view of the transport."""

    async def fetch(self, most: int) -> Sequence[Delivery]:
        """Wait for deliveries and take at most that many; cancelled, it takes none.

        Their events are the payloads as stored, or an `InvalidEvent` that says why one cannot be
        read; then it is refused. Comes back with none when it has got on past
        messages that were not for this subscription.

        Raises:
            StoreError: Nothing could be taken now; it is asked again in a moment.
            StoreCorrupt, StoreVersion, PositionGone: Nothing ever can; the bus ends.
        """
        ...

    @property
    def reached(self) -> int | None:
        """The position up to which everything was fetched or passed by; None without positions."""
        ...

    def wake(self) -> None:
        """Have `fetch` look again, now or when it is called next, and come back in any case."""
        ...

    async def settle(self, outcomes: Sequence[tuple[Delivery, Outcome]]) -> None:
        """Note how deliveries ended; each is settled once.

        Successes may be noted later, together. Anything else is safe when it returns, as far as
        the transport keeps it: cancelled, it will still be.
        """
        ...

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Tell that these are still being worked on; idempotent."""
        ...


class Transport(Protocol[Spec_contra]):
    """Carries messages; an async context manager that owns its connections and files."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> bool | None: ...

    async def publish(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Accept messages, in order; returns when they are safe by the transport's own measure.

        Cancelled or failing, an unknown part of them may have been accepted. Messages `within` a
        transaction come to a transport that joins them: it writes them there, and no more.
        """
        ...

    async def serve(self) -> None:
        """Do what has to be done while it is open, until cancelled."""
        ...

    def open(self, spec: Spec_contra) -> AbstractAsyncContextManager[Source]:
        """Give a subscription its source, for as long as the context lasts.

        What is published after this call, by this process, reaches the source.
        """
        ...


# --- By capability --------------------------------------------------------------------------------


@runtime_checkable
class CarriesRequests(Protocol):
    """A transport with `requests`: it brings replies back to the bus that asked.

    A request is a message like any, whose `reply_to` names the bus that asks and a number.
    """

    on_reply: Callable[[int, str], None]
    """To be called in the loop with the number of a request, and the reply. Set by the bus."""

    @property
    def inbox(self) -> str:
        """The address of this bus while it is open, which begins with `$reply.`."""
        ...

    def announce(self, name: str, patterns: Sequence[str], *, is_shared: bool) -> None:
        """Let others know that a subscription answers requests, for as long as this bus is open.

        Those of one name that are shared answer each request once, wherever they are.
        """
        ...

    def withdraw(self, name: str) -> None:
        """Let others know that it answers none any more; idempotent."""
        ...

    async def responders(self, topic: str) -> Collection[str]:
        """Name who answers requests to a topic in other buses that live; a shared one once.

        Raises:
            StoreError: Nobody can tell now.
        """
        ...

    def reply(self, reply_to: ReplyTo, text: str) -> None:
        """Send a reply to another bus, without waiting until it is there."""
        ...


@runtime_checkable
class KeepsSubscriptions(Protocol):
    """A transport that is durable."""

    async def forget(self, name: str) -> bool:
        """Forget a durable subscription and where it was; False if there is none of that name."""
        ...


class Reading(Protocol):
    """What is kept between two positions, read once more; there is nothing to be closed."""

    @property
    def first(self) -> int:
        """The position where it begins."""
        ...

    @property
    def end(self) -> int:
        """The position where it ends, itself included; less than `first` if there is nothing."""
        ...

    @property
    def reached(self) -> int:
        """The position up to which everything was given or passed by."""
        ...

    @property
    def seen(self) -> int:
        """How many messages were looked at, wanted or not."""
        ...

    async def read_on(self) -> Sequence[Message]:
        """Give the next messages, in the order of their positions; now and then there are none.

        Their events are the payloads as stored. After an error, or cancelled, it goes on where it
        was the next time.

        Raises:
            PositionGone: Retention has removed what comes next; the next call goes on behind it.
            StoreCorrupt: A message is damaged or missing.
            StoreError: Nothing could be read now.
        """
        ...


@runtime_checkable
class KeepsMessages(Protocol):
    """A transport whose messages can be read again."""

    async def read(
        self,
        patterns: Sequence[str],
        since: Place | None,
        until: Place | None,
        *,
        last_per_key: bool = False,
    ) -> Reading:
        """Begin to read what is kept from one place to another, both included.

        Without `since` it begins with the first message that is kept; with a time, at the first
        stored at or after it. Without `until`, or where that lies ahead, it ends with what is the
        last message now; with a time, at the last stored at or before it. With `last_per_key`,
        of the messages of one topic and one key it gives the newest alone, and all without a key.

        Raises:
            InvalidOption: `since` lies ahead of what is stored.
            PositionGone: Retention has removed the position where it is to begin, or to end.
            StoreError: The store cannot be read.
        """
        ...


@runtime_checkable
class KeepsSchedule(Protocol):
    """A transport with `delay`.

    `publish` gives it messages for later too: those of which `eventbus.schedule.later_of` tells
    when. Each gets its place among the others when it is due, and is told of then as any.
    """

    schedule_size: int
    """How many it may keep at once; beyond that `publish` raises `QueueFull`. Set by the bus."""
    on_departure: Callable[[], None]
    """To be called in the loop whenever some have gone out. Set by the bus."""

    @property
    def has_awaited(self) -> bool:
        """Whether what was published for later since it was entered is yet to go out."""
        ...

    def cancel(self, id: str) -> bool:
        """Keep a message from going out; True once, False if it has gone out, or is not known.

        It does not wait as a task would: the thread stands still, for some seconds at most.

        Raises:
            StoreError: It is not known what came of it; ask again.
        """
        ...


@runtime_checkable
class CatchesUp(Protocol):
    """A source that can begin with messages that were stored before its subscription was."""

    @property
    def began(self) -> int:
        """The last position stored by then; known once the source is entered."""
        ...


@runtime_checkable
class KeepsTime(Protocol):
    """A transport that takes its time from the bus."""

    clock: Clock


@runtime_checkable
class LogsAsBus(Protocol):
    """A transport whose lines in the log begin as those of the bus, and have its field `bus`.

    It begins with a `BusLogger()` of its own, and is given that of the bus before it is entered.
    """

    bus_logger: BusLogger


@runtime_checkable
class Sequences(Protocol):
    """A source of a transport that `sequences`."""

    def holds(self, delivery: Delivery) -> bool:
        """Tell whether a delivery is still to be begun, and not left to wait in the store."""
        ...

    def is_waited_for(self, delivery: Delivery) -> bool:
        """Tell whether a delivery is a dead letter, sent again, that others may wait for."""
        ...


@runtime_checkable
class JoinsTransactions(Protocol):
    """A transport that publishes within a transaction of the publisher's own."""

    def check_connection(self, connection: object) -> None:
        """Refuse a connection in whose transaction nothing can be published.

        Raises:
            InvalidOption: It is none to this store, cannot be used here, or has no transaction.
        """
        ...


@runtime_checkable
class KeepsDeadLetters(Protocol):
    """A transport that keeps dead letters."""

    async def dead_letters(
        self, subscription: str | None, *, limit: int, before: str | None
    ) -> list[FailedDelivery]:
        """List what is kept, newest first, from the one before the id `before` on.

        Raises:
            InvalidOption: A limit below 1, or an id that is not kept.
        """
        ...

    async def redrive(self, subscription: str | None, ids: Sequence[str] | None) -> int:
        """Deliver dead letters again to the durable subscriptions that failed; give how many."""
        ...

    async def purge(self, subscription: str | None, ids: Sequence[str] | None) -> int:
        """Forget dead letters; give how many."""
        ...
