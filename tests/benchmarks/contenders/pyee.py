"""How an event goes through pyee: an emitter calls functions, or starts a task for a coroutine."""

__all__ = ("CONTENDERS",)

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from importlib import import_module

from tests.benchmarks.contenders.contender import Contender, Publish
from tests.benchmarks.floors import Tally, counting, counting_at_once
from tests.benchmarks.order import TOPIC, Event


@asynccontextmanager
async def coroutines(topics: Iterable[str], tally: Tally) -> AsyncGenerator[Publish]:
    emitter = import_module("pyee.asyncio").AsyncIOEventEmitter()
    for topic in topics:
        emitter.on(topic, counting(tally))

    async def publish(events: Iterable[Event]) -> None:
        for event in events:
            emitter.emit(TOPIC, event)
        await emitter.wait_for_complete()

    yield publish


@asynccontextmanager
async def functions(topics: Iterable[str], tally: Tally) -> AsyncGenerator[Publish]:
    emitter = import_module("pyee").EventEmitter()
    for topic in topics:
        emitter.on(topic, counting_at_once(tally))

    async def publish(events: Iterable[Event]) -> None:
        for event in events:
            emitter.emit(TOPIC, event)

    yield publish


CONTENDERS = (
    Contender(name="pyee", module="pyee", wire=coroutines, events=1_000),
    Contender(name="pyee, function", module="pyee", wire=functions),
)
