"""Take samples: every case once a round, in shuffled order, without the garbage collector."""

__all__ = (
    "Backend",
    "Case",
    "Round",
    "Sample",
    "Samples",
    "TooSlow",
    "WrongCount",
    "added",
    "by_case",
    "expect",
    "measure",
    "run",
    "undisturbed",
    "within",
)

import gc
import random
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from statistics import median
from time import perf_counter
from typing import Literal, TypeAlias, TypeVar

import anyio

T = TypeVar("T")

Backend: TypeAlias = Literal["asyncio", "uvloop", "trio"]

Sample: TypeAlias = Callable[[int], Awaitable[float]]
"""Does work of a size, such as a number of messages, and gives one figure."""

Round: TypeAlias = Mapping[str, float]
"""One sample of each case; infinite where it was given up."""

Samples: TypeAlias = Mapping[str, Sequence[float]]
"""The samples of each case, round by round."""

SLICES = 8


class WrongCount(Exception):
    """Something else was delivered than what was published: its time means nothing."""


class TooSlow(Exception):
    """The work was given up, as it took longer than it may."""


@dataclass(frozen=True, slots=True)
class Case:
    """A thing to measure; its figure is nanoseconds per message, unless its name says otherwise."""

    sample: Sample
    size: int = 4_000
    backend: Backend = "asyncio"


def expect(handled: int, expected: int) -> None:
    """Refuse a sample whose messages did not all arrive once.

    Raises:
        WrongCount: The two differ.
    """
    if handled != expected:
        raise WrongCount(f"{handled} deliveries where {expected} were due")


def within(seconds: float, items: Iterable[T]) -> Iterator[T]:
    """Give the items for as long as time is left.

    Raises:
        TooSlow: There are more items than time.
    """
    end = perf_counter() + seconds
    for item in items:
        if perf_counter() > end:
            raise TooSlow
        yield item


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
    """Give one round of samples after the other, each of a size divided by `shrink`.

    What was too slow once is not tried again.
    """
    chance = random.Random(2026)
    given_up: set[str] = set()
    with undisturbed():
        for _ in range(rounds):
            samples: dict[str, float] = {}
            for name in chance.sample(list(cases), len(cases)):
                samples[name] = inf if name in given_up else _sample(cases[name], shrink)
                if samples[name] == inf:
                    given_up.add(name)
            yield samples


@contextmanager
def undisturbed() -> Generator[None]:
    """Keep the garbage collector away; what is there before, it need not look through any more."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def by_case(rounds: Iterable[Round]) -> dict[str, list[float]]:
    """Turn rounds of samples into samples of each case."""
    samples: dict[str, list[float]] = {}
    for taken in rounds:
        for name, figure in taken.items():
            samples.setdefault(name, []).append(figure)
    return samples


def run(work: Callable[..., Awaitable[T]], *arguments: object, backend: Backend) -> T:
    """Run something on an event loop of its own."""
    if backend == "uvloop":
        return anyio.run(work, *arguments, backend_options={"use_uvloop": True})
    return anyio.run(work, *arguments, backend=backend)


def _sample(case: Case, shrink: int) -> float:
    gc.collect()
    try:
        return run(case.sample, max(1, case.size // shrink), backend=case.backend)
    except TooSlow:
        return inf
