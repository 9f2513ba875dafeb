"""What a message says of its payload: its content type, and the version of its topic."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import anyio.to_thread
import pytest
from pydantic import BaseModel

from eventbus import Context, ContractError, EventBus, InvalidEvent, Message, Topic
from eventbus.middleware import DeadLetter, PublishNext, Retry
from tests.shell import Shell
from tests.waiting import until

Opened: TypeAlias = Callable[..., EventBus]


class Order(BaseModel):
    order_id: str
    cents: int = 0


FIRST = Topic("orders.placed", Order)
SECOND = Topic("orders.placed", Order, version=2)
ORDER = Order(order_id="o-1")
SHOP = TypedDict("SHOP", {"orders.placed": Order})


def listen(bus: EventBus, pattern: str = "orders.>", **options: Any) -> list[Message]:
    """Keep the messages that a bus delivers."""
    heard: list[Message] = []

    async def keep(event: object, context: Context[object]) -> None:
        heard.append(context.message)

    bus.on(pattern, **options)(keep)
    return heard


# --- content type -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "content_type"),
    [
        (ORDER, "application/json"),
        ({"order_id": "o-1"}, "application/json"),
        (b"\x00", "application/octet-stream"),
    ],
    ids=["model", "mapping", "bytes"],
)
@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}"])
async def test_a_message_tells_what_its_payload_is(
    store: Path, url: str, payload: Any, content_type: str
) -> None:
    """The same in memory and in a store."""
    bus = EventBus(url.format(store))
    heard = listen(bus)
    async with bus:
        await bus.publish("orders.placed", payload)
        await bus.join()

    assert [message.content_type for message in heard] == [content_type]


async def test_a_packed_payload_is_what_it_was(opened: Opened) -> None:
    """How a store packs it is the store's affair."""
    bus = opened("?compression=zlib")
    heard = listen(bus)
    async with bus:
        await bus.publish("orders.placed", {"order_id": "o" * 5000})
        await bus.join()

    assert [message.content_type for message in heard] == ["application/json"]


# --- version ----------------------------------------------------------------------------------

Publish: TypeAlias = Callable[[EventBus], Awaitable[object]]

