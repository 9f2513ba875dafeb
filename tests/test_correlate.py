"""What is known as a message's doing under `Correlate`, and what is not."""

import asyncio
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from eventbus import Context, EventBus, Message, Router, Topic
from eventbus.middleware import Correlate, Middleware, Policy, Retry, Timeout, correlation_id
from eventbus.testing import ManualClock

BEGIN = Topic("begin", int)
WAYS = ["publish", "publish with options", "publish_nowait", "publish_many", "context.publish"]


class Ear:
    """A handler of `done` that keeps the messages."""

    def __init__(self, bus: EventBus) -> None:
        self.heard: list[Message] = []
        bus.on("done")(self.hear)

    async def hear(self, event: object, context: Context[object]) -> None:
        """Keep a message."""
        self.heard.append(context.message)

    @property
    def origins(self) -> list[tuple[str | None, str | None]]:
        """What each belongs to: the conversation, and the message that caused it."""
        return [(message.correlation_id, message.causation_id) for message in self.heard]


async def say_done(bus: EventBus, context: Context[int], way: str) -> None:
    """Publish in one of the ways there are."""
    match way:
        case "publish":
            await bus.publish("done", {})
        case "publish with options":
            await bus.publish("done", {}, headers={"a": "b"})
        case "publish_nowait":
            bus.publish_nowait("done", {})
        case "publish_many":
            await bus.publish_many("done", [{}])
        case _:
            await context.publish("done", {})


# --- What belongs to the message ------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_what_a_handler_publishes_belongs_to_its_message(way: str) -> None:
    """However it does; the message that begins a conversation names it."""
    bus = EventBus(middleware=[Correlate()])
    ear = Ear(bus)

    @bus.on(BEGIN)
    async def handle(event: int, context: Context[int]) -> None:
        await say_done(bus, context, way)

    async with bus:
        for name in ("a", "b"):
            await bus.publish(BEGIN, 1, id=name)
            await bus.join()

    assert ear.origins == [("a", "a"), ("b", "b")]


async def test_a_conversation_goes_on() -> None:
    """Over several steps the first message names it, and each names its own cause."""
    bus = EventBus(middleware=[Correlate()])
    ear = Ear(bus)

    @bus.on(BEGIN)
    async def first(event: int) -> None:
        await bus.publish("then", {}, id="second")

    @bus.on("then")
    async def second(event: object) -> None:
        await bus.publish("done", {})

    async with bus:
        await bus.publish(BEGIN, 1, id="first")
        await bus.join()

    assert ear.origins == [("first", "second")]


@pytest.mark.parametrize("way", WAYS[:-1])
async def test_without_it_what_is_published_belongs_to_nothing(way: str) -> None:
    """Only `context.publish` tells then."""
    bus = EventBus()
    ear = Ear(bus)

    @bus.on(BEGIN)
    async def handle(event: int, context: Context[int]) -> None:
        assert correlation_id() is None
        await say_done(bus, context, way)

    async with bus:
        await bus.publish(BEGIN, 1, id="a")
        await bus.join()

    assert ear.origins == [(None, None)]


@pytest.mark.parametrize("scope", ["bus", "router", "handler"])
async def test_it_holds_where_it_stands(scope: str) -> None:
    """For every handler of a bus or a router, or for one alone."""
    here: list[Middleware | Policy] = [Correlate()]
    bus = EventBus(middleware=here if scope == "bus" else [])
    router = Router(middleware=here if scope == "router" else [])
    ear = Ear(bus)

    async def handle(event: int) -> None:
        await bus.publish("done", {"from": "inside"})

    async def handle_beside(event: int) -> None:
        await bus.publish("done", {"from": "beside"})

    router.on(BEGIN, middleware=here if scope == "handler" else [])(handle)
    bus.include(router)
    bus.on(BEGIN)(handle_beside)
    async with bus:
        await bus.publish(BEGIN, 1, id="a")
        await bus.join()

    told = {message.payload["from"]: message.causation_id for message in as_dicts(ear.heard)}
    assert told == {"inside": "a", "beside": "a" if scope == "bus" else None}


def as_dicts(messages: list[Message]) -> list[Any]:
    """Look at the payloads of messages as what they are."""
    return list(messages)


async def test_what_is_published_outside_of_handlers_belongs_to_nothing() -> None:
    """Before, between and after, the quick way and the careful one."""
    bus = EventBus(middleware=[Correlate()])
    ear = Ear(bus)
    async with bus:
        for way in ("publish", "publish with options", "publish_nowait", "publish_many"):
            await say_done(bus, Context(), way)
            await bus.join()
            assert correlation_id() is None

    assert ear.origins == [(None, None)] * 4


