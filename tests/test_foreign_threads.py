"""A bus belongs to one event loop: in another thread, all but a few methods say so at once."""

from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio import to_thread

from eventbus import EventBus, EventBusError, RequestTopic, Router, Topic

JOBS = Topic("jobs", int)
QUERY = RequestTopic("query", int, int)

SENTENCE = "runs in another thread, and is not safe to use from this one"


async def subscribe(bus: EventBus) -> None:
    """Subscribe and leave."""
    async with bus.subscribe(JOBS):
        pass


USES: dict[str, Callable[[EventBus], Awaitable[object]]] = {
    "publish": lambda bus: bus.publish(JOBS, 1),
    "publish_with_options": lambda bus: bus.publish(JOBS, 1, key="k"),
    "publish_many": lambda bus: bus.publish_many(JOBS, [1]),
    "request": lambda bus: bus.request(QUERY, 1),
    "request_of_nobody": lambda bus: bus.request("nobody", {}, reply=int),
    "wait_for": lambda bus: bus.wait_for(JOBS),
    "wait_for_a_time": lambda bus: bus.wait_for(JOBS, timeout=1.0),
    "subscribe": subscribe,
    "join": lambda bus: bus.join(),
    "drain": lambda bus: bus.drain(),
    "unsubscribe": lambda bus: bus.unsubscribe("jobs"),
    "redrive": lambda bus: bus.redrive(),
    "dead_letters": lambda bus: bus.dead_letters(),
    "forget": lambda bus: bus.forget("jobs"),
}

REGISTERING: dict[str, Callable[[EventBus], object]] = {
    "on": lambda bus: bus.on(JOBS)(print_job),
    "include": lambda bus: bus.include(Router()),
    "publish_nowait": lambda bus: bus.publish_nowait(JOBS, 1),
}


async def print_job(event: int) -> None:
    """Be a handler."""


def busless() -> EventBus:
    """Give a bus with a handler and a responder."""
    bus = EventBus()
    bus.on(JOBS, name="jobs")(print_job)

    @bus.on(QUERY)
    async def answer(question: int) -> int:
        return question

    return bus


async def error_of(call: Callable[[], object]) -> BaseException | None:
    """Call in another thread; give what it raised."""

    def catch() -> BaseException | None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - shown to the test
            return error
        return None

    return await to_thread.run_sync(catch)


@pytest.mark.parametrize("use", USES)
async def test_what_is_awaited_is_refused_in_another_loop(
    use: str, anyio_backend_name: str
) -> None:
    """Also where the route is known already, and never by a hang."""
    bus = busless()

    async def limited() -> object:
        with anyio.fail_after(5):
            return await USES[use](bus)

    async with bus:
        await bus.publish(JOBS, 0)
        await bus.request(QUERY, 0)
        await bus.join()
        error = await error_of(lambda: anyio.run(limited, backend=anyio_backend_name))

    assert type(error) is EventBusError
    assert SENTENCE in str(error)


@pytest.mark.parametrize("use", REGISTERING)
async def test_what_is_called_is_refused_in_another_thread(use: str) -> None:
    """While the bus runs; before and after, anybody may."""
    bus = busless()
    async with bus:
        await bus.publish(JOBS, 0)
        error = await error_of(lambda: REGISTERING[use](bus))

    assert type(error) is EventBusError
    assert SENTENCE in str(error)


async def test_handlers_may_register_anywhere_while_it_does_not_run() -> None:
    """Before it starts, the bus belongs to no thread."""
    bus = EventBus()

    assert await error_of(lambda: bus.on(JOBS)(print_job)) is None


async def test_figures_are_readable_from_anywhere() -> None:
    """Who watches from a thread of its own may look."""
    bus = busless()
    async with bus:
        await bus.publish(JOBS, 0)
        await bus.join()
        figures = await to_thread.run_sync(bus.stats)

    assert figures.succeeded == 1
