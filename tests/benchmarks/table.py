"""The bars, and how the samples measure up to them."""

__all__ = ("ROWS", "Figure", "Row", "lines", "missed_by", "per")

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

from tests.benchmarks.measure import Samples
from tests.benchmarks.patterns import workload
from tests.benchmarks.workloads import named

Figure: TypeAlias = Callable[[Samples], float | None]
"""Works a figure out from the samples; None where they are missing."""

BOUND_BEHIND_A_FLOOD_NS = 4 * 16 * 20_000


@dataclass(frozen=True, slots=True)
class Row:
    """A figure, the most it may be, and what would be good."""

    what: str
    unit: str
    bar: float
    aim: float
    figure: Figure

    def verdict(self, measured: float | None) -> str:
        """Say whether the bar is reached."""
        if measured is None:
            return "-"
        return "reached" if measured <= self.bar else missed_by(measured / self.bar - 1)


def missed_by(part: float) -> str:
    """Say by which part of the bar a figure misses it."""
    return f"MISSED by {part * 100:.0f} %"


def per(case: str, floor: str | float, *, parts: int = 1) -> Figure:
    """Compare a part of a case with another case of the same rounds, or with a number."""

    def figure(samples: Samples) -> float | None:
        if not isinstance(floor, str):
            return median(samples[case]) / parts / floor if case in samples else None
        if case not in samples or floor not in samples:
            return None
        rounds = zip(samples[case], samples[floor], strict=False)
        return median(one / parts / unit for one, unit in rounds)

    return figure


def _of_one_pattern(topics: str) -> Figure:
    many, one = workload(100_000, topics), workload(1, topics)
    return per(named("eventbus", many), named("eventbus", one))


ROWS = (
    Row("one publisher, one handler", "F", 1.35, 1.15, per("one", "F")),
    Row("fan-out to 10, per delivery", "F", 0.55, 0.4, per("ten", "F", parts=10)),
    Row("one handler on trio", "of asyncio", 1.2, 1.0, per("one, trio", "one")),
    Row("fan-out to 10 on trio", "of asyncio", 1.2, 1.0, per("ten, trio", "ten")),
    Row("publish_many(100), per message", "F", 0.7, 0.5, per("batches", "F")),
    Row("Retry, nothing going wrong", "A", 0.3, 0.1, per("added by Retry", "A")),
    Row("DeadLetter, nothing going wrong", "A", 0.3, 0.1, per("added by DeadLetter", "A")),
    Row("Timeout, nothing going wrong", "A", 0.3, 0.1, per("added by Timeout", "A")),
    Row("where=", "A", 0.9, 0.6, per("added by where", "A")),
    Row("Filter", "A", 1.4, 1.1, per("added by Filter", "A")),
    Row("Throttle, nothing has to wait", "A", 2.5, 1.7, per("added by Throttle", "A")),
    Row("Deduplicate, no ids given", "A", 2.5, 1.7, per("added by Deduplicate", "A")),
    Row("Deduplicate, each of another key", "A", 7.0, 5.0, per("added by a key", "A")),
    Row("Correlate", "A", 2.5, 0.8, per("added by Correlate", "A")),
    Row("first middleware of the user's", "A", 2.5, 1.7, per("added by a layer", "A")),
    Row("each further middleware", "A", 1.3, 1.0, per("added by four more", "A", parts=4)),
    Row("6-field model from a dict", "V", 1.5, 1.3, per("added by a model", "V")),
    Row("the same for 10 subscriptions", "V", 1.5, 1.3, per("added by a model to ten", "V")),
    Row("everything on", "F", 6.0, 5.0, per("everything", "F")),
    Row("100,000 patterns, repeated topics", "of 1", 1.2, 1.1, _of_one_pattern("repeated")),
    Row("100,000 patterns, new topics", "of 1", 6.0, 4.0, _of_one_pattern("new")),
    Row("request and its reply", "R", 2.3, 1.9, per("request", "R")),
    Row("latency p50, one in flight", "Q", 1.2, 1.0, per("latency", "latency of a queue")),
    Row("latency p99 behind 4 flooded", "B", 1.6, 1.1, per("flood", BOUND_BEHIND_A_FLOOD_NS)),
    Row("the same on trio", "B", 3.1, 2.1, per("flood, trio", BOUND_BEHIND_A_FLOOD_NS)),
    Row("delay=, until handled", "F", 25.0, 15.0, per("scheduled", "F")),
    Row("from a thread", "T", 0.02, 0.01, per("from a thread", "called from a thread")),
    Row(
        "from a thread, on trio",
        "T on trio",
        0.02,
        0.01,
        per("from a thread, trio", "called from a thread, trio"),
    ),
    Row("memory, message scheduled", "kB", 1.0, 0.5, per("bytes, scheduled", 1_000)),
    Row("memory, subscription never used", "kB", 1.5, 1.0, per("bytes, unused", 1_000)),
    Row("memory, subscription used and idle", "kB", 10.0, 6.0, per("bytes, idle", 1_000)),
)

UNITS = (
    ("F", "F", "asyncio.Queue: put_nowait, get, await handler"),
    ("A", "A", "await handler"),
    ("V", "V", "the model's validator, called with the dict"),
    ("T", "called from a thread", "anyio.from_thread.run_sync, wall time"),
    ("R", "R", "asyncio.Queue and a Future: put_nowait both, get, await handler, set_result"),
    ("Q", "latency of a queue", "from put_nowait to the handler of a parked asyncio.Queue"),
)


def lines(samples: Samples) -> Iterator[str]:
    """Write the units and the table, line by line."""
    for letter, case, meaning in UNITS:
        yield f"{letter} = {median(samples[case]):6.0f} ns: {meaning}"
    yield f"B = {BOUND_BEHIND_A_FLOOD_NS:6.0f} ns: 4 subscriptions x 16 handlers x 20 us"
    yield ""
    yield f"{'':36}{'measured':>9}{'at most':>9}{'aim':>7}"
    for row in ROWS:
        measured = row.figure(samples)
        number = "-" if measured is None else f"{measured:.2f}"
        numbers = f"{number:>9}{row.bar:9.2f}{row.aim:7.2f}"
        yield f"{row.what:36}{numbers} {row.unit:11}{row.verdict(measured)}"
