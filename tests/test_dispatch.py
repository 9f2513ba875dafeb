"""From a queue to a handler: what a handler gets, may do, and what becomes of its errors."""

import logging
import threading
from collections.abc import Callable
from contextvars import ContextVar
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import anyio
import pytest
from anyio.lowlevel import checkpoint
from pydantic import BaseModel
from typing_extensions import Unpack

import eventbus
from eventbus import (
    Context,
    ContractError,
    EventBus,
    InvalidEvent,
    InvalidOption,
    InvalidTopic,
    Message,
    QueueFull,
    Receipt,
    Topic,
)
from eventbus.context import OUTBOX_SIZE
from eventbus.middleware import CallNext, DeadLetter, Filter, Log, PublishNext, Retry, Timeout
from eventbus.registration import HandlerOptions
from eventbus.testing import ManualClock
from tests.ending import what_ends

PACKAGE = str(Path(eventbus.__file__).parent)  # whose name the checkout's folder may have as well

JOBS = Topic("jobs", int)
NEWS = Topic("news", int)

mood: ContextVar[str] = ContextVar("mood", default="calm")


class Order(BaseModel):
    order_id: str


async def pass_through(context: Context[Any], call_next: CallNext) -> object:
    """Wrap a handler without doing anything."""
    return await call_next(context)


def raising(error: BaseException) -> Callable[[int], Any]:
    """Make a handler that raises this at every event."""

    async def handle(event: int) -> None:
        raise error

    return handle


# --- Errors of handlers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [ValueError("no"), ExceptionGroup("both", [OSError(), ValueError()])]
)
async def test_an_exception_fails_the_delivery_alone(error: Exception) -> None:
    """The publisher never sees it, other subscriptions neither, and the worker goes on."""
    handled: list[int] = []
    bus = EventBus()
    bus.on(JOBS, name="failing")(raising(error))

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        handled.append(event)

    async with bus:
        await bus.publish_many(JOBS, [1, 2])
        await bus.join()
        stats = bus.stats().subscriptions["failing"]

    assert handled == [1, 2]
    assert (stats.delivered, stats.failed, stats.lost, stats.succeeded) == (2, 2, 2, 0)


async def test_a_failing_where_fails_the_delivery() -> None:
    """A predicate that raises is as a handler that raises."""
    handled: list[int] = []
    bus = EventBus(middleware=[DeadLetter()])

    @bus.on(JOBS, where=lambda event: 10 / event > 1)
    async def handle(event: int) -> None:
        handled.append(event)

    async with bus:
        await bus.publish_many(JOBS, [2, 0, 5, 50])
        await bus.join()
        letters = await bus.dead_letters()

    assert handled == [2, 5]
    assert [letter.error_type for letter in letters] == ["ZeroDivisionError"]
    assert (bus.stats().failed, bus.stats().filtered) == (1, 1)


class Unspeakable(Exception):
    """An error that has no text."""

    def __str__(self) -> str:
        raise RuntimeError


async def test_an_error_without_a_text_is_an_error_as_any_other() -> None:
    """That it cannot be told ends neither the worker nor the bus."""
    bus = EventBus(middleware=[DeadLetter()])
    bus.on(JOBS)(raising(Unspeakable()))
    async with bus:
        await bus.publish_many(JOBS, [1, 2])
        await bus.join()
        letters = await bus.dead_letters()

    assert [letter.error_type for letter in letters] == ["Unspeakable"] * 2
    assert letters[0].error == "the error's own text cannot be told"


async def interrupt(event: int) -> None:
    """Fail as if the user had pressed Ctrl-C."""
    raise KeyboardInterrupt


async def exit_program(event: int) -> None:
    """Fail as if the program were to end."""
    raise SystemExit(3)


