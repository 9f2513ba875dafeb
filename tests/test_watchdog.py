"""Time limits: when they fire, what they hit, and what they leave alone."""

import threading
from collections.abc import Callable
from contextvars import ContextVar
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from eventbus import (
    BusStats,
    Context,
    EventBus,
    FailedDelivery,
    InvalidOption,
    Router,
    Topic,
    dispatch,
)
from eventbus.middleware import CallNext, DeadLetter, Retry, Timeout
from eventbus.testing import ManualClock

JOBS = Topic("jobs", int)
mood: ContextVar[str] = ContextVar("mood")
STUCK = 1
"""The event at which the handlers of these tests stand still."""


class Stalling:
    """A handler that never ends with some events, and notes how long it was let run."""

    def __init__(self, clock: ManualClock, *stuck: int) -> None:
        self.seen: list[int] = []
        self.ran: list[float] = []
        self._clock = clock
        self._stuck = stuck

    async def __call__(self, event: int) -> None:
        self.seen.append(event)
        if event not in self._stuck:
            return
        begin = self._clock.monotonic()
        try:
            await anyio.sleep_forever()
        finally:
            self.ran.append(self._clock.monotonic() - begin)


def tens_of(event: int) -> str:
    """Give the key of an event, where these tests have keys."""
    return str(event // 10)


async def letters_of(bus: EventBus) -> list[FailedDelivery]:
    """Give the dead letters, oldest first."""
    return (await bus.dead_letters())[::-1]


async def run(
    clock: ManualClock, handler: Callable[[int], Any], *events: int, **options: Any
) -> tuple[list[FailedDelivery], BusStats]:
    """Publish events, let a minute pass; give the dead letters and the figures of the bus."""
    bus = EventBus(clock=clock, middleware=[DeadLetter(), Timeout(1.0)])
    bus.on(JOBS, name="jobs", **options)(handler)
    async with bus:
        await bus.publish_many(JOBS, events)
        await clock.advance(60.0)
        return await letters_of(bus), bus.stats()


# --- When -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [0.0, 0.03, 0.09, 0.1, 0.5])
@pytest.mark.parametrize("seconds", [0.5, 1.0, 40.0])
async def test_a_limit_fires_within_a_quarter_of_its_time(
    clock: ManualClock, seconds: float, phase: float
) -> None:
    """Never early and at most 25 % late, wherever the attempt begins between two looks."""
    handler = Stalling(clock, STUCK)
    bus = EventBus(clock=clock, middleware=[Timeout(seconds)])
    bus.on(JOBS)(handler)
    async with bus:
        await bus.publish(JOBS, 0)  # the watchdog begins to look
        await clock.advance(phase * seconds)
        await bus.publish(JOBS, STUCK)
        await clock.advance(2 * seconds)

    assert len(handler.ran) == 1
    assert seconds <= handler.ran[0] <= 1.25 * seconds


async def test_a_short_limit_is_kept_beside_a_long_one(clock: ManualClock) -> None:
    """Each worker's own limit counts, also when a much longer one runs already."""
    long, short = Stalling(clock, STUCK), Stalling(clock, STUCK)
    bus = EventBus(clock=clock)
    bus.on("long", model=int, middleware=[Timeout(30.0)])(long)
    bus.on("short", model=int, middleware=[Timeout(1.0)])(short)
    async with bus:
        await bus.publish(Topic("long", int), STUCK)
        await clock.advance(4.0)
        await bus.publish(Topic("short", int), STUCK)
        await clock.advance(40.0)

    assert 1.0 <= short.ran[0] <= 1.25
    assert 30.0 <= long.ran[0] <= 37.5


async def test_limits_fire_several_times_in_a_row(clock: ManualClock) -> None:
    """Each attempt has its full time, and none more than a quarter on top."""
    handler = Stalling(clock, 1, 2, 3, 4, 5)
    letters, stats = await run(clock, handler, 1, 2, 3, 4, 5)

    assert [letter.message.payload for letter in letters] == [1, 2, 3, 4, 5]
    assert (len(handler.ran), stats.failed) == (5, 5)
    assert all(1.0 <= seconds <= 1.25 for seconds in handler.ran)


async def test_what_ends_in_time_is_left_alone(clock: ManualClock) -> None:
    """An attempt that needs nearly all of its time succeeds."""
    bus = EventBus(clock=clock, middleware=[Timeout(1.0)])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        await clock.sleep(0.99)

    async with bus:
        await bus.publish_many(JOBS, range(5))
        await clock.advance(10.0)

    assert (bus.stats().succeeded, bus.stats().failed) == (5, 0)


async def test_the_limit_is_for_each_attempt(clock: ManualClock) -> None:
    """A worker that is busy for longer than that with many messages is none too slow."""
    bus = EventBus(clock=clock, middleware=[Timeout(1.0)])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        await clock.sleep(0.3)

    async with bus:
        await bus.publish_many(JOBS, range(40))
        await clock.advance(20.0)

    assert (bus.stats().succeeded, bus.stats().failed) == (40, 0)


async def test_nobody_looks_while_nothing_runs(clock: ManualClock) -> None:
    """The watchdog sleeps for good once there is nothing to look after."""
    bus = EventBus(clock=clock, middleware=[Timeout(1.0)])
    bus.on(JOBS)(Stalling(clock))
    async with bus:
        await bus.publish(JOBS, 0)
        await clock.advance(1.0)

        assert clock.sleeping == 0


# --- What it hits ---------------------------------------------------------------------------------


async def test_running_too_long_is_a_failure(clock: ManualClock) -> None:
    """Counted once, with an error that names the subscription, the limit and what to do."""
    letters, stats = await run(clock, Stalling(clock, STUCK), STUCK)

    assert [letter.error_type for letter in letters] == ["HandlerTimeout"]
    assert letters[0].error == (
        "jobs ran longer than Timeout(1.0): give it more time, or make it faster"
    )
    assert (stats.delivered, stats.failed, stats.succeeded) == (1, 1, 0)


async def test_the_next_message_is_never_hit(clock: ManualClock) -> None:
    """However it is interleaved with stuck ones, what ends in time succeeds."""
    events = [1, 2, 2, 1, 1, 2, 1, 2]
    bus = EventBus(clock=clock, middleware=[DeadLetter(), Timeout(1.0)])
    done: list[int] = []

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        if event == STUCK:
            await anyio.sleep_forever()
        for _ in range(20):
            await checkpoint()
        done.append(event)

    async with bus:
        await bus.publish_many(JOBS, events)
        await clock.advance(10.0)
        letters = await letters_of(bus)

    assert done == [2, 2, 2, 2]
    assert [letter.message.payload for letter in letters] == [1, 1, 1, 1]


async def test_other_subscriptions_are_not_hit(clock: ManualClock) -> None:
    """One that is stuck is cancelled alone."""
    patient, stuck = Stalling(clock, STUCK), Stalling(clock, STUCK)
    bus = EventBus(clock=clock)
    bus.on(JOBS, middleware=[Timeout(1.0)])(stuck)
    bus.on(JOBS, name="patient", middleware=[Timeout(10.0)])(patient)
    async with bus:
        await bus.publish(JOBS, STUCK)
        await clock.advance(5.0)

        assert (len(stuck.ran), patient.ran) == (1, [])
        assert bus.stats().subscriptions["patient"].in_flight == 1

        await clock.advance(10.0)

    assert len(patient.ran) == 1


async def test_middleware_counts_as_part_of_the_attempt(clock: ManualClock) -> None:
    """Time spent around the handler is the attempt's time."""

    async def dawdle(context: Context[Any], call_next: CallNext) -> object:
        await anyio.sleep_forever()
        return await call_next(context)

    handler = Stalling(clock)
    letters, _ = await run(clock, handler, 0, middleware=[dawdle])

    assert ([letter.error_type for letter in letters], handler.seen) == (["HandlerTimeout"], [])


async def test_workers_side_by_side_have_limits_of_their_own(clock: ManualClock) -> None:
    """Of several, the stuck ones are cancelled and their keys go on; the others never notice."""
    handler = Stalling(clock, 10, 20)
    letters, stats = await run(clock, handler, 10, 20, 31, 11, 21, 32, concurrency=3, key=tens_of)

    assert {letter.message.payload for letter in letters} == {10, 20}
    assert sorted(handler.seen) == [10, 11, 20, 21, 31, 32]
    assert (stats.succeeded, stats.failed) == (4, 2)


async def test_a_key_behind_a_stuck_message_has_its_turn(clock: ManualClock) -> None:
    """Those behind begin when the stuck one has been cancelled, and not before."""
    handler = Stalling(clock, 10)
    bus = EventBus(clock=clock, middleware=[Timeout(1.0)])
    bus.on(JOBS, concurrency=2, key=tens_of)(handler)
    async with bus:
        await bus.publish_many(JOBS, [10, 11, 12])
        await clock.advance(0.9)

        assert handler.seen == [10]

        await clock.advance(0.5)

    assert handler.seen == [10, 11, 12]


async def test_an_attempt_out_of_time_can_be_tried_again(clock: ManualClock) -> None:
    """It is a failure as any other, with a full limit for the next attempt."""
    attempts: list[int] = []
    bus = EventBus(clock=clock, middleware=[Timeout(1.0), Retry(attempts=3, jitter=False)])

    @bus.on(JOBS)
    async def handle(event: int, context: Context[int]) -> None:
        attempts.append(context.attempt)
        if context.attempt < 3:
            await anyio.sleep_forever()

    async with bus:
        await bus.publish(JOBS, 0)
        await clock.advance(10.0)

    assert attempts == [1, 2, 3]
    assert (bus.stats().succeeded, bus.stats().failed) == (1, 2)


async def test_waiting_for_a_held_retry_takes_no_time(clock: ManualClock) -> None:
    """A worker that holds its lane for longer than the limit is not at work."""
    attempts: list[int] = []
    retry = Retry(attempts=2, initial=9.0, jitter=False, hold=True)
    bus = EventBus(clock=clock, middleware=[Timeout(1.0), retry])

    @bus.on(JOBS)
    async def handle(event: int, context: Context[int]) -> None:
        attempts.append(context.attempt)
        if context.attempt == 1:
            raise ValueError

    async with bus:
        await bus.publish(JOBS, 0)
        await clock.advance(20.0)

    assert attempts == [1, 2]
    assert (bus.stats().succeeded, bus.stats().failed) == (1, 1)


async def test_an_attempt_after_a_held_retry_has_its_limit(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the worker goes on within its time slice, though nobody looked while it held."""
    monkeypatch.setattr(dispatch, "stopwatch", Mock(return_value=0.0))
    retry = Retry(attempts=2, initial=9.0, jitter=False, hold=True)
    bus = EventBus(clock=clock, middleware=[Timeout(1.0), retry])

    @bus.on(JOBS)
    async def handle(event: int, context: Context[int]) -> None:
        if context.attempt == 1:
            raise ValueError
        await anyio.sleep_forever()

    async with bus:
        await bus.publish(JOBS, 0)
        await clock.advance(20.0)

        assert bus.stats().failed == 2


async def test_an_attempt_in_a_new_task_has_its_limit(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a handler that set context variables, whose worker goes on within its slice."""
    monkeypatch.setattr(dispatch, "stopwatch", Mock(return_value=0.0))
    bus = EventBus(clock=clock, middleware=[Timeout(1.0)])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        mood.set("changed")
        if event == STUCK:
            await anyio.sleep_forever()

    async with bus:
        await bus.publish_many(JOBS, [0, STUCK])
        await clock.advance(5.0)

        assert (bus.stats().succeeded, bus.stats().failed) == (1, 1)


# --- Handlers that do not go quietly --------------------------------------------------------------


async def test_turning_the_cancellation_into_an_error_is_one_failure(clock: ManualClock) -> None:
    """A handler that answers with its own exception has failed once, for want of time."""

    async def handle(event: int) -> None:
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            raise ValueError("my own") from error

    letters, stats = await run(clock, handle, 1, 2)

    assert [letter.error_type for letter in letters] == ["HandlerTimeout"] * 2
    assert (stats.failed, stats.dead_lettered) == (2, 2)


async def test_errors_while_cleaning_up_are_one_failure(clock: ManualClock) -> None:
    """Also when they come in a group, from a task group of the handler's."""

    async def fail_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("cleaning up")

    async def handle(event: int) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail_when_cancelled)
            tasks.start_soon(anyio.sleep_forever)

    letters, stats = await run(clock, handle, 1)

    assert [letter.error_type for letter in letters] == ["HandlerTimeout"]
    assert stats.failed == 1


async def test_a_handler_that_takes_no_notice_is_cancelled_again(clock: ManualClock) -> None:
    """One that catches the cancellation and waits on cannot: the next wait raises it again."""
    caught: list[int] = []

    async def handle(event: int) -> None:
        for attempt in range(3):
            try:
                await anyio.sleep_forever()
            except BaseException:  # noqa: BLE001 - what a rude handler does
                caught.append(attempt)
        await checkpoint()

    letters, stats = await run(clock, handle, 1)

    assert caught == [0, 1, 2]
    assert ([letter.error_type for letter in letters], stats.failed) == (["HandlerTimeout"], 1)


async def test_succeeding_at_the_last_moment_is_a_success(clock: ManualClock) -> None:
    """A handler that catches the cancellation and returns has done its work; the next is safe."""
    done: list[int] = []

    async def handle(event: int) -> None:
        if event == STUCK:
            try:
                await anyio.sleep_forever()
            except BaseException:  # noqa: BLE001 - what a rude handler does
                done.append(event)
                return
        await checkpoint()
        done.append(event)

    letters, stats = await run(clock, handle, STUCK, 2, 3)

    assert (letters, done) == ([], [STUCK, 2, 3])
    assert (stats.succeeded, stats.failed) == (3, 0)


# --- Handlers in threads --------------------------------------------------------------------------


async def test_a_stuck_thread_does_not_hold_up_its_subscription(clock: ManualClock) -> None:
    """Its attempt fails in time, and the lane goes on while the thread still runs."""
    seen: list[int] = []
    begun, released, next_done = threading.Event(), threading.Event(), threading.Event()
    bus = EventBus(clock=clock, middleware=[DeadLetter(), Timeout(1.0)])

    @bus.on(JOBS)
    def handle(event: int) -> None:
        if event == STUCK:
            begun.set()
            released.wait(30.0)
        else:
            next_done.set()
        seen.append(event)

    async with bus:
        try:
            await bus.publish_many(JOBS, [STUCK, 2])
            await to_thread.run_sync(begun.wait, 30.0)
            await clock.advance(2.0)
            await to_thread.run_sync(next_done.wait, 30.0)
            letters = await letters_of(bus)
            meanwhile = list(seen)
        finally:
            released.set()

    assert meanwhile == [2]
    assert [(letter.message.payload, letter.error_type) for letter in letters] == [
        (STUCK, "HandlerTimeout")
    ]


async def test_a_stuck_thread_keeps_its_place_until_it_returns(clock: ManualClock) -> None:
    """Threads stay bounded: with all of them stuck, the next handler waits for one to return."""
    seen: list[int] = []
    begun, released = threading.Event(), threading.Event()
    bus = EventBus(clock=clock, threads=1, middleware=[DeadLetter()])

    @bus.on(JOBS, middleware=[Timeout(1.0)])
    def be_stuck(event: int) -> None:
        begun.set()
        released.wait(30.0)
        seen.append(event)

    @bus.on("others", model=int)
    def handle(event: int) -> None:
        seen.append(event)

    async with bus:
        try:
            await bus.publish(JOBS, STUCK)
            await to_thread.run_sync(begun.wait, 30.0)
            await clock.advance(2.0)
            await bus.publish(Topic("others", int), 2)
            await clock.settle()
        finally:
            released.set()

    assert seen == [STUCK, 2]


# --- The policy -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), timedelta(0)])
def test_a_limit_that_cannot_be_is_refused(seconds: Any) -> None:
    """Time has to be positive."""
    with pytest.raises(InvalidOption, match=r"give (more than 0 )?seconds"):
        Timeout(seconds)


def test_a_limit_may_be_a_timedelta() -> None:
    """It means its seconds."""
    assert Timeout(timedelta(minutes=1)).seconds == 60.0


async def test_the_innermost_limit_replaces_the_others(clock: ManualClock) -> None:
    """A handler's own is longer here than its router's and its bus's, and counts alone."""
    handlers = [Stalling(clock, STUCK) for _ in range(3)]
    bus = EventBus(clock=clock, middleware=[Timeout(1.0)])
    router = Router(middleware=[Timeout(4.0)])
    bus.on(JOBS)(handlers[0])
    router.on(JOBS)(handlers[1])
    router.on(JOBS, middleware=[Timeout(8.0)])(handlers[2])
    bus.include(router)
    async with bus:
        await bus.publish(JOBS, STUCK)
        await clock.advance(20.0)

    ran = [handler.ran[0] for handler in handlers]
    assert [1.0 <= ran[0] <= 1.25, 4.0 <= ran[1] <= 5.0, 8.0 <= ran[2] <= 10.0] == [True] * 3


async def test_without_a_limit_a_handler_may_take_its_time(clock: ManualClock) -> None:
    """No policy, no limit."""
    bus = EventBus(clock=clock)

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        await clock.sleep(100_000.0)

    async with bus:
        await bus.publish(JOBS, 0)
        await clock.advance(100_000.0)

    assert (bus.stats().succeeded, bus.stats().failed) == (1, 0)
