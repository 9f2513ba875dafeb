"""The README's figures, written by the run that measured them."""

__all__ = ("BEGIN", "END", "filled", "lines")

from collections.abc import Iterator

from tests.benchmarks import leads, limits, table
from tests.benchmarks.measure import Samples

BEGIN, END = "<!-- benchmark -->", "<!-- end of benchmark -->"
CHART = "tests/benchmarks/benchmark.svg"


def filled(readme: str, conditions: str, samples: Samples) -> str:
    """Give the README with the figures of a run between its two marks.

    Raises:
        ValueError: A mark is missing.
    """
    before, _, rest = readme.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"no {BEGIN} and {END} after it: put both where the figures belong")
    return "\n".join([f"{before}{BEGIN}", "", *lines(conditions, samples), "", f"{END}{after}"])


def lines(conditions: str, samples: Samples) -> Iterator[str]:
    """Write both tables, line by line."""
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


def _least(what: str, samples: Samples) -> str:
    return next((_number(one.figure(samples)) for one in limits.LIMITS if one.what == what), "")


def _number(figure: float | None) -> str:
    if figure is None or figure == float("inf"):
        return ""
    return f"{figure:.2f}" if figure < 99.5 else f"{figure:,.0f}"
