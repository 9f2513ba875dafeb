"""Things due later: when they fire, in which order, and how they are given up."""

from collections.abc import AsyncIterator, Callable

import anyio
import pytest

from eventbus.timers import Timers
from tests.manual_clock import ManualClock


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
