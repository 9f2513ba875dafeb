"""Take samples: every case once a round, in shuffled order, without the garbage collector."""

__all__ = ("Case", "Round", "WrongCount", "expect", "measure")

import gc
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import anyio

Round: TypeAlias = Mapping[str, float]
"""One sample of each case."""


class WrongCount(Exception):
    """Something else was delivered than what was published: its time means nothing."""


@dataclass(frozen=True, slots=True)
class Case:
    """A thing to measure.

    `sample` takes a size, such as a number of messages, and gives one figure: nanoseconds per
    message unless its name says otherwise.
    """

    sample: Callable[[int], Awaitable[float]]
    size: int = 5_000
    backend: Literal["asyncio", "trio"] = "asyncio"


def expect(handled: int, expected: int) -> None:
    """Refuse a sample whose messages did not all arrive once.

    Raises:
        WrongCount: The two differ.
    """
    if handled != expected:
        raise WrongCount(f"{handled} deliveries where {expected} were due")


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
