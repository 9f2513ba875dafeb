"""Publishing: what is checked before anything is enqueued, when it waits, and when it gives way."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, cast

import anyio
import pytest
from anyio.lowlevel import checkpoint
from pydantic import BaseModel

from eventbus import (
    BusClosed,
    Context,
    EventBus,
    InvalidEvent,
    InvalidOption,
    InvalidTopic,
    Message,
    QueueFull,
    Receipt,
    Topic,
)
from eventbus.middleware import PublishNext
from tests.gate import Gate


class Order(BaseModel):
    order_id: str


class OrderAbroad(Order):
    country: str


class Parcel(BaseModel):
    weight: int


ORDER = Topic("orders.created", Order)


async def fill(bus: EventBus, topic: str, gate: Gate, places: int) -> None:
    """Occupy the gate and all places of its queue."""
    await bus.publish(topic, {"n": 0})
    await gate.entered.wait()
    for number in range(1, places + 1):
        await bus.publish(topic, {"n": number})


# --- What is checked ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [{"order": "o-1"}, b'{"order_id": 1}', b"no JSON", Parcel(weight=1), 1, None, "o-1", []],
    ids=str,
)
async def test_a_contract_is_checked_by_every_way_to_publish(event: Any) -> None:
    """What is no event of the topic is refused, whichever verb is used, and reaches nobody."""
    seen: list[object] = []
    bus = EventBus()
    bus.on("orders.*")(seen.append)

    async with bus:
        with pytest.raises(InvalidEvent, match=r"orders\.created"):
            await bus.publish(ORDER, event)
        with pytest.raises(InvalidEvent):
            bus.publish_nowait(ORDER, event)
        with pytest.raises(InvalidEvent):
            await bus.publish_many(ORDER, [event])
        with pytest.raises(InvalidEvent):
            await bus.publish(ORDER, event, key="o-1")

    assert seen == []
    assert bus.stats().published == 0


@pytest.mark.parametrize(
    "event",
    [
        Order(order_id="o-1"),
        OrderAbroad(order_id="o-1", country="pt"),
        {"order_id": "o-1"},
        b'{"order_id": "o-1"}',
    ],
    ids=["model", "subclass", "dict", "json"],
)
async def test_what_a_contract_allows_is_published(event: Any) -> None:
    """The model, its subclasses, mappings and bytes that validate pass."""
    seen: list[str] = []
    bus = EventBus()
    bus.on(ORDER)(lambda order: seen.append(order.order_id))

    async with bus:
        await bus.publish(ORDER, event)
        bus.publish_nowait(ORDER, event)
        await bus.publish_many(ORDER, [event])

    assert seen == ["o-1"] * 3


async def test_a_topic_states_its_contract_when_it_is_published_to() -> None:
    """From then on text that names the same topic is held to it."""
    async with EventBus() as bus:
        await bus.publish("orders.created", {"anything": 1})
        await bus.publish(ORDER, Order(order_id="o-1"))
        with pytest.raises(InvalidEvent):
            await bus.publish("orders.created", {"anything": 1})


@pytest.mark.parametrize("topic", ["$dlq.orders", "$reply.x", "$", "$own"])
async def test_the_bus_s_own_topics_are_refused(topic: str) -> None:
    """Nobody but the bus publishes to what begins with `$`."""
    async with EventBus() as bus:
        with pytest.raises(InvalidTopic, match=r"bus's own"):
            await bus.publish(topic, {})
        with pytest.raises(InvalidTopic):
            bus.publish_nowait(topic, {})
        with pytest.raises(InvalidTopic):
            await bus.publish_many(topic, [{}])


@pytest.mark.parametrize(
    "topic", ["", "a..b", "a b", "orders.*", "orders.>", "a.{b}", None, 1, b"a", [], {}], ids=repr
)
async def test_what_is_no_topic_is_refused(topic: Any) -> None:
    """Each verb says that this cannot be published to, whatever it is."""
    async with EventBus() as bus:
        with pytest.raises(InvalidTopic):
            await bus.publish(topic, {})
        with pytest.raises(InvalidTopic):
            await bus.publish(topic, {}, key="k")
        with pytest.raises(InvalidTopic):
            bus.publish_nowait(topic, {})
        with pytest.raises(InvalidTopic):
            await bus.publish_many(topic, [{}])


async def test_a_subclass_of_str_is_a_topic_by_its_text() -> None:
    """An enumeration of names is published to as the text it is."""

    class Name(str):
        def __str__(self) -> str:
            return "something else"

    seen: list[str] = []
    bus = EventBus()

    @bus.on(">")
    async def handler(event: object, context: Context[object]) -> None:
        seen.append(context.message.topic)

    async with bus:
        await bus.publish(Name("orders.created"), {})

    assert seen == ["orders.created"]


# --- Batches --------------------------------------------------------------------------------------


async def test_a_batch_arrives_in_its_order() -> None:
    """`publish_many` keeps the order, over more than one of its chunks."""
    seen: list[int] = []
    bus = EventBus()

    @bus.on("numbers")
    async def handler(event: dict[str, int]) -> None:
        seen.append(event["n"])

    async with bus:
        receipts = await bus.publish_many("numbers", ({"n": n} for n in range(500)))

    assert seen == list(range(500))
    assert [receipt.matched for receipt in receipts] == [1] * 500
    assert bus.stats().published == 500


async def test_a_batch_is_checked_before_any_of_it_is_enqueued() -> None:
    """One event that is none keeps all the others back."""
    seen: list[object] = []
    bus = EventBus()
    bus.on(ORDER)(seen.append)

    async with bus:
        with pytest.raises(InvalidEvent):
            await bus.publish_many(
                "orders.created", [{"order_id": "o-1"}, {"order_id": "o-2"}, {"oops": 3}]
            )
        with pytest.raises(InvalidEvent):
            await cast("Any", bus).publish_many(ORDER, [{"order_id": "o-1"}, {"oops": 3}])

    assert seen == []
    assert bus.stats().published == 0


async def test_a_batch_is_checked_before_any_of_it_meets_middleware() -> None:
    """The same promise holds where publish middleware sends one after the other."""
    seen: list[object] = []

    async def passing(message: Message, call_next: PublishNext) -> Receipt:
        return await call_next(message)

    bus = EventBus(publish_middleware=[passing])
    bus.on(ORDER)(seen.append)

    async with bus:
        with pytest.raises(InvalidEvent):
            await bus.publish_many("orders.created", [{"order_id": "o-1"}, {"oops": 3}])

    assert seen == []


@pytest.mark.parametrize(
    "events",
    [{"n": 1}, b"[]", "text", Parcel(weight=1), 5, None],
    ids=["dict", "bytes", "text", "model", "number", "none"],
)
async def test_what_is_no_list_of_events_is_no_batch(events: Any) -> None:
    """A single event is not taken apart into things that are none."""
    async with EventBus() as bus:
        with pytest.raises(InvalidEvent, match=type(events).__name__):
            await bus.publish_many("numbers", events)

    assert bus.stats().published == 0


async def test_an_empty_batch_is_no_error() -> None:
    """Nothing to publish gives no receipts."""
    async with EventBus() as bus:
        assert await bus.publish_many("orders.created", []) == []

    assert bus.stats().published == 0


async def test_a_batch_that_cannot_be_iterated_to_its_end_publishes_nothing() -> None:
    """An error of the caller's generator is the caller's, and nothing has gone out."""

    def events() -> Iterator[dict[str, int]]:
        yield {"n": 1}
        raise LookupError("no more")

    seen: list[object] = []
    bus = EventBus()
    bus.on("numbers")(seen.append)

    async with bus:
        with pytest.raises(LookupError):
            await bus.publish_many("numbers", events())

    assert seen == []


async def test_a_batch_is_refused_as_a_whole() -> None:
    """Where a queue refuses, either all of the batch has room, or none of it is taken."""
    gate = Gate()
    bus = EventBus()
    bus.on("numbers", overflow="fail", queue_size=3)(gate)
    seen: list[object] = []
    bus.on("numbers")(seen.append)

    async with bus:
        await fill(bus, "numbers", gate, places=1)
        with pytest.raises(QueueFull):
            await bus.publish_many("numbers", [{"n": n} for n in range(3)])
        await bus.publish_many("numbers", [{"n": n} for n in range(2)])
        gate.opened.set()

    assert len(seen) == len(gate.seen) == 4


# --- Full queues ----------------------------------------------------------------------------------


async def test_publishing_waits_for_room() -> None:
    """With `block` a publish returns once its message is in the queue."""
    gate = Gate()
    bus = EventBus()
    bus.on("numbers", queue_size=1)(gate)
    published = anyio.Event()

    async def publish() -> None:
        await bus.publish("numbers", {"n": 2})
        published.set()

    async with bus, anyio.create_task_group() as tasks:
        await fill(bus, "numbers", gate, places=1)
        tasks.start_soon(publish)
        await anyio.wait_all_tasks_blocked()
        assert not published.is_set()
        gate.opened.set()
        await published.wait()

    assert gate.seen == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_publishing_without_waiting_is_refused_by_a_full_queue() -> None:
    """`publish_nowait` raises where `publish` would wait, and no queue got the message."""
    gate = Gate()
    seen: list[object] = []
    bus = EventBus()
    bus.on("numbers")(seen.append)
    bus.on("numbers", queue_size=1)(gate)

    async with bus:
        await fill(bus, "numbers", gate, places=1)
        with pytest.raises(QueueFull, match="'numbers'"):
            bus.publish_nowait("numbers", {"n": 2})
        gate.opened.set()

    assert seen == gate.seen == [{"n": 0}, {"n": 1}]
    assert bus.stats().published == 2


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest", "latest"])
async def test_publishing_without_waiting_lets_dropping_queues_drop(overflow: Any) -> None:
    """A policy that loses messages never refuses one."""
    gate = Gate()
    bus = EventBus()
    bus.on("numbers", queue_size=1, overflow=overflow)(gate)

    async with bus:
        await fill(bus, "numbers", gate, places=1)
        bus.publish_nowait("numbers", {"n": 2})
        gate.opened.set()

    assert gate.seen == [{"n": 0}, {"n": 1} if overflow == "drop_newest" else {"n": 2}]
    assert bus.stats().dropped == 1


async def test_a_refused_publish_reaches_no_queue_of_any_policy() -> None:
    """`fail` in one subscription keeps the message from all the others."""
    gate = Gate()
    seen: list[object] = []
    bus = EventBus()
    bus.on("numbers", overflow="drop_oldest")(seen.append)
    bus.on("numbers", overflow="fail", queue_size=1)(gate)

    async with bus:
        await fill(bus, "numbers", gate, places=1)
        with pytest.raises(QueueFull):
            await bus.publish("numbers", {"n": 2})
        gate.opened.set()

    assert seen == [{"n": 0}, {"n": 1}]


async def test_a_cancelled_publish_reaches_whom_it_had_reached_once() -> None:
    """Who had room has the message, whom it waited for has not, and nobody has it twice."""
    gate = Gate()
    seen: list[object] = []
    bus = EventBus()
    bus.on("numbers")(seen.append)
    bus.on("numbers", queue_size=1)(gate)

    async with bus:
        await fill(bus, "numbers", gate, places=1)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(bus.publish, "numbers", {"n": 2})
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        gate.opened.set()

    assert seen == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert gate.seen == [{"n": 0}, {"n": 1}]


async def test_waiting_publishers_move_up_in_their_order() -> None:
    """First come, first served; nobody overtakes."""
    gate = Gate()
    bus = EventBus()
    bus.on("numbers", queue_size=1)(gate)

    async with bus, anyio.create_task_group() as tasks:
        await fill(bus, "numbers", gate, places=1)
        for number in range(2, 6):
            tasks.start_soon(bus.publish, "numbers", {"n": number})
            await anyio.wait_all_tasks_blocked()
        gate.opened.set()

    assert [event["n"] for event in gate.seen] == list(range(6))


async def test_a_publisher_blocked_when_the_bus_stops_is_told() -> None:
    """Whoever waits for room in a bus that ends gets `BusClosed`."""
    gate = Gate()
    bus = EventBus()
    bus.on("numbers", queue_size=1)(gate)
    told: list[type[BaseException]] = []

    async def publish() -> None:
        try:
            await bus.publish("numbers", {"n": 2})
        except BusClosed as error:
            told.append(type(error))

    async with anyio.create_task_group() as tasks:
        with suppress(LookupError):
            async with bus:
                await fill(bus, "numbers", gate, places=1)
                tasks.start_soon(publish)
                await anyio.wait_all_tasks_blocked()
                raise LookupError

    assert told == [BusClosed]


# --- Giving way -----------------------------------------------------------------------------------


async def calls_until_cancelled(publish: Callable[[], Awaitable[object]]) -> int:
    """Call it in a cancelled scope, which ends at the first checkpoint, and count the calls."""
    calls = 0
    with anyio.CancelScope() as scope:
        scope.cancel()
        while calls < 1_000:
            await publish()
            calls += 1
    return calls


@pytest.mark.parametrize("before", [0, 1, 50, 127, 128, 129, 200])
async def test_publishing_gives_way_every_128_calls(before: int) -> None:
    """A publisher that never waits still lets others run, and ends when its scope is cancelled."""
    async with EventBus() as bus:
        for _ in range(before):
            await bus.publish("numbers", {})

        assert await calls_until_cancelled(lambda: bus.publish("numbers", {})) < 128


@pytest.mark.parametrize("others", [1, 2, 3, 127, 129])
async def test_publishing_gives_way_whatever_else_is_published(others: int) -> None:
    """What goes out meanwhile without waiting does not make a publisher forget the others."""
    async with EventBus() as bus:

        async def publish() -> None:
            for _ in range(others):
                bus.publish_nowait("numbers", {})
            await bus.publish("numbers", {})

        assert await calls_until_cancelled(publish) < 128


@pytest.mark.parametrize("before", [0, 1, 127])
async def test_publishing_with_options_gives_way(before: int) -> None:
    """The careful way of a publish that says more is no way around the promise."""
    async with EventBus() as bus:
        for _ in range(before):
            await bus.publish("numbers", {}, key="k")

        assert await calls_until_cancelled(lambda: bus.publish("numbers", {}, key="k")) < 128


async def test_publishing_with_options_gives_way_no_more_often() -> None:
    """A checkpoint on every call would cost as much as five publishes."""
    async with EventBus() as bus:
        await bus.publish("numbers", {}, key="k")

        assert await calls_until_cancelled(lambda: bus.publish("numbers", {}, key="k")) == 127
        assert bus.stats().published == 128


async def test_publishing_gives_way_though_each_is_refused() -> None:
    """A loop of refused publishes does not hold up everybody else."""
    async with EventBus() as bus:
        await bus.publish(ORDER, Order(order_id="o-1"))

        async def publish() -> None:
            with pytest.raises(InvalidEvent):
                await bus.publish("orders.created", {"oops": 1})

        assert await calls_until_cancelled(publish) < 128


async def test_a_batch_is_always_a_checkpoint() -> None:
    """In a cancelled scope not even a small batch goes out."""
    async with EventBus() as bus:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await bus.publish_many("numbers", [{}])

    assert scope.cancelled_caught
    assert bus.stats().published == 0


# --- What is remembered ---------------------------------------------------------------------------


async def test_topics_without_end_are_routed() -> None:
    """Whatever is remembered of topics is bounded, and forgetting it changes nothing."""
    seen: list[int] = []
    bus = EventBus(queue_size=50_000)

    @bus.on("numbers.*")
    async def handler(event: dict[str, int]) -> None:
        seen.append(event["n"])

    async with bus:
        for number in range(20_000):
            await bus.publish(f"numbers.{number}", {"n": number})

    assert seen == list(range(20_000))


async def test_kinds_of_payload_without_end_are_published() -> None:
    """Every class of payload is a new one, and each arrives as it should."""
    seen: list[object] = []
    bus = EventBus()

    @bus.on("numbers")
    async def raw(event: object) -> None:
        seen.append(type(event).__name__)

    @bus.on("numbers", model=Order)
    async def parsed(event: Order) -> None:
        seen.append(event.order_id)

    async with bus:
        for number in range(200):
            kind = type(f"Kind{number}", (Order,), {})
            await bus.publish("numbers", kind(order_id=f"Kind{number}"))

    assert sorted(map(str, seen)) == sorted([f"Kind{number}" for number in range(200)] * 2)


# --- Publish middleware ---------------------------------------------------------------------------


async def test_publish_middleware_may_change_a_message() -> None:
    """What it passes on is checked and routed as if it had been published so."""
    seen: list[tuple[str, object]] = []

    async def moving(message: Message, call_next: PublishNext) -> Receipt:
        return await call_next(message.replace(topic="orders.moved", payload={"n": 2}))

    bus = EventBus(publish_middleware=[moving])

    @bus.on(">")
    async def handler(event: object, context: Context[object]) -> None:
        seen.append((context.message.topic, event))

    async with bus:
        receipt = await bus.publish("orders.created", {"n": 1})

    assert seen == [("orders.moved", {"n": 2})]
    assert (receipt.topic, receipt.matched) == ("orders.moved", 1)


async def test_publish_middleware_may_refuse() -> None:
    """Its exception is the publisher's, and nothing is delivered."""
    seen: list[object] = []

    async def refusing(message: Message, call_next: PublishNext) -> Receipt:
        raise PermissionError(message.topic)

    bus = EventBus(publish_middleware=[refusing])
    bus.on(">")(seen.append)

    async with bus:
        with pytest.raises(PermissionError, match="numbers"):
            await bus.publish("numbers", {})
        with pytest.raises(PermissionError, match="numbers"):
            bus.publish_nowait("numbers", {})

    assert seen == []


async def test_publish_middleware_that_waits_refuses_to_publish_without_waiting() -> None:
    """The error names the middleware, and nothing is delivered."""
    seen: list[object] = []

    async def waiting(message: Message, call_next: PublishNext) -> Receipt:
        await checkpoint()
        return await call_next(message)

    bus = EventBus(publish_middleware=[waiting])
    bus.on(">")(seen.append)

    async with bus:
        with pytest.raises(InvalidOption, match="waiting"):
            bus.publish_nowait("numbers", {})
        await bus.publish("numbers", {"n": 1})

    assert seen == [{"n": 1}]
