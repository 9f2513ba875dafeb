"""Whose cancellation it was: somebody else's fails a handler, ours never does."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import CancelScope

from eventbus import EventBus, Topic
from eventbus._loop import WakeUp, is_foreign_cancellation, wake_up_type
from eventbus.middleware import DeadLetter, Retry
from eventbus.testing import ManualClock

JOBS = Topic("jobs", int)

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""Trio's cancellation never leaves the scope it belongs to: there is none of somebody else's."""


async def await_what_somebody_cancelled() -> None:
    """Await a task of nobody's concern that is cancelled meanwhile."""
    task = asyncio.get_running_loop().create_task(asyncio.sleep(3600))
    asyncio.get_running_loop().call_soon(task.cancel)
    await task


async def caught_from(something: Callable[[], Any]) -> BaseException:
    """Give what it raises, as the one who has to judge it would see it."""
    try:
        await something()
    except BaseException as error:  # noqa: BLE001 - to be judged
        return error
    raise AssertionError("nothing was raised")


async def stop_at_work(bus: EventBus, clock: ManualClock) -> None:
    """Leave the bus by an error, while a handler is at the first of two messages."""
    async with bus:
        await bus.publish_many(JOBS, [1, 2])
        await clock.settle()
        raise LookupError


# --- The judgement --------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), SystemExit()])
async def test_an_error_is_no_cancellation(error: BaseException) -> None:
    """Only cancellations can be foreign."""
    assert not is_foreign_cancellation(error)


@on_asyncio
async def test_the_cancellation_of_an_awaited_task_is_foreign() -> None:
    """Nobody wanted this task to end."""
    error = await caught_from(await_what_somebody_cancelled)

    assert isinstance(error, asyncio.CancelledError)
    assert is_foreign_cancellation(error)


async def test_the_cancellation_of_a_scope_is_ours() -> None:
    """A scope around the running task is cancelled: it has to end."""
    judged: list[bool] = []
    with CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            judged.append(is_foreign_cancellation(error))
            raise

    assert judged == [False]


@on_asyncio
async def test_a_native_cancellation_of_the_task_is_ours() -> None:
    """`Task.cancel()` means the running task, though no scope knows of it."""
    judged: list[bool] = []

    async def wait() -> None:
        judged.append(is_foreign_cancellation(await caught_from(anyio.sleep_forever)))

    task = asyncio.create_task(wait())
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    await asyncio.wait([task])

    assert judged == [False]


@on_asyncio
async def test_a_foreign_cancellation_while_ours_goes_on_is_ours() -> None:
    """Who is to end anyway ends, whatever else was cancelled."""
    judged: list[bool] = []
    with CancelScope() as scope:
        scope.cancel()
        judged.append(is_foreign_cancellation(await caught_from(await_what_somebody_cancelled)))

    assert judged == [False]


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_asyncios_cancellation_on_trio_is_foreign() -> None:
    """Whoever raised it, it was not this loop."""
    assert is_foreign_cancellation(asyncio.CancelledError())


# --- Waking up ------------------------------------------------------------------------------------


async def wait_for(wake_up: WakeUp) -> None:
    """Park as a worker does."""
    await wake_up.wait()


async def test_a_wake_up_ends_the_wait_for_it(clock: ManualClock) -> None:
    """Whoever waits goes on once it is set."""
    wake_up = wake_up_type()()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_for, wake_up)
        await clock.settle()
        wake_up.set()


async def test_a_wake_up_may_be_set_first_and_more_than_once() -> None:
    """Then there is nothing to wait for."""
    wake_up = wake_up_type()()
    wake_up.set()
    wake_up.set()
    await wake_up.wait()


async def test_a_wake_up_may_be_set_after_its_waiter_was_cancelled(clock: ManualClock) -> None:
    """Who sets it need not know that nobody waits any more."""
    wake_up = wake_up_type()()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_for, wake_up)
        await clock.settle()
        tasks.cancel_scope.cancel()
    wake_up.set()


# --- Through the bus ------------------------------------------------------------------------------


@on_asyncio
async def test_a_foreign_cancellation_is_a_failure_of_the_handler(clock: ManualClock) -> None:
    """Counted and dead-lettered as an error; the worker goes on with the next message."""
    handled: list[int] = []
    bus = EventBus(clock=clock, middleware=[DeadLetter()])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        if event == 1:
            await await_what_somebody_cancelled()
        handled.append(event)

    async with bus:
        await bus.publish_many(JOBS, [0, 1, 2])
        await bus.join()
        letters = await bus.dead_letters()
        stats = bus.stats()

    assert handled == [0, 2]
    assert [letter.error_type for letter in letters] == ["CancelledError"]
    assert (stats.failed, stats.dead_lettered, stats.succeeded) == (1, 1, 2)


