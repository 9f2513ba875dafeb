"""The way of a message, from `publish` to the handlers, as an application sees it."""

from collections.abc import Mapping
from typing import Any, cast

import anyio
import pytest
from pydantic import BaseModel, field_validator

from eventbus import (
    Context,
    EventBus,
    InvalidEvent,
    Message,
    NoSubscribers,
    QueueFull,
    Receipt,
    Router,
    Topic,
)
from eventbus.middleware import CallNext, DeadLetter, PublishNext, Retry, Timeout
from eventbus.testing import ManualClock


class OrderCreated(BaseModel):
    order_id: str
    total_cents: int = 0


class OrderNumber(BaseModel):
    order_id: str


class OrderTotal(BaseModel):
    total_cents: int


class InvoiceRequested(BaseModel):
    order_id: str


ORDER_CREATED = Topic("orders.created", OrderCreated)
INVOICE_REQUESTED = Topic("invoices.requested", InvoiceRequested)


def order(number: str = "o-1", cents: int = 990) -> OrderCreated:
    """Make an order."""
    return OrderCreated(order_id=number, total_cents=cents)


# --- All of it together ---------------------------------------------------------------------------


async def test_an_application_runs_from_end_to_end() -> None:
    """Wildcards, topics, groups, routers, filters, policies and publishing handlers, in one go."""
    seen: list[str] = []
    bus = EventBus("memory://", middleware=[DeadLetter(), Retry(attempts=3), Timeout(5.0)])
    invoices = Router("invoices")

    @bus.on("orders.*", model=OrderCreated)
    async def audit(event: OrderCreated) -> None:
        seen.append(f"audit {event.order_id}")

    @bus.on(
        ORDER_CREATED,
        group="billing",
        concurrency=8,
        key=lambda event: event.order_id,
        where=lambda event: event.total_cents > 0,
    )
    async def bill(event: OrderCreated, context: Context[OrderCreated]) -> None:
        seen.append(f"bill {event.order_id}")
        await context.publish("invoices.requested", {"order_id": event.order_id})

    @invoices.on("requested", model=InvoiceRequested)
    def invoice(event: InvoiceRequested) -> None:
        seen.append(f"invoice {event.order_id}")

    bus.include(invoices)
    async with bus:
        await bus.publish(ORDER_CREATED, order("o-1"))
        await bus.publish("orders.created", {"order_id": "o-2", "total_cents": 0})

    assert sorted(seen) == ["audit o-1", "audit o-2", "bill o-1", "invoice o-1"]
    stats = bus.stats()
    assert (stats.published, stats.unmatched) == (3, 0)
    assert (stats.delivered, stats.succeeded, stats.failed, stats.filtered) == (4, 4, 0, 1)


# --- Payloads -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        order(),
        {"order_id": "o-1", "total_cents": 990},
        b'{"order_id": "o-1", "total_cents": 990}',
    ],
    ids=["model", "dict", "json"],
)
async def test_every_form_of_an_event_arrives_as_the_model(payload: Any) -> None:
    """Instances, dicts and JSON bytes are the same event to a handler with a model."""
    seen: list[OrderCreated] = []
    bus = EventBus()
    bus.on("orders.created", model=OrderCreated)(seen.append)

    async with bus:
        await bus.publish("orders.created", payload)

    assert seen == [order()]


async def test_an_instance_passes_through() -> None:
    """What is published as an instance of the model is that same object to all subscribers."""
    seen: list[object] = []
    bus = EventBus()

    @bus.on("orders.*", model=OrderCreated)
    async def first(event: OrderCreated) -> None:
        seen.append(event)

    @bus.on(ORDER_CREATED)
    async def second(event: OrderCreated, context: Context[OrderCreated]) -> None:
        seen.append(event)

    published = order()
    async with bus:
        await bus.publish(ORDER_CREATED, published)

    assert len(seen) == 2
    assert all(event is published for event in seen)


