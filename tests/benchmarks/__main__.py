"""Measure, and print how the bus measures up: `python -m tests.benchmarks`.

A missed bar is information, not a failure: the exit code is 0 unless messages went missing.
"""

import argparse
import json
import logging
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.cases import CASES
from tests.benchmarks.measure import Round, WrongCount, measure
from tests.benchmarks.table import figures, lines

LIBRARIES = ("eventbus", "anyio", "trio", "pydantic")


def main() -> int:
    """Run as a command; give the exit code."""
    options = _options()
    # The bus warns of what the flood leaves undone; here that is meant.
    logging.disable(logging.WARNING)
    print(_machine())
    try:
        rounds = _measured(options.rounds, shrink=10 if options.quick else 1)
    except WrongCount as error:
        print(f"No figures: {error}", file=sys.stderr)
        return 1
    print(*lines(rounds), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(_report(rounds), indent=1) + "\n", "utf-8")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, metavar="N", help="21 if not given")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there too")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: does it run?")
    return parser.parse_args()


def _measured(rounds: int, *, shrink: int) -> list[Round]:
    done: list[Round] = []
    for samples in measure(CASES, rounds=rounds, shrink=shrink):
        done.append(samples)
        print(f"\rround {len(done)} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return done


def _machine() -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    kind = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    return f"{python}, {libraries}; {kind}"


def _report(rounds: Sequence[Round]) -> dict[str, object]:
    rows = [
        {"what": row.what, "unit": row.unit, "measured": figure, "bar": row.bar, "aim": row.aim}
        for row, figure in figures(rounds)
    ]
    return {"machine": _machine(), "rows": rows, "rounds": rounds}


if __name__ == "__main__":
    sys.exit(main())
