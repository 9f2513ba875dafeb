"""How often attempts begin under `Throttle`, and what becomes of what has to wait."""

from contextlib import suppress
from datetime import timedelta
from typing import Any

import anyio
import pytest

from eventbus import Context, EventBus, InvalidOption, Topic
from eventbus.middleware import CallNext, DeadLetter, Policy, Retry, Throttle, Timeout
from eventbus.testing import ManualClock

JOBS = Topic("jobs", int)


class Starts:
    """When a handler was begun, in seconds since the first time."""

    def __init__(self, clock: ManualClock) -> None:
        self.events: list[int] = []
        self._clock = clock
        self._times: list[float] = []

    @property
    def times(self) -> list[float]:
        """The seconds from the first to each."""
        return [round(time - self._times[0], 3) for time in self._times]

    async def handle(self, event: int) -> None:
        """Note the time."""
        self.events.append(event)
        self._times.append(self._clock.monotonic())


# --- The rate -------------------------------------------------------------------------------------


async def test_no_more_attempts_begin_than_the_rate_allows(clock: ManualClock) -> None:
    """So many at once, and then the next as soon as the first of them is long enough ago."""
    starts = Starts(clock)
    bus = EventBus(clock=clock)
    bus.on(JOBS, middleware=[Throttle(2)])(starts.handle)
    async with bus:
        await bus.publish_many(JOBS, range(5))
        await clock.advance(10.0)

    assert starts.times == [0.0, 0.0, 1.0, 1.0, 2.0]
    assert starts.events == [0, 1, 2, 3, 4]


async def test_within_any_such_time_there_are_no_more(clock: ManualClock) -> None:
    """Also where it does not begin with the first: no second has more than two."""
    starts = Starts(clock)
    bus = EventBus(clock=clock)
    bus.on(JOBS, middleware=[Throttle(2)])(starts.handle)
    async with bus:
        await bus.publish(JOBS, 0)
        await clock.advance(0.9)
        await bus.publish_many(JOBS, range(1, 6))
        await clock.advance(10.0)

    assert starts.times == [0.0, 0.9, 1.0, 1.9, 2.0, 2.9]


@pytest.mark.parametrize("per", [60, 60.0, timedelta(minutes=1)])
async def test_the_time_may_be_longer(clock: ManualClock, per: float | timedelta) -> None:
    """In seconds, or as a duration."""
    starts = Starts(clock)
    bus = EventBus(clock=clock, drain_timeout=600.0)
    bus.on(JOBS, middleware=[Throttle(1, per=per)])(starts.handle)
    async with bus:
        await bus.publish_many(JOBS, range(3))
        await clock.advance(120.0)

    assert starts.times == [0.0, 60.0, 120.0]


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_all_workers_share_the_rate(clock: ManualClock, concurrency: int) -> None:
    """It is that of the subscription, however many handlers run at once."""
    starts = Starts(clock)
    bus = EventBus(clock=clock)
    bus.on(JOBS, concurrency=concurrency, middleware=[Throttle(2)])(starts.handle)
    async with bus:
        await bus.publish_many(JOBS, range(6))
        await clock.advance(10.0)

    assert starts.times == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
    assert sorted(starts.events) == list(range(6))


async def test_members_of_a_group_share_the_rate(clock: ManualClock) -> None:
    """They are one subscription."""
    starts = Starts(clock)
    throttle = Throttle(2)
    bus = EventBus(clock=clock)
    for _ in range(2):
        bus.on(JOBS, group="workers", middleware=[throttle])(starts.handle)
    async with bus:
        await bus.publish_many(JOBS, range(4))
        await clock.advance(10.0)

    assert starts.times == [0.0, 0.0, 1.0, 1.0]


async def test_each_subscription_has_a_rate_of_its_own(clock: ManualClock) -> None:
    """One object for the whole bus, or for several, is not shared."""
    first, second, elsewhere = Starts(clock), Starts(clock), Starts(clock)
    throttle = Throttle(1)
    bus = EventBus(clock=clock, middleware=[throttle])
    other_bus = EventBus(clock=clock, middleware=[throttle])
    bus.on(JOBS)(first.handle)
    bus.on(JOBS)(second.handle)
    other_bus.on(JOBS)(elsewhere.handle)
    async with bus, other_bus:
        for one in (bus, other_bus):
            await one.publish_many(JOBS, range(2))
        await clock.advance(10.0)

    assert first.times == second.times == elsewhere.times == [0.0, 1.0]


async def test_the_innermost_throttle_counts(clock: ManualClock) -> None:
    """As of every policy: the handler's own replaces that of the bus."""
    starts = Starts(clock)
    bus = EventBus(clock=clock, middleware=[Throttle(1)])
    bus.on(JOBS, middleware=[Throttle(3)])(starts.handle)
    async with bus:
        await bus.publish_many(JOBS, range(3))
        await clock.advance(10.0)

    assert starts.times == [0.0, 0.0, 0.0]