async def test_an_instance_of_a_subclass_passes_through() -> None:
    """A handler of the base gets the subclass's instance, with all that it knows more."""

    class Abroad(OrderCreated):
        country: str

    seen: list[object] = []
    bus = EventBus()
    bus.on(ORDER_CREATED)(seen.append)

    published = Abroad(order_id="o-1", country="pt")
    async with bus:
        await bus.publish(ORDER_CREATED, published)

    assert seen[0] is published


async def test_a_model_of_another_class_is_read_by_its_attributes() -> None:
    """Each subscription sees the event in its own words, whichever class was published."""
    numbers: list[OrderNumber] = []
    totals: list[OrderTotal] = []
    bus = EventBus()
    bus.on("orders.created", model=OrderNumber)(numbers.append)
    bus.on("orders.created", model=OrderTotal)(totals.append)

    async with bus:
        await bus.publish("orders.created", order("o-1", 990))

    assert numbers == [OrderNumber(order_id="o-1")]
    assert totals == [OrderTotal(total_cents=990)]


async def test_a_model_is_inferred_from_the_annotation() -> None:
    """Without `model=` the handler's own annotation says what it gets."""
    seen: list[object] = []
    bus = EventBus()

    @bus.on("orders.*")
    async def handler(event: OrderCreated) -> None:
        seen.append(event)

    async with bus:
        await bus.publish("orders.created", {"order_id": "o-1", "total_cents": 990})

    assert seen == [order()]


async def test_a_union_takes_each_of_its_models() -> None:
    """A handler of several topics gets instances of all their models."""
    seen: list[object] = []
    bus = EventBus()

    @bus.on(ORDER_CREATED, INVOICE_REQUESTED)
    async def handler(event: OrderCreated | InvoiceRequested) -> None:
        seen.append(event)

    async with bus:
        await bus.publish(ORDER_CREATED, order())
        await bus.publish(INVOICE_REQUESTED, InvoiceRequested(order_id="o-1"))

    assert seen == [order(), InvoiceRequested(order_id="o-1")]


@pytest.mark.parametrize(
    "annotation",
    [dict[str, Any], dict, Mapping[str, object], Mapping, object, bytes, Any, None],
    ids=["dict[]", "dict", "Mapping[]", "Mapping", "object", "bytes", "Any", "none"],
)
@pytest.mark.parametrize(
    "payload", [{"order_id": "o-1"}, b"not even JSON", order()], ids=["dict", "bytes", "model"]
)
async def test_raw_handlers_get_what_was_published(annotation: Any, payload: Any) -> None:
    """A handler that names no model sees the payload itself, whatever it is."""
    seen: list[object] = []
    bus = EventBus()

    async def handler(event: object) -> None:
        seen.append(event)

    handler.__annotations__ = {} if annotation is None else {"event": annotation}
    bus.on("orders.*")(handler)

    async with bus:
        await bus.publish("orders.created", payload)

    assert len(seen) == 1
    assert seen[0] is payload


async def test_a_payload_is_validated_once_per_model() -> None:
    """Ten handlers of one model cost one validation, and see one object."""
    validated: list[str] = []

    class Counting(BaseModel):
        order_id: str

        @field_validator("order_id")
        @classmethod
        def count(cls, value: str) -> str:
            validated.append(value)
            return value

    seen: list[Counting] = []
    bus = EventBus()
    for _ in range(10):
        bus.on("orders.*", model=Counting)(seen.append)
    bus.on("orders.created", model=OrderNumber)(lambda event: None)

    async with bus:
        await bus.publish("orders.created", {"order_id": "o-1"})

    assert validated == ["o-1"]
    assert len({id(event) for event in seen}) == 1
    assert len(seen) == 10


