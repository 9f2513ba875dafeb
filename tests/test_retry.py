"""Trying again: how long to wait, how often, after which errors, and what is said about it."""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus import Context, EventBus, InvalidOption, Topic
from eventbus.middleware import Retry
from eventbus.retry import Backoff
from eventbus.testing import ManualClock

JOBS = Topic("jobs", int)


class Attempts:
    """A handler that always fails, unless told when to stop, and notes when it was called."""

    def __init__(
        self,
        clock: ManualClock,
        error: Callable[[], BaseException] = ValueError,
        failures: int = 99,
    ) -> None:
        self.times: list[float] = []
        self.contexts: list[tuple[int, bool]] = []
        self._clock = clock
        self._begin = clock.monotonic()
        self._error = error
        self._failures = failures

    async def __call__(self, event: int, context: Context[int]) -> None:
        self.times.append(self._clock.monotonic() - self._begin)
        self.contexts.append((context.attempt, context.last_attempt))
        if len(self.times) <= self._failures:
            raise self._error()


async def run(clock: ManualClock, handler: Attempts, retry: Retry | None, **options: Any) -> Any:
    """Publish one message and let an hour pass; give the figures of the bus."""
    bus = EventBus(clock=clock, middleware=[] if retry is None else [retry])
    bus.on(JOBS, name="jobs", **options)(handler)
    async with bus:
        await bus.publish(JOBS, 1)
        await clock.advance(3600.0)
    return bus.stats()


# --- Delays ---------------------------------------------------------------------------------------


def test_delays_grow_by_their_factor_up_to_their_maximum() -> None:
    """Each is the one before times the factor, until the maximum is reached for good."""
    backoff = Backoff(initial=0.5, maximum=10.0, factor=3.0, jitter=False)

    assert [backoff.delay(attempt) for attempt in range(1, 6)] == [0.5, 1.5, 4.5, 10.0, 10.0]


@pytest.mark.parametrize(("drawn", "delay"), [(0.0, 0.0), (0.25, 1.0), (1.0, 4.0)])
def test_jitter_draws_from_nothing_to_the_full_delay(drawn: float, delay: float) -> None:
    """The whole range is used, evenly."""
    assert Backoff(initial=1.0, factor=2.0).delay(3, draw=lambda: drawn) == delay


@given(
    attempt=st.integers(1, 100_000),
    initial=st.floats(0, 100),
    factor=st.floats(1, 10),
    more=st.floats(0, 1000),
)
def test_no_delay_is_ever_out_of_bounds(
    attempt: int, initial: float, factor: float, more: float
) -> None:
    """Between nothing and the maximum, after however many attempts."""
    backoff = Backoff(initial=initial, maximum=initial + more, factor=factor)

    assert 0.0 <= backoff.delay(attempt) <= initial + more


def test_delays_without_jitter_never_shrink() -> None:
    """Also where the power is more than a float can hold."""
    backoff = Backoff(jitter=False)
    delays = [backoff.delay(attempt) for attempt in range(1, 2000)]

    assert delays == sorted(delays)
    assert delays[-1] == 60.0


@pytest.mark.parametrize(
    "options",
    [
        {"initial": -1.0},
        {"initial": 2.0, "maximum": 1.0},
        {"initial": float("nan")},
        {"factor": 0.5},
        {"attempts": 0},
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any]) -> None:
    """The error names the option and its value."""
    name, value = next(iter(options.items()))

    with pytest.raises(InvalidOption, match=f"{name}={value!r}"):
        Retry(**options)


def test_durations_may_be_timedeltas() -> None:
    """They mean their seconds."""
    retry = Retry(initial=timedelta(milliseconds=500), maximum=timedelta(minutes=1), jitter=False)

    assert (retry.backoff.delay(1), retry.backoff.delay(99)) == (0.5, 60.0)


# --- When -----------------------------------------------------------------------------------------


async def test_attempts_come_after_their_delays(clock: ManualClock) -> None:
    """Each waits for its own delay since the failure before it."""
    handler = Attempts(clock)
    await run(clock, handler, Retry(attempts=5, initial=1.0, maximum=5.0, jitter=False))

    assert handler.times == [0.0, 1.0, 3.0, 7.0, 12.0]


async def test_attempts_with_jitter_come_within_their_delays(clock: ManualClock) -> None:
    """None comes later than the full delay, and not all at the same distance."""
    handlers = [Attempts(clock) for _ in range(20)]
    bus = EventBus(clock=clock, middleware=[Retry(attempts=2, initial=8.0)])
    for handler in handlers:
        bus.on(JOBS)(handler)
    async with bus:
        await bus.publish(JOBS, 1)
        await clock.advance(8.0)

    delays = {handler.times[1] for handler in handlers}
    assert len(delays) > 1
    assert min(delays) >= 0.0
    assert max(delays) <= 8.0


