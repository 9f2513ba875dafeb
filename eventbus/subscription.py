"""A subscription: who listens to what, with its own queue, workers and counters."""

__all__ = ("Counts", "Host", "Member", "Options", "Run", "Settles", "Subscription", "Worker")

from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextvars import Context as Variables
from dataclasses import dataclass, field
from math import inf
from operator import length_hint
from typing import Any, Protocol, cast

from anyio import CancelScope

from eventbus._loop import WakeUp
from eventbus.activity import Activity
from eventbus.answers import Answer
from eventbus.bus_logger import BusLogger
from eventbus.clock import Clock
from eventbus.contracts import Contracts, Topic
from eventbus.deadlocks import Awaited
from eventbus.errors import AlreadySettled, InvalidOption, UnsupportedByTransport
from eventbus.handlers import HandlerShape
from eventbus.lanes import Lanes
from eventbus.message import (
    Delivery,
    Entry,
    Message,
    ReplyTo,
    converted,
    delivery_of,
    message_of,
    reply_to_of,
)
from eventbus.middleware import (
    CircuitBreaker,
    Correlate,
    DeadLetter,
    Middleware,
    Policy,
    Retry,
    Throttle,
    Timeout,
)
from eventbus.middleware.chain import Gate, innermost
from eventbus.probe import Probe
from eventbus.publishing import PublishOptions
from eventbus.queue import DeliveryQueue, Overflow
from eventbus.replies import Replies
from eventbus.schema import Schema
from eventbus.settling import Ack
from eventbus.threads import Threads
from eventbus.transports.base import Outcome, Start


@dataclass(slots=True)
class Counts:
    """What has happened to a subscription's messages since it was made."""

    started: int = 0  # taken by a worker
    skipped: int = 0  # of these, `where` said no
    filtered: int = 0  # of these, middleware did not run the handler
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    dead_lettered: int = 0
    lost: int = 0
    invalid: int = 0
    abandoned: int = 0
    expired: int = 0
    dropped: int = 0  # by queues that are gone; the living one counts its own

    def add(self, other: "Counts") -> None:
        """Add another's counts to these."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a subscription behaves, checked and with the bus's defaults filled in."""

    where: Callable[[Any], bool] | None
    key: Callable[[Any], str] | None
    queue_size: int
    overflow: Overflow
    is_durable: bool = False
    is_sequenced: bool = False
    transacts: bool = False  # its transport runs SQL of its handlers with their acknowledgements
    is_iterated: bool = False  # read by a loop, which nobody waits for who joins the bus
    start: Start = "new"
    ack_wait: float = 30.0
    skips_invalid: bool
    skips_replays: bool = False
    ack: Ack
    max_deliveries: int
    middleware: tuple[Middleware | Policy, ...]
    answer: Answer | None = None  # of a responder
    buries_requests: bool = False  # as it or its router has a `DeadLetter` of its own
    retries_answers: bool = False  # those of its topic's `raises`, as there is a `Retry` likewise


class Run(Protocol):
    """What a subscription asks of the bus's current run."""

    @property
    def new_wake_up(self) -> Callable[[], WakeUp]:
        """Make what a worker parks on."""
        ...

    @property
    def threads(self) -> Threads:
        """Where handlers run that are not async."""
        ...

    def spawn(self, worker: "Worker") -> None:
        """Start a worker."""
        ...

    def start_soon(
        self, function: Callable[..., Coroutine[Any, Any, object]], *arguments: object
    ) -> None:
        """Start a task of the bus."""
        ...

    async def start_task(self, function: Callable[..., Coroutine[Any, Any, object]]) -> None:
        """Start a task of the bus, and wait until it says that it has begun."""
        ...

    def watch(self, worker: "Worker", seconds: float) -> None:
        """Look after a worker whose attempts have a time limit."""
        ...

    def unwatch(self, worker: "Worker") -> None:
        """Look after a worker no more."""
        ...


