"""This bus beside the same work without a bus, and beside other libraries: the tables."""

__all__ = ("DELIVERIES", "ORDERS", "ROUTERS", "TABLES", "Column", "Table", "lines", "readable")

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isinf
from statistics import median

from tests.benchmarks import patterns, topics_once, workloads
from tests.benchmarks.contenders import BUS, CONTENDERS, PEERS, Contender
from tests.benchmarks.measure import Samples
from tests.benchmarks.patterns import workload
from tests.benchmarks.table import per
from tests.benchmarks.workloads import named

NAME_WIDTH = 24
CELL_WIDTH = 19


@dataclass(frozen=True, slots=True)
class Column:
    """One workload: how its figures are written, and what stands where it was given up."""

    title: str
    workload: str
    write: Callable[[float], str]
    given_up: str = "-"

    def figure(self, contender: Contender, samples: Samples) -> float | None:
        """Give the figure of a contender; infinite if it was given up, None if not measured."""
        taken = samples.get(named(contender.name, self.workload))
        return None if taken is None else median(taken)

    def cell(self, contender: Contender, samples: Samples) -> str:
        """Write the figure of a contender."""
        figure = self.figure(contender, samples)
        if figure is None:
            return "-"
        return self.given_up if isinf(figure) else self.write(figure)


@dataclass(frozen=True, slots=True)
class Compared(Column):
    """A workload that all take in the same rounds, so that they are best compared in each.

    The machine is now faster, now slower, and medians of two contenders come from rounds of either
    kind. So a figure is the median of this bus, times how many times that the contender took.
    """

    def figure(self, contender: Contender, samples: Samples) -> float | None:
        """Give the figure of a contender; None if not measured."""
        factor = self._factor(contender, samples)
        return factor and factor * median(samples[named(BUS.name, self.workload)])

    def cell(self, contender: Contender, samples: Samples) -> str:
        """Write the figure of a contender, and how many times that of this bus it is."""
        factor = self._factor(contender, samples)
        cell = Column.cell(self, contender, samples)
        return cell if factor is None else f"{cell} {_times(factor):>8}"

    def _factor(self, contender: Contender, samples: Samples) -> float | None:
        return per(named(contender.name, self.workload), named(BUS.name, self.workload))(samples)


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of the same kind, and who is in their lines."""

    title: str
    columns: Sequence[Column]
    contenders: Sequence[Contender] = CONTENDERS

    def lines(self, samples: Samples) -> Iterator[str]:
        """Write it line by line."""
        yield self._line(self.title, [column.title for column in self.columns])
        for contender in self.contenders:
            cells = [column.cell(contender, samples) for column in self.columns]
            yield self._line(contender.name, cells)

    def _line(self, name: str, cells: Sequence[str]) -> str:
        return f"{name:{NAME_WIDTH}}{''.join(f'{cell:>{CELL_WIDTH}}' for cell in cells)}"


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


def _seconds(limit: float) -> str:
    return f"> {limit:.0f} s"


def _routing(topics: str) -> list[Column]:
    given_up = _seconds(patterns.LIMIT_SECONDS)
    return [
        Column(f"{size:,} patterns", workload(size, topics), readable, given_up)
        for size in patterns.SIZES[1:]
    ]


ROUTERS = [one for one in CONTENDERS if one.patterns is not None]

DELIVERIES = (
    Compared("1 to 1", "to 1", readable),
    Compared("1 to 10", "to 10", readable),
    Compared("1 to 100", "to 100", readable),
    Compared("10 to 10", "10 to 10", readable),
)
ORDERS = Compared("order from a dict", "order", readable)
KEPT = Column("1,000,000 topics", "topics once", _megabytes, _seconds(topics_once.LIMIT_SECONDS))
SUBSCRIPTIONS = (
    Column("memory", "bytes", _kilobytes),
    Column(
        "start and stop",
        "start and stop",
        readable,
        f"> {readable(workloads.LIMIT_SECONDS * 1e9 / workloads.SUBSCRIPTIONS)}",
    ),
)

TABLES = (
    Table("CPU time per delivery", [*DELIVERIES, ORDERS]),
    Table("to repeated topics", _routing("repeated"), ROUTERS),
    Table("to new topics", [*_routing("new"), KEPT], ROUTERS),
    Table("per subscription", SUBSCRIPTIONS, [BUS, *PEERS]),
)


def lines(samples: Samples) -> Iterator[str]:
    """Write the tables and what has to be known to read them, line by line."""
    for table in TABLES:
        yield from table.lines(samples)
        yield ""
    yield "-: it cannot, or is not measured there. > 6 s: given up, as subscribing took longer."
    yield "function: with plain functions for handlers; the others are awaited."
    yield "order: for a library that does not validate, the publisher makes the models."
    yield "1,000,000 topics: the memory kept after one event to each of them."
    for contender in CONTENDERS:
        if contender.note:
            yield f"{contender.name}: {contender.note}"
    if missing := [one.name for one in CONTENDERS if not one.is_installed]:
        yield f"not installed: {'; '.join(missing)}"