async def test_a_worker_does_not_wait_for_a_retry(clock: ManualClock) -> None:
    """Other messages are handled meanwhile."""
    handler = Attempts(clock, failures=1)
    bus = EventBus(clock=clock, middleware=[Retry(jitter=False)])
    bus.on(JOBS)(handler)
    async with bus:
        await bus.publish_many(JOBS, [1, 2, 3])
        await clock.advance(1.0)

    assert handler.times == [0.0, 0.0, 0.0, 1.0]


# --- How often ------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_attempts_count_the_first(clock: ManualClock, attempts: int) -> None:
    """`Retry(attempts=n)` calls the handler n times in all."""
    handler = Attempts(clock)
    stats = await run(clock, handler, Retry(attempts=attempts))

    assert len(handler.times) == attempts
    assert (stats.delivered, stats.failed, stats.retried) == (attempts, attempts, attempts - 1)


async def test_success_ends_the_attempts(clock: ManualClock) -> None:
    """What succeeds is not tried again, and what failed before it is counted as failed alone."""
    handler = Attempts(clock, failures=2)
    stats = await run(clock, handler, Retry(attempts=5))

    assert len(handler.times) == 3
    assert (stats.succeeded, stats.failed, stats.retried, stats.lost) == (1, 2, 2, 0)


async def test_without_retry_there_is_one_attempt(clock: ManualClock) -> None:
    """Nothing is tried again unless it was asked for."""
    handler = Attempts(clock)
    stats = await run(clock, handler, None)

    assert handler.contexts == [(1, True)]
    assert (stats.failed, stats.retried, stats.lost) == (1, 0, 1)


async def test_each_attempt_knows_its_number(clock: ManualClock) -> None:
    """And whether it is the last one."""
    handler = Attempts(clock)
    await run(clock, handler, Retry(attempts=3))

    assert handler.contexts == [(1, False), (2, False), (3, True)]


async def test_max_deliveries_bounds_the_attempts(clock: ManualClock) -> None:
    """Whatever `Retry` says, a subscription's own bound holds."""
    handler = Attempts(clock)
    await run(clock, handler, Retry(attempts=9), max_deliveries=2)

    assert handler.contexts == [(1, False), (2, True)]


async def test_max_deliveries_is_20_unless_said(clock: ManualClock) -> None:
    """No message is tried more often than that by default."""
    handler = Attempts(clock)
    await run(clock, handler, Retry(attempts=1000))

    assert len(handler.times) == 20


async def test_the_bound_is_for_each_message(clock: ManualClock) -> None:
    """Each message has as many attempts, whatever others took."""
    bus = EventBus(clock=clock, middleware=[Retry(jitter=False)])
    seen: list[int] = []

    @bus.on(JOBS, max_deliveries=2)
    async def handle(event: int) -> None:
        seen.append(event)
        raise ValueError

    async with bus:
        await bus.publish_many(JOBS, range(3))
        await clock.advance(60.0)

    assert sorted(seen) == [0, 0, 1, 1, 2, 2]


# --- After which errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry", "error", "attempts"),
    [
        (Retry(), ValueError, 3),
        (Retry(on=OSError), OSError, 3),
        (Retry(on=OSError), ConnectionError, 3),
        (Retry(on=OSError), ValueError, 1),
        (Retry(on=(OSError, ValueError)), ValueError, 3),
        (Retry(never=ValueError), ValueError, 1),
        (Retry(never=(OSError, ValueError)), KeyError, 3),
        (Retry(on=OSError, never=ConnectionError), ConnectionError, 1),
        (Retry(on=OSError, never=ConnectionError), OSError, 3),
    ],
)
async def test_errors_say_whether_it_is_worth_another_attempt(
    clock: ManualClock, retry: Retry, error: type[Exception], attempts: int
) -> None:
    """Those in `on` are tried again, unless they are in `never`; subclasses count."""
    handler = Attempts(clock, error)
    await run(clock, handler, retry)

    assert len(handler.times) == attempts


async def test_the_last_error_decides(clock: ManualClock) -> None:
    """An attempt that fails with a hopeless error is the last, whatever came before."""
    errors: list[Exception] = [OSError(), OSError(), ValueError(), OSError()]
    handler = Attempts(clock, lambda: errors.pop(0))
    await run(clock, handler, Retry(attempts=9, never=ValueError))

    assert len(handler.times) == 3