WAYS: dict[str, Publish] = {
    "publish": lambda bus: bus.publish(SECOND, ORDER),
    "publish by name": lambda bus: bus.publish("orders.placed", ORDER),
    "publish with options": lambda bus: bus.publish(SECOND, ORDER, headers={"a": "b"}),
    "publish later": lambda bus: bus.publish(SECOND, ORDER, delay=0.01),
    "publish_many": lambda bus: bus.publish_many(SECOND, [ORDER]),
    "publish_from_thread": lambda bus: anyio.to_thread.run_sync(
        bus.publish_from_thread, SECOND, ORDER
    ),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("url", ["memory://", "memory://?codec=json", "sqlite:///{}"])
async def test_a_message_tells_the_version_of_its_topic(
    store: Path, url: str, way: Publish
) -> None:
    """Whichever way it is published, as soon as the bus knows the topic."""
    bus = EventBus(url.format(store))
    bus.on(SECOND)(lambda event: None)
    heard = listen(bus)
    async with bus:
        await way(bus)
        await bus.join()

    assert [message.schema_version for message in heard] == [2]


async def test_it_is_told_of_what_a_handler_publishes(opened: Opened) -> None:
    """By its context, and by the bus."""
    bus = opened()
    heard = listen(bus)

    @bus.on("carts.closed")
    async def place(event: object, context: Context[object]) -> None:
        await context.publish(SECOND, ORDER)
        await bus.publish(SECOND, ORDER)

    async with bus:
        await bus.publish("carts.closed", {})
        await bus.join()

    assert [message.schema_version for message in heard] == [2, 2]


async def test_a_name_that_nobody_stated_is_version_1() -> None:
    """As is a `Topic` that says nothing of it."""
    bus = EventBus()
    heard = listen(bus, "*.placed")
    async with bus:
        await bus.publish("orders.placed", {"order_id": "o-1"})
        await bus.publish(Topic("offers.placed", Order), ORDER)

    assert [message.schema_version for message in heard] == [1, 1]


async def test_a_version_counts_as_soon_as_it_is_stated() -> None:
    """Also for the way that was known before."""
    bus = EventBus(contracts=SHOP)
    heard = listen(bus)
    async with bus:
        await bus.publish("orders.placed", ORDER)
        await bus.publish(SECOND, ORDER)
        await bus.publish("orders.placed", ORDER)

    assert [message.schema_version for message in heard] == [1, 2, 2]


@pytest.mark.parametrize(("one", "other"), [(FIRST, SECOND), (SECOND, FIRST)])
async def test_a_bus_knows_one_version_of_a_topic(one: Topic[Order], other: Topic[Order]) -> None:
    """Two that contradict each other are refused, by name."""
    bus = EventBus()
    async with bus:
        await bus.publish(one, ORDER)
        with pytest.raises(ContractError, match=f"version={one.version} of that topic"):
            await bus.publish(other, ORDER)


async def test_middleware_can_say_that_it_made_another_version() -> None:
    """`replace` keeps the version, unless it is given one."""

    async def upgrade(message: Message, call_next: PublishNext) -> object:
        same = message.replace(payload={"order_id": "o-2"})
        assert same.schema_version == 1
        return await call_next(same.replace(schema_version=3))

    bus = EventBus(publish_middleware=[upgrade])  # type: ignore[list-item] # what is returned is not looked at
    heard = listen(bus)
    async with bus:
        await bus.publish("orders.placed", {"order_id": "o-1"})

    assert [(message.schema_version, message.payload) for message in heard] == [
        (3, {"order_id": "o-2"})
    ]


# --- what a later program has stored ------------------------------------------------------------


async def keep_second(opened: Opened) -> None:
    """Store one event of the first version, and one of the second."""
    async with opened() as bus:
        await bus.publish("orders.placed", ORDER)
    async with opened() as bus:
        await bus.publish(SECOND, ORDER)


async def test_the_version_is_stored(opened: Opened) -> None:
    """Handlers and replays of another run read it."""
    await keep_second(opened)
    bus = opened()
    heard = listen(bus, start="first")
    async with bus:
        await bus.join()
        replayed = [context.message async for context in bus.replay("orders.>")]

    assert [message.schema_version for message in heard] == [1, 2]
    assert [message.schema_version for message in replayed] == [1, 2]


async def test_a_later_version_is_a_dead_letter_of_who_knows_an_earlier_one(opened: Opened) -> None:
    """Once and at once, whole and with the reason; redriven where it is known, it is handled."""
    await keep_second(opened)
    before = opened(middleware=[DeadLetter(), Retry()])
    handled: list[Order] = []

    async def bill(event: Order) -> None:
        handled.append(event)

    before.on(FIRST, name="billing", start="first")(bill)
    async with before:
        await before.join()
        (letter,) = await before.dead_letters()
    after = opened()
    after.on(SECOND, name="billing")(bill)
    async with after:
        assert await after.redrive() == 1
        await after.join()

    assert "is of version 2 of 'orders.placed'" in letter.error
    assert "deploy what knows version 2" in letter.error
    assert (letter.message.schema_version, letter.attempts) == (2, 0)
    assert (before.stats().invalid, before.stats().retried) == (1, 0)
    assert handled == [ORDER, ORDER]


async def test_who_takes_no_model_gets_every_version(opened: Opened) -> None:
    """As does who states no version of the topic."""
    await keep_second(opened)
    bus = opened()
    bus.on(FIRST, invalid="skip", start="first")(lambda event: None)
    raw = listen(bus, start="first")
    async with bus:
        await bus.join()
    other = opened()
    modelled = listen(other, model=Order, start="first")
    async with other:
        await other.join()

    assert [message.schema_version for message in raw] == [1, 2]
    assert [message.schema_version for message in modelled] == [1, 2]


async def test_a_replay_holds_to_the_version_too(opened: Opened) -> None:
    """It raises at what is later, or passes it over."""
    await keep_second(opened)
    async with opened() as bus:
        with pytest.raises(InvalidEvent, match="version 2"):
            [context.event async for context in bus.replay(FIRST)]
        read = [context.event async for context in bus.replay(FIRST, invalid="skip")]

    assert read == [ORDER]


async def test_an_earlier_version_is_read_by_the_later_model(opened: Opened) -> None:
    """A model that still takes what was written before goes on with it."""
    async with opened() as bus:
        await bus.publish("orders.placed", {"order_id": "o-1"})
    bus, handled = opened(), list[Order]()
    bus.on(SECOND, start="first")(handled.append)
    async with bus:
        await bus.join()

    assert handled == [ORDER]


async def test_the_version_waits_with_what_is_due_later(opened: Opened) -> None:
    """A scheduled event has it, in the next run too."""
    bus = opened()
    heard = listen(bus, name="archive")
    async with bus:
        await bus.publish(SECOND, ORDER, delay=0.3)
    bus = opened()
    later = listen(bus, name="archive")
    async with bus:
        await until(lambda: bool(heard or later))

    assert [message.schema_version for message in [*heard, *later]] == [2]


def test_an_exported_event_has_its_version(store: Path, tmp_path: Path) -> None:
    """What is imported is what was exported; without one it is of version 1."""
    lines = '{"topic": "a.b", "payload": 1, "schema_version": 2}\n{"topic": "a.b", "payload": 2}\n'
    shell = Shell(f"sqlite:///{store}")
    shell("import", typed=lines)
    exported = shell("export").json

    assert [event.get("schema_version", 1) for event in exported] == [2, 1]


@pytest.mark.parametrize("version", ["0", "-1", '"new"', "1.5"])
def test_an_imported_version_is_a_whole_number(store: Path, version: str) -> None:
    """What is none is refused, by its line."""
    line = f'{{"topic": "a.b", "payload": 1, "schema_version": {version}}}'
    ended = Shell(f"sqlite:///{store}")("import", typed=line)

    assert ended.code != 0
    assert "schema_version" in ended.complaint
