"""`eventbus tail`."""

__all__ = ("StartOption", "place_of", "start_of", "tail")

from contextlib import suppress
from typing import Annotated, Literal, TypeAlias

import typer

from eventbus.cli.event import line_of, readable, time_of
from eventbus.cli.show import show_line
from eventbus.cli.store import Pages, Purpose, Url, opened
from eventbus.cli.text import json_text
from eventbus.errors import InvalidOption
from eventbus.message import Message
from eventbus.transports.base import Place, Start

StartOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--from", help="Where to begin: new, first, last, a position, or a time with its zone."
    ),
]

_WORDS: dict[str, Literal["new", "first", "last"]] = {
    "new": "new",
    "first": "first",
    "last": "last",
}


def tail(
    patterns: Annotated[
        list[str] | None, typer.Argument(help="Which topics, as orders.*; all if none is given.")
    ] = None,
    *,
    url: Url,
    start: StartOption = "new",
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="End after so many events.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print lines of JSON.")] = False,
) -> None:
    """Show events as they are published, until interrupted."""
    begin = start_of(start)
    with (
        suppress(KeyboardInterrupt),
        opened(url, Purpose.LOOKING) as store,
        store.reading(patterns or [">"], begin) as pages,
    ):
        _follow(pages, count, as_json=as_json)


def _follow(pages: Pages, count: int | None, *, as_json: bool) -> None:
    left = count
    while left is None or left > 0:
        for message in pages.next()[:left]:
            show_line(_text(message, as_json=as_json))
            left = None if left is None else left - 1


def _text(message: Message, *, as_json: bool) -> str:
    return json_text(line_of(message)) if as_json else readable(message)


def start_of(text: str) -> Start:
    """Read where to begin.

    Raises:
        InvalidOption: It is neither a word, a position nor a time with its zone.
    """
    if text in _WORDS:
        return _WORDS[text]
    return place_of("--from", text, "new, first, last, ")


def place_of(word: str, text: str, others: str = "") -> Place:
    """Read a position or a time; an error says what `others` there are.

    Raises:
        InvalidOption: It is neither a position nor a time with its zone.
    """
    if text.isascii() and text.isdecimal():
        return int(text)
    time = time_of(text)
    if time is not None:
        return time
    raise InvalidOption(
        f"{word} {text!r}: give {others}a position, or a time as 2026-01-31T12:00:00Z"
    )
