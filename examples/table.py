"""Tables for the terminal: drawn by rich where it is installed, plainly aligned where it is not."""

__all__ = ("Row", "print_table")

from collections.abc import Sequence
from typing import TypeAlias

Row: TypeAlias = Sequence[str | int]


def print_table(header: Sequence[str], rows: Sequence[Row]) -> None:
    """Print rows under their header, numbers to the right.

    `pip install '.[cli]'` brings rich; the bus itself never needs it.
    """
    try:
        _print_rich(header, rows)
    except ImportError:
        _print_plain(header, rows)


def _print_plain(header: Sequence[str], rows: Sequence[Row]) -> None:
    columns = list(zip(header, *rows, strict=True))
    widths = [max(len(str(cell)) for cell in column) for column in columns]
    marks = [">" if _is_numeric(column) else "<" for column in columns]
    for line in (header, *rows):
        cells = zip(line, marks, widths, strict=True)
        print(" ", "  ".join(f"{cell:{mark}{width}}" for cell, mark, width in cells).rstrip())


def _print_rich(header: Sequence[str], rows: Sequence[Row]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for column in zip(header, *rows, strict=True):
        table.add_column(str(column[0]), justify="right" if _is_numeric(column) else "left")
    for row in rows:
        table.add_row(*map(str, row))
    Console(markup=False, emoji=False, highlight=False).print(table)


def _is_numeric(column: Sequence[str | int]) -> bool:
    return isinstance(column[-1], int)
