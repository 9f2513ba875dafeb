"""When `CircuitBreaker` lets attempts begin, and what becomes of what has to wait."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import anyio
import pytest

from eventbus import Context, EventBus, InvalidOption, Topic
from eventbus.middleware import CircuitBreaker, DeadLetter, Filter, Policy, Retry, Throttle, Timeout
from eventbus.testing import ManualClock

JOBS = Topic("jobs", int)


class Bank:
    """What a handler depends on: open or closed, and it notes who came when."""

    def __init__(self, clock: ManualClock) -> None:
        self.is_open = False
        self.visits: list[tuple[float, int]] = []
        self._clock = clock
        self._begin = clock.monotonic()

    async def visit(self, event: int) -> None:
        """Fail unless it is open."""
        self.visits.append((self._clock.monotonic() - self._begin, event))
        if not self.is_open:
            raise ConnectionError("closed")


# --- Closed, open, half open ----------------------------------------------------------------------


async def test_failures_in_a_row_open_the_circuit(clock: ManualClock) -> None:
    """From then on nothing begins, and what comes stays queued."""
    bank = Bank(clock)
    bus = EventBus(clock=clock, middleware=[CircuitBreaker(failures=3, reset=30.0)])
    bus.on(JOBS, name="jobs")(bank.visit)
    async with bus:
        await bus.publish_many(JOBS, range(5))
        await clock.advance(29.9)
        stats = bus.stats().subscriptions["jobs"]

        assert bank.visits == [(0.0, 0), (0.0, 1), (0.0, 2)]
        assert (stats.delivered, stats.failed, stats.in_flight) == (3, 3, 0)
        assert stats.queue_depth == 2

        bank.is_open = True
        await clock.advance(0.1)


async def test_one_attempt_probes_after_a_while(clock: ManualClock) -> None:
    """If it succeeds, all go on."""
    bank = Bank(clock)
    bus = EventBus(clock=clock, middleware=[CircuitBreaker(failures=1, reset=30.0)])
    bus.on(JOBS)(bank.visit)
    async with bus:
        await bus.publish_many(JOBS, range(4))
        await clock.settle()
        bank.is_open = True
        await clock.advance(30.0)

    assert bank.visits == [(0.0, 0), (30.0, 1), (30.0, 2), (30.0, 3)]
    assert (bus.stats().succeeded, bus.stats().failed) == (3, 1)


async def test_a_probe_that_fails_opens_it_again(clock: ManualClock) -> None:
    """For as long as the first time."""
    bank = Bank(clock)
    bus = EventBus(clock=clock, middleware=[CircuitBreaker(failures=2, reset=10.0)])
    bus.on(JOBS)(bank.visit)
    async with bus:
        await bus.publish_many(JOBS, range(6))
        await clock.advance(25.0)
        bank.is_open = True
        await clock.advance(5.0)

    assert [time for time, _ in bank.visits] == [0.0, 0.0, 10.0, 20.0, 30.0, 30.0]


async def test_a_success_between_failures_begins_a_new_row(clock: ManualClock) -> None:
    """Only failures one after the other open the circuit."""
    visits: list[int] = []
    bus = EventBus(clock=clock, middleware=[CircuitBreaker(failures=2)])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        visits.append(event)
        if event % 2:
            raise ConnectionError

    async with bus:
        await bus.publish_many(JOBS, range(8))
        await clock.settle()

        assert visits == list(range(8))


async def test_after_a_probe_a_whole_row_has_to_fail_again(clock: ManualClock) -> None:
    """What failed before it opened is forgotten."""
    bank = Bank(clock)
    bus = EventBus(clock=clock, middleware=[CircuitBreaker(failures=2, reset=10.0)])
    bus.on(JOBS)(bank.visit)
    async with bus:
        await bus.publish_many(JOBS, range(3))
        await clock.settle()
        bank.is_open = True
        await clock.advance(10.0)
        bank.is_open = False
        await bus.publish_many(JOBS, range(3, 6))
        await clock.settle()

        assert [event for _, event in bank.visits] == [0, 1, 2, 3, 4]

        bank.is_open = True
        await clock.advance(10.0)


async def test_an_attempt_that_waits_is_not_used_up(clock: ManualClock) -> None:
    """A retry that is due while the circuit is open comes later, with the same number."""
    attempts: list[tuple[float, int]] = []
    begin = clock.monotonic()
    bus = EventBus(
        clock=clock,
        middleware=[
            CircuitBreaker(failures=2, reset=100.0),
            Retry(attempts=3, jitter=False),
            DeadLetter(),
        ],
    )

    @bus.on(JOBS)
    async def handle(event: int, context: Context[int]) -> None:
        attempts.append((clock.monotonic() - begin, context.attempt))
        raise ConnectionError

    async with bus:
        await bus.publish(JOBS, 1)
        await clock.advance(150.0)

        assert attempts == [(0.0, 1), (1.0, 2), (101.0, 3)]
        assert bus.stats().dead_lettered == 1


async def test_waiting_takes_up_no_time_of_an_attempt(clock: ManualClock) -> None:
    """A `Timeout` begins with the attempt, and its failures count as others do."""
    attempts: list[float] = []
    begin = clock.monotonic()
    bus = EventBus(clock=clock, middleware=[CircuitBreaker(2, reset=100.0), Timeout(10.0)])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        attempts.append(clock.monotonic() - begin)
        if event < 2:
            await anyio.sleep_forever()

    async with bus:
        await bus.publish_many(JOBS, range(4))
        await clock.advance(200.0)

    assert attempts[0] == 0.0
    assert 10.0 <= attempts[1] <= 12.5
    assert attempts[2] == attempts[3] >= attempts[1] + 110.0
    assert (bus.stats().succeeded, bus.stats().failed) == (2, 2)


# --- Several at once ------------------------------------------------------------------------------


@pytest.mark.parametrize("is_open", [True, False])
async def test_one_attempt_alone_probes(clock: ManualClock, is_open: bool) -> None:
    """The other workers wait for its end, and then go on or wait again."""
    running: list[int] = []
    goes_on = anyio.Event()
    bus = EventBus(clock=clock, middleware=[CircuitBreaker(failures=4, reset=10.0)])

    @bus.on(JOBS, concurrency=4)
    async def handle(event: int) -> None:
        running.append(event)
        if event >= 4:
            await goes_on.wait()
        if event < 4 or not is_open:
            raise ConnectionError

    async with bus:
        await bus.publish_many(JOBS, range(4))
        await clock.settle()
        assert sorted(running) == [0, 1, 2, 3]
        await bus.publish_many(JOBS, range(4, 8))
        await clock.advance(15.0)
        assert len(running) == 5
        goes_on.set()
        await clock.settle()
        assert len(running) == (8 if is_open else 5)
        is_open = True
        await clock.advance(10.0)

    assert sorted(running) == list(range(8))
    assert bus.stats().succeeded + bus.stats().failed == 8


async def test_failures_of_attempts_that_had_begun_do_not_prolong_it(clock: ManualClock) -> None:
    """While it is open, what began before is not heard: neither failures nor successes."""
    begin = clock.monotonic()
    begun: list[tuple[float, int]] = []
    bus = EventBus(clock=clock, middleware=[CircuitBreaker(failures=1, reset=10.0)])

    @bus.on(JOBS, concurrency=3)
    async def handle(event: int) -> None:
        begun.append((clock.monotonic() - begin, event))
        await clock.sleep(float(event))
        if event < 5:
            raise ConnectionError

    async with bus:
        await bus.publish_many(JOBS, [1, 2, 5])
        await clock.settle()
        await bus.publish(JOBS, 6)
        await clock.advance(20.0)

    assert begun[3] == (11.0, 6)
    assert (bus.stats().succeeded, bus.stats().failed) == (2, 2)


async def test_each_subscription_has_a_circuit_of_its_own(clock: ManualClock) -> None:
    """One object for the whole bus is not shared."""
    shut, open_ = Bank(clock), Bank(clock)
    open_.is_open = True
    bus = EventBus(clock=clock, middleware=[CircuitBreaker(failures=1)])
    bus.on(JOBS)(shut.visit)
    bus.on(JOBS)(open_.visit)
    async with bus:
        await bus.publish_many(JOBS, range(3))
        await clock.settle()
        assert (len(shut.visits), len(open_.visits)) == (1, 3)
        shut.is_open = True
        await clock.advance(30.0)


# --- What counts ----------------------------------------------------------------------------------


async def ask_for_a_retry(context: Context[int]) -> None:
    """Fail by a verdict."""
    await context.retry(1000.0)


async def reject_it(context: Context[int]) -> None:
    """Say that the message is at fault."""
    await context.reject("no such job")


async def publish_to_nobody(context: Context[int]) -> None:
    """Fail after the handler has returned."""
    await context.publish("nowhere", {}, require=True)


@pytest.mark.parametrize(
    ("act", "begun"),
    [(ask_for_a_retry, 2), (publish_to_nobody, 2), (reject_it, 5)],
    ids=["retry", "publish", "reject"],
)
async def test_every_failure_counts_but_a_rejection(
    clock: ManualClock, act: Callable[[Context[int]], Awaitable[None]], begun: int
) -> None:
    """However the attempt failed; a message at fault says nothing about what handlers need."""
    visits: list[int] = []
    bus = EventBus(clock=clock, drain_timeout=0, middleware=[CircuitBreaker(failures=2)])

    @bus.on(JOBS)
    async def handle(event: int, context: Context[int]) -> None:
        visits.append(event)
        await act(context)

    async with bus:
        await bus.publish_many(JOBS, range(5))
        await clock.settle()

    assert len(visits) == begun


@pytest.mark.parametrize("way", ["filtered", "rejected", "postponed"])
async def test_a_probe_that_tells_nothing_leaves_it_to_the_next(
    clock: ManualClock, way: str
) -> None:
    """Held back by middleware, rejected, or not begun after all: the next one probes."""
    visits: list[int] = []
    bus = EventBus(clock=clock, middleware=[CircuitBreaker(failures=1, reset=10.0)])
    if way == "filtered":
        layers: list[Any] = [Filter(lambda context: context.event != 2)]
    else:
        layers = [Throttle(1, per=15.0)] if way == "postponed" else []

    @bus.on(JOBS, middleware=layers)
    async def handle(event: int, context: Context[int]) -> None:
        visits.append(event)
        if event == 2 and way == "rejected":
            await context.reject("no such job")
        if event == 1:
            raise ConnectionError

    async with bus:
        await bus.publish_many(JOBS, [1, 2, 3])
        await clock.advance(60.0)

    assert visits == ([1, 3] if way == "filtered" else [1, 2, 3])


async def test_opening_and_closing_are_logged(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Once each, with the name and the figures."""
    caplog.set_level(logging.INFO, logger="eventbus")
    bank = Bank(clock)
    bus = EventBus(clock=clock, middleware=[CircuitBreaker(failures=2, reset=10.0)])
    bus.on(JOBS, name="jobs")(bank.visit)
    async with bus:
        await bus.publish_many(JOBS, range(4))
        await clock.settle()
        bank.is_open = True
        await clock.advance(10.0)

    lines = [one.getMessage() for one in caplog.records if "gives up" not in one.getMessage()]
    assert lines == [
        "jobs has failed 2 times in a row: its next attempt begins in 10.000 s",
        "jobs works again, after 2 failures",
    ]


