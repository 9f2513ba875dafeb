"""A question and its answer, one after the other."""

__all__ = ("round_trips",)

from time import thread_time_ns

from eventbus import EventBus, RequestTopic
from tests.benchmarks.measure import expect
from tests.benchmarks.order import EVENT

ECHO = RequestTopic("bench.echo", object, object)


async def round_trips(requests: int) -> float:
    """Time of a `bus.request`, its responder parked when it comes."""
    answered = 0
    bus = EventBus()

    @bus.on(ECHO)
    async def answer(event: object) -> object:
        return event

    async with bus:
        await bus.request(ECHO, EVENT)
        started = thread_time_ns()
        for _ in range(requests):
            answered += await bus.request(ECHO, EVENT) is EVENT
        spent = thread_time_ns() - started
    expect(answered, requests)
    return spent / requests