@on_asyncio
async def test_a_foreign_cancellation_is_tried_again(clock: ManualClock) -> None:
    """`Retry` takes it for an error worth another attempt."""
    attempts: list[int] = []
    bus = EventBus(clock=clock, middleware=[Retry(attempts=3, jitter=False)])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        attempts.append(event)
        if len(attempts) < 3:
            await await_what_somebody_cancelled()

    async with bus:
        await bus.publish(JOBS, 7)
        await clock.advance(10.0)

    assert attempts == [7, 7, 7]
    assert (bus.stats().succeeded, bus.stats().failed) == (1, 2)


@on_asyncio
async def test_workers_side_by_side_survive_foreign_cancellations(clock: ManualClock) -> None:
    """None of several ends, and no key stays closed."""
    bus = EventBus(clock=clock)

    @bus.on(JOBS, concurrency=3, key=str)
    async def handle(event: int) -> None:
        if event % 2:
            await await_what_somebody_cancelled()

    async with bus:
        await bus.publish_many(JOBS, range(30))
        await bus.join()

        assert (bus.stats().succeeded, bus.stats().failed) == (15, 15)


async def test_our_own_cancellation_is_no_failure(clock: ManualClock) -> None:
    """A handler cancelled because the bus stops is abandoned: not failed, not a dead letter."""
    handled: list[int] = []
    bus = EventBus(clock=clock, middleware=[DeadLetter(), Retry(attempts=3)])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        await anyio.sleep_forever()
        handled.append(event)

    with pytest.raises(LookupError):
        await stop_at_work(bus, clock)
    stats = bus.stats()

    assert (handled, await bus.dead_letters()) == ([], [])
    assert (stats.failed, stats.retried, stats.dead_lettered, stats.succeeded) == (0, 0, 0, 0)
    assert (stats.delivered, stats.abandoned, stats.in_flight) == (1, 2, 0)


@on_asyncio
async def test_a_native_cancellation_of_the_bus_is_no_failure(clock: ManualClock) -> None:
    """`Task.cancel()` of who runs the bus stops it, and ends as a cancellation."""
    bus = EventBus(clock=clock, middleware=[DeadLetter()])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        await anyio.sleep_forever()

    async def run() -> None:
        async with bus:
            await bus.publish(JOBS, 1)
            await anyio.sleep_forever()

    task = asyncio.create_task(run())
    await clock.settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (bus.stats().failed, bus.stats().abandoned) == (0, 1)
    assert await bus.dead_letters() == []


async def test_errors_of_a_handler_that_is_stopped_are_no_failures(clock: ManualClock) -> None:
    """What it raises because it was cancelled is part of the cancellation."""
    bus = EventBus(clock=clock, middleware=[DeadLetter(), Retry()])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("while cleaning up")

    with pytest.raises(LookupError):
        await stop_at_work(bus, clock)
    stats = bus.stats()

    assert (stats.failed, stats.retried, stats.dead_lettered, stats.lost) == (0, 0, 0, 0)
    assert stats.abandoned == 2


async def test_a_group_of_errors_and_our_cancellation_is_no_failure(clock: ManualClock) -> None:
    """A task group in a handler gathers both; the body's error still leaves the bus unwrapped."""
    bus = EventBus(clock=clock, middleware=[DeadLetter(), Retry()])

    async def fail_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("while cleaning up")

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail_when_cancelled)
            tasks.start_soon(anyio.sleep_forever)

    with pytest.raises(LookupError):
        await stop_at_work(bus, clock)
    stats = bus.stats()

    assert (stats.failed, stats.retried, stats.dead_lettered, stats.lost) == (0, 0, 0, 0)
    assert stats.abandoned == 2


async def test_a_group_that_holds_our_cancellation_is_no_failure(clock: ManualClock) -> None:
    """Also where the handler itself wraps it, together with an error, in a group of its own."""
    bus = EventBus(clock=clock, middleware=[DeadLetter()])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        try:
            await anyio.sleep_forever()
        except BaseException as error:  # noqa: BLE001 - it is raised again, in a group
            raise BaseExceptionGroup("both", [error, ValueError()]) from None

    with pytest.raises(LookupError):
        await stop_at_work(bus, clock)

    assert (bus.stats().failed, bus.stats().abandoned) == (0, 2)


async def test_publishing_while_the_bus_stops_is_no_failure(clock: ManualClock) -> None:
    """A handler that publishes then meets the cancellation, not an error."""
    met: list[BaseException] = []
    bus = EventBus(clock=clock, middleware=[DeadLetter()])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            met.append(await caught_from(partial(bus.publish, JOBS, 3)))

    with pytest.raises(LookupError):
        await stop_at_work(bus, clock)

    assert [isinstance(error, anyio.get_cancelled_exc_class()) for error in met] == [True]
    assert (bus.stats().failed, bus.stats().abandoned) == (0, 2)
