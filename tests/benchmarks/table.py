"""The bars, and how the samples measure up to them."""

__all__ = ("ROWS", "Row", "figures", "lines")

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.measure import Round

BOUND_BEHIND_A_FLOOD_NS = 4 * 16 * 20_000


@dataclass(frozen=True, slots=True)
class Row:
    """A figure worked out from one round, the most it may be, and what would be good."""

    what: str
    unit: str
    bar: float
    aim: float
    figure: Callable[[Round], float]

    def measured(self, rounds: Sequence[Round]) -> float:
        """Give the median of the rounds."""
        return median(map(self.figure, rounds))

    def verdict(self, measured: float) -> str:
        """Say whether the bar is reached."""
        if measured <= self.bar:
            return "reached"
        return f"MISSED by {measured / self.bar - 1:.0%}".replace("%", " %")


def per(case: str, floor: str) -> Callable[[Round], float]:
    """Compare a case with a floor."""
    return lambda samples: samples[case] / samples[floor]


def extra(case: str, without: str, floor: str) -> Callable[[Round], float]:
    """Compare what one thing adds to a case with a floor."""
    return lambda samples: (samples[case] - samples[without]) / samples[floor]


ROWS = (
    Row("one publisher, one handler", "F", 1.35, 1.15, per("one", "F")),
    Row("fan-out to 10, per delivery", "F", 0.55, 0.4, lambda s: s["ten"] / s["F"] / 10),
    Row("one handler on trio", "of asyncio", 1.2, 1.0, per("one, trio", "one")),
    Row("fan-out to 10 on trio", "of asyncio", 1.2, 1.0, per("ten, trio", "ten")),
    Row("publish_many(100), per message", "F", 0.7, 0.5, per("batches", "F")),
    Row("Retry, nothing going wrong", "A", 0.3, 0.1, extra("Retry", "one", "A")),
    Row("DeadLetter, nothing going wrong", "A", 0.3, 0.1, extra("DeadLetter", "one", "A")),
    Row("Timeout, nothing going wrong", "A", 0.3, 0.1, extra("Timeout", "one", "A")),
    Row("where=", "A", 0.9, 0.6, extra("where", "one", "A")),
    Row("Filter", "A", 1.4, 1.1, extra("Filter", "one", "A")),
    Row("first middleware of the user's", "A", 2.5, 1.7, extra("layer", "one", "A")),
    Row(
        "each further middleware",
        "A",
        1.3,
        1.0,
        lambda s: (s["five layers"] - s["layer"]) / 4 / s["A"],
    ),
    Row("6-field model from a dict", "of the validator", 1.5, 1.3, extra("model", "one", "V")),
    Row(
        "the same for 10 subscriptions",
        "of the validator",
        1.5,
        1.3,
        extra("ten of a model", "ten", "V"),
    ),
    Row("everything on", "F", 6.0, 5.0, per("everything", "F")),
    Row(
        "latency p50, one in flight",
        "of a parked queue",
        1.2,
        1.0,
        per("latency", "latency of a queue"),
    ),
    Row(
        "latency p99 behind 4 flooded",
        "of 4 x 16 x 20 us",
        1.6,
        1.1,
        lambda s: s["flood"] / BOUND_BEHIND_A_FLOOD_NS,
    ),
    Row(
        "the same on trio",
        "of 4 x 16 x 20 us",
        3.1,
        2.1,
        lambda s: s["flood, trio"] / BOUND_BEHIND_A_FLOOD_NS,
    ),
    Row("memory, subscription never used", "kB", 1.5, 1.0, lambda s: s["unused"] / 1000),
    Row("memory, subscription used and idle", "kB", 10.0, 6.0, lambda s: s["idle"] / 1000),
)


def figures(rounds: Sequence[Round]) -> Iterator[tuple[Row, float]]:
    """Give each row with its figure."""
    return ((row, row.measured(rounds)) for row in ROWS)


def lines(rounds: Sequence[Round]) -> Iterator[str]:
    """Write the table, line by line."""
    yield f"{'':36}{'measured':>9}{'at most':>9}{'aim':>7}"
    for row, measured in figures(rounds):
        numbers = f"{measured:9.2f}{row.bar:9.2f}{row.aim:7.2f}"
        yield f"{row.what:36}{numbers}  {row.unit:18}{row.verdict(measured)}"
