"""`eventbus replay`."""

__all__ = ("replay",)

import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Annotated

import typer

from eventbus.cli.event import line_of, readable
from eventbus.cli.show import progress
from eventbus.cli.store import Purpose, Reread, Url, opened
from eventbus.cli.tail import place_of
from eventbus.cli.text import json_text, printable
from eventbus.clock import SystemClock
from eventbus.message import Message, went_out_at
from eventbus.replay import Pace
from eventbus.replaying import check_replay
from eventbus.transports.base import Place


def replay(
    patterns: Annotated[list[str], typer.Argument(help="Which topics, as orders.*")],
    *,
    url: Url,
    since: Annotated[
        str | None, typer.Option(help="Where to begin: a position, or a time with its zone.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Where to end, itself included: the same.")
    ] = None,
    speed: Annotated[
        float | None, typer.Option(help="1.0 is as it was published; if not given, all at once.")
    ] = None,
    last_per_key: Annotated[
        bool, typer.Option("--last-per-key", help="Only the newest of each topic and key.")
    ] = False,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="End after so many events.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print lines of JSON.")] = False,
) -> None:
    """Show once more what is stored by now, in its order."""
    options = check_replay(
        {
            "since": _place("--since", since),
            "until": _place("--until", until),
            "speed": speed,
            "last_per_key": last_per_key,
        }
    )
    with opened(url, Purpose.LOOKING) as store:
        _show(store.reread(patterns, options), speed, count, as_json=as_json)


def _show(messages: Reread, speed: float | None, count: int | None, *, as_json: bool) -> None:
    pace = None if speed is None else Pace(speed, SystemClock())
    with progress("replaying", messages.total, prints=True) as tell_progress:
        for message in islice(_each(messages, tell_progress), count):
            if pace is not None and (seconds := pace.seconds_before(went_out_at(message))):
                sys.stdout.flush()
                messages.pause(seconds)
            sys.stdout.write(f"{_text(message, as_json=as_json)}\n")


def _each(messages: Reread, tell_progress: Callable[[int], None]) -> Iterator[Message]:
    while messages.done < messages.total:
        yield from messages.next()
        tell_progress(messages.done)


def _text(message: Message, *, as_json: bool) -> str:
    return json_text(line_of(message)) if as_json else printable(readable(message))


def _place(word: str, text: str | None) -> Place | None:
    return None if text is None else place_of(word, text)
