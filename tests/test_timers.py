"""Things due later: when they fire, in which order, and how they are given up."""

import tracemalloc
from collections.abc import AsyncIterator, Callable
from time import process_time

import anyio
import pytest
from anyio.lowlevel import checkpoint

from eventbus.testing import ManualClock
from eventbus.timers import Timer, Timers


class Diary:
    """What happened to timers, in order."""

    def __init__(self, clock: ManualClock) -> None:
        self.entries: list[tuple[str, float]] = []
        self._clock = clock
        self._begin = clock.monotonic()

    def noting(self, what: str) -> Callable[[], None]:
        """Make a callback that notes itself and the time since the beginning."""
        return lambda: self.entries.append((what, self._clock.monotonic() - self._begin))

    @property
    def words(self) -> list[str]:
        return [what for what, _ in self.entries]


@pytest.fixture
def diary(clock: ManualClock) -> Diary:
    """Give a diary that begins now."""
    return Diary(clock)


@pytest.fixture
async def timers(clock: ManualClock) -> AsyncIterator[Timers]:
    """Give timers that run."""
    running = Timers(clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(running.run)
        yield running
        tasks.cancel_scope.cancel()


async def test_a_timer_fires_when_it_is_due(
    timers: Timers, clock: ManualClock, diary: Diary
) -> None:
    """Its callback is called once, at its time and not before."""
    timers.call_later(5.0, diary.noting("fired"), drop=diary.noting("dropped"))

    await clock.advance(20.0)

    assert diary.entries == [("fired", 5.0)]


async def test_timers_fire_in_the_order_they_are_due(
    timers: Timers, clock: ManualClock, diary: Diary
) -> None:
    """What was set last but is due first fires first."""
    for what, seconds in (("c", 3.0), ("a", 1.0), ("b", 2.0)):
        timers.call_later(seconds, diary.noting(what), drop=diary.noting("dropped"))

    await clock.advance(10.0)

    assert diary.entries == [("a", 1.0), ("b", 2.0), ("c", 3.0)]


async def test_timers_of_one_moment_fire_in_the_order_they_were_set(
    timers: Timers, clock: ManualClock, diary: Diary
) -> None:
    """However many there are."""
    names = [str(number) for number in range(20)]
    for name in names:
        timers.call_later(1.0, diary.noting(name), drop=diary.noting("dropped"))

    await clock.advance(1.0)

    assert diary.words == names


async def test_a_sooner_timer_wakes_who_sleeps_for_a_later_one(
    timers: Timers, clock: ManualClock, diary: Diary
) -> None:
    """A timer set while all sleep for a later one is on time."""
    timers.call_later(10.0, diary.noting("late"), drop=diary.noting("dropped"))
    await clock.advance(1.0)
    timers.call_later(1.0, diary.noting("soon"), drop=diary.noting("dropped"))

    await clock.advance(20.0)

    assert diary.entries == [("soon", 2.0), ("late", 10.0)]


async def test_a_timer_set_by_a_timer_fires_too(
    timers: Timers, clock: ManualClock, diary: Diary
) -> None:
    """A callback may set the next one."""

    def again() -> None:
        diary.noting("first")()
        timers.call_later(1.0, diary.noting("second"), drop=diary.noting("dropped"))

    timers.call_later(1.0, again, drop=diary.noting("dropped"))

    await clock.advance(5.0)

    assert diary.entries == [("first", 1.0), ("second", 2.0)]


async def test_no_time_is_due_at_once(timers: Timers, clock: ManualClock, diary: Diary) -> None:
    """A timer of nothing fires without the hands moving."""
    timers.call_later(0.0, diary.noting("fired"), drop=diary.noting("dropped"))

    await clock.settle()

    assert diary.entries == [("fired", 0.0)]


async def test_a_dropped_timer_is_told_so(timers: Timers, clock: ManualClock, diary: Diary) -> None:
    """Dropping calls the other callback, at once and once."""
    timer = timers.call_later(5.0, diary.noting("fired"), drop=diary.noting("dropped"))
    timers.drop(timer)
    timers.drop(timer)

    await clock.advance(10.0)

    assert diary.entries == [("dropped", 0.0)]


async def test_a_fired_timer_cannot_be_dropped(
    timers: Timers, clock: ManualClock, diary: Diary
) -> None:
    """Of the two callbacks one is called, never both."""
    timer = timers.call_later(1.0, diary.noting("fired"), drop=diary.noting("dropped"))
    await clock.advance(1.0)

    timers.drop(timer)

    assert diary.words == ["fired"]


async def test_a_forgotten_timer_calls_nothing(
    timers: Timers, clock: ManualClock, diary: Diary
) -> None:
    """Forgetting says whether there was something to forget, and leaves the others alone."""
    timer = timers.call_later(1.0, diary.noting("forgotten"), drop=diary.noting("dropped"))
    timers.call_later(2.0, diary.noting("kept"), drop=diary.noting("dropped"))

    assert (timers.forget(timer), timers.forget(timer)) == (True, False)

    await clock.advance(5.0)

    assert diary.words == ["kept"]


async def test_dropping_what_is_due_after_a_time(
    timers: Timers, clock: ManualClock, diary: Diary
) -> None:
    """Those due later are dropped, soonest first; those due by then still fire."""
    for seconds in (1.0, 4.0, 2.0, 3.0):
        timers.call_later(
            seconds, diary.noting(f"fired {seconds}"), drop=diary.noting(f"dropped {seconds}")
        )
    timers.drop_after(clock.monotonic() + 2.0)

    await clock.advance(10.0)

    assert diary.words == ["dropped 3.0", "dropped 4.0", "fired 1.0", "fired 2.0"]


async def test_cleared_timers_call_nothing(
    timers: Timers, clock: ManualClock, diary: Diary
) -> None:
    """Clearing forgets all, without a word to anybody."""
    timers.call_later(1.0, diary.noting("fired"), drop=diary.noting("dropped"))
    timers.clear()

    await clock.advance(5.0)

    assert diary.entries == []


def nothing() -> None:
    """Be the callback that nobody asks about."""


async def test_a_moment_comes_when_the_wall_clock_shows_it(
    timers: Timers, clock: ManualClock, diary: Diary
) -> None:
    """Undisturbed, it comes when a duration of the same length ends."""
    timers.set_at(clock.now() + 25.0, Timer(diary.noting("moment"), nothing))
    timers.call_later(25.0, diary.noting("duration"), drop=nothing)

    await clock.advance(60.0)

    assert sorted(diary.entries) == [("duration", 25.0), ("moment", 25.0)]


async def test_a_moment_follows_the_wall_clock_when_it_is_set(
    timers: Timers, clock: ManualClock, diary: Diary
) -> None:
    """Forward, it comes within ten seconds; back, it comes as much later."""
    timers.set_at(clock.now() + 3_000.0, Timer(diary.noting("forward"), nothing))
    await clock.advance(5.0)
    clock.set_wall(3_600.0)
    await clock.advance(20.0)
    timers.set_at(clock.now() + 100.0, Timer(diary.noting("back"), nothing))
    await clock.advance(5.0)
    clock.set_wall(-50.0)
    await clock.advance(200.0)

    assert diary.entries == [("forward", 10.0), ("back", 175.0)]


async def test_durations_do_not_follow_the_wall_clock(
    timers: Timers, clock: ManualClock, diary: Diary
) -> None:
    """However far it is set, and in which direction."""
    for seconds, jump in ((10.0, 3_600.0), (20.0, -3_600.0), (30.0, -1.0)):
        timers.call_later(seconds, diary.noting(f"{seconds}"), drop=nothing)
        clock.set_wall(jump)
        await clock.advance(1.0)

    await clock.advance(60.0)

    assert diary.entries == [("10.0", 10.0), ("20.0", 21.0), ("30.0", 32.0)]


async def test_moments_after_a_time_are_dropped_too(
    timers: Timers, clock: ManualClock, diary: Diary
) -> None:
    """What the wall clock would show too late never comes."""
    for seconds in (3.0, 1.0):
        fired, dropped = diary.noting(f"fired {seconds}"), diary.noting(f"dropped {seconds}")
        timers.set_at(clock.now() + seconds, Timer(fired, dropped))
    timers.drop_after(clock.monotonic() + 2.0)

    await clock.advance(10.0)

    assert diary.words == ["dropped 3.0", "fired 1.0"]


async def test_a_timer_set_for_sooner_than_a_moment_is_on_time(
    timers: Timers, clock: ManualClock, diary: Diary
) -> None:
    """Who sleeps until the wall clock is to be looked at is woken."""
    timers.set_at(clock.now() + 100.0, Timer(diary.noting("moment"), nothing))
    await clock.advance(1.0)
    timers.call_later(2.0, diary.noting("duration"), drop=nothing)

    await clock.advance(5.0)

    assert diary.entries == [("duration", 3.0)]


async def test_many_due_at_once_let_others_run_between(timers: Timers, clock: ManualClock) -> None:
    """A task that only waits for its turn gets it before all have fired."""
    fired = 0
    seen: list[int] = []
    began = anyio.Event()

    def fire() -> None:
        nonlocal fired
        fired += 1
        began.set()

    async def look() -> None:
        await began.wait()
        while fired < 10_000:
            seen.append(fired)
            await checkpoint()

    for _ in range(10_000):
        timers.call_later(1.0, fire, drop=nothing)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        await clock.advance(1.0)

    assert fired == 10_000
    assert len(set(seen)) > 10


def test_what_is_forgotten_frees_its_memory(clock: ManualClock) -> None:
    """Set and forgotten in turn for ever, timers do not pile up, nor do those set for far away."""
    timers = Timers(clock)
    tracemalloc.start()
    try:
        kept = [timers.call_later(1e9, nothing, drop=nothing) for _ in range(1_000)]
        before, _ = tracemalloc.get_traced_memory()
        for seconds in range(20_000):
            timers.forget(timers.call_later(seconds, nothing, drop=nothing))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(timers) == len(kept)
    assert after - before < 1_000_000


def test_forgetting_takes_no_longer_with_more_timers(clock: ManualClock) -> None:
    """Of a hundred thousand timers all are forgotten in less than a second, last one first.

    Searching for each would take a minute.
    """
    timers = Timers(clock)
    several = [timers.call_later(float(n % 977), nothing, drop=nothing) for n in range(100_000)]
    started = process_time()
    forgotten = [timers.forget(timer) for timer in reversed(several)]

    assert all(forgotten)
    assert len(timers) == 0
    assert process_time() - started < 1.0