async def test_a_contract_and_a_handler_of_its_model_validate_once() -> None:
    """The publisher's check is the subscribers' validation where they mean the same model."""
    validated: list[str] = []

    class Counting(BaseModel):
        order_id: str

        @field_validator("order_id")
        @classmethod
        def count(cls, value: str) -> str:
            validated.append(value)
            return value

    topic = Topic("orders.counted", Counting)
    bus = EventBus()
    bus.on(topic)(lambda event: None)
    bus.on("orders.*", model=Counting)(lambda event: None)

    async with bus:
        await bus.publish("orders.counted", {"order_id": "o-1"})

    assert validated == ["o-1"]


async def test_what_a_model_refuses_is_that_subscriptions_dead_letter() -> None:
    """Without a contract the publisher is not told; each subscription judges for itself."""
    seen: list[object] = []
    bus = EventBus(middleware=[DeadLetter(), Retry(attempts=3)])
    bus.on("orders.*", model=OrderCreated, name="strict")(seen.append)
    bus.on("orders.*", name="raw")(seen.append)

    async with bus:
        receipt = await bus.publish("orders.created", {"total_cents": "many"})

    assert receipt.matched == 2
    assert seen == [{"total_cents": "many"}]
    (letter,) = await bus.dead_letters()
    assert (letter.subscription, letter.attempts) == ("strict", 0)
    assert letter.message.payload == {"total_cents": "many"}
    assert "total_cents" in letter.error


async def test_invalid_payloads_can_be_skipped() -> None:
    """With `invalid="skip"` what the model refuses is counted and passed over."""
    seen: list[object] = []
    bus = EventBus(middleware=[DeadLetter()])
    bus.on("orders.*", model=OrderCreated, invalid="skip")(seen.append)

    async with bus:
        await bus.publish("orders.created", {"total_cents": "many"})
        await bus.publish("orders.created", {"order_id": "o-1", "total_cents": 990})

    assert seen == [order()]
    assert await bus.dead_letters() == []
    assert (bus.stats().invalid, bus.stats().dead_lettered) == (1, 0)


# --- Routes ---------------------------------------------------------------------------------------


async def test_several_matching_patterns_of_one_subscription_deliver_once() -> None:
    """A subscription is one listener, however many of its patterns match."""
    seen: list[object] = []
    bus = EventBus()

    @bus.on("orders.*", "orders.created", ">", "{kind}.created")
    async def handler(event: object) -> None:
        seen.append(event)

    async with bus:
        receipt = await bus.publish("orders.created", {"n": 1})

    assert seen == [{"n": 1}]
    assert receipt.matched == 1


async def test_a_receipt_counts_the_matching_subscriptions() -> None:
    """`matched` is how many subscriptions the message reached."""
    bus = EventBus()
    for pattern in ("orders.created", "orders.*", ">", "invoices.>"):
        bus.on(pattern)(lambda event: None)

    async with bus:
        receipt = await bus.publish("orders.created", {})

    assert receipt.matched == 3
    assert receipt.topic == "orders.created"


async def test_no_match_is_counted_and_no_error() -> None:
    """A publish that nobody wants is accepted, and the statistics tell."""
    bus = EventBus()

    async with bus:
        receipt = await bus.publish("orders.created", {})

    assert receipt.matched == 0
    assert (bus.stats().published, bus.stats().unmatched) == (1, 1)


async def test_no_match_is_an_error_where_it_must_not_be() -> None:
    """With `require=True` the publisher learns that nobody listens."""
    async with EventBus() as bus:
        with pytest.raises(NoSubscribers, match=r"'orders\.created'"):
            await bus.publish("orders.created", {}, require=True)
        with pytest.raises(NoSubscribers):
            bus.publish_nowait("orders.created", {}, require=True)


async def test_a_required_match_that_exists_is_published() -> None:
    """`require=True` changes nothing where somebody listens."""
    seen: list[object] = []
    bus = EventBus()
    bus.on("orders.*")(seen.append)

    async with bus:
        receipt = await bus.publish("orders.created", {"n": 1}, require=True)

    assert receipt.matched == 1
    assert seen == [{"n": 1}]


