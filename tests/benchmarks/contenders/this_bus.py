"""How an event goes through this bus, default options."""

__all__ = ("CONTENDERS", "ON_ASYNCIO")

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

from eventbus import EventBus
from tests.benchmarks.contenders.contender import Contender, Publish, PublishTo
from tests.benchmarks.floors import Tally, counting
from tests.benchmarks.order import EVENT, TOPIC, Event, NestedOrder


@asynccontextmanager
async def wire(topics: Iterable[str], tally: Tally) -> AsyncGenerator[Publish]:
    bus = EventBus()
    for topic in topics:
        bus.on(topic)(counting(tally))
    async with bus:
        yield _publishing(bus)


@asynccontextmanager
async def orders(tally: Tally) -> AsyncGenerator[Publish]:
    bus = EventBus()
    bus.on(TOPIC, model=NestedOrder)(counting(tally))
    async with bus:
        yield _publishing(bus)


@asynccontextmanager
async def patterns(patterns: Iterable[str], tally: Tally) -> AsyncGenerator[PublishTo]:
    bus = EventBus()
    bus.on(*patterns)(counting(tally))

    async def publish_to(topics: Iterable[str]) -> None:
        for topic in topics:
            await bus.publish(topic, EVENT)
        await bus.join()

    async with bus:
        yield publish_to


def _publishing(bus: EventBus) -> Publish:
    async def publish(events: Iterable[Event]) -> None:
        for event in events:
            await bus.publish(TOPIC, event)
        await bus.join()

    return publish


ON_ASYNCIO = Contender(
    name="eventbus",
    kind="bus",
    wire=wire,
    orders=orders,
    patterns=patterns,
    most_patterns=1_000_000,
)

ON_UVLOOP = replace(
    ON_ASYNCIO,
    name="eventbus, uvloop",
    module="uvloop",
    backend="uvloop",
    most_patterns=100_000,
)

ON_TRIO = replace(
    ON_ASYNCIO, name="eventbus, trio", module="trio", backend="trio", most_patterns=100_000
)

CONTENDERS = (ON_ASYNCIO, ON_UVLOOP, ON_TRIO)
