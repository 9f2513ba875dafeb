"""Virtual time on trio: its own mock clock, held while something outside is at work."""

__all__ = ("seeded", "virtual_options")

import math
from collections.abc import Generator
from contextlib import contextmanager
from random import Random
from typing import Any
from unittest.mock import patch

from trio.abc import Instrument
from trio.lowlevel import Task, current_statistics
from trio.testing import MockClock, active_thread_count


def virtual_options(beginning: float) -> dict[str, Any]:
    """Make the options of a run whose time jumps."""
    clock = MockClock(autojump_threshold=0)
    clock.jump(beginning)
    return {"clock": clock, "instruments": [_Holding(clock)]}


class _Holding(Instrument):
    """Lets time pass by itself while a thread is busy or a task waits for a file."""

    def __init__(self, clock: MockClock) -> None:
        self._clock = clock

    def after_task_step(self, task: Task) -> None:
        """Look, after each step of a task, whether such work has begun or ended."""
        rate = 1.0 if active_thread_count() or _waits() else 0.0
        if rate != self._clock.rate:
            self._clock.rate = rate
            self._clock.autojump_threshold = math.inf if rate else 0.0


def _waits() -> bool:
    """Tell whether a task waits for a file; whenever nothing can run, one of trio's own does."""
    statistics = current_statistics().io_statistics
    names = ("tasks_waiting_read", "tasks_waiting_write", "tasks_waiting")  # epoll's; kqueue's
    return sum(getattr(statistics, name, 0) for name in names) > 1


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Let a seed decide which task goes on: trio's own switch for tests, which is not public."""
    with (
        patch("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", new=True),
        patch("trio._core._run._r", Random(seed)),
    ):
        yield
