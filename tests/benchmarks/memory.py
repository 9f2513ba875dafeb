"""Bytes that a subscription keeps."""

__all__ = ("idle_subscription", "unused_subscription")

import gc
import tracemalloc

from eventbus import EventBus
from tests.benchmarks.floors import Tally, counting
from tests.benchmarks.measure import expect
from tests.benchmarks.order import EVENT


async def unused_subscription(subscriptions: int) -> float:
    """Bytes of a subscription of a running bus that never got a message."""
    return await _bytes_each(subscriptions, is_used=False)


async def idle_subscription(subscriptions: int) -> float:
    """Bytes of a subscription that got a message, handled it, and waits; its route included."""
    return await _bytes_each(subscriptions, is_used=True)


async def _bytes_each(subscriptions: int, *, is_used: bool) -> float:
    # The user's own, and so not counted: handler, names and topics.
    tally = Tally()
    handle = counting(tally)
    topics = [f"memory.t{number}" for number in range(subscriptions)]
    names = [f"subscription-{number}" for number in range(subscriptions)]
    bus = EventBus()
    tracemalloc.start()
    try:
        for topic, name in zip(topics, names, strict=True):
            bus.on(topic, name=name)(handle)
        async with bus:
            for topic in topics if is_used else ():
                await bus.publish(topic, EVENT)
            await bus.join()
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    expect(tally.handled, subscriptions if is_used else 0)
    return kept / subscriptions