async def interrupt_in_a_task_group(event: int) -> None:
    """Fail so beside a task that answers its cancellation with an error."""

    async def fail_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fail_when_cancelled)
        await checkpoint()
        raise KeyboardInterrupt


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (interrupt, KeyboardInterrupt),
        (exit_program, SystemExit),
        (interrupt_in_a_task_group, KeyboardInterrupt),
    ],
)
def test_what_ends_the_program_ends_the_bus(
    backend: str, handler: Callable[[int], Any], kind: type[BaseException]
) -> None:
    """It goes through to who runs the loop, and is no failure of the delivery."""
    bus = EventBus(middleware=[DeadLetter(), Retry()])
    bus.on(JOBS)(handler)

    async def main() -> None:
        async with bus:
            await bus.publish(JOBS, 1)
            await anyio.sleep_forever()

    assert type(what_ends(main, backend)) is kind
    assert (bus.stats().failed, bus.stats().retried) == (0, 0)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_interrupt_while_the_bus_stops_is_not_lost(backend: str) -> None:
    """In one group with our cancellation, it still goes through."""
    bus = EventBus()
    begun = anyio.Event()

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        except BaseException as cancellation:  # noqa: BLE001 - it is raised again, in a group
            raise BaseExceptionGroup("both", [cancellation, KeyboardInterrupt()]) from None

    async def main() -> None:
        async with bus:
            await bus.publish(JOBS, 1)
            await begun.wait()
            raise LookupError

    ending = what_ends(main, backend)  # asyncio's is bare, trio's grouped

    if isinstance(ending, BaseExceptionGroup):
        (ending,) = cast("BaseExceptionGroup[BaseException]", ending).exceptions
    assert isinstance(ending, KeyboardInterrupt)


# --- What a traceback shows -----------------------------------------------------------------------


def frames_of(error: BaseException) -> list[str]:
    """Name the files an error passed through, from the outermost."""
    names: list[str] = []
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    return names


@pytest.mark.parametrize(
    ("middleware", "most"),
    [
        ([], 2),
        ([Retry(), DeadLetter(), Timeout(5.0)], 2),
        ([pass_through, pass_through], 2),  # whose own frames are the user's
        ([Log(), Filter(lambda _: True)], 4),
    ],
)
@pytest.mark.parametrize("takes_context", [False, True])
async def test_a_traceback_shows_two_frames_of_ours_at_most(
    clock: ManualClock, middleware: list[Any], most: int, takes_context: bool
) -> None:
    """And one more for each middleware of ours; the rest is the user's own."""
    errors: list[BaseException] = []
    bus = EventBus(clock=clock, middleware=[*middleware, DeadLetter()])

    def fail(event: int) -> None:
        error = ValueError(event)
        errors.append(error)
        raise error

    async def plain(event: int) -> None:
        fail(event)

    async def with_context(event: int, context: Context[int]) -> None:
        fail(event)

    bus.on(JOBS, middleware=[Retry(attempts=1)])(with_context if takes_context else plain)
    async with bus:
        await bus.publish(JOBS, 1)
        await bus.join()
        letter = (await bus.dead_letters())[0]

    ours = [name for name in frames_of(errors[0]) if name.startswith(PACKAGE)]
    assert 1 <= len(ours) <= most
    assert letter.traceback.count(PACKAGE) == len(ours)
    assert letter.traceback.rstrip().endswith("ValueError: 1")


async def test_a_traceback_holds_no_frames_alive() -> None:
    """What is kept of a failure is text: the payload's neighbours can be freed."""
    bus = EventBus(middleware=[DeadLetter()])
    bus.on(JOBS)(raising(ValueError("kept as text")))
    async with bus:
        await bus.publish(JOBS, 1)
        await bus.join()
        letter = (await bus.dead_letters())[0]

    assert (letter.error_type, letter.error) == ("ValueError", "kept as text")
    assert isinstance(letter.traceback, str)


# --- Handlers of other kinds ----------------------------------------------------------------------


async def test_a_sync_handler_runs_in_a_thread() -> None:
    """It does not stop the event loop; what it raises is its failure."""
    threads: list[int] = []
    bus = EventBus(middleware=[DeadLetter()])

    @bus.on(JOBS)
    def handle(event: int) -> None:
        threads.append(threading.get_ident())
        if event:
            raise ValueError(event)

    async with bus:
        await bus.publish_many(JOBS, [0, 1])
        await bus.join()
        letters = await bus.dead_letters()

    assert threading.get_ident() not in threads
    assert [letter.error_type for letter in letters] == ["ValueError"]
    assert bus.stats().succeeded == 1


