"""The wall clock is set while something waits: what waits for a length of time does not notice."""

from collections.abc import Callable
from typing import TypeAlias

import anyio
import pytest

from eventbus import Clock, EventBus
from eventbus.middleware import Retry, Timeout
from eventbus.testing import ManualClock
from tests.faults.scale import full

HOUR = 3_600.0
JUMPS = (HOUR, -HOUR, -1.0)
WAITS = (1.0, 3.0, 15.0)

Diary: TypeAlias = list[tuple[str, float]]


class WallOnly:
    """A clock that knows no other time than the wall's, as if the protection were off."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now(self) -> float:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.now()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)


async def waits(clock: ManualClock, jump: float, bus_clock: Clock) -> Diary:
    """Begin one wait of each kind and length, set the wall clock; tell when each has ended."""
    diary: Diary = []
    begin = clock.monotonic()

    def note(what: str) -> None:
        diary.append((what, clock.monotonic() - begin))

    bus = EventBus(clock=bus_clock, drain_timeout=1_000.0)
    for wait in WAITS:
        _add(bus, wait, note)
    async with bus:
        for wait in WAITS:
            await bus.publish(f"failing.w{wait:.0f}", {"n": 1})
            await bus.publish(f"slow.w{wait:.0f}", {"n": 1})
            await bus.publish("scheduled", {"wait": wait}, delay=wait)
        await clock.advance(0.25)
        clock.set_wall(jump)
        await clock.advance(60.0)
    return sorted(diary)


def _add(bus: EventBus, wait: float, note: Callable[[str], None]) -> None:
    @bus.on(f"failing.w{wait:.0f}", middleware=[Retry(attempts=2, initial=wait, jitter=False)])
    async def fail_once(event: object) -> None:
        note(f"attempt {wait}")
        raise RuntimeError("and again")

    @bus.on(f"slow.w{wait:.0f}", middleware=[Timeout(wait)])
    async def take_long(event: object) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            note(f"timed out {wait}")

    if wait == WAITS[0]:

        @bus.on("scheduled")
        async def hear(event: dict[str, float]) -> None:
            note(f"scheduled {event['wait']}")


@pytest.mark.parametrize("jump", JUMPS)
async def test_waits_are_as_long_as_without_the_jump(jump: float) -> None:
    """Retries, time limits and delays: to the moment."""
    calm, jumped = ManualClock(), ManualClock()

    expected = await waits(calm, 0.0, calm)

    assert len(expected) == 4 * len(WAITS)
    assert await waits(jumped, jump, jumped) == expected


async def test_a_jump_would_be_noticed() -> None:
    """The control: on a clock that knows no monotonic time, waits take as much longer."""
    calm, jumped = ManualClock(), ManualClock()

    expected = dict(await waits(calm, 0.0, calm))
    delayed = dict(await waits(jumped, -10.0, WallOnly(jumped)))

    late = {what.split()[0] for what, ended in delayed.items() if ended > expected[what] + 9.0}
    assert late == {"attempt", "timed", "scheduled"}


@pytest.mark.parametrize("jump", JUMPS)
async def test_nothing_expires_early_by_more_than_the_jump(clock: ManualClock, jump: float) -> None:
    """`expires=` names a date: set the clock forward by less than what is left, and it stays."""
    bus, heard = EventBus(clock=clock), list[int]()
    opened = anyio.Event()

    @bus.on("news")
    async def read(event: dict[str, int]) -> None:
        heard.append(event["n"])
        await opened.wait()

    async with bus:
        await bus.publish("news", {"n": 0})
        await bus.publish("news", {"n": 1}, expires=HOUR + 60.0)
        await bus.publish("news", {"n": 2}, expires=HOUR - 60.0)
        await clock.advance(30.0)
        clock.set_wall(jump)
        opened.set()

    assert heard == ([0, 1] if jump == HOUR else [0, 1, 2])


@pytest.mark.parametrize("jump", JUMPS)
async def test_ids_of_one_run_stay_apart(clock: ManualClock, jump: float) -> None:
    """However often the clock shows the same moment."""
    ids: list[str] = []
    bus = EventBus(clock=clock)
    async with bus:
        for number in range(full(200_000, small=2_000)):
            ids.append((await bus.publish("news", {"n": number})).id)
            if number % 100 == 99:
                clock.set_wall(jump if number % 200 == 99 else -jump)

    assert len(set(ids)) == len(ids)
