"""Messages published for later: when they go out, to whom, and how they are kept from it."""

import gc
import logging
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import TypeAlias, TypedDict

import anyio
import pytest
from pydantic import BaseModel

from eventbus import (
    BusClosed,
    Context,
    EventBus,
    InvalidEvent,
    InvalidOption,
    InvalidTopic,
    Message,
    Overflow,
    QueueFull,
    Receipt,
    Topic,
    UnknownTopic,
)
from eventbus.middleware import PublishNext
from eventbus.publishing import PublishOptions
from eventbus.testing import ManualClock

Payload: TypeAlias = Mapping[str, int]


class Reminder(BaseModel, frozen=True):
    number: int


REMINDER = Topic("reminders", Reminder)


class Ear:
    """A handler that notes what it hears, and when."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._begin = clock.monotonic()
        self.heard: list[tuple[int, float]] = []

    async def __call__(self, event: Payload) -> None:
        self.heard.append((event["n"], self._clock.monotonic() - self._begin))

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.heard]


@pytest.fixture
def ear(clock: ManualClock) -> Ear:
    """Give a handler."""
    return Ear(clock)


@pytest.fixture
async def bus(clock: ManualClock, ear: Ear) -> AsyncIterator[EventBus]:
    """Give a running bus whose ear listens to `bells`."""
    bus = EventBus(clock=clock, drain_timeout=10.0, schedule_size=100)
    bus.on("bells")(ear)
    async with bus:
        yield bus


def wall(clock: ManualClock, seconds: float) -> datetime:
    """Give the wall time so many seconds from now."""
    return datetime.fromtimestamp(clock.now() + seconds, UTC)


# --- when it goes out -------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [5.0, 5, timedelta(seconds=5)])
async def test_a_delayed_message_goes_out_when_its_delay_is_over(
    bus: EventBus, clock: ManualClock, ear: Ear, delay: float | timedelta
) -> None:
    """Not before, and once."""
    await bus.publish("bells", {"n": 1}, delay=delay)
    await clock.advance(4.9)
    early = list(ear.heard)

    await clock.advance(20.0)

    assert early == []
    assert ear.heard == [(1, 5.0)]


async def test_a_message_goes_out_at_its_time(bus: EventBus, clock: ManualClock, ear: Ear) -> None:
    """In whichever time zone it was said."""
    at = wall(clock, 5.0).astimezone(timezone(timedelta(hours=-7)))
    await bus.publish("bells", {"n": 1}, at=at)

    await clock.advance(20.0)

    assert ear.numbers == [1]
    assert ear.heard[0][1] == pytest.approx(5.0)


async def test_messages_go_out_in_the_order_they_are_due(
    bus: EventBus, clock: ManualClock, ear: Ear
) -> None:
    """Whatever order they were published in; those of one moment in that order."""
    for number, delay in enumerate([3.0, 1.0, 2.0, 1.0]):
        await bus.publish("bells", {"n": number}, delay=delay)

    await clock.advance(5.0)

    assert ear.numbers == [1, 3, 2, 0]


@pytest.mark.parametrize("jump", [3_600.0, -3_600.0, -1.0])
async def test_a_delay_is_not_touched_by_the_wall_clock(
    bus: EventBus, clock: ManualClock, ear: Ear, jump: float
) -> None:
    """It is a length of time, and the clock being set makes it neither longer nor shorter."""
    await bus.publish("bells", {"n": 1}, delay=5.0)
    clock.set_wall(jump)

    await clock.advance(20.0)

    assert ear.heard == [(1, 5.0)]


async def test_a_time_follows_the_wall_clock(bus: EventBus, clock: ManualClock, ear: Ear) -> None:
    """When the clock is set past it, it goes out within ten seconds."""
    await bus.publish("bells", {"n": 1}, at=wall(clock, 3_000.0))
    await clock.advance(1.0)
    clock.set_wall(3_600.0)

    await clock.advance(30.0)

    assert ear.heard == [(1, 10.0)]


@pytest.mark.parametrize("options", [{"delay": 0}, {"at": datetime(2001, 1, 1, tzinfo=UTC)}, {}])
async def test_what_is_due_already_goes_out_at_once(
    bus: EventBus, clock: ManualClock, ear: Ear, options: PublishOptions
) -> None:
    """As if nothing had been said: its receipt knows whom it reached, and cannot cancel."""
    receipt = await bus.publish("bells", {"n": 1}, **options)
    await clock.settle()

    assert (receipt.matched, receipt.cancel()) == (1, False)
    assert ear.heard == [(1, 0.0)]


async def test_who_subscribes_meanwhile_gets_it(bus: EventBus, clock: ManualClock) -> None:
    """A scheduled message is routed when it is due, to who listens then and not before."""
    late = Ear(clock)
    await bus.publish("bells", {"n": 1}, delay=5.0)
    bus.on("bells", name="late")(late)
    for name in [name for name in bus.stats().subscriptions if name != "late"]:
        await bus.unsubscribe(name)

    await clock.advance(5.0)

    assert late.numbers == [1]
    assert bus.stats().delivered == 1


async def test_its_time_is_the_time_it_was_published(clock: ManualClock) -> None:
    """And the age of what waits in the queue is counted from when it was due."""
    bus = EventBus(clock=clock)
    messages: list[Message] = []
    gate = anyio.Event()

    @bus.on("bells", name="bells")
    async def handle(event: Payload, context: Context[Payload]) -> None:
        messages.append(context.message)
        await gate.wait()

    async with bus:
        published = wall(clock, 0.0)
        receipts = [await bus.publish("bells", {"n": n}, delay=60.0, key="k") for n in range(2)]
        ids = [receipt.id for receipt in receipts]
        await clock.advance(62.0)
        age = bus.stats().subscriptions["bells"].oldest_age
        gate.set()

    assert [message.id for message in messages] == ids
    assert [message.time for message in messages] == [published, published]
    assert messages[0].key == "k"
    assert age == 2.0


# --- what is checked at the door --------------------------------------------------------------


async def test_a_scheduled_message_is_checked_when_it_is_published(clock: ManualClock) -> None:
    """Its topic, event and options, as those of any other."""
    bus = EventBus(clock=clock)
    bus.on(REMINDER)(print)
    async with bus:
        with pytest.raises(InvalidTopic):
            await bus.publish("no topic", {}, delay=1.0)
        with pytest.raises(InvalidEvent):
            await bus.publish("reminders", {"number": "many"}, delay=1.0)
        with pytest.raises(InvalidOption):
            await bus.publish("reminders", {"number": 1}, delay=1.0, key="")

    assert bus.stats().published == 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"at": datetime(2030, 1, 1)}, "tzinfo=UTC"),  # noqa: DTZ001 - the offence itself
        ({"at": "2030-01-01"}, "datetime with a time zone"),
        ({"at": 1_900_000_000.0}, "datetime with a time zone"),
        ({"delay": -1}, "delay=-1"),
        ({"delay": "5s"}, "seconds, 0 or more"),
        ({"delay": True}, "delay=True"),
        ({"delay": float("nan")}, "delay=nan"),
        ({"delay": float("inf")}, "year 9999"),
        ({"delay": 1e12}, "year 9999"),
        ({"expires": 1e12}, "year 9999"),
        ({"expires": 0}, "more than 0"),
        ({"expires": -1}, "expires=-1"),
        ({"expires": "soon"}, "expires='soon'"),
        ({"delay": 1, "at": datetime(2030, 1, 1, tzinfo=UTC)}, "one of them"),
        ({"delay": 1, "require": True}, "not known yet"),
        ({"at": datetime(2130, 1, 1, tzinfo=UTC), "require": True}, "not known yet"),
        ({"delai": 1}, "did you mean 'delay'"),
    ],
)
async def test_times_that_cannot_be_used_are_refused(
    bus: EventBus, options: PublishOptions, word: str
) -> None:
    """The message names the value and what to give instead."""
    with pytest.raises(InvalidOption, match=word.replace("(", r"\(").replace(".", r"\.")):
        await bus.publish("bells", {"n": 1}, **options)
    with pytest.raises(InvalidOption):
        bus.publish_nowait("bells", {"n": 1}, **options)

    assert bus.stats().published == 0


async def test_a_closed_world_is_closed_for_later_too(clock: ManualClock) -> None:
    """A topic without a contract is refused when the message is published."""
    contracts = TypedDict("contracts", {"bells.rung": Reminder})
    async with EventBus(contracts=contracts, clock=clock) as bus:
        with pytest.raises(UnknownTopic, match="did you mean"):
            await bus.publish("bell.rung", {"number": 1}, delay=1.0)


async def test_publish_middleware_runs_when_the_message_is_published(
    clock: ManualClock, ear: Ear
) -> None:
    """Once, and what it changes is what goes out at the time that was said."""
    calls = 0

    async def ring_twice(message: Message, call_next: PublishNext) -> Receipt:
        nonlocal calls
        calls += 1
        return await call_next(message.replace(topic="bells", payload={"n": 2}))

    bus = EventBus(clock=clock, publish_middleware=[ring_twice])
    bus.on("bells")(ear)
    async with bus:
        receipt = await bus.publish("bell", {"n": 1}, delay=5.0)
        before = calls
        await clock.advance(10.0)

    assert (before, calls, receipt.topic) == (1, 1, "bells")
    assert ear.heard == [(2, 5.0)]


async def test_a_full_schedule_refuses(clock: ManualClock, ear: Ear) -> None:
    """With `schedule_size` messages kept the next is `QueueFull`, until one has left."""
    bus = EventBus(clock=clock, schedule_size=2)
    bus.on("bells")(ear)
    async with bus:
        first = await bus.publish("bells", {"n": 1}, delay=1.0)
        await bus.publish("bells", {"n": 2}, delay=1.0)
        with pytest.raises(QueueFull, match="schedule_size"):
            await bus.publish("bells", {"n": 3}, delay=1.0)
        first.cancel()
        await bus.publish("bells", {"n": 4}, delay=1.0)
        await clock.advance(1.0)
        bus.publish_nowait("bells", {"n": 5}, delay=1.0)
        await clock.advance(1.0)

    assert ear.numbers == [2, 4, 5]


@pytest.mark.parametrize("size", [0, -1, 1.5, True, None])
def test_a_schedule_size_is_a_count(size: int) -> None:
    """Of one or more."""
    with pytest.raises(InvalidOption, match="schedule_size"):
        EventBus(schedule_size=size)


# --- the receipt ------------------------------------------------------------------------------


async def test_the_receipt_of_a_scheduled_message_knows_its_id_at_once(
    bus: EventBus, clock: ManualClock
) -> None:
    """But not whom it reaches."""
    receipt = await bus.publish("bells", {"n": 1}, delay=5.0)
    named = await bus.publish("bells", {"n": 2}, delay=5.0, id="b-2")
    ids, matched = (receipt.id, named.id), (receipt.matched, named.matched)
    await clock.advance(5.0)

    assert ids == (receipt.id, "b-2")
    assert matched == (None, None)


async def test_a_cancelled_message_does_not_go_out(
    bus: EventBus, clock: ManualClock, ear: Ear
) -> None:
    """Cancelling is true once; the others go out."""
    receipt = await bus.publish("bells", {"n": 1}, delay=5.0)
    await bus.publish("bells", {"n": 2}, delay=5.0)

    assert (receipt.cancel(), receipt.cancel()) == (True, False)

    await clock.advance(10.0)

    assert ear.numbers == [2]
    assert receipt.cancel() is False


async def test_what_has_gone_out_cannot_be_cancelled(
    bus: EventBus, clock: ManualClock, ear: Ear
) -> None:
    """The receipt says so."""
    receipt = await bus.publish("bells", {"n": 1}, at=wall(clock, 5.0))
    await clock.advance(10.0)

    assert receipt.cancel() is False
    assert ear.numbers == [1]


async def test_a_scheduled_message_is_forgotten_when_it_has_gone_out(
    bus: EventBus, clock: ManualClock
) -> None:
    """Nothing is left to the garbage collector: a million of them would wait for it."""
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(one, Message) for one in gc.get_objects())
        for number in range(50):
            await bus.publish("bells", {"n": number}, delay=1.0)
            (await bus.publish("bells", {"n": number}, delay=1.0)).cancel()
        await clock.advance(2.0)
        after = sum(isinstance(one, Message) for one in gc.get_objects())
    finally:
        gc.enable()

    assert after - before <= 1  # the one that its worker handled last


# --- from handlers, and without waiting -------------------------------------------------------


async def test_nowait_schedules_too(bus: EventBus, clock: ManualClock, ear: Ear) -> None:
    """It has nothing to wait for."""
    receipt = bus.publish_nowait("bells", {"n": 1}, delay=5.0)
    bus.publish_nowait("bells", {"n": 2}, at=wall(clock, 2.0))
    await clock.advance(10.0)

    assert receipt.matched is None
    assert ear.numbers == [2, 1]


async def test_a_handler_schedules_through_its_context(clock: ManualClock, ear: Ear) -> None:
    """The delay begins when the handler has succeeded; a receipt cancels before that, too."""
    bus = EventBus(clock=clock)
    bus.on("bells")(ear)

    @bus.on("ropes")
    async def pull(event: Payload, context: Context[Payload]) -> None:
        await context.publish("bells", {"n": 1}, delay=5.0)
        revoked = await context.publish("bells", {"n": 2}, delay=5.0)
        context.publish_nowait("bells", {"n": 3}, at=wall(clock, 8.0))
        assert (revoked.cancel(), revoked.cancel()) == (True, False)
        await clock.sleep(2.0)

    async with bus:
        await bus.publish("ropes", {"n": 0})
        await clock.advance(20.0)

    assert ear.numbers == [1, 3]
    assert [seconds for _, seconds in ear.heard] == [7.0, pytest.approx(8.0)]


async def test_a_failed_handler_schedules_nothing(clock: ManualClock, ear: Ear) -> None:
    """As it publishes nothing."""
    bus = EventBus(clock=clock)
    bus.on("bells")(ear)

    @bus.on("ropes")
    async def pull(event: Payload, context: Context[Payload]) -> None:
        await context.publish("bells", {"n": 1}, delay=5.0)
        raise RuntimeError("the rope tears")

    async with bus:
        await bus.publish("ropes", {"n": 0})
        await clock.advance(20.0)

    assert ear.heard == []


# --- full queues ------------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", ["block", "fail"])
async def test_due_messages_line_up_where_a_queue_is_full(
    clock: ManualClock, overflow: Overflow
) -> None:
    """In their order and none lost, and meanwhile others go out: nobody waits with them."""
    bus = EventBus(clock=clock)
    gate, ear = anyio.Event(), Ear(clock)
    slow: list[int] = []

    @bus.on("bells.slow", queue_size=1, overflow=overflow)
    async def handle(event: Payload) -> None:
        slow.append(event["n"])
        await gate.wait()

    bus.on("bells.quick")(ear)
    async with bus:
        for number in range(6):
            await bus.publish("bells.slow", {"n": number}, delay=1.0 + number)
        await bus.publish("bells.quick", {"n": 9}, delay=7.0)
        await clock.advance(10.0)
        begun, quick = list(slow), list(ear.heard)
        gate.set()

    assert (begun, quick) == ([0], [(9, 7.0)])
    assert slow == [0, 1, 2, 3, 4, 5]


async def test_what_lines_up_keeps_its_place_in_the_schedule(clock: ManualClock) -> None:
    """Else there would be no bound to what lines up."""
    bus = EventBus(clock=clock, schedule_size=2)
    gate = anyio.Event()

    @bus.on("bells", queue_size=1)
    async def handle(event: Payload) -> None:
        await gate.wait()

    async with bus:
        for number in range(2):
            await bus.publish("bells", {"n": number}, delay=1.0)
        await clock.advance(1.0)
        for number in range(2):
            await bus.publish("bells", {"n": number}, delay=1.0)
        await clock.advance(1.0)
        with pytest.raises(QueueFull, match="schedule_size"):
            await bus.publish("bells", {"n": 5}, delay=1.0)
        gate.set()
        await clock.settle()
        await bus.publish("bells", {"n": 6}, delay=1.0)
        await clock.advance(1.0)

    assert bus.stats().succeeded == 5


async def test_a_contract_that_came_later_does_not_hold_back_what_is_due(
    bus: EventBus, clock: ManualClock
) -> None:
    """It passed the door; only a subscription whose model refuses it goes without."""
    heard: list[object] = []
    await bus.publish("reminders", {"number": "many"}, delay=5.0)
    bus.on(REMINDER, name="strict")(print)

    @bus.on("reminders")
    async def hear(event: object) -> None:
        heard.append(event)

    await clock.advance(5.0)

    assert heard == [{"number": "many"}]
    assert bus.stats().subscriptions["strict"].invalid == 1


async def test_a_due_message_that_nobody_wants_is_unmatched(
    bus: EventBus, clock: ManualClock
) -> None:
    """Counted when it is due; published it was before."""
    await bus.publish("horns", {"n": 1}, delay=5.0)
    before = bus.stats()
    await clock.advance(5.0)

    assert (before.published, before.unmatched) == (1, 0)
    assert (bus.stats().published, bus.stats().unmatched) == (1, 1)


# --- the end ----------------------------------------------------------------------------------


async def test_join_waits_for_what_is_scheduled(
    bus: EventBus, clock: ManualClock, ear: Ear
) -> None:
    """Until it has been handled, or cancelled."""
    joined, was_joined = anyio.Event(), True

    async def join() -> None:
        await bus.join()
        joined.set()

    await bus.publish("bells", {"n": 1}, delay=5.0)
    receipt = await bus.publish("bells", {"n": 2}, delay=50.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(join)
        await clock.advance(20.0)
        was_joined = joined.is_set()
        receipt.cancel()
        await joined.wait()

    assert not was_joined
    assert ear.numbers == [1]


async def test_draining_waits_for_what_is_due_in_time_and_abandons_the_rest(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, in one line of the log; their receipts cannot cancel them any more."""
    caplog.set_level(logging.WARNING)
    ear, bus = Ear(clock), EventBus(clock=clock, drain_timeout=10.0)
    bus.on("bells")(ear)
    abandoned = 0
    async with bus:
        await bus.publish("bells", {"n": 1}, delay=5.0)
        await bus.publish("bells", {"n": 2}, at=wall(clock, 6.0))
        late = [await bus.publish("bells", {"n": 3}, delay=20.0) for _ in range(3)]
        late.append(await bus.publish("bells", {"n": 3}, at=wall(clock, 20.0)))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.drain)
            await clock.settle()
            abandoned = bus.stats().abandoned
            await clock.advance(9.0)

    assert ear.numbers == [1, 2]
    assert abandoned == bus.stats().abandoned == 4
    assert [receipt.cancel() for receipt in late] == [False] * 4
    assert caplog.messages == ["4 scheduled messages abandoned: due after the bus has ended"]


