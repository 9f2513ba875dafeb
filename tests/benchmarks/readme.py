"""The README's figures, written by the run that measured them."""

__all__ = ("BARS", "STORE", "Place", "filled", "lines", "lines_of_store")

from collections.abc import Iterable, Iterator
from statistics import median
from typing import NamedTuple

from tests.benchmarks import durable, leads, limits, table
from tests.benchmarks.measure import Samples

CHART = "tests/benchmarks/benchmark.svg"


class Place(NamedTuple):
    """Where figures of one kind stand: between two marks."""

    begin: str
    end: str


BARS = Place("<!-- benchmark -->", "<!-- end of benchmark -->")
STORE = Place("<!-- benchmark of the store -->", "<!-- end of benchmark of the store -->")


def filled(readme: str, place: Place, lines: Iterable[str]) -> str:
    """Give the README with other lines between two marks.

    Raises:
        ValueError: A mark is missing.
    """
    before, _, rest = readme.partition(place.begin)
    _, mark, after = rest.partition(place.end)
    if not mark:
        raise ValueError(f"no {place.begin} and {place.end} after it: put both where they belong")
    return "\n".join([f"{before}{place.begin}", "", *lines, "", f"{place.end}{after}"])


def lines(conditions: str, samples: Samples) -> Iterator[str]:
    """Write the tables of the bus in memory, line by line."""
    yield f"Measured on {conditions}."
    yield ""
    yield f"![one event to one handler, this bus beside others]({CHART})"
    yield ""
    yield "| | measured | bar | aim | smallest code | |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in table.ROWS:
        measured, least = row.figure(samples), _least(row.what, samples)
        cells = [f"{_number(measured)} {row.unit}", f"{row.bar:g}", f"{row.aim:g}", least]
        yield f"| {' | '.join([row.what, *cells, row.verdict(measured)])} |"
    yield ""
    yield "| times faster than | measured | bar | smallest code | |"
    yield "| --- | --- | --- | --- | --- |"
    for lead in leads.LEADS:
        measured, least = lead.figure(samples), _least(lead.what, samples)
        cells = [_number(measured), f"{lead.bar:,g}", least, lead.verdict(measured)]
        yield f"| {' | '.join([lead.what, *cells])} |"


def lines_of_store(conditions: str, samples: Samples) -> Iterator[str]:
    """Write the table of the store, line by line."""
    yield f"Measured on {conditions}, on its virtual disk; wall time per event."
    yield ""
    yield "| | bus | by hand | rate | bar | |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in durable.ROWS:
        bus, hand = (median(samples[case]) / 1e3 for case in (row.bus, row.hand))
        rate = row.rate(samples)
        cells = [f"{bus:.1f} us", f"{hand:.1f} us", f"{rate:.2f}", f"{row.bar:.2f}"]
        yield f"| {' | '.join([row.what, *cells, row.verdict(rate)])} |"
    yield ""
    yield (
        "An event of another process reaches its handler within "
        f"{durable.arrived_ms(samples):.0f} ms, 99 times of 100."
    )


def _least(what: str, samples: Samples) -> str:
    return next((_number(one.figure(samples)) for one in limits.LIMITS if one.what == what), "")


def _number(figure: float | None) -> str:
    if figure is None or figure == float("inf"):
        return ""
    return f"{figure:.2f}" if figure < 99.5 else f"{figure:,.0f}"