class Host(Protocol):
    """What a subscription asks of the bus it belongs to."""

    @property
    def clock(self) -> Clock:
        """Where the time comes from."""
        ...

    @property
    def logger(self) -> BusLogger:
        """Where it logs."""
        ...

    @property
    def contracts(self) -> Contracts:
        """What is known of topics."""
        ...

    @property
    def activity(self) -> Activity:
        """Where queues with work are counted."""
        ...

    @property
    def replies(self) -> Replies:
        """Where replies go."""
        ...

    @property
    def runtime(self) -> Run:
        """The current run."""
        ...

    @property
    def probes(self) -> Sequence[Probe]:
        """Who watches."""
        ...

    @property
    def is_stopping(self) -> bool:
        """Whether the bus is being stopped at once."""
        ...

    def require_here(self) -> None:
        """Raise in another thread, and in another process, than that of a running bus."""
        ...

    def prepare(
        self, topic: Topic[Any] | str, event: object, options: PublishOptions, cause: Message
    ) -> Message:
        """Check what a handler publishes, and write its message."""
        ...

    async def send_all(self, messages: Sequence[Message]) -> None:
        """Send what a handler published; nothing, where it is known that some is refused."""
        ...


class Settles(Protocol):
    """What a subscription asks of who its messages come from."""

    async def settle(self, outcomes: Sequence[tuple[Delivery, Outcome]]) -> None:
        """Do what is to be done about how deliveries ended; each is settled once."""
        ...

    def holds(self, delivery: Delivery) -> bool:
        """Tell whether a delivery is still to be begun, and not left to wait in the store."""
        ...


@dataclass(slots=True, eq=False)
class Member:
    """One handler of a subscription; a queue group has several, which share its messages."""

    handler: Callable[..., Any]
    shape: HandlerShape
    concurrency: int = 1
    is_retired: bool = False


