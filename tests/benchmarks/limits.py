"""The smallest code that keeps one promise each: what no bus written in Python gets below.

Where a bar is missed, this tells how much of it is the bus, and how much the bar: here is a mailbox
with a publish time, a bound, a count and a guard of context variables, and nothing else of a bus.
"""

__all__ = ("CASES", "LIMITS", "Limit", "lines")

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from statistics import median
from threading import Lock
from time import monotonic, perf_counter_ns, thread_time_ns, time

from anyio import to_thread
from pydantic import BaseModel

from tests.benchmarks.floors import Tally, counting
from tests.benchmarks.leads import over, over_best
from tests.benchmarks.measure import Case, Sample, Samples, added, expect
from tests.benchmarks.order import EVENT, NESTED, TOPIC, NestedOrder, Order
from tests.benchmarks.table import Figure, per

BURST = 128
BATCH = 100
SIZE = 1024
NAP_SECONDS = 0.0005


class Envelope:
    """A message with its publish time."""

    __slots__ = ("event", "head", "seconds")

    head: tuple[str, int]
    seconds: float
    event: object


class Delivery:
    """What one subscription gets of a message."""

    __slots__ = ("entry", "event", "is_handled", "lagged", "origin", "outbox")

    entry: Envelope
    event: object
    origin: object
    lagged: int
    outbox: object
    is_handled: bool


Call = Callable[[object], Awaitable[object]]
Link = Callable[[Delivery], Awaitable[object]]


@dataclass(slots=True)
class Mailbox:
    """A bounded queue with one worker, which parks on a future while it is empty."""

    items: deque[Envelope] = field(default_factory=deque[Envelope])
    limit: int = 0
    parked: asyncio.Future[None] | None = None
    current: Envelope | None = None

    def wake(self, entry: Envelope) -> None:
        """Take an entry for a parked worker."""
        self.items.append(entry)
        self.limit = SIZE
        if self.parked is not None:
            self.parked.set_result(None)
            self.parked = None

    async def run(self, call: Call, link: Link | None) -> None:
        """Hand over entry after entry; with a link, each in a context of its own."""
        take, pristine, create_future = (
            self.items.popleft,
            copy_context(),
            asyncio.get_running_loop().create_future,
        )
        while True:
            if not self.items:
                self.limit = 0
                self.parked = create_future()
                await self.parked
            for _ in range(min(BURST, len(self.items))):
                self.current = entry = take()
                if link is None:
                    await call(entry.event)
                else:
                    context = Delivery()
                    context.entry, context.origin = entry, self
                    context.lagged, context.outbox, context.is_handled = 0, None, False
                    await link(context)
                if copy_context() != pristine:
                    raise AssertionError("a handler of a benchmark sets no variables")
            self.current = None


class Mailboxes:
    """A publisher, with so many mailboxes behind its one topic."""

    def __init__(self, count: int = 1) -> None:
        self.all = tuple(Mailbox() for _ in range(count))
        self.routes = {TOPIC: ((TOPIC, count), self.all)}
        self.turns = BURST

    @property
    def mailbox(self) -> Mailbox:
        """The first."""
        return self.all[0]

    async def publish(self, topic: str, event: object, /, **options: object) -> Envelope:
        """Look up the route, stamp, and append where there is room."""
        if self.turns <= 0:
            self.turns = BURST
            await asyncio.sleep(0)
        if options:
            raise NotImplementedError
        head, mailboxes = self.routes[topic]
        message = Envelope()
        message.head = head
        message.seconds = time()
        message.event = event
        for mailbox in mailboxes:
            if len(mailbox.items) < mailbox.limit:
                mailbox.items.append(message)
            else:
                mailbox.wake(message)
        self.turns -= 1
        return message

    async def publish_many(self, topic: str, events: Sequence[object]) -> list[Envelope]:
        """Stamp all, and append them together."""
        await asyncio.sleep(0)
        head, mailboxes = self.routes[topic]
        seconds, messages = time(), list[Envelope]()
        for event in events:
            message = Envelope()
            message.head = head
            message.seconds = seconds
            message.event = event
            messages.append(message)
        for mailbox in mailboxes:
            mailbox.wake(messages[0])
            mailbox.items.extend(messages[1:])
        return messages


