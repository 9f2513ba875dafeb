"""`eventbus export`, `import` and `verify`: stores as a whole."""

__all__ = ("export_events", "import_events", "verify")

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from eventbus.cli.event import line_of, message_of_line
from eventbus.cli.publishing import STDIN, publish_lines
from eventbus.cli.show import progress, show_line
from eventbus.cli.store import Purpose, Store, Url, opened
from eventbus.cli.tail import StartOption, start_of
from eventbus.cli.text import counted, json_text
from eventbus.errors import InvalidEvent, StoreCorrupt
from eventbus.message import Message, Receipt
from eventbus.transports.base import Start

LETTERS_AT_ONCE = 100


def export_events(
    patterns: Annotated[
        list[str] | None, typer.Argument(help="Which topics, as orders.*; all if none is given.")
    ] = None,
    *,
    url: Url,
    start: StartOption = "first",
) -> None:
    """Write what is stored by now to stdout, as lines of JSON that `import` reads."""
    with opened(url, Purpose.LOOKING) as store:
        _read(store, patterns or [">"], start_of(start), _write, prints=True)


def import_events(
    file: Annotated[Path, typer.Argument(help="Lines of JSON, as `export` writes them.")] = Path(
        STDIN
    ),
    *,
    url: Url,
) -> None:
    """Publish events as they were: with their ids, so that none is stored twice."""
    repeated = 0

    def count(receipts: Sequence[Receipt]) -> None:
        nonlocal repeated
        repeated += sum(one.duplicate for one in receipts)

    source = nullcontext(sys.stdin.buffer) if str(file) == STDIN else file.open("rb")
    with source as stream, opened(url, Purpose.FEEDING) as store:
        total = publish_lines(store, stream, message_of_line, count)
    show_line(f"imported {counted(total - repeated, 'event')}, {repeated:,} were there already")


def verify(*, url: Url) -> None:
    """Read every record and every dead letter, and name all that are damaged or missing.

    Sound records whose payloads cannot be read are counted: they become dead letters.
    """
    damaged = unreadable = 0
    first = ""

    def note(what: str) -> None:
        nonlocal damaged
        damaged += 1
        show_line(what)

    def look(message: Message) -> None:
        nonlocal unreadable, first
        try:
            message.decoded()
        except InvalidEvent as flaw:
            unreadable += 1
            first = first or str(flaw)

    with opened(url, Purpose.LOOKING) as store:
        store.read_on_behind_damage(note)
        records = _read(store, [">"], "first", look)
        letters = _read_letters(store)
    show_line(f"{counted(records, 'record')} and {counted(letters, 'dead letter')} are sound")
    if unreadable:
        show_line(f"{counted(unreadable, 'payload')} will not be read, the first because {first}")
    if damaged:
        raise StoreCorrupt(
            "the store is damaged: restore it from a copy, or go on without what is named above, "
            "by damaged=quarantine in the URL"
        )


def _read(
    store: Store,
    patterns: Sequence[str],
    start: Start,
    use: Callable[[Message], None],
    *,
    prints: bool = False,
) -> int:
    """Read what is stored by now; give how many messages matched."""
    total, last = 0, store.figures().last
    with (
        store.reading(patterns, start) as pages,
        progress("reading", last, prints=prints) as tell_progress,
    ):
        while pages.reached < last:
            for message in pages.next():
                use(message)
                total += 1
            tell_progress(pages.reached)
    return total


def _write(message: Message) -> None:
    sys.stdout.write(f"{json_text(line_of(message))}\n")


def _read_letters(store: Store) -> int:
    total, before, letters = 0, None, None
    while letters is None or len(letters) == LETTERS_AT_ONCE:
        letters = store.dead_letters(None, LETTERS_AT_ONCE, before)
        total += len(letters)
        before = letters[-1].id if letters else None
    return total
