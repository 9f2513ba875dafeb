"""`eventbus stats` and `eventbus top`: what a store holds, and how it goes on."""

__all__ = ("stats", "top")

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from threading import Event
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from eventbus.cli.show import Row, console, make_table, show_line, show_table
from eventbus.cli.store import Purpose, Store, Url, opened
from eventbus.cli.text import age, counted, json_text, size
from eventbus.clock import SystemClock
from eventbus.errors import InvalidOption
from eventbus.transports.figures import StoreFigures, SubscriptionFigures

COLUMNS = ("subscription", "patterns", "lag", "in flight", "retrying", "dead letters", "oldest")
RATE = "records/s"


@dataclass(frozen=True, slots=True)
class Sample:
    """Figures of a moment, and how fast they rose before it, in records a second."""

    figures: StoreFigures
    published: float
    passed: dict[str, float]


def stats(
    *,
    url: Url,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object of JSON.")] = False,
) -> None:
    """Show what a store holds, and how far each durable subscription is."""
    with opened(url, Purpose.LOOKING) as store:
        figures = store.figures()
    if as_json:
        show_line(json_text(asdict(figures)))
        return
    show_line(_summary(figures))
    if figures.subscriptions:
        show_line("")
        show_table(COLUMNS, [_row(one) for one in figures.subscriptions])


def top(
    *,
    url: Url,
    interval: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one table, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, an object a look.")] = False,
) -> None:
    """Watch subscriptions at work, until interrupted.

    records/s is what a subscription gets done with, records that are not meant for it included.
    """
    if not (once or as_json or sys.stdout.isatty()):
        raise InvalidOption("top draws on a terminal, and stdout is none: add --once or --json")
    with suppress(KeyboardInterrupt), opened(url, Purpose.LOOKING) as store:
        samples = _samples(store, interval)
        if once:
            _print(next(samples), as_json=as_json)
        elif as_json:
            for sample in samples:
                _print(sample, as_json=True)
        else:
            _draw(samples)


def _draw(samples: Iterator[Sample]) -> None:
    with Live(console=console(), screen=True, auto_refresh=False) as screen:
        for sample in samples:
            screen.update(_picture(sample), refresh=True)


def _print(sample: Sample, *, as_json: bool) -> None:
    if as_json:
        show_line(json_text(_as_json(sample)))
    else:
        console().print(_picture(sample))


def _samples(store: Store, interval: float) -> Iterator[Sample]:
    clock, pause = SystemClock(), Event()
    before, then = store.figures(), clock.monotonic()
    while True:
        pause.wait(interval)  # never set: it is a way to sleep that a signal ends
        figures, now = store.figures(), clock.monotonic()
        yield _compared(before, figures, now - then)
        before, then = figures, now


def _compared(before: StoreFigures, now: StoreFigures, seconds: float) -> Sample:
    passed_before = {one.name: one.passed for one in before.subscriptions}
    passed = {
        one.name: max(0, one.passed - passed_before.get(one.name, one.passed)) / seconds
        for one in now.subscriptions
    }
    return Sample(now, (now.last - before.last) / seconds, passed)


def _as_json(sample: Sample) -> dict[str, object]:
    figures: dict[str, object] = asdict(sample.figures)
    rated = [
        {**asdict(one), "rate": round(sample.passed[one.name], 1)}
        for one in sample.figures.subscriptions
    ]
    return {**figures, "rate": round(sample.published, 1), "subscriptions": rated}


def _picture(sample: Sample) -> Group:
    rows: Sequence[Row] = [
        (*_row(one), round(sample.passed[one.name])) for one in sample.figures.subscriptions
    ]
    summary = f"{_summary(sample.figures)}, {sample.published:,.0f} published/s"
    return Group(Text(summary), *((Text(), make_table((*COLUMNS, RATE), rows)) if rows else ()))


def _summary(figures: StoreFigures) -> str:
    records = figures.last - figures.removed
    removed = f"{figures.removed:,} removed, " if figures.removed else ""
    lost = (
        f"{counted(figures.lost, 'delivery', 'deliveries')} lost by that, " if figures.lost else ""
    )
    scheduled = f"{figures.scheduled:,} scheduled, " if figures.scheduled else ""
    return (
        f"{counted(records, 'record')} up to position {figures.last:,}, {removed}{lost}"
        f"{size(figures.size)}, "
        f"{scheduled}{counted(figures.dead_letters, 'dead letter')}, open in "
        f"{counted(figures.buses, 'bus', 'buses')}"
    )


def _row(one: SubscriptionFigures) -> Row:
    return (
        one.name,
        ", ".join(one.patterns),
        one.lag,
        one.in_flight,
        one.retrying,
        one.dead_letters,
        age(one.oldest_age),
    )