async def test_an_async_function_in_disguise_fails_by_name() -> None:
    """What returns an awaitable that nobody would await says so, instead of doing nothing."""
    bus = EventBus(middleware=[DeadLetter()])

    async def real(event: int) -> None: ...

    bus.on(JOBS, name="jobs")(lambda event: real(event))
    async with bus:
        await bus.publish(JOBS, 1)
        await bus.join()
        letter = (await bus.dead_letters())[0]

    assert letter.error_type == "InvalidHandler"
    assert "jobs is no async function but returned <coroutine" in letter.error


async def test_no_more_threads_than_the_bus_allows() -> None:
    """Sync handlers beyond `threads` wait for one that returns."""
    running, most = set[int](), list[int]()
    lock, gate = threading.Lock(), threading.Event()
    bus = EventBus(threads=2)

    @bus.on(JOBS, concurrency=5)
    def handle(event: int) -> None:
        with lock:
            running.add(event)
            most.append(len(running))
            if len(running) == 2:
                gate.set()
        gate.wait(30.0)
        with lock:
            running.remove(event)

    async with bus:
        await bus.publish_many(JOBS, range(8))

    assert max(most) == 2


# --- Giving way -----------------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", ["block", "drop_oldest"])
@pytest.mark.parametrize("with_context", [False, True])
async def test_a_flooded_worker_gives_way(overflow: Any, with_context: bool) -> None:
    """Other tasks run long before the flood has been handled, though no handler ever waits."""
    flood = 8_000
    handled = 0
    turns: list[int] = []
    bus = EventBus(queue_size=flood, overflow=overflow)

    async def plain(event: int) -> None:
        nonlocal handled
        handled += 1

    async def with_one(event: int, context: Context[int]) -> None:
        await plain(event)

    bus.on(JOBS)(with_one if with_context else plain)

    async def take_turns() -> None:
        while handled < flood:
            turns.append(handled)
            await checkpoint()

    async with bus, anyio.create_task_group() as tasks:
        await bus.publish_many(JOBS, range(flood))
        tasks.start_soon(take_turns)

    within = [turn for turn in turns if 0 < turn < flood]
    assert len(within) >= 3


