"""Time, identity and chance: the one place where the outside world gets in.

Everything that waits or stamps goes through a `Clock`, so that a test can turn the hands itself.
"""

__all__ = ("Clock", "SystemClock", "stopwatch", "uuid7_text")

import random
import time
from functools import lru_cache
from typing import Protocol

import anyio


class Clock(Protocol):
    """What the bus asks of time; give another one as `EventBus(clock=)`."""

    def now(self) -> float:
        """Tell the wall time, in seconds since the epoch; it may jump."""
        ...

    def monotonic(self) -> float:
        """Tell a time in seconds that never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait that many seconds; a checkpoint even for none."""
        ...


class SystemClock:
    """The machine's own time."""

    # The functions themselves, not wrappers: the bus stamps every message, and a wrapper is 0.1 F.
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        """Wait that many seconds."""
        await anyio.sleep(seconds)


# How long work takes, whatever clock the bus was given: a hand-driven one stands still meanwhile.
stopwatch = time.perf_counter


@lru_cache(maxsize=64)
def _millisecond_prefix(milliseconds: int) -> str:
    digits = f"{milliseconds & 0xFFFF_FFFF_FFFF:012x}"
    return f"{digits[:8]}-{digits[8:]}-7"


def uuid7_text(seconds: float) -> str:
    """Make a UUIDv7 (RFC 9562, section 5.7) of a wall time, as text.

    The time fills the first 48 bits in milliseconds, chance the rest: ids sort by time to the
    millisecond.
    """
    chance = random.getrandbits(74)
    low = chance & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000
    tail = f"{low:016x}"
    return f"{_millisecond_prefix(int(seconds * 1000))}{chance >> 62:03x}-{tail[:4]}-{tail[4:]}"
