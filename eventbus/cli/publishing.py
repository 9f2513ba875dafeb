"""`eventbus publish`, and what it has in common with `import`."""

__all__ = ("publish", "publish_lines")

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, BinaryIO

import typer
from pydantic_core import from_json

from eventbus.cli.event import new_message
from eventbus.cli.lines import Line, batches
from eventbus.cli.show import progress, show_line
from eventbus.cli.store import Purpose, Store, Url, opened
from eventbus.cli.text import counted, json_text
from eventbus.errors import EventBusError, InvalidOption
from eventbus.message import Message, Receipt
from eventbus.publishing import PublishOptions

STDIN = "-"


def publish(
    topic: Annotated[str, typer.Argument(help="Where to, as orders.placed.")],
    payload: Annotated[str, typer.Argument(help="JSON, or - for lines of JSON on stdin.")] = STDIN,
    *,
    url: Url,
    key: Annotated[str | None, typer.Option(help="What orders it among others.")] = None,
    header: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, to travel beside it; repeatable.")
    ] = None,
    id: Annotated[
        str | None, typer.Option("--id", help="Its id: published again, it is stored once.")
    ] = None,
    expires: Annotated[
        float | None, typer.Option(help="Seconds after which it is worth nothing.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print receipts, as JSON.")] = False,
) -> None:
    """Publish an event, or one for each line of JSON on stdin."""
    options: PublishOptions = {"key": key, "headers": _headers(header or []), "id": id}
    if expires is not None:
        options["expires"] = expires
    make = partial(_message, topic, options)
    if payload != STDIN:
        _publish_one(url, make(payload.encode("utf-8", "surrogateescape")), as_json=as_json)
        return
    if id is not None:
        raise InvalidOption("--id names one event: give its JSON as an argument")
    make(b"null")  # what is wrong with the topic or an option is no flaw of the first line
    with opened(url, Purpose.FEEDING) as store:
        tell = _tell_json if as_json else _ignore
        total = publish_lines(store, sys.stdin.buffer, make, tell, prints=as_json)
    if not as_json:
        show_line(f"published {counted(total, 'event')} to {topic}")


def _publish_one(url: str, message: Message, *, as_json: bool) -> None:
    tell = _tell_json if as_json else _tell
    with opened(url, Purpose.FEEDING) as store:
        tell(store.publish([message]))


def publish_lines(
    store: Store,
    stream: BinaryIO,
    make: Callable[[bytes], Message],
    tell: Callable[[Sequence[Receipt]], None],
    *,
    prints: bool = False,
) -> int:
    """Publish what each line of a stream says, in order; give how many there were.

    `prints` says that `tell` does.

    Raises:
        InvalidOption: A line cannot be used; those before it are published.
    """
    total = 0
    with progress("publishing", prints=prints) as tell_progress:
        for lines in batches(stream):
            messages, flaw = _made(lines, make)
            if messages:
                tell(store.publish(messages))
            total += len(messages)
            tell_progress(total)
            if flaw is not None:
                raise InvalidOption(f"{flaw}; published before it: {counted(total, 'event')}")
    return total


def _made(
    lines: Sequence[Line], make: Callable[[bytes], Message]
) -> tuple[list[Message], str | None]:
    """Make messages of lines, up to the first that cannot be one; say what is wrong with it."""
    messages: list[Message] = []
    for number, text in lines:
        try:
            messages.append(make(text))
        except EventBusError as error:
            return messages, f"line {number}: {error}"
    return messages, None


def _message(topic: str, options: PublishOptions, text: bytes) -> Message:
    try:
        payload: object = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidOption(f"the payload is no JSON: {error}") from error
    return new_message(topic, payload, options)


def _headers(given: Sequence[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for one in given:
        name, sign, value = one.partition("=")
        if not sign:
            raise InvalidOption(f"--header {one!r}: give NAME=VALUE")
        headers[name] = value
    return headers


def _tell(receipts: Sequence[Receipt]) -> None:
    for one in receipts:
        stored = "was there already" if one.duplicate else "is stored"
        show_line(f"{one.id} {stored} at position {one.position}")


def _tell_json(receipts: Sequence[Receipt]) -> None:
    for one in receipts:
        told = {"id": one.id, "topic": one.topic, "position": one.position}
        show_line(json_text({**told, "duplicate": one.duplicate}))


def _ignore(receipts: Sequence[Receipt]) -> None:
    """Say nothing of each."""
