import anyio
import pytest

from eventbus.clock import Clock
from eventbus.testing import ManualClock


def test_is_a_clock(clock: ManualClock) -> None:
    """What the bus asks of time, the clock of the tests can tell."""
    told: Clock = clock

    assert (told.now(), told.monotonic()) == (1_700_000_000.0, 1_000.0)


async def test_time_stands_still_until_the_hands_move(clock: ManualClock) -> None:
    """A sleeper due after the end of an advance sleeps on."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.sleep, 10.0)
        await clock.advance(9.5)

        assert clock.sleeping == 1

        await clock.advance(0.5)

    assert clock.monotonic() == 1_010.0


async def test_sleepers_wake_in_the_order_they_are_due(clock: ManualClock) -> None:
    """One advance wakes everybody on its way, each at its own moment."""
    woken: list[tuple[float, float]] = []

    async def nap(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, clock.monotonic()))

    async with anyio.create_task_group() as tasks:
        for seconds in (3.0, 1.0, 2.0):
            tasks.start_soon(nap, seconds)
        await clock.advance(3.0)

    assert woken == [(1.0, 1_001.0), (2.0, 1_002.0), (3.0, 1_003.0)]


async def test_who_sleeps_again_on_the_way_is_woken_again(clock: ManualClock) -> None:
    """A periodic task runs as often in one long advance as it would in many short ones."""
    ticks: list[float] = []

    async def tick() -> None:
        for _ in range(4):
            await clock.sleep(1.0)
            ticks.append(clock.now())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        await clock.advance(4.0)

    assert ticks == [1_700_000_000.0 + second for second in (1, 2, 3, 4)]


async def test_a_cancelled_sleeper_is_forgotten(clock: ManualClock) -> None:
    """Cancellation leaves nobody behind in the clock."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.sleep, 10.0)
        await clock.settle()
        tasks.cancel_scope.cancel()

    assert clock.sleeping == 0


@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_no_time_to_sleep_is_still_a_checkpoint(clock: ManualClock, seconds: float) -> None:
    """Sleeping for nothing lets a cancellation in, and does not wait."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await clock.sleep(seconds)

    assert scope.cancelled_caught
    assert clock.sleeping == 0
