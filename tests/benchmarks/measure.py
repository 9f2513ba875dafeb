"""Take samples: every case once a round, in shuffled order, without the garbage collector."""

__all__ = ("Case", "Round", "Sample", "WrongCount", "added", "expect", "measure")

import gc
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Literal, TypeAlias

import anyio

Sample: TypeAlias = Callable[[int], Awaitable[float]]
"""Does work of a size, such as a number of messages, and gives one figure."""

Round: TypeAlias = Mapping[str, float]
"""One sample of each case."""

SLICES = 8


class WrongCount(Exception):
    """Something else was delivered than what was published: its time means nothing."""


@dataclass(frozen=True, slots=True)
class Case:
    """A thing to measure; its figure is nanoseconds per message, unless its name says otherwise."""

    sample: Sample
    size: int = 4_000
    backend: Literal["asyncio", "trio"] = "asyncio"


def expect(handled: int, expected: int) -> None:
    """Refuse a sample whose messages did not all arrive once.

    Raises:
        WrongCount: The two differ.
    """
    if handled != expected:
        raise WrongCount(f"{handled} deliveries where {expected} were due")


def added(by: Sample, to: Sample) -> Sample:
    """Make the sample of what one thing costs more than another.

    Both are done in turn, a slice of the work at a time: the difference is small beside them, and
    would drown in what the machine does between two samples far apart.
    """

    async def sample(size: int) -> float:
        slices = [await by(size // SLICES) - await to(size // SLICES) for _ in range(SLICES)]
        return median(slices)

    return sample


def measure(cases: Mapping[str, Case], *, rounds: int, shrink: int = 1) -> Iterator[Round]:
    """Give one round of samples after the other, each of a size divided by `shrink`."""
    chance = random.Random(2026)
    # What is there before the first sample will stay: no need to look through it each time.
    gc.freeze()
    for _ in range(rounds):
        order = chance.sample(list(cases), len(cases))
        yield {name: _sample(cases[name], shrink) for name in order}


def _sample(case: Case, shrink: int) -> float:
    gc.collect()
    gc.disable()
    try:
        return anyio.run(case.sample, case.size // shrink, backend=case.backend)
    finally:
        gc.enable()
