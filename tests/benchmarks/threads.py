"""Wall time of messages from another thread to a handler in the loop."""

__all__ = ("called_from_a_thread", "published_from_a_thread")

from collections.abc import Callable
from time import perf_counter_ns

import anyio
from anyio import from_thread, to_thread

from eventbus import EventBus
from tests.benchmarks.measure import expect
from tests.benchmarks.order import EVENT, TOPIC


async def called_from_a_thread(messages: int) -> float:
    """Call a function in the loop for each message, and wait for it, as anyio offers it."""
    handled = 0

    def handle() -> None:
        nonlocal handled
        handled += 1

    def call_all() -> None:
        for _ in range(messages):
            from_thread.run_sync(handle)

    spent = await _timed(call_all)
    expect(handled, messages)
    return spent / messages


async def published_from_a_thread(messages: int) -> float:
    """Publish each message with `publish_from_thread`, until the last one is handled."""
    handled, all_handled = 0, anyio.Event()
    bus = EventBus()

    @bus.on(TOPIC)
    async def handle(event: object) -> None:
        nonlocal handled
        handled += 1
        if handled == messages:
            all_handled.set()

    def publish_all() -> None:
        for _ in range(messages):
            bus.publish_from_thread(TOPIC, EVENT)

    async with bus:
        started = perf_counter_ns()
        await to_thread.run_sync(publish_all)
        await all_handled.wait()
        spent = perf_counter_ns() - started
    expect(handled, messages)
    return spent / messages


async def _timed(work: Callable[[], None]) -> int:
    started = perf_counter_ns()
    await to_thread.run_sync(work)
    return perf_counter_ns() - started
