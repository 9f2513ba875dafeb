"""How long handlers take."""

__all__ = ("BUCKETS", "Durations", "Tally")

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from eventbus.clock import stopwatch
from eventbus.context import Context, verdict_on
from eventbus.errors import InvalidOption
from eventbus.middleware import CallNext
from eventbus.settling import Failing

BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets, in seconds."""

MOST_KEPT = 10_000
"""Tallies kept while no collector asks, and so none of an ended subscription is forgotten."""


@dataclass(slots=True)
class Tally:
    """The attempts of one subscription that ended in one way: how many took how long."""

    subscription: str
    outcome: str
    counts: list[int]
    seconds: float = 0.0

    @property
    def cumulated(self) -> list[int]:
        """How many took no longer than each bound, and how many there are."""
        return list(accumulate(self.counts))


class Durations:
    """Middleware that tells how long attempts take, by subscription and outcome.

    The outcome is `succeeded`, `failed`, by an exception or by the handler's own `retry` or
    `reject`, or `filtered` where another middleware held the delivery back. Give each bus its own,
    and to the collector with it. Put it first, and it measures the other middleware too; last, the
    handler alone.

    Raises:
        InvalidOption: The bounds of the buckets do not rise from above 0.
    """

    def __init__(self, *, buckets: Sequence[float] = BUCKETS) -> None:
        if not buckets or not all(low < high for low, high in pairwise((0.0, *buckets))):
            raise InvalidOption(f"buckets={buckets!r}: give seconds that rise, from above 0")
        self.buckets = tuple(map(float, buckets))
        self._tallies: dict[tuple[str, str], Tally] = {}

    async def __call__(self, context: Context[Any], call_next: CallNext, /) -> object:
        """Measure the attempt, however it ends."""
        begin = stopwatch()
        outcome = "failed"
        try:
            result = await call_next(context)
            outcome = _outcome(context)
            return result
        finally:
            self._note(context.subscription, outcome, stopwatch() - begin)

    def read(self, subscriptions: Collection[str]) -> Iterator[Tally]:
        """Give the tallies of these subscriptions, and forget those of all others."""
        for key in [key for key in self._tallies if key[0] not in subscriptions]:
            del self._tallies[key]
        return iter(sorted(self._tallies.values(), key=lambda one: (one.subscription, one.outcome)))

    def _note(self, subscription: str, outcome: str, seconds: float) -> None:
        tally = self._tallies.get((subscription, outcome))
        if tally is None:
            tally = self._begin(subscription, outcome)
        tally.counts[bisect_left(self.buckets, seconds)] += 1
        tally.seconds += seconds

    def _begin(self, subscription: str, outcome: str) -> Tally:
        if len(self._tallies) >= MOST_KEPT:
            del self._tallies[next(iter(self._tallies))]
        tally = Tally(subscription, outcome, [0] * (len(self.buckets) + 1))
        self._tallies[subscription, outcome] = tally
        return tally


def _outcome(context: Context[Any]) -> str:
    """Tell how an attempt ended that raised nothing."""
    if isinstance(verdict_on(context), Failing):
        return "failed"
    return "succeeded" if context.is_handled else "filtered"
