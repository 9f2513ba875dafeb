"""The same work without a bus: a loop of awaits, a queue per handler, a stream per handler."""

__all__ = ("CONTENDERS",)

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ObjectReceiveStream
from anyio.lowlevel import checkpoint

from tests.benchmarks.contenders.contender import Contender, Publish
from tests.benchmarks.floors import BURST, Handler, Tally, consume, counting
from tests.benchmarks.order import Event

STREAM_SIZE = 1_000


@asynccontextmanager
async def awaits(topics: Iterable[str], tally: Tally) -> AsyncGenerator[Publish]:
    handlers = [counting(tally) for _ in topics]

    async def publish(events: Iterable[Event]) -> None:
        for event in events:
            for handle in handlers:
                await handle(event)

    yield publish


@asynccontextmanager
async def queues(topics: Iterable[str], tally: Tally) -> AsyncGenerator[Publish]:
    outlets = [asyncio.Queue[object]() for _ in topics]
    consumers = [asyncio.create_task(consume(queue, counting(tally))) for queue in outlets]
    await asyncio.sleep(0)

    async def publish(events: Iterable[Event]) -> None:
        for number, event in enumerate(events, start=1):
            for queue in outlets:
                queue.put_nowait(event)
            if not number % BURST:
                await asyncio.sleep(0)
        await asyncio.sleep(0)

    yield publish
    for consumer in consumers:
        consumer.cancel()


@asynccontextmanager
async def streams(topics: Iterable[str], tally: Tally) -> AsyncGenerator[Publish]:
    pairs = [anyio.create_memory_object_stream[object](STREAM_SIZE) for _ in topics]
    sent = 0

    async def publish(events: Iterable[Event]) -> None:
        nonlocal sent
        for event in events:
            sent += len(pairs)
            for inlet, _outlet in pairs:
                await inlet.send(event)
        while tally.handled < sent:
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        for _inlet, outlet in pairs:
            tasks.start_soon(_receive, outlet, counting(tally))
        yield publish
        for inlet, _outlet in pairs:
            inlet.close()


async def _receive(outlet: ObjectReceiveStream[object], handle: Handler) -> None:
    async with outlet:
        async for event in outlet:
            await handle(event)


CONTENDERS = (
    Contender(name="bare await", kind="floor", wire=awaits),
    Contender(name="asyncio.Queue", kind="floor", wire=queues),
    Contender(name="anyio stream", kind="floor", wire=streams, events=1_000),
)