async def test_another_bus_has_to_correlate_too() -> None:
    """What a handler publishes there belongs to its message if that one has a `Correlate`."""
    bus = EventBus(middleware=[Correlate()])
    plain, correlating = EventBus(), EventBus(middleware=[Correlate()])
    ears = Ear(plain), Ear(correlating)

    @bus.on(BEGIN)
    async def handle(event: int) -> None:
        for other in (plain, correlating):
            await other.publish("done", {})

    async with plain, correlating, bus:
        await bus.publish(BEGIN, 1, id="a")

    assert [ear.origins for ear in ears] == [[(None, None)], [("a", "a")]]


# --- Who asks -------------------------------------------------------------------------------------


async def test_code_within_a_handler_can_ask() -> None:
    """A filter of `logging` does, for instance; middleware may, too."""
    told: list[str | None] = []

    async def ask(context: Context[Any], call_next: Any) -> object:
        told.append(correlation_id())
        return await call_next(context)

    bus = EventBus(middleware=[Correlate(), ask])

    @bus.on(BEGIN)
    async def handle(event: int) -> None:
        await checkpoint()
        told.append(correlation_id())

    async with bus:
        await bus.publish(BEGIN, 1, id="a")
        await bus.publish(BEGIN, 2, id="b")

    assert told == ["a", "a", "b", "b"]


async def test_a_handler_in_a_thread_can_ask() -> None:
    """It is the message it handles."""
    told: list[str | None] = []
    bus = EventBus(middleware=[Correlate()])

    @bus.on(BEGIN)
    def handle(event: int) -> None:
        told.append(correlation_id())

    async with bus:
        await bus.publish(BEGIN, 1, id="a")
        await bus.publish(BEGIN, 2, id="b")

    assert told == ["a", "b"]


async def test_handlers_that_run_at_once_are_told_apart(clock: ManualClock) -> None:
    """Each has its own message, also after it waited."""
    told: dict[int, str | None] = {}
    bus = EventBus(clock=clock, middleware=[Correlate(), Timeout(60.0)])

    @bus.on(BEGIN, concurrency=5)
    async def handle(event: int) -> None:
        await clock.sleep(5.0 - event)
        told[event] = correlation_id()

    async with bus:
        for number in range(5):
            await bus.publish(BEGIN, number, id=f"m-{number}")
        await clock.advance(10.0)

    assert told == {number: f"m-{number}" for number in range(5)}


async def test_a_retry_belongs_to_the_same_message(clock: ManualClock) -> None:
    """Every attempt is its doing."""
    told: list[str | None] = []
    bus = EventBus(clock=clock, middleware=[Correlate(), Retry(attempts=2)])

    @bus.on(BEGIN)
    async def handle(event: int) -> None:
        told.append(correlation_id())
        raise ValueError

    async with bus:
        await bus.publish(BEGIN, 1, id="a")
        await clock.advance(60.0)

    assert told == ["a", "a"]


async def test_tasks_of_a_handler_s_group_belong_to_it() -> None:
    """They end before it does."""
    bus = EventBus(middleware=[Correlate()])
    ear = Ear(bus)

    @bus.on(BEGIN)
    async def handle(event: int, context: Context[int]) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(say_done, bus, context, "publish")

    async with bus:
        await bus.publish(BEGIN, 1, id="a")
        await bus.join()

    assert ear.origins == [("a", "a")] * 2


@pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("trio", {})], ids=["asyncio", "trio"])
async def test_a_task_that_outlives_the_handler_belongs_to_none() -> None:
    """It would be told of a message that comes later."""
    told: list[str | None] = []
    goes_on = anyio.Event()
    bus = EventBus(middleware=[Correlate()])

    async def ask_later() -> None:
        await goes_on.wait()
        told.append(correlation_id())

    async with anyio.create_task_group() as tasks, bus:

        @bus.on(BEGIN)
        async def handle(event: int) -> None:
            if event == 1:
                tasks.start_soon(ask_later)
            else:
                goes_on.set()
                await checkpoint()
                await checkpoint()

        await bus.publish(BEGIN, 1, id="a")
        await bus.publish(BEGIN, 2, id="b")

    assert told == [None]


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_a_task_of_asyncio_s_own_belongs_to_none() -> None:
    """Nothing tells for how long it lives."""
    told: list[str | None] = []
    bus = EventBus(middleware=[Correlate()])

    async def ask() -> None:
        told.append(correlation_id())

    @bus.on(BEGIN)
    async def handle(event: int) -> None:
        await asyncio.create_task(ask())

    async with bus:
        await bus.publish(BEGIN, 1, id="a")

    assert told == [None]


def test_it_is_a_policy() -> None:
    """Its place in the list does not matter."""
    policy: Policy = Correlate()

    assert policy.policy == "correlate"
