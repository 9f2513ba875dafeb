"""What a change made slower: this checkout beside an older revision, round by round.

`python -m tests.benchmarks.guard REVISION` runs the same benchmarks, those of this checkout, on both
versions of the bus, each in a process of its own; they take turns, case by case. The processes are
started anew a few times, as where one happens to lay its memory makes a difference of some percent.
The exit code is 1 if a case became slower than is tolerated.
"""

__all__ = ("CORE", "Comparison", "compared", "main")

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from statistics import median
from typing import IO, TypeAlias

from tests.benchmarks import callgrind, floors, latency, memory, throughput
from tests.benchmarks.contenders import BUS
from tests.benchmarks.measure import Case
from tests.benchmarks.throughput import fan_out, pass_on, with_middleware
from tests.benchmarks.workloads import nested_orders, start_and_stop

ROOT = Path(__file__).parents[2]
STARTS = 5
ROUNDS = 9
TOLERATED = 0.05

CORE: Mapping[str, Case] = {
    "asyncio.Queue, the same in both": Case(floors.queue_and_await),
    "one handler": Case(fan_out(1)),
    "one handler on trio": Case(fan_out(1), backend="trio"),
    "ten handlers": Case(fan_out(10), 1_000),
    "publish_many": Case(throughput.in_batches),
    "a middleware": Case(with_middleware(pass_on)),
    "where=": Case(throughput.with_where),
    "a model from a dict": Case(throughput.fan_out_of_models(1), 2_000),
    "an order with line items": Case(nested_orders(BUS), 1_000),
    "everything on": Case(throughput.everything_on, 1_000),
    "latency": Case(latency.one_in_flight, 500),
    "start and stop": Case(start_and_stop(BUS), 200),
    "bytes, unused": Case(memory.unused_subscription, 200),
    "bytes, idle": Case(memory.idle_subscription, 200),
}

Ask: TypeAlias = Callable[[str], float]
"""Takes a sample of a case in some version."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A case, with its figure in both versions and how many times the old one the new one is."""

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
        if isnan(self.ratio):
            return f"{self.case:34}{self.old:12.0f}{self.new:12.0f}  only one version can do it"
        word = "SLOWER" if self.is_slower else "faster" if self.ratio < 1 - TOLERATED else ""
        change = f"{(self.ratio - 1) * 100:+8.1f} %"
        return f"{self.case:34}{self.old:12.0f}{self.new:12.0f}{change}  {word}".rstrip()


def main() -> int:
    """Run as a command; give the exit code."""
    options = _options()
    with _checkout_of(options.revision) as old:
        if options.instructions:
            comparisons = _in_instructions(old)
        else:
            comparisons = compared(list(_rounds(old, options.starts, options.rounds)))
    unit = "instructions" if options.instructions else "ns or bytes"
    print(f"{unit:34}{options.revision[:10]:>12}{'here':>12}")
    print(*comparisons, sep="\n")
    return int(any(one.is_slower for one in comparisons))


def compared(rounds: Sequence[Mapping[str, tuple[float, float]]]) -> list[Comparison]:
    """Sum up rounds of (old, new): the median of each, and that of their ratios in one round."""
    comparisons: list[Comparison] = []
    for case in rounds[0]:
        old, new = zip(*(taken[case] for taken in rounds), strict=True)
        ratio = median(after / before for before, after in zip(old, new, strict=True))
        comparisons.append(Comparison(case, median(old), median(new), ratio))
    return comparisons


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.guard", description=__doc__)
    parser.add_argument("revision", help="what git calls the version to compare with")
    parser.add_argument("--starts", type=int, default=STARTS, help=f"{STARTS} if not given")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"{ROUNDS} for each start")
    parser.add_argument(
        "--instructions", action="store_true", help="count instructions, by valgrind: no noise"
    )
    return parser.parse_args()


@contextmanager
def _checkout_of(revision: str) -> Iterator[Path]:
    """Give a checkout of the revision for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="eventbus-") as folder:
        checkout = Path(folder) / "checkout"
        _git("worktree", "add", "--quiet", "--detach", str(checkout), revision)
        try:
            yield checkout
        finally:
            _git("worktree", "remove", "--force", str(checkout))


def _git(*words: str) -> None:
    subprocess.run(["git", *words], cwd=ROOT, check=True)  # noqa: S603, S607 - the user's git


def _rounds(old: Path, starts: int, rounds: int) -> Iterator[Mapping[str, tuple[float, float]]]:
    chance = random.Random(2026)
    for start in range(starts):
        with _worker(old) as ask_old, _worker(ROOT) as ask_new:
            for number in range(rounds):
                print(f"\rstart {start + 1}, round {number + 1} ", end="", file=sys.stderr)
                cases = chance.sample(list(CORE), len(CORE))
                taken = {case: _taken(case, ask_old, ask_new, chance) for case in cases}
                yield {case: taken[case] for case in CORE}
    print(file=sys.stderr)


def _taken(case: str, ask_old: Ask, ask_new: Ask, chance: random.Random) -> tuple[float, float]:
    """Take a sample of both versions, one after the other, in either order."""
    if chance.random() < 0.5:
        old = ask_old(case)
        return old, ask_new(case)
    new = ask_new(case)
    return ask_old(case), new


@contextmanager
def _worker(checkout: Path, *, prefix: Sequence[str] = ()) -> Iterator["Worker"]:
    """Run a process that answers for one version."""
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
