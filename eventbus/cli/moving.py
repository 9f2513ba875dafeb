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
from eventbus.cli.show import AsJson, progress, show_line
from eventbus.cli.store import Purpose, Store, Url, opened
from eventbus.cli.tail import StartOption, start_of
from eventbus.cli.text import counted, json_text
from eventbus.errors import InvalidEvent, StoreCorrupt
from eventbus.message import Message, Receipt
from eventbus.transports.base import Start


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
    as_json: AsJson = False,
) -> None:
    """Publish events as they were: with their ids, so that none is stored twice."""
    repeated = 0

    def count(messages: Sequence[Message], receipts: Sequence[Receipt]) -> None:
        nonlocal repeated
        repeated += sum(one.duplicate for one in receipts)

    source = nullcontext(sys.stdin.buffer) if str(file) == STDIN else file.open("rb")
    with source as stream, opened(url, Purpose.FEEDING) as store:
        total = publish_lines(store, stream, message_of_line, count)
    if as_json:
        show_line(json_text({"imported": total - repeated, "duplicates": repeated}))
    else:
        show_line(f"imported {counted(total - repeated, 'event')}, {repeated:,} were there already")


def verify(*, url: Url, as_json: AsJson = False) -> None:
    """Read every record and every dead letter, and name all that are damaged or missing.

    Sound records whose payloads cannot be read are counted: they become dead letters.
    """
    found = Findings(as_json=as_json)
    with opened(url, Purpose.LOOKING) as store:
        store.read_on_behind_damage(found.note_damage)
        found.records = _read(store, [">"], "first", found.look)
        found.dead_letters = sum(1 for _ in store.all_dead_letters())
    found.show()
    if found.damaged:
        raise StoreCorrupt(
            "the store is damaged: restore it from a copy, or go on without what is named above, "
            "by damaged=quarantine in the URL"
        )


class Findings:
    """What there is in a store that is verified; damage is shown as it is found."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.records = self.dead_letters = self.damaged = self.unreadable = 0
        self._first = ""

    def note_damage(self, what: str) -> None:
        """Show what is damaged or missing."""
        self.damaged += 1
        show_line(json_text({"damage": what}) if self._as_json else what)

    def look(self, message: Message) -> None:
        """Count a sound record, the payload of which may still be one that cannot be read."""
        try:
            message.decoded()
        except InvalidEvent as flaw:
            self.unreadable += 1
            self._first = self._first or str(flaw)

    def show(self) -> None:
        """Show how much is sound."""
        if self._as_json:
            show_line(json_text(self._told()))
            return
        letters = counted(self.dead_letters, "dead letter")
        show_line(f"{counted(self.records, 'record')} and {letters} are sound")
        if self.unreadable:
            payloads = counted(self.unreadable, "payload")
            show_line(f"{payloads} will not be read, the first because {self._first}")

    def _told(self) -> dict[str, object]:
        names = ("records", "dead_letters", "damaged", "unreadable")
        first = {"first_unreadable": self._first} if self._first else {}
        return {**{name: getattr(self, name) for name in names}, **first}


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
