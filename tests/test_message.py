"""What travels: the envelope, its changed copies, what a publisher sees of it."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest

from eventbus import Context, EventBus, Message, Receipt
from eventbus.middleware import CallNext, DeadLetter
from eventbus.testing import ManualClock

WORDS = (
    "topic",
    "payload",
    "time",
    "id",
    "key",
    "headers",
    "matched",
    "content_type",
    "schema_version",
    "anything",
)


async def publish_one(clock: ManualClock, **options: Any) -> Message:
    """Publish one message and give the envelope its handler sees."""
    seen: list[Message] = []
    bus = EventBus(clock=clock)

    @bus.on("orders.created")
    async def note(event: object, context: Context[object]) -> None:
        seen.append(context.message)

    async with bus:
        await bus.publish("orders.created", {"order_id": "o-1"}, **options)
    return seen[0]


# --- What it tells --------------------------------------------------------------------------------


async def test_a_message_tells_what_was_published(clock: ManualClock) -> None:
    """Topic, payload, key and headers as published, and the time of the bus's clock."""
    message = await publish_one(clock, key="o-1", headers={"source": "web"})

    assert (message.topic, message.payload) == ("orders.created", {"order_id": "o-1"})
    assert (message.key, message.headers) == ("o-1", {"source": "web"})
    assert message.time == datetime.fromtimestamp(clock.now(), UTC)


async def test_a_plain_message_has_neither_key_nor_headers(clock: ManualClock) -> None:
    """What was not said is None, and headers are empty."""
    message = await publish_one(clock)

    assert (message.key, message.headers) == (None, {})
    assert (message.correlation_id, message.causation_id) == (None, None)


async def test_an_id_is_a_uuid7_of_the_publish_time(clock: ManualClock) -> None:
    """An id that nobody gave says when the message was published, however late it is read."""
    message = await publish_one(clock)
    milliseconds = int(clock.now() * 1000)

    await clock.advance(60.0)
    made = UUID(message.id)

    assert made.version == 7
    assert made.int >> 80 == milliseconds


async def test_an_id_made_on_first_use_stays(clock: ManualClock) -> None:
    """Reading it again gives the same one, with options and without."""
    for message in (await publish_one(clock), await publish_one(clock, key="o-1")):
        assert message.id == message.id


async def test_ids_differ(clock: ManualClock) -> None:
    """Two messages of one moment have ids of their own."""
    assert (await publish_one(clock)).id != (await publish_one(clock)).id


async def test_a_given_id_is_the_messages(clock: ManualClock) -> None:
    """The publisher may name the message itself."""
    assert (await publish_one(clock, id="import-17")).id == "import-17"


async def test_showing_a_message_keeps_its_payload_secret(clock: ManualClock) -> None:
    """Logs show which message it was and where it went, not what it held."""
    message = await publish_one(clock, id="m-1")

    assert repr(message) == "<Message m-1 on 'orders.created'>"


async def test_what_is_stored_shows_its_place(opened: Callable[..., EventBus]) -> None:
    """And whether it was there before: a receipt is the message."""
    async with opened() as bus:
        receipts = [await bus.publish("orders.created", {}, id="m-1") for _ in range(2)]

    assert [repr(receipt) for receipt in receipts] == [
        "<Message m-1 on 'orders.created' at 1>",
        "<Message m-1 on 'orders.created' at 1, stored before>",
    ]


# --- Immutable ------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", WORDS)
async def test_a_message_is_immutable(clock: ManualClock, word: str) -> None:
    """Nothing that a handler sees of it can be set, and nothing added."""
    message = await publish_one(clock)

    with pytest.raises(AttributeError):
        setattr(message, word, None)


async def test_headers_are_read_only(clock: ManualClock) -> None:
    """What travels beside the payload cannot be changed on the way."""
    headers = cast("dict[str, str]", (await publish_one(clock, headers={"a": "1"})).headers)

    with pytest.raises(TypeError):
        headers["b"] = "2"


