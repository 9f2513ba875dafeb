"""The system's own time, and ids made of it."""

import time
from uuid import RFC_4122, UUID

import anyio
import pytest

from eventbus.clock import Clock, SystemClock, uuid7_text

SECONDS = 1_700_000_000.125  # a float holds it exactly


def test_the_system_clock_tells_the_machines_time() -> None:
    """Wall time and monotonic time are those of the machine."""
    clock: Clock = SystemClock()

    before = time.time(), time.monotonic()
    told = clock.now(), clock.monotonic()
    after = time.time(), time.monotonic()

    assert before <= told <= after
    assert before[1] <= told[1] <= after[1]


async def test_the_system_clock_sleeps_at_least_as_long_as_asked() -> None:
    """A sleep ends no sooner than its seconds have passed."""
    clock = SystemClock()
    begin = clock.monotonic()

    await clock.sleep(0.02)

    assert clock.monotonic() - begin >= 0.019


async def test_sleeping_for_no_time_is_still_a_checkpoint() -> None:
    """A cancelled task does not get past a sleep of nothing."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await SystemClock().sleep(0.0)

    assert scope.cancelled_caught


def test_an_id_is_a_uuid_of_version_7() -> None:
    """What is made is the usual text of a UUID, version and variant included."""
    text = uuid7_text(SECONDS)
    made = UUID(text)

    assert str(made) == text
    assert (made.version, made.variant) == (7, RFC_4122)


def test_an_id_holds_its_time_in_milliseconds() -> None:
    """The first 48 bits are the wall time it was made for."""
    assert UUID(uuid7_text(SECONDS)).int >> 80 == 1_700_000_000_125


def test_ids_sort_by_time() -> None:
    """Ids of later milliseconds come later, as text too."""
    ids = [uuid7_text(SECONDS + step / 256) for step in range(50)]

    assert sorted(ids) == ids


def test_ids_of_one_moment_rise() -> None:
    """What was made one after the other in one millisecond is kept apart, and in order."""
    ids = [uuid7_text(SECONDS) for _ in range(10_000)]

    assert sorted(set(ids)) == ids


@pytest.mark.parametrize("seconds", [0.0, 2.0**38])
def test_an_id_has_its_form_at_any_time(seconds: float) -> None:
    """From the epoch to the year 10680, nothing overflows into other fields."""
    made = UUID(uuid7_text(seconds))

    assert made.version == 7
    assert made.int >> 80 == int(seconds * 1000) & 0xFFFF_FFFF_FFFF
