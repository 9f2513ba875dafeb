"""What a change made slower: this checkout beside another revision, round by round.

`python -m tests.benchmarks.guard REVISION` runs the same benchmarks, those of this checkout, on
both versions of the bus, each in a process of its own; they take turns, case by case. The processes
are started anew a few times, as where one happens to lay its memory makes some percent of
difference. The exit code is 1 if a case became slower than is tolerated.
"""

__all__ = ("CORE", "Comparison", "Pair", "compared", "main")

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isnan
from pathlib import Path
from statistics import median
from typing import TypeAlias

from tests.benchmarks import callgrind, floors, latency, memory, throughput
from tests.benchmarks.contenders import BUS
from tests.benchmarks.measure import Case
from tests.benchmarks.workloads import nested_orders, start_and_stop

ROOT = Path(__file__).parents[2]
STARTS = 5
ROUNDS = 9
TOLERATED = 0.05

TIMED: Mapping[str, Case] = {
    "asyncio.Queue, equal in both": Case(floors.queue_and_await),
    "one handler": Case(throughput.fan_out(1)),
    "one handler on trio": Case(throughput.fan_out(1), backend="trio"),
    "ten handlers": Case(throughput.fan_out(10), 1_000),
    "publish_many": Case(throughput.in_batches, 8_000),
    "a middleware": Case(throughput.with_middleware(throughput.pass_on)),
    "where=": Case(throughput.with_where),
    "a model from a dict": Case(throughput.fan_out_of_models(1), 2_000),
    "an order with line items": Case(nested_orders(BUS), 1_000),
    "everything on": Case(throughput.everything_on, 1_000),
    "latency": Case(latency.one_in_flight, 500),
    "start and stop": Case(start_and_stop(BUS), 200),
}

CORE: Mapping[str, Case] = {
    **TIMED,
    "bytes, unused": Case(memory.unused_subscription, 200),
    "bytes, idle": Case(memory.idle_subscription, 200),
}

Pair: TypeAlias = tuple[float, float]
"""The figures of the old and of the new version."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A case, its figure in both versions, and how many times the old one the new one is."""

    case: str
    old: float
    new: float
    ratio: float

    @property
    def is_slower(self) -> bool:
        """Whether it lost more than is tolerated."""
        return self.ratio > 1 + TOLERATED

    def __str__(self) -> str:
        """Write the line of the table."""
        figures = f"{self.case:32}{self.old:14,.0f}{self.new:14,.0f}"
        if isnan(self.ratio):
            return f"{figures}  only one version can do it"
        word = "SLOWER" if self.is_slower else "faster" if self.ratio < 1 - TOLERATED else ""
        return f"{figures}{(self.ratio - 1) * 100:+8.1f} %  {word}".rstrip()


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that takes samples of one version."""

    process: subprocess.Popen[str]

    def sample(self, case: str, *, shrink: int = 1) -> float:
        """Have a case done once, of its size divided by `shrink`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(CORE[case].size // shrink, case, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def main() -> int:
    """Run as a command; give the exit code."""
    options = _options()
    with _checkout_of(options.revision) as old:
        rounds = (
            _counts_of_both(old)
            if options.instructions
            else _rounds(old, options.starts, options.rounds)
        )
        comparisons = compared(list(rounds))
    unit = "instructions" if options.instructions else "ns or bytes"
    print(f"{unit:32}{options.revision[:12]:>14}{'here':>14}")
    print(*comparisons, sep="\n")
    return int(any(one.is_slower for one in comparisons))


def compared(rounds: Sequence[Mapping[str, Pair]]) -> list[Comparison]:
    """Sum up rounds: the median of each version, and that of their ratios in one round."""
    comparisons: list[Comparison] = []
    for case in rounds[0]:
        pairs = [taken[case] for taken in rounds]
        old, new = (median(figures) for figures in zip(*pairs, strict=True))
        ratio = median(after / before for before, after in pairs)
        comparisons.append(Comparison(case, old, new, ratio))
    return comparisons


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.guard", description=__doc__)
    parser.add_argument("revision", help="what git calls the version to compare with")
    parser.add_argument("--starts", type=int, default=STARTS, help=f"{STARTS} if not given")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"{ROUNDS} for each start")
    parser.add_argument(
        "--instructions", action="store_true", help="count instructions with valgrind: no noise"
    )
    return parser.parse_args()


@contextmanager
def _checkout_of(revision: str) -> Generator[Path]:
    """Give a checkout of the revision for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="eventbus-") as folder:
        checkout = Path(folder).resolve() / "checkout"
        _git("worktree", "add", "--quiet", "--detach", str(checkout), revision)
        try:
            yield checkout
        finally:
            _git("worktree", "remove", "--force", str(checkout))


def _git(*words: str) -> None:
    subprocess.run(["git", *words], cwd=ROOT, check=True)  # noqa: S603, S607 - the user's own git


def _rounds(old: Path, starts: int, rounds: int) -> Iterator[Mapping[str, Pair]]:
    chance = random.Random(2026)
    for start in range(starts):
        with _worker(old) as older, _worker(ROOT) as newer:
            for number in range(rounds):
                print(f"\rstart {start + 1}, round {number + 1} ", end="", file=sys.stderr)
                yield {case: _pair(older, newer, case, chance) for case in CORE}
    print(file=sys.stderr)


def _pair(older: Worker, newer: Worker, case: str, chance: random.Random) -> Pair:
    """Take a sample of both versions right after each other, in either order."""
    if chance.random() < 0.5:
        return older.sample(case), newer.sample(case)
    new = newer.sample(case)
    return older.sample(case), new


def _counts_of_both(old: Path) -> Iterator[Mapping[str, Pair]]:
    older, newer = _counts(old), _counts(ROOT)
    yield {case: (older[case], newer[case]) for case in TIMED}


def _counts(checkout: Path) -> Mapping[str, float]:
    """Count the instructions of each case, per message or whatever its size counts."""
    with tempfile.TemporaryDirectory(prefix="callgrind-") as folder:
        out_file = Path(folder) / "counts"
        prefix = (*callgrind.COMMAND, f"--callgrind-out-file={out_file}")
        with _worker(checkout, *prefix) as worker:
            counts: dict[str, float] = {}
            for case in TIMED:
                print(f"\r{checkout.name}, {case:<32}", end="", file=sys.stderr)
                counts[case] = _count(worker, case, out_file)
    print(file=sys.stderr)
    return counts


def _count(worker: Worker, case: str, out_file: Path) -> float:
    """Count two sizes, once what is cached is there: starting and ending drop out."""
    worker.sample(case, shrink=2)
    half, quarter = (
        callgrind.counted(worker.process.pid, out_file, partial(worker.sample, case, shrink=shrink))
        for shrink in (2, 4)
    )
    return (half - quarter) / (CORE[case].size / 4)


@contextmanager
def _worker(checkout: Path, *prefix: str) -> Generator[Worker]:
    command = [*prefix, sys.executable, "-m", "tests.benchmarks.worker", str(checkout)]
    with subprocess.Popen(  # noqa: S603 - ourselves
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Worker(process)


if __name__ == "__main__":
    sys.exit(main())