async def test_retries_are_attempts_too(clock: ManualClock) -> None:
    """An attempt that is due still waits for its turn."""
    starts = Starts(clock)
    bus = EventBus(clock=clock)

    @bus.on(JOBS, middleware=[Throttle(1, per=5.0), Retry(attempts=3, initial=0.0)])
    async def handle(event: int) -> None:
        await starts.handle(event)
        raise ValueError

    async with bus:
        await bus.publish(JOBS, 1)
        await clock.advance(20.0)

    assert starts.times == [0.0, 5.0, 10.0]


async def test_what_where_holds_back_does_not_count(clock: ManualClock) -> None:
    """It is no attempt."""
    starts = Starts(clock)
    bus = EventBus(clock=clock)
    bus.on(JOBS, where=lambda event: event % 2 == 0, middleware=[Throttle(1)])(starts.handle)
    async with bus:
        await bus.publish_many(JOBS, range(4))
        await clock.advance(10.0)

    assert (starts.events, starts.times) == ([0, 2], [0.0, 1.0])
    assert (bus.stats().filtered, bus.stats().delivered) == (2, 2)


async def test_the_rate_holds_over_a_long_run(clock: ManualClock) -> None:
    """Of 300 attempts of two tasks, no window of a second has more than 7."""
    starts = Starts(clock)
    bus = EventBus(clock=clock)
    bus.on(JOBS, concurrency=2, middleware=[Throttle(7)])(starts.handle)
    async with bus:
        for number in range(30):
            await bus.publish_many(JOBS, range(10 * number, 10 * number + 10))
            await clock.advance(0.3)
        await clock.advance(60.0)

    times = starts.times
    assert len(times) == 300
    assert all(later - earlier > 0.999 for earlier, later in zip(times, times[7:], strict=False))
    assert times[-1] <= 300 / 7 + 1


# --- What waits -----------------------------------------------------------------------------------


async def test_what_waits_is_queued_and_no_attempt(clock: ManualClock) -> None:
    """The figures show it where it is."""
    bus = EventBus(clock=clock)
    bus.on(JOBS, name="jobs", middleware=[Throttle(1)])(Starts(clock).handle)
    async with bus:
        await bus.publish_many(JOBS, range(3))
        await clock.settle()
        stats = bus.stats().subscriptions["jobs"]

        assert (stats.delivered, stats.succeeded, stats.in_flight) == (1, 1, 0)
        assert stats.queue_depth == 2

        await clock.advance(2.0)


async def test_waiting_takes_up_no_time_of_an_attempt(clock: ManualClock) -> None:
    """A `Timeout` begins with the attempt; and it still ends one that hangs."""
    attempts: list[int] = []
    bus = EventBus(clock=clock, middleware=[Timeout(1.0), Throttle(1, per=10.0), DeadLetter()])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        attempts.append(event)
        if event == 2:
            await anyio.sleep_forever()

    async with bus:
        await bus.publish_many(JOBS, range(3))
        await clock.advance(22.0)
        (letter,) = await bus.dead_letters()

    assert attempts == [0, 1, 2]
    assert letter.error_type == "HandlerTimeout"
    assert (bus.stats().succeeded, bus.stats().failed) == (2, 1)


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_the_order_of_keys_is_kept(clock: ManualClock, concurrency: int) -> None:
    """What waits is not overtaken by later ones of its key."""
    starts = Starts(clock)
    bus = EventBus(clock=clock)
    bus.on(
        JOBS,
        concurrency=concurrency,
        key=lambda event: str(event % 3),
        middleware=[Throttle(2)],
    )(starts.handle)
    async with bus:
        await bus.publish_many(JOBS, range(12))
        await clock.advance(20.0)

    assert [[e for e in starts.events if e % 3 == key] for key in range(3)] == [
        [0, 3, 6, 9],
        [1, 4, 7, 10],
        [2, 5, 8, 11],
    ]
    assert starts.times[-1] == 5.0


async def test_a_retry_keeps_its_lane_while_it_waits(clock: ManualClock) -> None:
    """Held back by its backoff first and the rate then, it is still before those behind it."""
    handled: list[int] = []
    bus = EventBus(clock=clock)

    @bus.on(JOBS, key=lambda _: "same", middleware=[Throttle(1), Retry(attempts=2, jitter=False)])
    async def handle(event: int, context: Context[int]) -> None:
        if event == 1 and context.attempt == 1:
            raise ValueError
        handled.append(event)

    async with bus:
        await bus.publish_many(JOBS, [1, 2, 3])
        await clock.advance(10.0)

    assert handled == [1, 2, 3]


@pytest.mark.parametrize("overflow", ["drop_oldest", "latest"])
async def test_a_queue_that_fills_does_as_its_policy_says(
    clock: ManualClock, overflow: Any
) -> None:
    """What waits for its turn is dropped or replaced as what is queued is."""
    starts = Starts(clock)
    bus = EventBus(clock=clock)
    bus.on(JOBS, queue_size=1, overflow=overflow, middleware=[Throttle(1)])(starts.handle)
    async with bus:
        for number in range(4):
            await bus.publish(JOBS, number)
            await clock.settle()
        await clock.advance(5.0)

    assert (starts.events, bus.stats().dropped) == ([0, 3], 2)