async def test_captures_name_the_tokens_of_the_topic() -> None:
    """`{name}` tokens are read from the context."""
    seen: list[Mapping[str, str]] = []
    bus = EventBus()

    @bus.on("orders.{region}.{kind}")
    async def handler(event: object, context: Context[object]) -> None:
        seen.append(context.captures)

    async with bus:
        await bus.publish("orders.eu.paid", {})

    assert seen == [{"region": "eu", "kind": "paid"}]


async def test_there_are_no_captures_without_names() -> None:
    """Wildcards that capture nothing leave nothing."""
    seen: list[Mapping[str, str]] = []
    bus = EventBus()

    @bus.on("orders.*", "$dlq.{name}")
    async def handler(event: object, context: Context[object]) -> None:
        seen.append(context.captures)

    async with bus:
        await bus.publish("orders.created", {})

    assert seen == [{}]


# --- What travels beside the payload --------------------------------------------------------------


async def test_publish_options_arrive_with_the_message() -> None:
    """Key, headers and id are the message's own."""
    seen: list[Message] = []
    bus = EventBus()

    @bus.on("orders.*")
    async def handler(event: object, context: Context[object]) -> None:
        seen.append(context.message)

    async with bus:
        receipt = await bus.publish(
            "orders.created", {}, key="o-1", headers={"tenant": "a"}, id="m-1"
        )

    (message,) = seen
    assert (message.id, message.key, message.headers) == ("m-1", "o-1", {"tenant": "a"})
    assert receipt.id == "m-1"


async def test_ids_are_made_in_the_order_of_publishing(clock: ManualClock) -> None:
    """A generated id is a UUIDv7 of the publish time, even if it is read much later."""
    receipts: list[Receipt] = []
    async with EventBus(clock=clock) as bus:
        for _ in range(3):
            receipts.append(await bus.publish("orders.created", {}))
            await clock.advance(1)

        ids = [receipt.id for receipt in reversed(receipts)]

    assert sorted(ids, reverse=True) == ids
    assert receipts[0].id == ids[-1]


async def test_a_receipt_and_the_message_have_one_id() -> None:
    """The id a publisher logs is the id a handler sees."""
    seen: list[str] = []
    bus = EventBus()

    @bus.on("orders.*")
    async def handler(event: object, context: Context[object]) -> None:
        seen.append(context.message.id)

    async with bus:
        receipt = await bus.publish("orders.created", {})

    assert seen == [receipt.id]


async def test_a_conversation_can_be_followed() -> None:
    """What handlers publish names its cause, and the message that began it all."""
    seen: dict[str, Message] = {}
    bus = EventBus()

    @bus.on("first", "second", "third")
    async def handler(event: object, context: Context[object]) -> None:
        topic = context.message.topic
        seen[topic] = context.message
        follow_up = {"first": "second", "second": "third"}.get(topic)
        if follow_up:
            await context.publish(follow_up, {})

    async with bus:
        receipt = await bus.publish("first", {})

    assert seen["first"].correlation_id is None
    assert seen["first"].causation_id is None
    assert seen["second"].causation_id == receipt.id
    assert seen["third"].causation_id == seen["second"].id
    assert {seen["second"].correlation_id, seen["third"].correlation_id} == {receipt.id}


# --- Publishing from a handler --------------------------------------------------------------------


async def test_what_a_failing_handler_published_is_dropped(clock: ManualClock) -> None:
    """`context.publish` counts only once the handler has succeeded."""
    seen: list[int] = []
    bus = EventBus(clock=clock, middleware=[Retry(attempts=2, initial=1, jitter=False)])

    @bus.on("orders.created")
    async def fails_once(event: object, context: Context[object]) -> None:
        await context.publish("orders.billed", {"attempt": context.attempt})
        if not context.last_attempt:
            raise ValueError("not yet")

    @bus.on("orders.billed")
    async def billed(event: dict[str, int]) -> None:
        seen.append(event["attempt"])

    async with bus:
        await bus.publish("orders.created", {})
        await clock.advance(1)
        await bus.join()

    assert seen == [2]