@dataclass(slots=True)
class ThreadInbox:
    """What a thread appends to; a loop that has something to take is not woken."""

    loop: asyncio.AbstractEventLoop
    items: list[Envelope] = field(default_factory=list[Envelope])
    lock: Lock = field(default_factory=Lock)
    is_awake: bool = False
    parked: asyncio.Future[None] | None = None

    def put(self, topic: str, event: object) -> None:
        """Append; wake the loop, unless it looks by itself."""
        entry = Envelope()
        entry.head = (topic, 1)
        entry.seconds = time()
        entry.event = event
        with self.lock:
            self.items.append(entry)
            if self.is_awake:
                return
            self.is_awake = True
        self.loop.call_soon_threadsafe(self.look)

    def look(self) -> None:
        """Wake who takes."""
        if self.parked is not None and not self.parked.done():
            self.parked.set_result(None)

    async def run(self, call: Call) -> None:
        """Take all there is, call for each, and look again a little later."""
        while True:
            with self.lock:
                batch, self.items = self.items, []
                self.is_awake = bool(batch)
            for entry in batch:
                await call(entry.event)
            if batch:
                await asyncio.sleep(NAP_SECONDS)
            else:
                self.parked = self.loop.create_future()
                await self.parked


def throughput(link: Callable[[Call], Link] | None = None) -> Callable[[int], Awaitable[float]]:
    """Make the case of one handler, perhaps with something around it."""

    async def sample(messages: int) -> float:
        bus, tally = Mailboxes(), Tally()
        call = counting(tally)
        worker = asyncio.create_task(bus.mailbox.run(call, link and link(call)))
        await asyncio.sleep(0)
        started = thread_time_ns()
        for _ in range(messages):
            await bus.publish(TOPIC, EVENT)
        await asyncio.sleep(0)
        spent = thread_time_ns() - started
        await _end(worker)
        expect(tally.handled, messages)
        return spent / messages

    return sample


def fan_out(
    mailboxes: int, event: Mapping[str, object] = EVENT, model: type[BaseModel] | None = None
) -> Sample:
    """Make the case of so many handlers, each with a mailbox and a worker; per publish."""

    async def sample(messages: int) -> float:
        bus, tally = Mailboxes(mailboxes), Tally()
        validate = None if model is None else model.__pydantic_validator__.validate_python
        workers = [asyncio.create_task(one.run(counting(tally), None)) for one in bus.all]
        await asyncio.sleep(0)
        started = thread_time_ns()
        for _ in range(messages):
            await bus.publish(TOPIC, validate(event) if validate else event)
        await asyncio.sleep(0)
        spent = thread_time_ns() - started
        for worker in workers:
            await _end(worker)
        expect(tally.handled, mailboxes * messages)
        return spent / messages

    return sample


async def round_trips(requests: int) -> float:
    """Publish, and wait for a future that the handler sets: no deadline, address or late reply."""
    bus, loop = Mailboxes(), asyncio.get_running_loop()
    waiting, answered = deque[asyncio.Future[object]](), 0

    async def answer(event: object) -> None:
        waiting.popleft().set_result(event)

    worker = asyncio.create_task(bus.mailbox.run(answer, None))
    await asyncio.sleep(0)
    started = thread_time_ns()
    for _ in range(requests):
        waiting.append(future := loop.create_future())
        await bus.publish(TOPIC, EVENT)
        answered += await future is EVENT
    spent = thread_time_ns() - started
    await _end(worker)
    expect(answered, requests)
    return spent / requests


def bound(call: Call) -> Link:
    """Make the innermost link of a chain: it notes that the handler was called."""

    def link(context: Delivery) -> Awaitable[object]:
        context.is_handled = True
        return call(context.entry.event)

    return link


def with_filter(call: Call) -> Link:
    """Put a predicate of the context around a handler."""
    call_next = bound(call)

    def lets_through(context: Delivery) -> bool:
        return True

    def link(context: Delivery) -> Awaitable[object]:
        if not lets_through(context):
            raise AssertionError("everything passes")
        return call_next(context)

    return link


def with_a_rate(call: Call) -> Link:
    """Put a limit of attempts per second, never reached, around a handler."""
    call_next, starts = bound(call), deque([0.0] * BURST, maxlen=BURST)

    def link(context: Delivery) -> Awaitable[object]:
        now = monotonic()
        if now - starts[0] < 0:
            raise AssertionError("everything passes")
        starts.append(now)
        return call_next(context)

    return link


def with_a_layer(call: Call) -> Link:
    """Put a middleware that does nothing around a handler."""
    call_next = bound(call)

    async def pass_on(context: Delivery, call_next: Link) -> object:
        return await call_next(context)

    return lambda context: pass_on(context, call_next)


