"""How an event goes through larzbus: every publish looks through all the patterns."""

__all__ = ("CONTENDERS",)

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from importlib import import_module

from tests.benchmarks.contenders.contender import Contender, Publish, PublishTo
from tests.benchmarks.floors import Tally, counting_at_once
from tests.benchmarks.order import EVENT, TOPIC, Event


@asynccontextmanager
async def functions(topics: Iterable[str], tally: Tally) -> AsyncGenerator[Publish]:
    bus = import_module("larzbus").EventBus()
    for topic in topics:
        bus.subscribe(topic, counting_at_once(tally))

    async def publish(events: Iterable[Event]) -> None:
        for event in events:
            bus.publish(TOPIC, event)

    yield publish


@asynccontextmanager
async def patterns(patterns: Iterable[str], tally: Tally) -> AsyncGenerator[PublishTo]:
    bus = import_module("larzbus").EventBus()
    handle = counting_at_once(tally)
    for pattern in patterns:
        bus.subscribe(pattern, handle)

    async def publish_to(topics: Iterable[str]) -> None:
        for topic in topics:
            bus.publish(topic, EVENT)

    yield publish_to


CONTENDERS = (
    Contender(name="larzbus, function", module="larzbus", wire=functions, patterns=patterns),
)
