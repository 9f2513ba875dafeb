"""Wall time from a publish to the start of its handler."""

__all__ = ("behind_a_flood", "one_in_flight")

import asyncio
import random
from statistics import median, quantiles
from time import perf_counter_ns

from anyio import CancelScope, Event, sleep
from anyio.lowlevel import checkpoint

from eventbus import EventBus
from tests.benchmarks.measure import WrongCount, expect
from tests.benchmarks.order import EVENT, TOPIC

FLOODED = 4
BUSY_NS = 20_000
# A probe takes about 3 ms with its pause: 40 messages for each flooded subscription.
FLOOD_PER_PROBE = 120
LONGEST_PAUSE_SECONDS = 0.002


async def one_in_flight(probes: int) -> float:
    """Median of one message at a time, the worker parked on an empty queue."""
    latencies, arrived = list[int](), asyncio.Event()
    bus = EventBus()

    @bus.on(TOPIC)
    async def handle(event: object) -> None:
        latencies.append(perf_counter_ns() - sent)
        arrived.set()

    async with bus:
        for _ in range(probes):
            await asyncio.sleep(0)
            arrived.clear()
            sent = perf_counter_ns()
            await bus.publish(TOPIC, EVENT)
            await arrived.wait()
    expect(len(latencies), probes)
    return median(latencies)


async def behind_a_flood(probes: int) -> float:
    """99th percentile while four other subscriptions always have a handler to run, for 20 us."""
    flood = FLOOD_PER_PROBE * probes
    bus = EventBus(queue_size=flood)
    latencies, burned = list[int](), 0

    async def burn(event: object) -> None:
        nonlocal burned
        burned += 1
        end = perf_counter_ns() + BUSY_NS
        while perf_counter_ns() < end:
            pass

    for number in range(FLOODED):
        bus.on(f"flood.f{number}")(burn)
    with CancelScope() as scope:
        async with bus:
            for number in range(FLOODED):
                await bus.publish_many(f"flood.f{number}", [EVENT] * flood)
            latencies += await _probe(bus, probes)
            # What is left of the flood need not be burned: leave at once.
            scope.cancel()
            await checkpoint()
    expect(len(latencies), probes)
    if burned > FLOODED * flood * 0.9:
        raise WrongCount(f"the flood of {FLOODED * flood} ran dry before the last probe")
    return quantiles(latencies, n=100, method="inclusive")[98]


async def _probe(bus: EventBus, probes: int) -> list[int]:
    chance = random.Random(2026)
    latencies: list[int] = []
    arrived = Event()

    async def handle(event: object) -> None:
        latencies.append(perf_counter_ns() - sent)
        arrived.set()

    bus.on("probe")(handle)
    for _ in range(probes):
        await sleep(chance.uniform(0, LONGEST_PAUSE_SECONDS))
        arrived = Event()
        sent = perf_counter_ns()
        await bus.publish("probe", EVENT)
        await arrived.wait()
    return latencies
