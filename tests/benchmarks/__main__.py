"""Measure, and print how the bus measures up: `python -m tests.benchmarks`.

A missed bar is information, not a failure: the exit code is 0 unless messages went missing.
"""

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from math import isinf
from pathlib import Path
from sqlite3 import sqlite_version
from statistics import median

from tests.benchmarks import (
    chart,
    durable,
    leads,
    league,
    limits,
    machine,
    patterns,
    readme,
    table,
    topics_once,
    workloads,
)
from tests.benchmarks.cases import CASES
from tests.benchmarks.contenders import BUS, CONTENDERS, PEERS, Contender
from tests.benchmarks.measure import Round, Samples, WrongCount, by_case, measure

ROUNDS = 21
HEAVY_ROUNDS = 7
QUICK_ROUNDS = 3


def main() -> int:
    """Run as a command; give the exit code."""
    options = _options()
    # The bus warns of what the flood leaves undone, libraries of handlers with equal names.
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    if options.durable:
        return _durable(options)
    contenders = [one for one in CONTENDERS if not (options.core and one.kind == "peer")]
    contenders = [one for one in contenders if one.is_installed]
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    used = machine.libraries(contenders)
    print(used, machine.kind(), "", sep="\n")
    try:
        samples = by_case(_measured(contenders, rounds, quick=options.quick))
    except WrongCount as error:
        print(f"No figures: {error}", file=sys.stderr)
        return 1
    for part in (table, limits, leads, league):
        print(*part.lines(samples), "", sep="\n")
    if options.json:
        options.json.write_text(json.dumps(_report(used, samples), indent=1) + "\n", "utf-8")
    if options.svg:
        drawn = chart.svg(chart.panels(samples), f"{used}; {machine.kind()}")
        options.svg.write_text(drawn, "utf-8")
    if options.readme:
        _fill(options.readme, readme.BARS, readme.lines(f"{machine.kind()}; {used}", samples))
    return 0


def _durable(options: argparse.Namespace) -> int:
    """Measure the store alone, and print its table."""
    used = f"{machine.kind()}; {machine.libraries([])}, SQLite {sqlite_version}"
    print(used, "", sep="\n")
    shrink = 5 if options.quick else 1
    taken = measure(durable.CASES, rounds=options.rounds or HEAVY_ROUNDS, shrink=shrink)
    samples = by_case(_told("the store", taken))
    print(*durable.lines(samples), sep="\n")
    if options.readme:
        _fill(options.readme, readme.STORE, readme.lines_of_store(used, samples))
    return 0


def _fill(file: Path, place: readme.Place, lines: Iterable[str]) -> None:
    file.write_text(readme.filled(file.read_text("utf-8"), place, lines), "utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, metavar="N", help=f"{ROUNDS} if not given")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there too")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the other libraries there")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="fill in the figures there")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the work or less: does it run?"
    )
    parser.add_argument("--core", action="store_true", help="leave the other libraries out")
    parser.add_argument("--durable", action="store_true", help="the store on its own")
    return parser.parse_args()


def _measured(contenders: Sequence[Contender], rounds: int, *, quick: bool) -> Iterator[Round]:
    few, (fewer, fewest) = min(rounds, HEAVY_ROUNDS), (10, 100) if quick else (1, 1)
    yield from _told("the bars", measure({**CASES, **limits.CASES}, rounds=rounds, shrink=fewer))
    for workload, cases in workloads.throughput(contenders).items():
        yield from _told(workload, measure(cases, rounds=rounds, shrink=fewer))
    one_each = [one for one in contenders if one is BUS or one in PEERS]
    subscribing = workloads.subscribing(one_each)
    yield from _told("subscriptions", measure(subscribing, rounds=few, shrink=fewest))
    yield from _told("patterns", patterns.routing(contenders, rounds=few, shrink=fewest))
    yield from _told("topics", topics_once.remaining(contenders, shrink=fewest))


def _told(what: str, rounds: Iterable[Round]) -> Iterator[Round]:
    """Say how far it has come."""
    for number, samples in enumerate(rounds, start=1):
        print(f"\r{what}, {number:<12}", end="", file=sys.stderr, flush=True)
        yield samples
    print(file=sys.stderr)


def _report(used: str, samples: Samples) -> dict[str, object]:
    bars = [
        {"what": row.what, "unit": row.unit, "measured": row.figure(samples), "at most": row.bar}
        | {"aim": row.aim, "verdict": row.verdict(row.figure(samples))}
        for row in table.ROWS
    ]
    faster_than = [
        {"what": lead.what, "measured": _finite(lead.figure(samples)), "at least": lead.bar}
        | {"verdict": lead.verdict(lead.figure(samples))}
        for lead in leads.LEADS
    ]
    least = [
        {"what": limit.what, "unit": limit.unit, "measured": limit.figure(samples)}
        for limit in limits.LIMITS
    ]
    return {
        "libraries": used,
        "machine": machine.kind(),
        "rows": bars,
        "the smallest code": least,
        "times faster than": faster_than,
        "medians": {case: _finite(median(taken)) for case, taken in sorted(samples.items())},
        "samples": {case: [_finite(one) for one in taken] for case, taken in samples.items()},
    }


def _finite(figure: float | None) -> float | None:
    """Give what JSON can hold: nothing for what was given up."""
    return None if figure is None or isinf(figure) else figure


if __name__ == "__main__":
    sys.exit(main())