# --- The end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_stopping_does_not_wait_for_an_open_circuit(
    clock: ManualClock, concurrency: int
) -> None:
    """What waits is abandoned, and counted once."""
    bank = Bank(clock)
    bus = EventBus(clock=clock, middleware=[CircuitBreaker(failures=1), DeadLetter()])
    bus.on(JOBS, concurrency=concurrency)(bank.visit)
    with suppress(LookupError):
        async with bus:
            await bus.publish(JOBS, 0)
            await clock.settle()
            await bus.publish_many(JOBS, range(1, 6))
            await clock.settle()
            raise LookupError
    stats = bus.stats()

    assert (stats.delivered, stats.failed, stats.abandoned) == (1, 1, 5)
    assert (stats.dead_lettered, clock.sleeping) == (1, 0)


@pytest.mark.parametrize(("patience", "handled"), [(30.0, 3), (9.0, 0)])
async def test_draining_waits_for_a_circuit_as_long_as_it_may(
    clock: ManualClock, patience: float, handled: int
) -> None:
    """What is queued is handled if it closes in time, and abandoned otherwise."""
    bank = Bank(clock)
    bus = EventBus(clock=clock, drain_timeout=patience, middleware=[CircuitBreaker(1, reset=10.0)])
    bus.on(JOBS)(bank.visit)
    async with anyio.create_task_group() as tasks, bus:
        await bus.publish_many(JOBS, range(4))
        await clock.settle()
        bank.is_open = True
        tasks.start_soon(clock.advance, 60.0)
    stats = bus.stats()

    assert (stats.succeeded, stats.failed, stats.abandoned) == (handled, 1, 3 - handled)