async def test_what_a_handler_schedules_while_draining_goes_out_if_there_is_time(
    clock: ManualClock,
) -> None:
    """And is abandoned at once if there is not."""
    ear, bus = Ear(clock), EventBus(clock=clock, drain_timeout=10.0)
    bus.on("bells")(ear)

    @bus.on("ropes")
    async def pull(event: Payload) -> None:
        await bus.publish("bells", {"n": 1}, delay=5.0)
        await bus.publish("bells", {"n": 2}, delay=50.0)

    async with bus:
        await bus.publish("ropes", {"n": 0}, delay=1.0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.drain)
            await clock.advance(9.0)
        with pytest.raises(BusClosed):
            await bus.publish("bells", {"n": 3}, delay=1.0)

    assert ear.numbers == [1]
    assert bus.stats().abandoned == 1


async def test_a_bus_that_stops_at_once_abandons_what_is_scheduled(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Counted and logged, and a new start begins with nothing scheduled."""
    ear, bus = Ear(clock), EventBus(clock=clock)
    bus.on("bells")(ear)
    receipts: list[Receipt] = []
    async with anyio.create_task_group() as tasks, bus:
        receipts.append(await bus.publish("bells", {"n": 1}, delay=5.0))
        tasks.cancel_scope.cancel()
    stopped = bus.stats().abandoned
    async with bus:
        await bus.join()
        await bus.publish("bells", {"n": 2}, delay=50.0)
        await clock.advance(60.0)

    assert (stopped, bus.stats().abandoned) == (1, 1)
    assert "1 delivery abandoned" in caplog.text
    assert [receipt.cancel() for receipt in receipts] == [False]
    assert ear.numbers == [2]


async def test_what_still_lines_up_when_draining_gives_up_is_abandoned(
    clock: ManualClock,
) -> None:
    """It was accepted, so it is counted, as are those in the queue."""
    bus = EventBus(clock=clock, drain_timeout=10.0)

    @bus.on("bells", queue_size=1)
    async def handle(event: Payload) -> None:
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks, bus:
        for number in range(4):
            await bus.publish("bells", {"n": number}, delay=1.0)
        await clock.advance(1.0)
        tasks.start_soon(clock.advance, 10.0)

    assert bus.stats().abandoned == 4