async def test_flooded_workers_take_turns() -> None:
    """Two subscriptions with full queues are served by turns, not one after the other."""
    order: list[str] = []
    bus = EventBus(queue_size=10_000)

    @bus.on(JOBS)
    async def one(event: int) -> None:
        order.append("one")

    @bus.on(JOBS)
    async def other(event: int) -> None:
        order.append("other")

    async with bus:
        await bus.publish_many(JOBS, range(10_000))

    half = order[: len(order) // 2]
    assert {"one", "other"} == set(half)
    assert min(half.count("one"), half.count("other")) > 1000


async def test_a_publisher_that_never_waits_lets_others_run() -> None:
    """A loop of publishes with room is a checkpoint at least every 128 calls."""
    turns: list[int] = []
    bus = EventBus()
    async with bus, anyio.create_task_group() as tasks:

        async def take_turns() -> None:
            while bus.stats().published < 1000:
                turns.append(bus.stats().published)
                await checkpoint()

        tasks.start_soon(take_turns)
        for event in range(1000):
            await bus.publish(JOBS, event)

    gaps = [later - sooner for sooner, later in pairwise(turns)]
    assert max(gaps) <= 2 * 128  # trio may let the publisher run twice in a row


# --- Context variables ----------------------------------------------------------------------------


@pytest.mark.parametrize("middleware", [[], [pass_through]])
@pytest.mark.parametrize("concurrency", [1, 2])
async def test_what_a_handler_sets_is_not_seen_by_the_next(
    middleware: list[Any], concurrency: int
) -> None:
    """Each delivery begins with the variables of the bus, whatever the one before did."""
    seen: list[str] = []
    bus = EventBus(middleware=middleware)

    @bus.on(JOBS, concurrency=concurrency)
    async def handle(event: int) -> None:
        seen.append(mood.get())
        mood.set(f"moved by {event}")

    async with bus:
        for event in range(20):
            await bus.publish(JOBS, event)

    assert seen == ["calm"] * 20


async def test_what_a_failing_handler_sets_is_not_seen_either(clock: ManualClock) -> None:
    """Not by its own next attempt, and not by the next message."""
    seen: list[str] = []
    bus = EventBus(clock=clock, middleware=[Retry(attempts=2, jitter=False)])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        seen.append(mood.get())
        mood.set("angry")
        raise ValueError

    async with bus:
        await bus.publish_many(JOBS, [1, 2])
        await clock.advance(10.0)

    assert seen == ["calm"] * 4


class Incomparable:
    """A value that cannot be compared, as arrays cannot."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = object.__hash__


async def test_variables_that_cannot_be_compared_are_not_seen_either() -> None:
    """A variable may hold what it likes: comparing it ends neither the worker nor the bus."""
    seen: list[object] = []
    array: ContextVar[object] = ContextVar("array")
    bus = EventBus()

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        seen.append(array.get())
        array.set(Incomparable())

    first = Incomparable()
    array.set(first)
    async with bus:
        await bus.publish_many(JOBS, [1, 2, 3])

    assert [one is first for one in seen] == [True] * 3


async def test_what_a_handler_out_of_time_sets_is_not_seen(clock: ManualClock) -> None:
    """Also when its scope had to be cancelled."""
    seen: list[str] = []
    bus = EventBus(clock=clock, middleware=[Timeout(1.0)])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        seen.append(mood.get())
        mood.set("slow")
        await anyio.sleep_forever()

    async with bus:
        await bus.publish_many(JOBS, [1, 2, 3])
        await clock.advance(10.0)

    assert seen == ["calm"] * 3


async def test_what_middleware_sets_is_seen_by_its_handler_alone() -> None:
    """A middleware may hand something inward; it ends with the delivery."""
    seen: list[tuple[str, str]] = []

    async def cheer(context: Context[Any], call_next: CallNext) -> object:
        before = mood.get()
        mood.set(f"cheered {context.event}")
        seen.append((before, mood.get()))
        return await call_next(context)

    bus = EventBus(middleware=[cheer])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        assert mood.get() == f"cheered {event}"

    async with bus:
        await bus.publish_many(JOBS, [1, 2, 3])
        await bus.join()

        assert bus.stats().succeeded == 3

    assert seen == [("calm", f"cheered {event}") for event in (1, 2, 3)]


async def test_handlers_do_not_inherit_from_the_publisher() -> None:
    """They run in the variables of who started the bus, not of who published."""
    seen: list[str] = []
    bus = EventBus()

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        seen.append(mood.get())

    async def publish_in_a_mood() -> None:
        mood.set("publishing")
        await bus.publish(JOBS, 1)

    mood.set("starting")
    async with bus:
        mood.set("started")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish_in_a_mood)

    assert seen == ["starting"]


async def test_sync_handlers_get_the_variables_of_the_bus_too() -> None:
    """A worker thread runs in a copy of them."""
    seen: list[str] = []
    bus = EventBus()

    @bus.on(JOBS)
    def handle(event: int) -> None:
        seen.append(mood.get())
        mood.set("threaded")

    mood.set("starting")
    async with bus:
        await bus.publish_many(JOBS, [1, 2])

    assert seen == ["starting", "starting"]


# --- What a context tells -------------------------------------------------------------------------


async def contexts_of(
    clock: ManualClock,
    *patterns: str,
    topic: str = "orders.eu.created",
    **options: Unpack[HandlerOptions[Order]],
) -> list[Context[Any]]:
    """Publish an order and give the context of each delivery."""
    contexts: list[Context[Any]] = []
    bus = EventBus(clock=clock)

    @bus.on(*patterns, model=Order, **options)
    async def handle(event: Order, context: Context[Order]) -> None:
        contexts.append(context)

    async with bus:
        await bus.publish(topic, {"order_id": "o-1"})
    return contexts


async def test_a_context_tells_the_delivery(clock: ManualClock) -> None:
    """The model's event beside the message as published, and the subscription by name."""
    context = (await contexts_of(clock, "orders.>", name="audit"))[0]

    assert context.event == Order(order_id="o-1")
    assert context.message.payload == {"order_id": "o-1"}
    assert (context.subscription, context.attempt, context.last_attempt) == ("audit", 1, True)
    assert (context.lagged, context.failure) == (0, None)


@pytest.mark.parametrize(
    ("patterns", "captured"),
    [
        (["orders.eu.created"], {}),
        (["orders.*.created"], {}),
        (["orders.{region}.{what}"], {"region": "eu", "what": "created"}),
        (["orders.{region}.>"], {"region": "eu"}),
        (["{kind}.us.*", "{kind}.{region}.*"], {"kind": "orders", "region": "eu"}),
    ],
)
async def test_captures_are_those_of_the_pattern_that_matches(
    clock: ManualClock, patterns: list[str], captured: dict[str, str]
) -> None:
    """What the braces stand for in this topic; nothing where there are none."""
    contexts = await contexts_of(clock, *patterns)

    assert [dict(context.captures) for context in contexts] == [captured]


async def test_one_subscription_gets_a_message_once(clock: ManualClock) -> None:
    """However many of its patterns match."""
    assert len(await contexts_of(clock, "orders.>", "orders.*.created", "{a}.{b}.{c}")) == 1


async def test_a_context_shows_lag_once(clock: ManualClock) -> None:
    """The first delivery after a loss tells how much, the next one nothing."""
    lagged: list[int] = []
    opened = anyio.Event()
    bus = EventBus(clock=clock)

    @bus.on(JOBS, queue_size=2, overflow="drop_oldest")
    async def handle(event: int, context: Context[int]) -> None:
        lagged.append(context.lagged)
        await opened.wait()

    async with bus:
        for event in range(6):
            await bus.publish(JOBS, event)
            await clock.settle()
        opened.set()

    assert lagged == [0, 3, 0]


# --- What a handler publishes ---------------------------------------------------------------------


class Newsroom:
    """A bus whose handler of jobs publishes news, and who hears them."""

    def __init__(self, clock: ManualClock, **options: Any) -> None:
        self.bus = EventBus(clock=clock, **options)
        self.heard: list[int] = []
        self.messages: list[Message] = []
        self.bus.on(NEWS)(self._hear)

    async def _hear(self, event: int, context: Context[int]) -> None:
        self.heard.append(event)
        self.messages.append(context.message)


async def test_what_a_handler_publishes_goes_out_when_it_succeeded(clock: ManualClock) -> None:
    """Not before it ends, and then in its order."""
    room = Newsroom(clock)
    opened = anyio.Event()

    @room.bus.on(JOBS)
    async def handle(event: int, context: Context[int]) -> None:
        for number in range(3):
            await context.publish(NEWS, number)
        context.publish_nowait(NEWS, 3)
        await opened.wait()

    async with room.bus as bus:
        await bus.publish(JOBS, 1)
        await clock.settle()

        assert room.heard == []

        opened.set()

    assert room.heard == [0, 1, 2, 3]


async def test_what_a_failing_handler_published_is_dropped(clock: ManualClock) -> None:
    """Each attempt begins with nothing published: only what the successful one did goes out."""
    room = Newsroom(clock, middleware=[Retry(attempts=3, jitter=False)])

    @room.bus.on(JOBS)
    async def handle(event: int, context: Context[int]) -> None:
        await context.publish(NEWS, context.attempt)
        if context.attempt < 3:
            raise ValueError

    async with room.bus as bus:
        await bus.publish(JOBS, 1)
        await clock.advance(10.0)

    assert room.heard == [3]
    assert room.bus.stats().published == 2


async def test_what_a_sync_handler_publishes_goes_out_too(clock: ManualClock) -> None:
    """Through the twin that does not wait, from its thread."""
    room = Newsroom(clock)

    @room.bus.on(JOBS)
    def handle(event: int, context: Context[int]) -> None:
        context.publish_nowait(NEWS, event)

    async with room.bus as bus:
        await bus.publish(JOBS, 7)

    assert room.heard == [7]


async def test_what_middleware_publishes_goes_out_with_the_rest(clock: ManualClock) -> None:
    """There is one buffer per delivery, in the order of the calls."""

    async def announce(context: Context[Any], call_next: CallNext) -> object:
        if context.message.topic == "jobs":
            await context.publish(NEWS, 1)
        result = await call_next(context)
        if context.message.topic == "jobs":
            await context.publish(NEWS, 3)
        return result

    room = Newsroom(clock, middleware=[announce])

    @room.bus.on(JOBS)
    async def handle(event: int, context: Context[int]) -> None:
        await context.publish(NEWS, 2)

    async with room.bus as bus:
        await bus.publish(JOBS, 0)

    assert room.heard == [1, 2, 3]


async def test_an_outbox_is_bounded(clock: ManualClock) -> None:
    """The one publish beyond 1,000 is refused where it is made; those before it go out."""
    room = Newsroom(clock)

    @room.bus.on(JOBS, name="jobs")
    async def handle(event: int, context: Context[int]) -> None:
        for number in range(OUTBOX_SIZE):
            await context.publish(NEWS, number)
        with pytest.raises(QueueFull, match="'jobs' published 1000 messages"):
            await context.publish(NEWS, 1000)

    async with room.bus as bus:
        await bus.publish(JOBS, 1)

    assert room.heard == list(range(1000))
    assert room.bus.stats().failed == 0


async def test_what_a_handler_publishes_tells_its_cause(clock: ManualClock) -> None:
    """Each names the message that led to it, and the one the conversation began with."""
    room = Newsroom(clock)
    step = Topic("step", int)

    @room.bus.on(JOBS)
    async def begin(event: int, context: Context[int]) -> None:
        await context.publish(step, event, id="m-2", key="k")

    @room.bus.on(step)
    async def go_on(event: int, context: Context[int]) -> None:
        await context.publish(NEWS, event)

    async with room.bus as bus:
        await bus.publish(JOBS, 1, id="m-1")

    told = room.messages[0]
    assert (told.causation_id, told.correlation_id) == ("m-2", "m-1")


async def test_a_receipt_from_a_handler_does_not_know_who_will_hear(clock: ManualClock) -> None:
    """Its message has an id and a topic already, and no count of those it reached."""
    room = Newsroom(clock)
    receipts: list[tuple[str, str, int | None]] = []

    @room.bus.on(JOBS)
    async def handle(event: int, context: Context[int]) -> None:
        for receipt in (await context.publish(NEWS, 1), context.publish_nowait(NEWS, 2)):
            receipts.append((receipt.id, receipt.topic, receipt.matched))

    async with room.bus as bus:
        await bus.publish(JOBS, 1)

    assert receipts == [(message.id, "news", None) for message in room.messages]


@pytest.mark.parametrize(
    ("topic", "event", "options", "error"),
    [
        ("no topic", {}, {}, InvalidTopic),
        ("$dlq.jobs", {}, {}, InvalidTopic),
        (NEWS, "text", {}, InvalidEvent),
        (NEWS, 1, {"key": ""}, InvalidOption),
        (NEWS, 1, {"colour": "red"}, InvalidOption),
        (Topic("news", str), "text", {}, ContractError),
    ],
)
async def test_what_a_handler_publishes_is_checked_at_the_call(
    clock: ManualClock, topic: Any, event: Any, options: Any, error: type[Exception]
) -> None:
    """It hears of its mistake there and then, and may still succeed."""
    room = Newsroom(clock)

    @room.bus.on(JOBS)
    async def handle(_: int, context: Context[int]) -> None:
        with pytest.raises(error):
            await context.publish(topic, event, **options)

    async with room.bus as bus:
        await bus.publish(JOBS, 1)

    assert (room.bus.stats().succeeded, room.heard) == (1, [])


async def test_sending_waits_for_room_as_publishing_does(clock: ManualClock) -> None:
    """The delivery is running until all it published has its place."""
    opened = anyio.Event()
    heard: list[int] = []
    bus = EventBus(clock=clock)

    @bus.on(NEWS, queue_size=1)
    async def hear(event: int) -> None:
        heard.append(event)
        await opened.wait()

    @bus.on(JOBS, name="jobs")
    async def handle(event: int, context: Context[int]) -> None:
        for number in range(4):
            await context.publish(NEWS, number)

    async with bus:
        await bus.publish(JOBS, 1)
        await clock.settle()

        assert bus.stats().subscriptions["jobs"].in_flight == 1

        opened.set()

    assert heard == [0, 1, 2, 3]


async def test_an_error_in_sending_fails_the_attempt(clock: ManualClock) -> None:
    """What was sent before it stays sent; the attempt is tried again as any other."""
    opened = anyio.Event()
    bus = EventBus(clock=clock, middleware=[Retry(attempts=2, jitter=False)])

    @bus.on(NEWS, queue_size=1, overflow="fail")
    async def hear(event: int) -> None:
        await opened.wait()

    @bus.on(JOBS, name="jobs")
    async def handle(event: int, context: Context[int]) -> None:
        await context.publish(NEWS, event)

    async with bus:
        for event in range(3):
            await bus.publish(JOBS, event)
            await clock.settle()
        failed = bus.stats().subscriptions["jobs"]
        opened.set()
        await clock.advance(1.0)

    assert (failed.succeeded, failed.failed, failed.retried) == (2, 1, 1)
    assert bus.stats().succeeded == 6


async def test_what_a_handler_publishes_passes_publish_middleware(clock: ManualClock) -> None:
    """It may be changed on its way, as any other message."""

    async def stamp(message: Message, call_next: PublishNext) -> Receipt:
        return await call_next(message.replace(headers={"stamped": "yes"}))

    room = Newsroom(clock, publish_middleware=[stamp])

    @room.bus.on(JOBS)
    async def handle(event: int, context: Context[int]) -> None:
        await context.publish(NEWS, event)

    async with room.bus as bus:
        await bus.publish(JOBS, 1)

    assert [message.headers for message in room.messages] == [{"stamped": "yes"}]


async def test_publish_middleware_that_refuses_fails_the_attempt(clock: ManualClock) -> None:
    """The handler's news is refused when it is sent, after the handler itself has ended."""

    async def censor(message: Message, call_next: PublishNext) -> Receipt:
        if message.topic == "news":
            raise PermissionError("no news")
        return await call_next(message)

    room = Newsroom(clock, publish_middleware=[censor], middleware=[DeadLetter()])

    @room.bus.on(JOBS)
    async def handle(event: int, context: Context[int]) -> None:
        await context.publish(NEWS, event)

    async with room.bus as bus:
        await bus.publish(JOBS, 1)
        await bus.join()
        letters = await bus.dead_letters()

    assert [letter.error for letter in letters] == ["no news"]
    assert room.heard == []


async def test_publishing_on_the_bus_is_immediate(clock: ManualClock) -> None:
    """What a handler publishes by `bus.publish` goes out though it fails later."""
    room = Newsroom(clock)

    @room.bus.on(JOBS)
    async def handle(event: int) -> None:
        await room.bus.publish(NEWS, event)
        raise ValueError

    async with room.bus as bus:
        await bus.publish(JOBS, 1)

    assert room.heard == [1]


async def test_what_is_published_while_draining_still_goes_out(clock: ManualClock) -> None:
    """Handlers may finish what they began, their news included."""
    room = Newsroom(clock)
    opened = anyio.Event()

    @room.bus.on(JOBS)
    async def handle(event: int, context: Context[int]) -> None:
        await opened.wait()
        await context.publish(NEWS, event)
        await room.bus.publish(NEWS, event + 1)

    async with anyio.create_task_group() as tasks, room.bus as bus:
        await bus.publish(JOBS, 1)
        await clock.settle()
        tasks.start_soon(bus.drain)
        await clock.settle()
        opened.set()

    assert sorted(room.heard) == [1, 2]


# --- What is written ------------------------------------------------------------------------------


async def test_giving_up_says_what_becomes_of_the_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Kept as a dead letter, or lost for want of a policy that keeps it."""
    bus = EventBus()
    bus.on(JOBS, name="keeps", middleware=[DeadLetter()])(raising(ValueError()))
    bus.on(JOBS, name="loses")(raising(ValueError()))
    async with bus:
        await bus.publish(JOBS, 1, id="m-1")

    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert sorted(lines) == [
        "keeps gives up <Message m-1 on 'jobs'> after 1 attempt, a dead letter now",
        "loses gives up <Message m-1 on 'jobs'> after 1 attempt, lost: no DeadLetter() keeps it",
    ]
