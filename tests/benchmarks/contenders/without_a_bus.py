"""The same work without a bus: a loop of awaits, a queue per handler, a stream per handler."""

__all__ = ("CONTENDERS",)

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ObjectReceiveStream
from anyio.lowlevel import checkpoint

from tests.benchmarks.contenders.contender import Contender, Publish
from tests.benchmarks.floors import BURST, Handler, Tally, consume, counting
from tests.benchmarks.order import EVENT, NESTED, NestedOrder

STREAM_SIZE = 1_000


@asynccontextmanager
async def awaits(topics: Iterable[str], tally: Tally) -> AsyncIterator[Publish]:
    handlers = [counting(tally) for _ in topics]

    async def publish(events: int) -> None:
        for _ in range(events):
            for handle in handlers:
                await handle(EVENT)

    yield publish


@asynccontextmanager
async def awaits_of_orders(tally: Tally) -> AsyncIterator[Publish]:
    handle = counting(tally)

    async def publish(events: int) -> None:
        for _ in range(events):
            await handle(NestedOrder.model_validate(NESTED))

    yield publish


@asynccontextmanager
async def queues(topics: Iterable[str], tally: Tally) -> AsyncIterator[Publish]:
    outlets = [asyncio.Queue[object]() for _ in topics]
    consumers = [asyncio.create_task(consume(queue, counting(tally))) for queue in outlets]
    await asyncio.sleep(0)

    async def publish(events: int) -> None:
        for number in range(events):
            for queue in outlets:
                queue.put_nowait(EVENT)
            if number % BURST == BURST - 1:
                await asyncio.sleep(0)
        await asyncio.sleep(0)

    yield publish
    for consumer in consumers:
        consumer.cancel()


@asynccontextmanager
async def streams(topics: Iterable[str], tally: Tally) -> AsyncIterator[Publish]:
    pairs = [anyio.create_memory_object_stream[object](STREAM_SIZE) for _ in topics]
    sent = 0

    async def publish(events: int) -> None:
        nonlocal sent
        sent += events * len(pairs)
        for _ in range(events):
            for inlet, _outlet in pairs:
                await inlet.send(EVENT)
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
    Contender(name="bare await", plain=awaits, orders=awaits_of_orders),
    Contender(name="asyncio.Queue", plain=queues),
    Contender(name="anyio stream", plain=streams, events=1_000),
)
