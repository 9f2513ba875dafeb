"""How an event goes through FastStream: the broker of its tests, which needs no server."""

__all__ = ("CONTENDERS",)

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from tests.benchmarks.contenders.contender import Contender, Publish, PublishTo
from tests.benchmarks.floors import Tally, counting
from tests.benchmarks.order import EVENT, TOPIC, Event, NestedOrder


@asynccontextmanager
async def wire(topics: Iterable[str], tally: Tally) -> AsyncGenerator[Publish]:
    nats = import_module("faststream.nats")
    broker = nats.NatsBroker()
    for topic in topics:
        broker.subscriber(topic)(counting(tally))
    async with nats.TestNatsBroker(broker):
        yield _publishing(broker)


@asynccontextmanager
async def orders(tally: Tally) -> AsyncGenerator[Publish]:
    nats = import_module("faststream.nats")
    broker = nats.NatsBroker()

    async def handle(order: NestedOrder) -> None:
        tally.handled += 1

    broker.subscriber(TOPIC)(handle)
    async with nats.TestNatsBroker(broker):
        yield _publishing(broker)


@asynccontextmanager
async def patterns(patterns: Iterable[str], tally: Tally) -> AsyncGenerator[PublishTo]:
    nats = import_module("faststream.nats")
    broker = nats.NatsBroker()
    handle = counting(tally)
    for pattern in patterns:
        broker.subscriber(pattern)(handle)

    async def publish_to(topics: Iterable[str]) -> None:
        for topic in topics:
            await broker.publish(EVENT, topic)

    async with nats.TestNatsBroker(broker):
        yield publish_to


def _publishing(broker: Any) -> Publish:
    async def publish(events: Iterable[Event]) -> None:
        for event in events:
            await broker.publish(event, TOPIC)

    return publish


CONTENDERS = (
    Contender(
        name="FastStream TestBroker",
        module="faststream.nats",
        wire=wire,
        orders=orders,
        patterns=patterns,
        events=200,
        note="the one of its NATS broker, which routes by pattern",
    ),
)