async def in_batches(messages: int) -> float:
    """One handler, the messages published a hundred at a time."""
    bus, tally = Mailboxes(), Tally()
    worker = asyncio.create_task(bus.mailbox.run(counting(tally), None))
    await asyncio.sleep(0)
    batch = [EVENT] * BATCH
    started = thread_time_ns()
    for _ in range(messages // BATCH):
        await bus.publish_many(TOPIC, batch)
    await asyncio.sleep(0)
    spent = thread_time_ns() - started
    await _end(worker)
    expect(tally.handled, messages)
    return spent / messages


async def from_a_thread(messages: int) -> float:
    """Wall time per message of a thread that appends under a lock, to its handler in the loop."""
    inbox, all_handled = ThreadInbox(asyncio.get_running_loop()), asyncio.Event()
    handled = 0

    async def handle(event: object) -> None:
        nonlocal handled
        handled += 1
        if handled == messages:
            all_handled.set()

    def publish_all() -> None:
        for _ in range(messages):
            inbox.put(TOPIC, EVENT)

    worker = asyncio.create_task(inbox.run(handle))
    started = perf_counter_ns()
    await to_thread.run_sync(publish_all)
    await all_handled.wait()
    spent = perf_counter_ns() - started
    await _end(worker)
    expect(handled, messages)
    return spent / messages


async def latency(probes: int) -> float:
    """Median time from a publish to the handler, the worker parked."""
    latencies, arrived, bus = list[int](), asyncio.Event(), Mailboxes()

    async def handle(event: object) -> None:
        latencies.append(perf_counter_ns() - sent)
        arrived.set()

    worker = asyncio.create_task(bus.mailbox.run(handle, None))
    for _ in range(probes):
        await asyncio.sleep(0)
        arrived.clear()
        sent = perf_counter_ns()
        await bus.publish(TOPIC, EVENT)
        await arrived.wait()
    await _end(worker)
    expect(len(latencies), probes)
    return median(latencies)


async def kept_models(messages: int) -> float:
    """Validate, and keep as many models alive as lie in a queue between two bursts."""
    validate = Order.__pydantic_validator__.validate_python
    kept = deque[Delivery]()
    started = thread_time_ns()
    for _ in range(messages // BURST):
        for _ in range(BURST):
            delivery = Delivery()
            delivery.event = validate(EVENT)
            kept.append(delivery)
        for _ in range(BURST):
            kept.popleft()
    return (thread_time_ns() - started) / (messages // BURST * BURST)


async def _end(worker: asyncio.Task[None]) -> None:
    worker.cancel()
    await asyncio.wait([worker])


_one, _ten = throughput(), fan_out(10)
CASES: Mapping[str, Case] = {
    "least, one": Case(_one),
    "least, ten": Case(_ten, 1_000),
    "least, batches": Case(in_batches),
    "least, Filter": Case(added(by=throughput(with_filter), to=_one)),
    "least, Throttle": Case(added(by=throughput(with_a_rate), to=_one)),
    "least, a layer": Case(added(by=throughput(with_a_layer), to=_one)),
    "least, model": Case(kept_models),
    "least, model to ten": Case(added(by=fan_out(10, model=Order), to=_ten), 1_600),
    "least, order": Case(fan_out(1, NESTED, NestedOrder), 1_000),
    "least, request": Case(round_trips, 1_000),
    "least, latency": Case(latency, 1_000),
    "least, thread": Case(from_a_thread),
}


@dataclass(frozen=True, slots=True)
class Limit:
    """A row of the tables, and the least that its work comes to, or the most that it leads by."""

    what: str
    unit: str
    figure: Figure


LIMITS = (
    Limit("one publisher, one handler", "F", per("least, one", "F")),
    Limit("fan-out to 10, per delivery", "F", per("least, ten", "F", parts=10)),
    Limit("publish_many(100), per message", "F", per("least, batches", "F")),
    Limit("Filter", "A", per("least, Filter", "A")),
    Limit("Throttle, nothing has to wait", "A", per("least, Throttle", "A")),
    Limit("first middleware of the user's", "A", per("least, a layer", "A")),
    Limit("6-field model from a dict", "V", per("least, model", "V")),
    Limit("the same for 10 subscriptions", "V", per("least, model to ten", "V")),
    Limit("request and its reply", "R", per("least, request", "R")),
    Limit("one handler: psygnal", "x", over("psygnal, function", "to 1", "least, one")),
    Limit("nested order from a dict: the fastest", "x", over_best("order", "least, order")),
    Limit("from a thread", "T", per("least, thread", "called from a thread")),
    Limit("latency p50, one in flight", "Q", per("least, latency", "latency of a queue")),
)


def lines(samples: Samples) -> Iterator[str]:
    """Write the table, line by line."""
    yield f"{'the smallest code that does it':36}{'measured':>9}"
    for limit in LIMITS:
        measured = limit.figure(samples)
        number = "-" if measured is None else f"{measured:.2f}"
        yield f"{limit.what:36}{number:>9} {limit.unit}"
