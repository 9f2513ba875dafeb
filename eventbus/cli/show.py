"""Showing things: lines on stdout, tables, and how far long work is."""

__all__ = ("AsJson", "Row", "console", "make_table", "progress", "show_line", "show_table")

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Annotated, TypeAlias

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from eventbus.cli.text import printable

Row: TypeAlias = Sequence[str | int]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]

WIDTH_OF_A_PIPE = 1000  # columns: what a program reads is not to be folded


def show_line(line: str) -> None:
    """Write one line to stdout, without what could drive a terminal; whoever waits gets it now."""
    sys.stdout.write(f"{printable(line)}\n")
    sys.stdout.flush()


def show_table(header: Sequence[str], rows: Sequence[Row]) -> None:
    """Write rows under their header, numbers to the right."""
    console().print(make_table(header, rows))


def make_table(header: Sequence[str], rows: Sequence[Row]) -> Table:
    """Lay rows out under their header."""
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for at, name in enumerate(header):
        is_number = bool(rows) and all(isinstance(row[at], int) for row in rows)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    return table


def _cell(value: str | int) -> str:
    return f"{value:,}" if isinstance(value, int) else printable(value)


def console() -> Console:
    """Give what draws on stdout as it is now."""
    width = None if sys.stdout.isatty() else WIDTH_OF_A_PIPE
    return Console(width=width, markup=False, emoji=False, highlight=False)


@contextmanager
def progress(
    work: str, total: int | None = None, *, prints: bool = False
) -> Generator[Callable[[int], None]]:
    """Show on stderr how much is done, where that is a terminal; call it with how much that is.

    Work that `prints` shows by itself how far it is, unless its stdout goes elsewhere.
    """
    if not sys.stderr.isatty() or (prints and sys.stdout.isatty()):
        yield lambda done: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # else what goes to a file would be drawn above the bar
    ) as bar:
        task = bar.add_task(work, total=total)
        yield lambda done: bar.update(task, completed=done)
