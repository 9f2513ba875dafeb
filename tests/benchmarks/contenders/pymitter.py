"""How an event goes through pymitter: an emitter with wildcards in a tree of names."""

__all__ = ("CONTENDERS",)

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from importlib import import_module

from tests.benchmarks.contenders.contender import Contender, Publish, PublishTo
from tests.benchmarks.floors import Tally, counting, counting_at_once
from tests.benchmarks.order import EVENT, TOPIC, Event


@asynccontextmanager
async def coroutines(topics: Iterable[str], tally: Tally) -> AsyncGenerator[Publish]:
    emitter = import_module("pymitter").EventEmitter()
    for topic in topics:
        emitter.on(topic, counting(tally))

    async def publish(events: Iterable[Event]) -> None:
        for event in events:
            await emitter.emit_async(TOPIC, event)

    yield publish


@asynccontextmanager
async def functions(topics: Iterable[str], tally: Tally) -> AsyncGenerator[Publish]:
    emitter = import_module("pymitter").EventEmitter()
    for topic in topics:
        emitter.on(topic, counting_at_once(tally))

    async def publish(events: Iterable[Event]) -> None:
        for event in events:
            emitter.emit(TOPIC, event)

    yield publish


@asynccontextmanager
async def patterns(patterns: Iterable[str], tally: Tally) -> AsyncGenerator[PublishTo]:
    emitter = import_module("pymitter").EventEmitter(wildcard=True)
    handle = counting_at_once(tally)
    for pattern in patterns:
        emitter.on(pattern, handle)

    async def publish_to(topics: Iterable[str]) -> None:
        for topic in topics:
            emitter.emit(topic, EVENT)

    yield publish_to


CONTENDERS = (
    Contender(name="pymitter", module="pymitter", wire=coroutines, events=1_000),
    Contender(
        name="pymitter, function",
        module="pymitter",
        wire=functions,
        patterns=patterns,
        events=1_000,
    ),
)
