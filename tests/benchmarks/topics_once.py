"""Memory that remains after very many topics, each published to once; in a process of its own.

What other measurements left free would hide what is taken, so that each contender gets a process:
`python -m tests.benchmarks.topics_once CONTENDER TOPICS` prints bytes, or `inf` if it takes too
long.
"""

__all__ = ("LIMIT_SECONDS", "TOPICS", "remaining")

import gc
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from math import inf
from pathlib import Path
from time import perf_counter

from tests.benchmarks.contenders import CONTENDERS
from tests.benchmarks.contenders.contender import Contender
from tests.benchmarks.floors import Tally
from tests.benchmarks.measure import Round, expect, run
from tests.benchmarks.workloads import named

TOPICS = 1_000_000
PROBE = 1_000
LIMIT_SECONDS = 60.0
STATM = Path("/proc/self/statm")
PAGE = 4096


def remaining(contenders: Iterable[Contender], *, shrink: int = 1) -> Iterator[Round]:
    """Give the bytes of each contender that routes by pattern, where the system tells them."""
    for contender in contenders:
        if contender.patterns is not None and contender.backend == "asyncio" and STATM.exists():
            yield {
                named(contender.name, "topics once"): _in_own_process(contender, TOPICS // shrink)
            }


def _in_own_process(contender: Contender, topics: int) -> float:
    command = [sys.executable, "-m", "tests.benchmarks.topics_once", contender.name, str(topics)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ourselves
    return float(done.stdout)


async def _bytes(contender: Contender, topics: int) -> float:
    assert contender.patterns is not None
    tally = Tally()
    async with contender.patterns(["once.*"], tally) as publish_to:
        started = perf_counter()
        await publish_to(f"once.probe{number}" for number in range(PROBE))
        if (perf_counter() - started) / PROBE * TOPICS > LIMIT_SECONDS:
            return inf
        before = _resident()
        await publish_to(f"once.t{number}" for number in range(topics))
        gc.collect()
        kept = _resident() - before
    expect(tally.handled, topics + PROBE)
    return kept


def _resident() -> int:
    return int(STATM.read_text("ascii").split()[1]) * PAGE


def main(name: str, topics: str) -> None:
    """Print the figure of one contender."""
    contender = next(one for one in CONTENDERS if one.name == name)
    print(run(partial(_bytes, contender, int(topics)), backend=contender.backend))


if __name__ == "__main__":
    main(*sys.argv[1:])