async def test_what_was_dropped_meanwhile_is_told_once(clock: ManualClock) -> None:
    """`context.lagged` is that of the attempt, not of one that did not begin."""
    lagged: list[int] = []
    bus = EventBus(clock=clock, middleware=[Throttle(1)])

    @bus.on(JOBS, queue_size=1, overflow="drop_oldest")
    async def handle(event: int, context: Context[int]) -> None:
        lagged.append(context.lagged)
        await clock.sleep(0.5)

    async with bus:
        for number in range(4):
            await bus.publish(JOBS, number)
            await clock.settle()
        await clock.advance(0.6)
        assert lagged == [0]
        await clock.advance(5.0)

    assert lagged == [0, 2]


async def test_middleware_does_not_see_what_does_not_begin(clock: ManualClock) -> None:
    """It is around attempts alone."""
    seen: list[int] = []

    async def note(context: Context[Any], call_next: CallNext) -> object:
        seen.append(context.event)
        return await call_next(context)

    bus = EventBus(clock=clock)
    bus.on(JOBS, middleware=[note, Throttle(1)])(Starts(clock).handle)
    async with bus:
        await bus.publish_many(JOBS, range(3))
        await clock.settle()
        assert seen == [0]
        await clock.advance(2.0)

    assert seen == [0, 1, 2]


# --- The end --------------------------------------------------------------------------------------


async def test_draining_waits_for_all_turns(clock: ManualClock) -> None:
    """What is queued is handled, at its rate."""
    starts = Starts(clock)
    bus = EventBus(clock=clock)
    bus.on(JOBS, middleware=[Throttle(1)])(starts.handle)
    async with anyio.create_task_group() as tasks, bus:
        await bus.publish_many(JOBS, range(4))
        tasks.start_soon(clock.advance, 10.0)

    assert starts.times == [0.0, 1.0, 2.0, 3.0]
    assert bus.stats().abandoned == 0


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_what_has_no_turn_before_the_bus_gives_up_is_abandoned(
    clock: ManualClock, concurrency: int
) -> None:
    """Each delivery is counted once, as what it is."""
    starts = Starts(clock)
    bus = EventBus(clock=clock, drain_timeout=2.5)
    bus.on(JOBS, concurrency=concurrency, middleware=[Throttle(1)])(starts.handle)
    async with anyio.create_task_group() as tasks, bus:
        await bus.publish_many(JOBS, range(10))
        tasks.start_soon(clock.advance, 10.0)
    stats = bus.stats()

    assert starts.times == [0.0, 1.0, 2.0]
    assert (stats.delivered, stats.succeeded, stats.abandoned) == (3, 3, 7)


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_stopping_does_not_wait_for_a_turn(clock: ManualClock, concurrency: int) -> None:
    """Workers that wait are cancelled, and what they wait with is abandoned as what is queued."""
    bus = EventBus(clock=clock, middleware=[Throttle(1, per=3600.0)])
    bus.on(JOBS, concurrency=concurrency)(Starts(clock).handle)
    with suppress(LookupError):
        async with bus:
            await bus.publish_many(JOBS, range(5))
            await clock.settle()
            raise LookupError
    stats = bus.stats()

    assert (stats.delivered, stats.succeeded, stats.failed, stats.abandoned) == (1, 1, 0, 4)
    assert clock.sleeping == 0


async def test_a_bus_that_starts_again_counts_anew(clock: ManualClock) -> None:
    """The rate is that of one run."""
    starts = Starts(clock)
    bus = EventBus(clock=clock, middleware=[Throttle(1, per=60.0)])
    bus.on(JOBS)(starts.handle)
    for _ in range(2):
        async with bus:
            await bus.publish(JOBS, 1)
            await bus.join()

    assert starts.times == [0.0, 0.0]


async def test_a_subscription_can_end_while_it_waits(clock: ManualClock) -> None:
    """Unsubscribing waits until what is queued had its turn."""
    starts = Starts(clock)
    bus = EventBus(clock=clock)
    bus.on(JOBS, name="jobs", middleware=[Throttle(1)])(starts.handle)
    async with bus, anyio.create_task_group() as tasks:
        await bus.publish_many(JOBS, range(3))
        await clock.settle()
        tasks.start_soon(bus.unsubscribe, "jobs")
        await clock.advance(5.0)
        assert bus.stats().subscriptions == {}

    assert starts.times == [0.0, 1.0, 2.0]


# --- What cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0, -1, 0.5, "10", None, True])
def test_a_rate_that_cannot_be_is_refused(rate: Any) -> None:
    """The error says how to have less than one in a second."""
    with pytest.raises(InvalidOption, match=r"Throttle\(.*one in two seconds"):
        Throttle(rate)


@pytest.mark.parametrize("per", [0, -1.0, float("inf"), float("nan"), "1s", None])
def test_a_time_that_cannot_be_is_refused(per: Any) -> None:
    """Nothing, less, for ever, or no number."""
    with pytest.raises(InvalidOption, match=r"per="):
        Throttle(1, per=per)


def test_a_throttle_is_a_policy() -> None:
    """Its place in the list does not matter."""
    policy: Policy = Throttle(1)

    assert policy.policy == "throttle"
