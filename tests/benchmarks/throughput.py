"""CPU time of a message through a bus, from `publish` until its handlers have returned."""

__all__ = (
    "everything_on",
    "fan_out",
    "fan_out_of_models",
    "in_batches",
    "with_keys_remembered",
    "with_middleware",
    "with_where",
)

from itertools import count
from time import thread_time_ns

from eventbus import Context, EventBus
from eventbus.middleware import (
    CallNext,
    DeadLetter,
    Deduplicate,
    Middleware,
    Policy,
    Retry,
    Timeout,
)
from tests.benchmarks.floors import Tally, counting
from tests.benchmarks.measure import Sample, expect
from tests.benchmarks.order import EVENT, TOPIC, Order

WARM_UP = 100
BATCH = 100


def with_middleware(*layers: Middleware | Policy) -> Sample:
    """Make the case of one handler on a bus with this middleware."""

    async def sample(messages: int) -> float:
        bus, tally = EventBus(middleware=layers), Tally()
        bus.on(TOPIC)(counting(tally))
        return await timed(bus, tally, messages)

    return sample


async def with_where(messages: int) -> float:
    """One handler with a content filter that lets everything through."""
    bus, tally = EventBus(), Tally()
    bus.on(TOPIC, where=lambda event: True)(counting(tally))
    return await timed(bus, tally, messages)


async def with_keys_remembered(messages: int) -> float:
    """One handler of which each message is remembered, as none is like another."""
    numbers = count()
    bus, tally = EventBus(middleware=[Deduplicate(key=lambda event: next(numbers))]), Tally()
    bus.on(TOPIC)(counting(tally))
    return await timed(bus, tally, messages)


def fan_out(subscriptions: int) -> Sample:
    """Make the case of so many handlers, default options; the figure is per publish."""

    async def sample(messages: int) -> float:
        bus, tally = EventBus(), Tally()
        for _ in range(subscriptions):
            bus.on(TOPIC)(counting(tally))
        return await timed(bus, tally, messages, subscriptions=subscriptions)

    return sample


def fan_out_of_models(subscriptions: int) -> Sample:
    """Make the case of so many handlers of one model, fed with dicts."""

    async def sample(messages: int) -> float:
        bus, tally = EventBus(), Tally()
        for _ in range(subscriptions):
            bus.on(TOPIC, model=Order)(counting(tally))
        return await timed(bus, tally, messages, subscriptions=subscriptions)

    return sample


async def everything_on(messages: int) -> float:
    """A dict for a model, three middleware, three policies, `where`, and the id read."""
    layers: list[Middleware | Policy] = [
        DeadLetter(),
        Retry(),
        Timeout(5.0),
        pass_on,
        pass_on,
        pass_on,
    ]
    bus, tally = EventBus(middleware=layers), Tally()

    @bus.on(TOPIC, model=Order, where=lambda order: order.total_cents > 0)
    async def handle(order: Order, context: Context[Order]) -> None:
        tally.handled += bool(context.message.id)

    return await timed(bus, tally, messages)


async def in_batches(messages: int) -> float:
    """One handler, the messages published a hundred at a time."""
    bus, tally = EventBus(), Tally()
    bus.on(TOPIC)(counting(tally))
    batch = [EVENT] * BATCH
    async with bus:
        await bus.publish_many(TOPIC, batch)
        await bus.join()
        started = thread_time_ns()
        for _ in range(messages // BATCH):
            await bus.publish_many(TOPIC, batch)
        await bus.join()
        spent = thread_time_ns() - started
    expect(tally.handled, messages + BATCH)
    return spent / messages


async def pass_on(context: Context[object], call_next: CallNext) -> object:
    """Be a middleware of the user's that does nothing."""
    return await call_next(context)


async def timed(bus: EventBus, tally: Tally, messages: int, *, subscriptions: int = 1) -> float:
    """Publish one by one to a warm bus, until all is handled; give nanoseconds per publish."""
    async with bus:
        for _ in range(WARM_UP):
            await bus.publish(TOPIC, EVENT)
        await bus.join()
        started = thread_time_ns()
        for _ in range(messages):
            await bus.publish(TOPIC, EVENT)
        await bus.join()
        spent = thread_time_ns() - started
    expect(tally.handled, (messages + WARM_UP) * subscriptions)
    return spent / messages