async def test_a_probe_that_is_stopped_is_no_failure(clock: ManualClock) -> None:
    """It is abandoned as any running handler, and so is what waits for its end."""
    bus = EventBus(clock=clock, middleware=[CircuitBreaker(failures=1, reset=10.0)])

    @bus.on(JOBS, concurrency=2)
    async def handle(event: int) -> None:
        if event:
            await anyio.sleep_forever()
        raise ConnectionError

    with suppress(LookupError):
        async with bus:
            await bus.publish(JOBS, 0)
            await clock.settle()
            await bus.publish_many(JOBS, [1, 2])
            await clock.advance(10.0)
            assert bus.stats().in_flight == 1
            raise LookupError

    assert (bus.stats().failed, bus.stats().abandoned) == (1, 2)


# --- What cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [0, -1, 2.5, "5", None, True])
def test_a_number_that_cannot_be_is_refused(failures: Any) -> None:
    """Where the policy is made."""
    with pytest.raises(InvalidOption, match=r"failures=.*: give 1 or more"):
        CircuitBreaker(failures)


@pytest.mark.parametrize("reset", [0, -1.0, float("inf"), "1s", None])
def test_a_time_that_cannot_be_is_refused(reset: Any) -> None:
    """Nothing, less, for ever, or no number."""
    with pytest.raises(InvalidOption, match=r"reset="):
        CircuitBreaker(reset=reset)


def test_a_circuit_breaker_is_a_policy() -> None:
    """Its place in the list does not matter; its time may be a duration."""
    policy: Policy = CircuitBreaker(reset=timedelta(minutes=1))

    assert policy.policy == "circuit_breaker"
