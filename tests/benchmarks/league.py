"""This bus beside the same work without a bus, and beside other libraries."""

__all__ = ("LEADS", "TABLES", "Column", "Lead", "Table", "lines", "readable")

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isinf
from statistics import median

from tests.benchmarks import patterns, topics_once, workloads
from tests.benchmarks.contenders import BUS, CONTENDERS, PEERS, Contender
from tests.benchmarks.measure import Samples
from tests.benchmarks.patterns import workload
from tests.benchmarks.table import Figure, missed_by, per
from tests.benchmarks.workloads import named

NAME_WIDTH = 26
CELL_WIDTH = 17


@dataclass(frozen=True, slots=True)
class Column:
    """One workload: how its figures are written, and what stands where it was given up."""

    title: str
    workload: str
    write: Callable[[float], str]
    given_up: str = "-"
    is_compared: bool = False

    def cell(self, contender: Contender, samples: Samples) -> str:
        """Write the figure of a contender; `-` where there is none."""
        case = named(contender.name, self.workload)
        if case not in samples:
            return "-"
        figure = median(samples[case])
        if isinf(figure):
            return self.given_up
        factor = per(case, named(BUS.name, self.workload))(samples) if self.is_compared else None
        return self.write(figure) + (f" {_times(factor):>7}" if factor is not None else "")


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of the same kind, and who is in their lines."""

    title: str
    columns: Sequence[Column]
    contenders: Sequence[Contender] = CONTENDERS

    def lines(self, samples: Samples) -> Iterator[str]:
        """Write it line by line."""
        titles = "".join(f"{column.title:>{CELL_WIDTH}}" for column in self.columns)
        yield f"{self.title:{NAME_WIDTH}}{titles}"
        for contender in self.contenders:
            cells = [column.cell(contender, samples) for column in self.columns]
            written = "".join(f"{cell:>{CELL_WIDTH}}" for cell in cells)
            yield f"{contender.name:{NAME_WIDTH}}{written}"


@dataclass(frozen=True, slots=True)
class Lead:
    """How many times faster than others this bus is, and the least it may be."""

    what: str
    bar: float
    figure: Figure

    def verdict(self, measured: float | None) -> str:
        """Say whether the bar is reached."""
        if measured is None or isinf(measured):
            return "no figure"
        return "reached" if measured >= self.bar else missed_by(1 - measured / self.bar)


def readable(nanoseconds: float) -> str:
    """Write a time with two or three digits and its unit."""
    for unit in ("ns", "us", "ms"):
        if nanoseconds < 999.5:
            is_whole = unit == "ns" or nanoseconds >= 9.95
            return f"{nanoseconds:.0f} {unit}" if is_whole else f"{nanoseconds:.1f} {unit}"
        nanoseconds /= 1_000
    return f"{nanoseconds:.1f} s"


def _times(factor: float) -> str:
    return f"{factor:,.2f}x" if factor < 9.995 else f"{factor:,.0f}x"


def _kilobytes(count: float) -> str:
    return f"{count / 1e3:.2f} kB"


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.0f} MB"


def _faster(peer: str, workload: str) -> Figure:
    return per(named(peer, workload), named(BUS.name, workload))


def _faster_than_best(workload: str) -> Figure:
    def figure(samples: Samples) -> float | None:
        leads = [_faster(peer.name, workload)(samples) for peer in PEERS]
        return min((lead for lead in leads if lead is not None), default=None)

    return figure


def _columns_of(kind: str) -> list[Column]:
    return [
        Column(
            f"{size:,} patterns",
            workload(size, kind),
            readable,
            f"> {patterns.LIMIT_SECONDS:.0f} s",
        )
        for size in patterns.SIZES[1:]
    ]


_MOST_NS = workloads.LIMIT_SECONDS * 1e9 / workloads.SUBSCRIPTIONS

ROUTERS = [one for one in CONTENDERS if one.patterns is not None]

TABLES = (
    Table(
        "CPU time per delivery",
        [
            Column("1 to 1", "to 1", readable, is_compared=True),
            Column("1 to 10", "to 10", readable, is_compared=True),
            Column("1 to 100", "to 100", readable, is_compared=True),
            Column("10 to 10", "10 to 10", readable, is_compared=True),
            Column("order from dict", "order", readable, is_compared=True),
        ],
    ),
    Table("per event, repeated topics", _columns_of("repeated"), ROUTERS),
    Table(
        "per event, new topics",
        [
            *_columns_of("new"),
            Column(
                "1,000,000 topics",
                "topics once",
                _megabytes,
                f"> {topics_once.LIMIT_SECONDS:.0f} s",
            ),
        ],
        ROUTERS,
    ),
    Table(
        "per subscription",
        [
            Column("memory", "bytes", _kilobytes),
            Column("start and stop", "start and stop", readable, f"> {readable(_MOST_NS)}"),
        ],
        [BUS, *PEERS],
    ),
)

LEADS = (
    Lead("one handler: blinker", 1.5, _faster("blinker", "to 1")),
    Lead("one handler: psygnal", 2.5, _faster("psygnal, function", "to 1")),
    Lead("one handler: pyee", 5, _faster("pyee", "to 1")),
    Lead("one handler: FastStream TestBroker", 150, _faster("FastStream TestBroker", "to 1")),
    Lead("one handler: abxbus", 300, _faster("abxbus", "to 1")),
    Lead("one handler: bubus", 1000, _faster("bubus", "to 1")),
    Lead("nested order from a dict: best peer", 1.3, _faster_than_best("order")),
    *[
        Lead(f"new topics: {one.name}", 1000, _faster(one.name, workload(100_000, "new")))
        for one in ROUTERS
        if one.kind == "peer"
    ],
)


def lines(samples: Samples) -> Iterator[str]:
    """Write the tables, the leads and what has to be known to read them, line by line."""
    for table in TABLES:
        yield from table.lines(samples)
        yield ""
    yield f"{'times faster than':36}{'measured':>9}{'at least':>9}"
    for lead in LEADS:
        measured = lead.figure(samples)
        number = "-" if measured is None or isinf(measured) else f"{measured:,.1f}"
        yield f"{lead.what:36}{number:>9}{lead.bar:9,.1f} {lead.verdict(measured)}"
    yield ""
    yield from _notes()


def _notes() -> Iterator[str]:
    yield "-: it cannot, or is not measured there. > 6 s: given up, as subscribing took longer."
    yield "function: with plain functions for handlers; the others are awaited."
    yield "order: for a library that does not validate, the publisher makes the models."
    yield "1,000,000 topics: the memory kept after one event to each of them."
    for contender in CONTENDERS:
        if not contender.is_installed:
            yield f"{contender.name}: not installed"
        elif contender.note:
            yield f"{contender.name}: {contender.note}"
