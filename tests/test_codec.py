"""What `memory://?codec=json` does to payloads: the same as a durable transport."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, computed_field, field_serializer

from eventbus import Context, EventBus, InvalidEvent, InvalidOption, QueueFull, Topic
from eventbus.middleware import DeadLetter
from eventbus.testing import ManualClock

JSON = "memory://?codec=json"


class Order(BaseModel):
    order_id: str
    at: datetime = datetime(2026, 1, 2, tzinfo=UTC)


ORDER = Topic("orders.placed", Order)


async def passed(event: object, model: Any = dict, topic: Any = "t") -> object:
    """Publish an event, and give what a handler of the model received."""
    bus, received = EventBus(JSON), list[object]()
    bus.on("t", model=model)(received.append)
    async with bus:
        await bus.publish(topic, event)
    assert len(received) == 1, bus.stats()
    return received[0]


async def test_a_handler_of_dict_gets_a_dict_of_a_model() -> None:
    """What is read back from JSON is no instance any more."""
    assert await passed(Order(order_id="o-1")) == {"order_id": "o-1", "at": "2026-01-02T00:00:00Z"}


async def test_without_the_codec_it_gets_the_instance() -> None:
    """The control: in memory alone, the payload is handed on as it is."""
    bus, received = EventBus(), list[object]()
    bus.on("t", model=dict[str, Any])(received.append)
    async with bus:
        await bus.publish("t", order := Order(order_id="o-1"))

    assert received == [order]


async def test_a_handler_of_the_model_gets_an_equal_one_and_not_the_same() -> None:
    """Who changes the event after publishing changes nothing for handlers."""
    order = Order(order_id="o-1")
    received = await passed(order, Order)

    assert received == order
    assert received is not order


async def test_a_mapping_loses_what_json_does_not_know() -> None:
    """Sets become lists, numbers as keys text: as they would on disk."""
    assert await passed({"a": {1}, 2: (3,)}) == {"a": [1], "2": [3]}


async def test_bytes_travel_as_they_are() -> None:
    """They are JSON already: a model validates them, whoever takes them raw gets bytes."""
    data = b'{"order_id": "o-1"}'

    assert await passed(data, Order) == Order(order_id="o-1")
    assert await passed(data, bytes) == data


class BothWays(BaseModel):
    order_id: str = Field(alias="orderId")


class WritesOnly(BaseModel):
    order_id: str = Field(serialization_alias="orderId")


class ReadsOnly(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    order_id: str = Field(validation_alias=AliasChoices("orderId", "id"))


class Nested(BaseModel):
    inner: list[WritesOnly]


@pytest.mark.parametrize(
    ("event", "written"),
    [
        (BothWays(orderId="o-1"), {"orderId": "o-1"}),
        (WritesOnly(order_id="o-1"), {"order_id": "o-1"}),
        (ReadsOnly(order_id="o-1"), {"order_id": "o-1"}),
        (Nested(inner=[WritesOnly(order_id="o-1")]), {"inner": [{"order_id": "o-1"}]}),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_aliases_are_written_where_they_are_read_again(
    event: BaseModel, written: dict[str, object]
) -> None:
    """A model always finds its own fields again, whatever its aliases say."""
    assert await passed(event) == written
    assert await passed(event, type(event)) == event


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    at: datetime
    tags: set[str]

    @computed_field
    def size(self) -> int:
        """Tell what nobody has to send."""
        return len(self.tags)


async def test_a_strict_model_reads_its_own_json() -> None:
    """The JSON is validated, not the dict made of it: text is a time there, a list a set."""
    event = Strict(at=datetime(2026, 1, 2, tzinfo=UTC), tags={"a"})

    assert await passed(event, Strict) == event


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("model", "event"),
    [(int, 5), (Point, Point(1)), (list[Order], [Order(order_id="o-1")]), (Order | int, 7)],
    ids=str,
)
async def test_a_topic_of_any_type_writes_it_as_its_type_says(model: Any, event: object) -> None:
    """What is no model and no mapping needs the topic to know its JSON."""
    assert await passed(event, model, Topic("t", model)) == event


class Loop(BaseModel):
    value: Any = None

    @field_serializer("value")
    def fail(self, value: object) -> object:
        """Fail as only a user's code can."""
        raise RuntimeError("no words for it")