@dataclass(slots=True, eq=False)
class Worker:
    """One task that serves a subscription, as others see it."""

    subscription: "Subscription"
    member: Member
    current: Entry | None = None
    lane: str | None = None
    scope: CancelScope | None = None
    is_interrupted: bool = False  # its current attempt was cancelled: overdue, or the bus stops
    is_stale: bool = False  # its handler has gone, or is to be called another way
    pristine: Variables | None = None
    burst: Iterator[int] = field(default_factory=lambda: iter(()))
    burst_size: int = 0
    burst_begins: float = 0.0
    slice_ends: float = 0.0
    pace: int = 16
    task_id: int = 0
    deadline: float = inf
    awaits: Sequence[Awaited] = ()

    @property
    def name(self) -> str:
        """The name of the subscription."""
        return self.subscription.name

    @property
    def reply_to(self) -> ReplyTo | None:
        """Where the reply goes to what it is working on; None if nobody asks for one."""
        return None if self.current is None else reply_to_of(message_of(self.current))

    @property
    def timeout_seconds(self) -> float | None:
        """How long an attempt may take, if bounded."""
        return self.subscription.timeout_seconds

    def begin_burst(self, queued: int) -> Iterator[int]:
        """Begin to handle a share of what is queued, counted by the iterator that steps through it.

        Reading the count from the iterator's progress saves 0.035 F against counting each. With
        several workers each gives way to the others after its share.
        """
        subscription = self.subscription
        subscription.counts.started += self.burst_size - length_hint(self.burst)
        if subscription.concurrency > 1:
            self.slice_ends = 0.0
            queued = -(-queued // subscription.concurrency)
        self.burst_size = size = queued if queued < self.pace else self.pace
        self.burst = burst = iter(range(size))
        return burst

    @property
    def uncounted(self) -> int:
        """How many entries of the running burst have been started."""
        return self.burst_size - length_hint(self.burst)

    def end_slice(self) -> None:
        """Begin a new slice with what comes next, and with it to be watched."""
        self.slice_ends = 0.0

    def end_burst(self) -> None:
        """End the running burst with its current entry, so that the worker looks around."""
        self.flush()
        self.burst_size = 0
        deque(self.burst, maxlen=0)

    def uncount(self) -> None:
        """Count the burst's current entry as not taken."""
        self.subscription.counts.started -= 1

    def flush(self) -> None:
        """Move the burst's count to the subscription."""
        self.subscription.counts.started += self.uncounted
        self.burst_size = length_hint(self.burst)


class Subscription:
    """Patterns, model, handlers and options, with queue, workers and counters of its own.

    The queue is made with the first message, so that one never used costs little. A subscription
    without members is read by an iterator instead.
    """

    __slots__ = (
        "__weakref__",
        "concurrency",
        "counts",
        "failure_listeners",
        "gates",
        "host",
        "is_group",
        "lanes",
        "may_expire",
        "members",
        "name",
        "options",
        "patterns",
        "queue",
        "replayed_up_to",
        "schema",
        "seen_dropped",
        "source",
        "taken",
        "timeout_seconds",
        "workers",
    )

    source: Settles  # set by who opens it at a transport, before anything is published

    def __init__(
        self,
        name: str,
        patterns: Sequence[str],
        schema: Schema[Any] | None,
        options: Options,
        host: Host,
        *,
        is_group: bool,
    ) -> None:
        self.name = name
        self.patterns = tuple(patterns)
        self.schema = schema
        self.options = options
        self.host = host
        self.is_group = is_group
        timeout = innermost(options.middleware, Timeout)
        self.timeout_seconds = None if timeout is None else timeout.seconds
        self.concurrency = 0
        self.members: list[Member] = []
        self.counts = Counts()
        self.queue: DeliveryQueue[Entry] | None = None
        self.lanes: Lanes[Entry] | None = None
        self.workers: list[Worker] = []
        self.may_expire = False  # whether a message that can was ever on its way to the queue
        self.gates: Sequence[Gate] = ()
        self.failure_listeners: Sequence[Callable[[Entry], None]] = ()
        self.seen_dropped = 0
        self.replayed_up_to = 0  # the last position stored before it was created
        self.taken = 0  # by iterators, and not settled

    # --- what its policies say --------------------------------------------------------------

    @property
    def retry(self) -> Retry | None:
        """How failures are tried again, if at all."""
        return innermost(self.options.middleware, Retry)

    def keeps_dead_letter_of(self, message: Message) -> bool:
        """Tell whether a message that it gives up on is kept.

        A request is only if the responder, or its router, asks for that: its caller is told.
        """
        if self.options.answer is not None and message.reply_to is not None:
            return self.options.buries_requests
        return innermost(self.options.middleware, DeadLetter) is not None

    @property
    def correlates(self) -> bool:
        """Whether what its handlers do is known as their message's doing."""
        return innermost(self.options.middleware, Correlate) is not None

    @property
    def max_attempts(self) -> int:
        """How often a delivery is attempted at most, unless its handler says `retry`."""
        is_once = self.options.ack == "first" or (self.retry is None and self.options.ack == "auto")
        return 1 if is_once else self.max_deliveries

    @property
    def max_deliveries(self) -> int:
        """How often a delivery is attempted at most, where its handler says `retry`."""
        most, retry = self.options.max_deliveries, self.retry
        return most if retry is None else min(retry.attempts, most)

    def skips_replay_of(self, message: Message) -> bool:
        """Tell whether a message is passed over, as it was stored before this was created."""
        position = message.position if self.options.skips_replays else None
        return position is not None and position <= self.replayed_up_to

    # --- what its transport asks of it ------------------------------------------------------

    @property
    def is_durable(self) -> bool:
        """Whether it is to survive the process, under its name."""
        return self.options.is_durable

    @property
    def start(self) -> Start:
        """Where it begins when it is new."""
        return self.options.start

    @property
    def ack_wait(self) -> float:
        """Seconds after which another process may have what one has that gives no sign."""
        return self.options.ack_wait

    @property
    def is_sequenced(self) -> bool:
        """Whether messages of a key wait for a dead letter of it that was there before."""
        return self.options.is_sequenced

    def order_of(self, message: Message) -> str | None:
        """Tell the key that orders a message, which may not be validated yet."""
        if self.options.key is None:
            return message.key
        try:
            event = message.payload if self.schema is None else self.schema.validate(message.event)
            return self.key_of(converted(message, event))
        except Exception:  # noqa: BLE001 - the delivery itself will fail with it
            return None

    def note_lost(self, messages: int) -> None:
        """Count messages that it will never be given."""
        self.counts.lost += messages

    # --- what a context asks of it ----------------------------------------------------------

    @property
    def clock(self) -> Clock:
        """Where the time comes from."""
        return self.host.clock

    @property
    def logger(self) -> BusLogger:
        """Where the bus logs."""
        return self.host.logger

    def require_transactions(self) -> None:
        """Raise where SQL could not be run with the acknowledgement of a delivery.

        Raises:
            UnsupportedByTransport: Its deliveries are not acknowledged in a file.
            AlreadySettled: They are, before the handler runs.
        """
        if not self.options.transacts:
            raise UnsupportedByTransport(
                f"context.transaction in {self.name!r}: its deliveries are not acknowledged in a "
                "file, or it answers requests; take EventBus('sqlite:///events.db'), say, and give "
                "the subscription a name="
            )
        if self.options.ack == "first":
            raise AlreadySettled(
                f"context.transaction in {self.name!r}: ack='first' has settled the delivery "
                "before; take ack='auto' or 'manual'"
            )

    def tell_failures(self, listener: Callable[[Entry], None]) -> None:
        """Tell a listener of every attempt that fails from now on."""
        self.failure_listeners = (*self.failure_listeners, listener)

    def prepare(
        self, topic: Topic[Any] | str, event: object, options: PublishOptions, cause: Message
    ) -> Message:
        """Check what a handler publishes, and write its message."""
        return self.host.prepare(topic, event, options, cause)

    # --- its messages -----------------------------------------------------------------------

    def key_of(self, entry: Entry) -> str | None:
        """Tell the key that orders an entry: `key=` of the event, else the message's own.

        Raises:
            InvalidOption: `key=` gave something that is no text; also whatever it raises itself.
        """
        if self.options.key is None:
            traits = (entry if isinstance(entry, Message) else entry.message).head[2]
            return None if traits is None else traits.key
        key = cast("object", self.options.key(entry.event))
        if isinstance(key, str):
            return key
        raise InvalidOption(
            f"key= of subscription {self.name!r} gave {key!r}, of type {type(key).__name__}: let "
            "it return a str, as str(...) makes one of an id; until then these deliveries fail"
        )

    def slot_of(self, entry: Entry) -> str | None:
        """Tell the key that orders an entry; none where a user's function fails to tell it."""
        try:
            return self.key_of(entry)
        except Exception:  # noqa: BLE001 - the delivery itself will fail with it, at the worker
            return None

    def take_lagged(self, queue: DeliveryQueue[Entry]) -> int:
        """Tell how many messages were dropped since this was last asked."""
        lagged = queue.dropped - self.seen_dropped
        self.seen_dropped = queue.dropped
        return lagged

    def expect_expiry(self) -> None:
        """Look, from the next entry on, whether each has expired."""
        if not self.may_expire:
            self.may_expire = True
            for worker in self.workers:
                worker.end_burst()  # Race: the entries of a burst may be others than it began with

    def has_expired(self, entry: Entry) -> bool:
        """Tell whether it is too late to begin an entry."""
        traits = message_of(entry).head[2]
        expires_at = None if traits is None else traits.expires_at
        return expires_at is not None and self.host.clock.now() >= expires_at

    def put_back(self, entry: Entry) -> None:
        """Put an entry to the front of the queue, into the place that was kept for it."""
        is_back = self.queue is None or self.queue.restore(entry)
        if not is_back and isinstance(entry, Delivery) and entry.lane is not None:
            self.leave_lane(entry.lane)

    # --- its queue, handlers and workers ----------------------------------------------------

    def ready_queue(self) -> DeliveryQueue[Entry]:
        """Give the queue, made now if this is the first message since the bus started."""
        if self.queue is None:
            self.queue = DeliveryQueue(
                self.options.queue_size,
                self.options.overflow,
                workers=self.concurrency,
                start_worker=self._start_worker,
                key_of=self.slot_of,
                activity=self.host.activity if self.members else None,
                new_wake_up=self.host.runtime.new_wake_up,
                on_dropped=self._leave_lane_of,
                blockers=self._blockers,
                refuse_thread=self.host.require_here,
            )
            self.lanes = Lanes(self.queue)
            self.gates = self._new_gates()
            self.seen_dropped = 0
        return self.queue

    def _new_gates(self) -> Sequence[Gate]:
        layers = self.options.middleware
        policies = innermost(layers, CircuitBreaker), innermost(layers, Throttle)
        return [
            one.gate(self.name, self.host.clock, self.host.logger)
            for one in policies
            if one is not None
        ]

    def _start_worker(self) -> None:
        worker = Worker(self, self._next_member())
        self.workers.append(worker)
        self.host.runtime.spawn(worker)

    def _next_member(self) -> Member:
        running = [worker.member for worker in self.workers]
        return next(m for m in self.members if running.count(m) < m.concurrency)

    def add_member(self, member: Member) -> None:
        """Let one more handler share the messages."""
        was_alone = self.concurrency == 1
        self.members.append(member)
        self.concurrency += member.concurrency
        if was_alone:
            self._close_lanes_of_running()
        if self.queue is not None:
            for _ in range(member.concurrency):
                self.queue.add_worker()

    def retire(self, member: Member) -> None:
        """Let a handler go after what it is doing now; the others go on."""
        self.members.remove(member)
        self.concurrency -= member.concurrency
        member.is_retired = True
        if self.queue is not None:
            started = sum(worker.member is member for worker in self.workers)
            self.queue.remove_unstarted(member.concurrency - started)
        self.renew_workers()

    def renew_workers(self) -> None:
        """Let each worker look, after what it is doing now, how and whether it goes on."""
        for worker in self.workers:
            worker.is_stale = True
            worker.end_burst()
        if self.queue is not None:
            self.queue.wake_all()

    def interrupt(self) -> None:
        """Tell the workers that what they are doing is about to be cancelled, as the bus stops."""
        for worker in self.workers:
            worker.is_interrupted = worker.current is not None

    def give_back(self) -> None:
        """Forget what is queued, and begin nothing more: the transport has it still."""
        if self.queue is not None:
            self.lanes = Lanes(self.queue)
            self.queue.give_back()

    def stop(self, *, iterates: bool = True) -> int:
        """Forget queue and workers; give the number of entries that will not be handled.

        A drained iterator still ends with what is queued, where it `iterates` on: it runs in a task
        of its own.
        """
        abandoned = sum(worker.current is not None for worker in self.workers)
        for worker in self.workers:
            worker.flush()
        self.counts.cancelled += abandoned
        self.workers.clear()
        if self.queue is not None:
            is_left_to_iterator = iterates and not self.members and self.queue.is_closed
            abandoned += self.queue.forget_held() if is_left_to_iterator else self.queue.stop()
            self.counts.dropped += self.queue.dropped
            self.queue = self.lanes = None
        if self.is_durable:  # given back, not abandoned
            return 0
        self.counts.abandoned += abandoned
        return abandoned

    # --- its lanes --------------------------------------------------------------------------

    @property
    def has_lanes(self) -> bool:
        """Whether keys matter: alone, a worker has those that queue in order by itself."""
        return self.concurrency > 1 or (self.lanes is not None and bool(self.lanes.taken))

    def leave_lane(self, key: str) -> None:
        """Open a key's lane for the next behind, which goes to the front of the queue."""
        if self.queue is None or self.lanes is None:
            return
        while (behind := self.lanes.leave(key)) is not None:
            if self.queue.restore(delivery_of(behind).in_lane(key)):
                return

    def _leave_lane_of(self, dropped: Entry) -> None:
        if isinstance(dropped, Delivery) and dropped.lane is not None:
            self.leave_lane(dropped.lane)

    def _close_lanes_of_running(self) -> None:
        """Take the lanes of what runs: alone, a worker did not need to, but now it is not alone."""
        for worker in self.workers:
            if worker.current is not None and worker.lane is None and self.lanes is not None:
                worker.lane = self.slot_of(worker.current)
                if worker.lane is not None:
                    self.lanes.enter(worker.lane, worker.current)
                worker.end_burst()

    # --- whom a wait depends on -------------------------------------------------------------

    def blockers_of(self, reply_to: ReplyTo) -> Sequence[Worker]:
        """Name the workers of which one has to go on before a request is answered.

        The one that is at work on it; before, those of which one has to take it.
        """
        for worker in self.workers:
            if worker.reply_to == reply_to:
                return [worker] if worker.awaits else ()
        return self._blockers()

    def _blockers(self) -> Sequence[Worker]:
        """Name the workers of which one has to go on before a place comes free in the queue.

        None where it may come otherwise: a worker is at work, or an iterator takes.
        """
        waiting = [worker for worker in self.workers if worker.awaits]
        parked = 0 if self.queue is None else self.queue.parked
        if len(waiting) + parked < len(self.workers) or self._may_be_relieved(parked):
            return ()
        return waiting

    def _may_be_relieved(self, parked: int) -> bool:
        """Tell whether a retry that is due later may make room, though no worker is at work."""
        if self.queue is None or self.lanes is None:
            return False
        # A parked worker will take it, and with it what is set aside behind its key; in a `latest`
        # queue it may turn out to be replaced.
        is_of_use = parked > 0 or self.options.overflow == "latest"
        return is_of_use and self.queue.held > self.lanes.set_aside
