"""What the same work costs without a bus."""

__all__ = (
    "BURST",
    "Handler",
    "Tally",
    "bare_await",
    "bare_validator",
    "consume",
    "counting",
    "counting_at_once",
    "parked_queue_latency",
    "queue_and_await",
    "queue_and_future",
)

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns, thread_time_ns
from typing import TypeAlias

from tests.benchmarks.measure import expect
from tests.benchmarks.order import EVENT, Order

Handler: TypeAlias = Callable[[object], Awaitable[None]]

BURST = 100


@dataclass(slots=True)
class Tally:
    """Counts what was handled, on its own: nothing measured is asked what it did."""

    handled: int = 0


def counting(tally: Tally) -> Handler:
    """Make the handler of all cases, as small as one that counts can be."""

    async def handle(event: object) -> None:
        tally.handled += 1

    return handle


def counting_at_once(tally: Tally) -> Callable[[object], None]:
    """Make the same as a plain function, for what cannot await."""

    def handle(event: object) -> None:
        tally.handled += 1

    return handle


async def bare_await(messages: int) -> float:
    """A: `await handler(event)` in a loop."""
    tally = Tally()
    handle = counting(tally)
    started = thread_time_ns()
    for _ in range(messages):
        await handle(EVENT)
    spent = thread_time_ns() - started
    expect(tally.handled, messages)
    return spent / messages


async def queue_and_await(messages: int) -> float:
    """F: `put_nowait` in bursts, and a task that gets and awaits the handler."""
    tally = Tally()
    queue = asyncio.Queue[object]()
    consumer = asyncio.create_task(consume(queue, counting(tally)))
    await asyncio.sleep(0)
    started = thread_time_ns()
    for _ in range(messages // BURST):
        for _ in range(BURST):
            queue.put_nowait(EVENT)
        await asyncio.sleep(0)
    spent = thread_time_ns() - started
    consumer.cancel()
    expect(tally.handled, messages)
    return spent / messages


async def bare_validator(messages: int) -> float:
    """V: pydantic's own validator of the model, called with the dict."""
    validate = Order.__pydantic_validator__.validate_python
    started = thread_time_ns()
    for _ in range(messages):
        validate(EVENT)
    return (thread_time_ns() - started) / messages


async def parked_queue_latency(probes: int) -> float:
    """Median time from `put_nowait` to the handler, the consumer parked on an empty queue."""
    latencies, arrived = list[int](), asyncio.Event()
    queue = asyncio.Queue[object]()

    async def handle(event: object) -> None:
        latencies.append(perf_counter_ns() - sent)
        arrived.set()

    consumer = asyncio.create_task(consume(queue, handle))
    for _ in range(probes):
        await asyncio.sleep(0)
        arrived.clear()
        sent = perf_counter_ns()
        queue.put_nowait(EVENT)
        await arrived.wait()
    consumer.cancel()
    expect(len(latencies), probes)
    return median(latencies)


async def queue_and_future(requests: int) -> float:
    """R: `put_nowait` of an event with a future, which a task sets to what its handler returns."""
    queue = asyncio.Queue[tuple[object, asyncio.Future[object]]]()
    loop, answered = asyncio.get_running_loop(), 0

    async def answer(event: object) -> object:
        return event

    async def serve() -> None:
        while True:
            event, reply = await queue.get()
            reply.set_result(await answer(event))

    server = asyncio.create_task(serve())
    await asyncio.sleep(0)
    started = thread_time_ns()
    for _ in range(requests):
        reply: asyncio.Future[object] = loop.create_future()
        queue.put_nowait((EVENT, reply))
        answered += await reply is EVENT
    spent = thread_time_ns() - started
    server.cancel()
    expect(answered, requests)
    return spent / requests


async def consume(queue: asyncio.Queue[object], handle: Handler) -> None:
    """Get and handle, for ever."""
    while True:
        await handle(await queue.get())
