"""The workloads that every contender does."""

__all__ = ("LIMIT_SECONDS", "SUBSCRIPTIONS", "named", "subscribing", "throughput")

import gc
import tracemalloc
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat
from math import inf
from time import thread_time_ns

import anyio

from tests.benchmarks.contenders.contender import Contender, Publish
from tests.benchmarks.floors import Tally
from tests.benchmarks.measure import Case, Sample, expect, within
from tests.benchmarks.order import EVENT, NESTED, TOPIC, Event, NestedOrder

SUBSCRIPTIONS = 100_000
LIMIT_SECONDS = 6.0
PUBLISHERS = 10


def named(contender: str, workload: str) -> str:
    """Name the case of a contender's workload."""
    return f"{contender}: {workload}"


def throughput(contenders: Sequence[Contender]) -> Mapping[str, Mapping[str, Case]]:
    """Give the cases of events on their way, by workload; figures are nanoseconds per delivery."""
    return {
        "to 1": _of_all(contenders, "to 1", lambda one: fan_out(one, 1)),
        "to 10": _of_all(contenders, "to 10", lambda one: fan_out(one, 10), parts=10),
        "to 100": _of_all(contenders, "to 100", lambda one: fan_out(one, 100), parts=100),
        "10 to 10": _of_all(contenders, "10 to 10", ten_to_ten, parts=10),
        "order": _of_all(contenders, "order", nested_orders),
    }


def subscribing(contenders: Iterable[Contender]) -> Mapping[str, Case]:
    """Give the cases of many subscriptions, each to a topic of its own."""
    cases: dict[str, Case] = {}
    for one in contenders:
        case = partial(Case, backend=one.backend)
        cases[named(one.name, "bytes")] = case(bytes_each(one), 500)
        cases[named(one.name, "start and stop")] = case(start_and_stop(one), SUBSCRIPTIONS)
    return cases


def _of_all(
    contenders: Iterable[Contender],
    workload: str,
    sample: Callable[[Contender], Sample],
    *,
    parts: int = 1,
) -> Mapping[str, Case]:
    return {
        named(one.name, workload): Case(sample(one), one.events // parts, one.backend)
        for one in contenders
    }


def fan_out(contender: Contender, handlers: int) -> Sample:
    """Make the case of one publisher and so many handlers of its topic."""

    async def sample(events: int) -> float:
        tally = Tally()
        async with contender.wire([TOPIC] * handlers, tally) as publish:
            spent, published = await _timed(publish, EVENT, events)
        expect(tally.handled, published * handlers)
        return spent / events / handlers

    return sample


def ten_to_ten(contender: Contender) -> Sample:
    """Make the case of ten tasks that publish to one topic, and ten handlers."""

    async def sample(events: int) -> float:
        tally, each = Tally(), max(1, events // PUBLISHERS)
        async with contender.wire([TOPIC] * 10, tally) as publish:
            await publish(repeat(EVENT, 10))
            started = thread_time_ns()
            async with anyio.create_task_group() as tasks:
                for _ in range(PUBLISHERS):
                    tasks.start_soon(publish, repeat(EVENT, each))
            spent = thread_time_ns() - started
        expect(tally.handled, (each * PUBLISHERS + 10) * 10)
        return spent / each / PUBLISHERS / 10

    return sample


def nested_orders(contender: Contender) -> Sample:
    """Make the case of dicts that reach one handler as validated orders with line items."""

    async def sample(events: int) -> float:
        tally = Tally()
        if contender.orders is None:
            async with contender.wire([TOPIC], tally) as publish:
                spent, published = await _timed(_validating(publish), NESTED, events)
        else:
            async with contender.orders(tally) as publish:
                spent, published = await _timed(publish, NESTED, events)
        expect(tally.handled, published)
        return spent / events

    return sample


def bytes_each(contender: Contender) -> Sample:
    """Make the case of bytes that a subscription takes before its first event, with its handler."""

    async def sample(subscriptions: int) -> float:
        topics = [f"memory.t{number}" for number in range(subscriptions)]
        tracemalloc.start()
        try:
            async with contender.wire(topics, Tally()):
                gc.collect()
                kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        return kept / subscriptions

    return sample


def start_and_stop(contender: Contender) -> Sample:
    """Make the case of nanoseconds that a subscription takes to begin and end, without an event."""

    async def sample(subscriptions: int) -> float:
        topics = [f"brief.t{number}" for number in range(subscriptions)]
        limit = inf if contender.kind == "bus" else LIMIT_SECONDS * subscriptions / SUBSCRIPTIONS
        started = thread_time_ns()
        async with contender.wire(within(limit, topics), Tally()):
            pass
        return (thread_time_ns() - started) / subscriptions

    return sample


async def _timed(publish: Publish, event: Event, events: int) -> tuple[int, int]:
    """Publish, once warm; give the nanoseconds, and how many were published in all."""
    warm_up = 1 + events // 2
    await publish(repeat(event, warm_up))
    started = thread_time_ns()
    await publish(repeat(event, events))
    return thread_time_ns() - started, warm_up + events


def _validating(publish: Publish) -> Publish:
    """Do at the publisher what the library does not do: make a model of each dict."""

    async def validating(events: Iterable[Event]) -> None:
        await publish(map(NestedOrder.model_validate, events))

    return validating