async def test_what_a_handler_publishes_is_checked_at_the_call() -> None:
    """The error stands where the mistake is, and the receipt knows no `matched` yet."""
    seen: list[object] = []
    bus = EventBus()

    @bus.on("orders.*")
    async def handler(event: object, context: Context[object]) -> None:
        with pytest.raises(InvalidEvent):
            await cast("Any", context).publish(INVOICE_REQUESTED, {"order": "o-1"})
        receipt = await context.publish(INVOICE_REQUESTED, InvoiceRequested(order_id="o-1"))
        seen.append(receipt.matched)

    async with bus:
        await bus.publish("orders.created", {})

    assert seen == [None]
    assert bus.stats().failed == 0


async def test_a_handler_publishes_a_thousand_messages_at_most() -> None:
    """What is kept until the handler succeeds is bounded; the next one is refused at the call."""
    refused: list[str] = []
    bus = EventBus()

    @bus.on("orders.created", name="chatty")
    async def handler(event: object, context: Context[object]) -> None:
        for _ in range(1_000):
            await context.publish("orders.noted", {})
        with pytest.raises(QueueFull) as caught:
            context.publish_nowait("orders.noted", {})
        refused.append(str(caught.value))

    async with bus:
        await bus.publish("orders.created", {})

    assert len(refused) == 1
    assert "'chatty'" in refused[0]
    assert bus.stats().published == 1_001


async def test_the_bus_publishes_immediately_in_a_handler() -> None:
    """`bus.publish` does not wait for the handler to succeed."""
    seen: list[str] = []
    bus = EventBus()
    billed = anyio.Event()

    @bus.on("orders.created")
    async def create(event: object) -> None:
        await bus.publish("orders.billed", {})
        await billed.wait()
        seen.append("created")

    @bus.on("orders.billed")
    async def bill(event: object) -> None:
        seen.append("billed")
        billed.set()

    async with bus:
        await bus.publish("orders.created", {})

    assert seen == ["billed", "created"]


# --- Middleware -----------------------------------------------------------------------------------


async def test_middleware_wraps_from_the_bus_inward() -> None:
    """Bus, router and handler scopes nest, outermost first."""
    seen: list[str] = []

    def layer(name: str) -> Any:
        async def middleware(context: Context[Any], call_next: CallNext) -> object:
            seen.append(f"{name} in")
            result = await call_next(context)
            seen.append(f"{name} out")
            return result

        return middleware

    bus = EventBus(middleware=[layer("bus")])
    router = Router(middleware=[layer("router")])

    @router.on("orders.*", middleware=[layer("handler")])
    async def handler(event: object) -> None:
        seen.append("handler")

    bus.include(router)
    async with bus:
        await bus.publish("orders.created", {})

    scopes = ["bus", "router", "handler"]
    assert seen == [
        *(f"{scope} in" for scope in scopes),
        "handler",
        *(f"{scope} out" for scope in reversed(scopes)),
    ]


async def test_publish_middleware_sees_every_publish() -> None:
    """It wraps publishing by the bus, in a batch, without waiting, and from handlers."""
    topics: list[str] = []

    async def stamping(message: Message, call_next: PublishNext) -> Receipt:
        topics.append(message.topic)
        return await call_next(message.replace(headers={"tenant": "a"}))

    headers: list[Mapping[str, str]] = []
    bus = EventBus(publish_middleware=[stamping])

    @bus.on(">")
    async def handler(event: object, context: Context[object]) -> None:
        headers.append(context.message.headers)
        if context.message.topic == "one":
            await context.publish("two", {})

    async with bus:
        await bus.publish("one", {})
        await bus.join()
        bus.publish_nowait("three", {})
        await bus.publish_many("four", [{}, {}])

    assert topics == ["one", "two", "three", "four", "four"]
    assert headers == [{"tenant": "a"}] * 5