async def test_headers_are_those_of_the_publish(clock: ManualClock) -> None:
    """A publisher that goes on changing its dict does not change the message."""
    given = {"a": "1"}
    message = await publish_one(clock, headers=given)

    given["b"] = "2"

    assert message.headers == {"a": "1"}


# --- Changed copies -------------------------------------------------------------------------------


async def test_a_copy_has_the_changes_alone(clock: ManualClock) -> None:
    """What is not named stays: id, time and all else; the original keeps what it had."""
    message = await publish_one(clock, key="o-1", headers={"a": "1"})
    copy = message.replace(headers={"b": "2"})

    assert copy.headers == {"b": "2"}
    assert (copy.id, copy.time, copy.key) == (message.id, message.time, "o-1")
    assert (copy.topic, copy.payload) == (message.topic, message.payload)
    assert message.headers == {"a": "1"}


async def test_a_copy_still_requires_somebody() -> None:
    """A middleware that changes what a handler publishes does not take back `require=True`."""

    async def rewrite(context: Context[Any], call_next: CallNext) -> object:
        result = await call_next(context)
        context.outbox = [message.replace(key="k") for message in context.outbox or ()]
        return result

    bus = EventBus(middleware=[DeadLetter(), rewrite])

    @bus.on("orders.created", model=object, name="work")
    async def work(order: object, context: Context[object]) -> None:
        await context.publish("orders.archived", {}, require=True)

    async with bus:
        await bus.publish("orders.created", {})
        await bus.join()
        refusals = [letter.error_type for letter in await bus.dead_letters("work")]

    assert refusals == ["NoSubscribers"]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("topic", "orders.moved"),
        ("payload", {"order_id": "o-2"}),
        ("key", None),
        ("headers", {}),
        ("id", "m-2"),
        ("correlation_id", "c-1"),
        ("causation_id", "c-2"),
    ],
)
async def test_each_field_can_be_replaced(clock: ManualClock, word: str, value: object) -> None:
    """Every field a publish middleware may change, None and nothing included."""
    message = await publish_one(clock, key="o-1", headers={"a": "1"})
    changes: Any = {word: value}

    assert getattr(message.replace(**changes), word) == value


async def test_a_copy_is_immutable_too(clock: ManualClock) -> None:
    """A changed copy is a message as any other."""
    copy = (await publish_one(clock)).replace(key="o-1")

    with pytest.raises(AttributeError):
        setattr(copy, "key", "o-2")  # noqa: B010 - a checker would refuse the statement


# --- Receipts -------------------------------------------------------------------------------------


async def test_a_receipt_is_the_publishers_view_of_the_message(clock: ManualClock) -> None:
    """It tells the id the handler sees, the topic, and how many subscriptions it reached."""
    ids: list[str] = []
    bus = EventBus(clock=clock)

    @bus.on("orders.*")
    @bus.on("orders.created")
    async def note(event: object, context: Context[object]) -> None:
        ids.append(context.message.id)

    async with bus:
        receipt = await bus.publish("orders.created", {})
        await bus.join()

    assert isinstance(receipt, Receipt)
    assert ids == [receipt.id, receipt.id]
    assert (receipt.topic, receipt.matched) == ("orders.created", 2)


async def test_a_receipt_of_what_nobody_wanted() -> None:
    """Reaching no subscription is told, as a count of none."""
    async with EventBus() as bus:
        assert (await bus.publish("orders.created", {})).matched == 0
        assert bus.publish_nowait("orders.created", {}).matched == 0


async def test_receipts_of_many_come_in_their_order() -> None:
    """Each event of a batch has a receipt and an id of its own."""
    async with EventBus() as bus:
        receipts = await bus.publish_many("orders.created", [{"n": n} for n in range(3)])

    assert [receipt.topic for receipt in receipts] == ["orders.created"] * 3
    assert len({receipt.id for receipt in receipts}) == 3
