"""How many times faster than other libraries this bus has to be, and is."""

__all__ = ("LEADS", "Lead", "lines", "over", "over_best")

from collections.abc import Iterator
from dataclasses import dataclass
from math import isinf

from tests.benchmarks.contenders import BUS, PEERS
from tests.benchmarks.league import ROUTERS
from tests.benchmarks.measure import Samples
from tests.benchmarks.patterns import workload
from tests.benchmarks.table import Figure, missed_by, per
from tests.benchmarks.workloads import named


@dataclass(frozen=True, slots=True)
class Lead:
    """How many times the time of this bus another takes, and the least that it may be."""

    what: str
    bar: float
    figure: Figure

    def verdict(self, measured: float | None) -> str:
        """Say whether the bar is reached."""
        if measured is None:
            return "-"
        if isinf(measured):
            return "no figure: the other was given up"
        return "reached" if measured >= self.bar else missed_by(1 - measured / self.bar)


def over(peer: str, workload: str, than: str | None = None) -> Figure:
    """Compare a library with this bus, or with another case."""
    return per(named(peer, workload), than or named(BUS.name, workload))


def over_best(workload: str, than: str | None = None) -> Figure:
    """Compare the fastest of the libraries with this bus, or with another case."""

    def figure(samples: Samples) -> float | None:
        measured = [over(peer.name, workload, than)(samples) for peer in PEERS]
        return min((one for one in measured if one is not None), default=None)

    return figure


LEADS = (
    Lead("one handler: blinker", 1.5, over("blinker", "to 1")),
    Lead("one handler: psygnal", 2.5, over("psygnal, function", "to 1")),
    Lead("one handler: pyee", 5, over("pyee", "to 1")),
    Lead("one handler: FastStream TestBroker", 150, over("FastStream TestBroker", "to 1")),
    Lead("one handler: abxbus", 300, over("abxbus", "to 1")),
    Lead("one handler: bubus", 1000, over("bubus", "to 1")),
    Lead("nested order from a dict: the fastest", 1.3, over_best("order")),
    *[
        Lead(f"new topics: {one.name}", 1000, over(one.name, workload(100_000, "new")))
        for one in ROUTERS
        if one.kind == "peer"
    ],
)


def lines(samples: Samples) -> Iterator[str]:
    """Write the table, line by line."""
    yield f"{'times faster than':38}{'measured':>9}{'at least':>9}"
    for lead in LEADS:
        measured = lead.figure(samples)
        number = "-" if measured is None or isinf(measured) else f"{measured:,.1f}"
        yield f"{lead.what:38}{number:>9}{lead.bar:9,.1f} {lead.verdict(measured)}"
