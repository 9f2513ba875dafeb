"""A bar chart of the league, on a logarithmic scale, as an SVG that needs no library."""

__all__ = ("Bar", "Panel", "panels", "svg")

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isinf, log10
from textwrap import wrap

from tests.benchmarks.contenders import CONTENDERS
from tests.benchmarks.contenders.contender import Kind
from tests.benchmarks.league import DELIVERIES, ORDERS, Column, readable
from tests.benchmarks.measure import Samples
from tests.benchmarks.patterns import workload

DRAWN = (
    ("One event to one handler", DELIVERIES[0]),
    ("A dict that becomes an order with line items, validated by library or publisher", ORDERS),
    (
        "An event to a topic never seen before, among 100,000 wildcard patterns",
        Column("", workload(100_000, "new"), readable),
    ),
)

LEGEND: Sequence[tuple[Kind, str]] = (
    ("bus", "this bus"),
    ("floor", "no bus at all"),
    ("peer", "another library"),
)

WIDTH = 840
MARGIN = 24
NAMES = 190
SCALE = WIDTH - MARGIN - NAMES - 110
ROW = 20
HEAD = 54
FOOT = 16

STYLE = """
svg { font: 13px system-ui, sans-serif; }
.title { font-weight: 600; }
.page { fill: #ffffff; } .grid { stroke: #d8dee4; }
text { fill: #24292f; } .faint { fill: #6e7781; }
.bus { fill: #0969da; } .floor { fill: #8c959f; } .peer { fill: #d4a72c; }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117; } .grid { stroke: #30363d; }
  text { fill: #e6edf3; } .faint { fill: #8b949e; }
  .bus { fill: #58a6ff; } .floor { fill: #6e7681; } .peer { fill: #bb8009; }
}"""


@dataclass(frozen=True, slots=True)
class Bar:
    """A contender's time in nanoseconds."""

    name: str
    nanoseconds: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class Panel:
    """A workload and the bars of those that do it."""

    title: str
    bars: Sequence[Bar]

    @property
    def height(self) -> int:
        """Pixels from its title to the space below it."""
        return HEAD + ROW * len(self.bars) + MARGIN


def panels(samples: Samples) -> list[Panel]:
    """Give the workloads that are drawn, with the contenders that have a figure."""
    drawn = [Panel(f"{title}: CPU time", [*_bars(column, samples)]) for title, column in DRAWN]
    return [panel for panel in drawn if panel.bars]


def svg(panels: Sequence[Panel], footer: str) -> str:
    """Draw panels below each other, the fastest first; equal input gives an equal picture."""
    notes = wrap(footer, 120)
    height = MARGIN + ROW + sum(panel.height for panel in panels) + FOOT * len(notes) + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img">',
            f"<title>{escape('; '.join(panel.title for panel in panels))}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>',
            *_legend(),
            *_stacked(panels),
            *[
                _text(MARGIN, height - MARGIN - FOOT * (len(notes) - 1 - number), note, "faint")
                for number, note in enumerate(notes)
            ],
            "</svg>\n",
        ]
    )


def _bars(column: Column, samples: Samples) -> Iterator[Bar]:
    for contender in CONTENDERS:
        figure = column.figure(contender, samples)
        if figure is not None and not isinf(figure):
            yield Bar(contender.name, figure, contender.kind)


def _legend() -> Iterator[str]:
    for number, (kind, words) in enumerate(LEGEND):
        left = MARGIN + NAMES + 150 * number
        yield f'<rect class="{kind}" x="{left}" y="{MARGIN}" width="14" height="14" rx="2"/>'
        yield _text(left + 20, MARGIN + 12, words)


def _stacked(panels: Sequence[Panel]) -> Iterator[str]:
    top = MARGIN + ROW + MARGIN // 2
    for panel in panels:
        yield from _panel(panel, top)
        top += panel.height


def _panel(panel: Panel, top: int) -> Iterator[str]:
    bars = sorted(panel.bars, key=lambda bar: (bar.nanoseconds, bar.name))
    low = floor(log10(bars[0].nanoseconds))
    high = max(low + 1, ceil(log10(bars[-1].nanoseconds)))
    bottom = top + HEAD + ROW * len(bars)
    yield _text(MARGIN, top + 16, panel.title, "title")
    for decade in range(low, high + 1):
        x = MARGIN + NAMES + _length(10.0**decade, low, high)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top + HEAD - 8}" y2="{bottom}"/>'
        yield _text(x, top + HEAD - 14, _tick(decade), "faint", anchor="middle")
    for number, bar in enumerate(bars):
        yield from _bar(bar, top + HEAD + ROW * number, _length(bar.nanoseconds, low, high))


def _bar(bar: Bar, top: int, length: float) -> Iterator[str]:
    start = MARGIN + NAMES
    yield _text(start - 8, top + 14, bar.name, anchor="end")
    yield (
        f'<rect class="{bar.kind}" x="{start}" y="{top + 3}" width="{length:.1f}" height="14" '
        f'rx="2"/>'
    )
    yield _text(start + length + 6, top + 14, readable(bar.nanoseconds))


def _tick(decade: int) -> str:
    return readable(10.0**decade).replace(".0 ", " ")


def _length(nanoseconds: float, low: int, high: int) -> float:
    return SCALE * (log10(nanoseconds) - low) / (high - low)


def _text(x: float, y: float, text: str, style: str = "", *, anchor: str = "start") -> str:
    mark = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{mark}>{escape(text)}</text>'