# --- What is said ---------------------------------------------------------------------------------


async def test_a_warning_per_retry_and_one_traceback(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The traceback is logged once, with the error that made it give up."""
    await run(clock, Attempts(clock), Retry(attempts=3, jitter=False))

    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert [r.exc_info for r in warnings] == [None, None]
    assert "jobs failed attempt 1 of 3" in warnings[0].getMessage()
    assert "trying again in 1.000 s" in warnings[0].getMessage()
    assert [bool(r.exc_info) for r in errors] == [True]
    assert "jobs gives up" in errors[0].getMessage()


async def test_payloads_are_not_logged(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Which message it was is told by its id and topic."""
    bus = EventBus(clock=clock, middleware=[Retry(attempts=2)])

    @bus.on("accounts")
    async def handle(event: object) -> None:
        raise ValueError("refused")

    async with bus:
        await bus.publish("accounts", {"password": "hunter2"}, id="m-1")
        await clock.advance(60.0)

    assert "m-1" in caplog.text
    assert "hunter2" not in caplog.text


# --- When the bus ends ----------------------------------------------------------------------------


async def test_draining_waits_for_retries_that_are_due_in_time(clock: ManualClock) -> None:
    """What comes back before the deadline is handled."""
    handler = Attempts(clock, failures=1)
    bus = EventBus(clock=clock, middleware=[Retry(initial=20.0, jitter=False)], drain_timeout=30.0)
    bus.on(JOBS)(handler)
    async with anyio.create_task_group() as tasks, bus:
        await bus.publish(JOBS, 1)
        await clock.settle()
        tasks.start_soon(clock.advance, 20.0)

    assert handler.times == [0.0, 20.0]
    assert (bus.stats().succeeded, bus.stats().abandoned) == (1, 0)


async def test_draining_abandons_retries_that_are_due_later(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, counted and logged, as neither dead letter nor loss."""
    handler = Attempts(clock)
    bus = EventBus(clock=clock, middleware=[Retry(initial=40.0, maximum=40.0, jitter=False)])
    bus.on(JOBS, name="jobs")(handler)
    async with bus:
        await bus.publish(JOBS, 1)
        await clock.settle()
    stats = bus.stats()

    assert handler.times == [0.0]
    assert (stats.abandoned, stats.lost, stats.failed, stats.retried) == (1, 0, 1, 1)
    assert "jobs abandons" in caplog.text


async def test_what_fails_while_draining_is_abandoned_if_due_later(clock: ManualClock) -> None:
    """The deadline counts for retries that begin to wait after it was set, too."""
    opened = anyio.Event()
    patient = Retry(initial=40.0, maximum=40.0, jitter=False)
    bus = EventBus(clock=clock, middleware=[patient])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        await opened.wait()
        raise ValueError

    async with anyio.create_task_group() as tasks, bus:
        await bus.publish(JOBS, 1)
        await clock.settle()
        tasks.start_soon(bus.drain)
        await clock.settle()
        opened.set()

    assert (bus.stats().failed, bus.stats().abandoned) == (1, 1)


async def test_what_waits_behind_an_abandoned_retry_is_handled(clock: ManualClock) -> None:
    """Its key is free again: everything queued is handled while the bus drains."""
    handler = Attempts(clock, failures=1)
    bus = EventBus(clock=clock, middleware=[Retry(initial=40.0, maximum=40.0, jitter=False)])
    bus.on(JOBS)(handler)
    async with bus:
        for event in range(3):
            await bus.publish(JOBS, event, key="a")
        await clock.settle()
    stats = bus.stats()

    assert (stats.succeeded, stats.abandoned) == (2, 1)


async def test_a_held_lane_goes_on_when_its_retry_is_abandoned(clock: ManualClock) -> None:
    """A retry that holds its lane past the deadline gives way: what is behind it is handled."""
    handler = Attempts(clock, failures=1)
    patient = Retry(initial=40.0, maximum=40.0, jitter=False, hold=True)
    bus = EventBus(clock=clock, middleware=[patient], drain_timeout=30.0)
    bus.on(JOBS)(handler)
    async with anyio.create_task_group() as tasks, bus:
        await bus.publish_many(JOBS, [1, 2, 3])
        await clock.settle()
        tasks.start_soon(clock.advance, 31.0)
    stats = bus.stats()

    assert (stats.succeeded, stats.abandoned) == (2, 1)