@pytest.mark.parametrize(
    "event",
    [{"a": object()}, {"a": float("nan")}, {"a": "\ud800"}, {"a": b"\xff"}, Loop()],
    ids=["object", "nan", "surrogate", "bytes", "serializer"],
)
async def test_what_cannot_be_json_is_refused_at_the_publisher(
    event: Mapping[str, object] | BaseModel,
) -> None:
    """Nothing is delivered, by whichever way it was published."""
    bus, received = EventBus(JSON), list[object]()
    bus.on("t", model=dict[str, Any])(received.append)
    async with bus:
        with pytest.raises(InvalidEvent, match="'t' cannot be JSON"):
            await bus.publish("t", event)
        with pytest.raises(InvalidEvent, match="'t' cannot be JSON"):
            bus.publish_nowait("t", event)
        with pytest.raises(InvalidEvent, match="'t' cannot be JSON"):
            await bus.publish_many("t", [{"a": 1}, event])

    assert received == []
    assert bus.stats().published == 0


async def test_what_is_sent_later_is_refused_at_once(clock: ManualClock) -> None:
    """Whoever published it is still there: with a delay, and in a handler."""
    bus, refused, received = EventBus(JSON, clock=clock), list[str](), list[object]()
    bus.on("t", model=dict[str, Any])(received.append)

    @bus.on("work")
    async def work(event: object, context: Context[object]) -> None:
        try:
            await context.publish("t", {"a": object()})
        except InvalidEvent as error:
            refused.append(str(error))

    async with bus:
        with pytest.raises(InvalidEvent, match="cannot be JSON"):
            await bus.publish("t", {"a": object()}, delay=1.0)
        await bus.publish("t", {"a": (1,)}, delay=1.0)
        await bus.publish("work", {})
        await clock.advance(1.0)

    assert received == [{"a": [1]}]
    assert len(refused) == 1


async def test_a_message_is_converted_once() -> None:
    """However many models listen, the payload is written once; each model reads that."""
    written: list[int] = []

    class Counted(BaseModel):
        a: int

        @field_serializer("a")
        def count(self, a: int) -> int:
            written.append(a)
            return a

    class Other(BaseModel):
        a: int

    bus, received = EventBus(JSON), list[object]()
    models: list[Any] = [Counted, Other, dict]
    for model in models:
        bus.on("t", model=model)(received.append)
    async with bus:
        await bus.publish("t", Counted(a=1))

    assert written == [1]
    assert sorted(map(repr, received)) == ["Counted(a=1)", "Other(a=1)", "{'a': 1}"]


async def test_the_receipt_and_what_is_delivered_have_one_id() -> None:
    """The copy that travels is the same message to everybody."""
    bus, ids = EventBus(JSON), list[str]()
    bus.on("t", model=dict[str, Any], middleware=[_noting(ids)])(lambda _: None)
    async with bus:
        receipts = [
            await bus.publish("t", {}),
            await bus.publish("t", {}, key="k"),
            *await bus.publish_many("t", [{}, {}]),
        ]

    assert ids == [receipt.id for receipt in receipts]
    assert {receipt.matched for receipt in receipts} == {1}


def _noting(ids: list[str]) -> Any:
    async def note(context: Any, call_next: Any) -> object:
        ids.append(context.message.id)
        return await call_next(context)

    return note


async def test_a_contract_still_speaks_first() -> None:
    """An instance of another model is refused for what it is, not for its JSON."""
    bus = EventBus(JSON)
    async with bus:
        await bus.publish(ORDER, Order(order_id="o-1"))
        with pytest.raises(InvalidEvent, match="does not validate"):
            await bus.publish(ORDER.name, BothWays(orderId="o-1"))


async def test_a_full_queue_refuses_as_it_does_without_the_codec() -> None:
    """The policies of the queues are the same."""
    bus = EventBus(JSON, queue_size=1, overflow="fail")
    async with bus, bus.subscribe("t") as events:
        await bus.publish("t", {"a": 1})
        with pytest.raises(QueueFull):
            await bus.publish("t", {"a": 2})
        await bus.drain()

        assert [event async for event in events] == [{"a": 1}]


async def test_dead_letters_are_redriven_from_their_json() -> None:
    """A strict model that failed once reads its payload again."""
    bus, received = EventBus(JSON, middleware=[DeadLetter()]), list[Strict]()
    is_ready = False

    @bus.on("t", name="strict")
    async def receive(event: Strict) -> None:
        if not is_ready:
            raise ConnectionError
        received.append(event)

    event = Strict(at=datetime(2026, 1, 2, tzinfo=UTC), tags={"a"})
    async with bus:
        await bus.publish("t", event)
        await bus.join()
        is_ready = True

        assert await bus.redrive("strict") == 1

    assert received == [event]


@pytest.mark.parametrize(
    ("url", "flaw"),
    [
        ("memory://?codec=msgpack", "codec=json"),
        ("memory://?codec=", "codec=json"),
        ("memory://?codek=json", "did you mean 'codec'"),
    ],
)
def test_an_unknown_codec_is_refused(url: str, flaw: str) -> None:
    """The error names the one there is."""
    with pytest.raises(InvalidOption, match=flaw):
        EventBus(url)
