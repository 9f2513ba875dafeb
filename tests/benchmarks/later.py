"""Messages published for later: what each costs, and what it keeps, where there are many."""

__all__ = ("bytes_scheduled", "scheduled_and_handled")

import gc
import tracemalloc
from time import thread_time_ns

from eventbus import EventBus
from tests.benchmarks.floors import Tally, counting
from tests.benchmarks.measure import expect
from tests.benchmarks.order import EVENT, TOPIC

SHUFFLE = 7_919  # a prime: due times come in no order


async def scheduled_and_handled(messages: int) -> float:
    """CPU time of a message with a delay, from its publish until it has been handled."""
    bus, tally = EventBus(), Tally()
    bus.on(TOPIC)(counting(tally))
    async with bus:
        started = thread_time_ns()
        for number in range(messages):
            await bus.publish(TOPIC, EVENT, delay=1e-6 * (1 + number * SHUFFLE % messages))
        await bus.join()
        spent = thread_time_ns() - started
    expect(tally.handled, messages)
    return spent / messages


async def bytes_scheduled(messages: int) -> float:
    """Bytes that a message keeps until it is due, its receipt included."""
    bus = EventBus()
    async with bus:
        tracemalloc.start()
        try:
            for number in range(messages):
                await bus.publish(TOPIC, EVENT, delay=3_600.0 + number * SHUFFLE % messages)
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    return kept / messages
