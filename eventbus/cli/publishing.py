"""`eventbus publish`, and what it has in common with `import`."""

__all__ = ("publish", "publish_lines")

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, BinaryIO, TypeAlias

import typer
from pydantic_core import from_json

from eventbus.cli.ending import complain
from eventbus.cli.event import moment, new_message, time_of
from eventbus.cli.lines import Line, batches
from eventbus.cli.show import progress, show_line
from eventbus.cli.store import Purpose, Store, Url, opened
from eventbus.cli.text import counted, json_text
from eventbus.errors import EventBusError, InvalidOption
from eventbus.message import Message, Receipt
from eventbus.publishing import PublishOptions
from eventbus.schedule import later_of

STDIN = "-"

Tell: TypeAlias = Callable[[Sequence[Message], Sequence[Receipt]], None]
"""Told of messages, and of what became of each."""


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
    delay: Annotated[float | None, typer.Option(help="Seconds after which it goes out.")] = None,
    at: Annotated[
        str | None, typer.Option(help="When it goes out, as 2026-01-31T12:00:00Z.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print receipts, as JSON.")] = False,
) -> None:
    """Publish an event, or one for each line of JSON on stdin."""
    options: PublishOptions = {"key": key, "headers": _headers(header or []), "id": id}
    if expires is not None:
        options["expires"] = expires
    options |= _later(delay, at)
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


def _later(delay: float | None, at: str | None) -> PublishOptions:
    """Read when an event goes out.

    Raises:
        InvalidOption: It is said twice, or not by a time with its zone.
    """
    if delay is not None and at is not None:
        raise InvalidOption(f"--delay {delay:g} and --at {at!r}: give one of them")
    if delay is not None:
        return {"delay": delay}
    if at is None:
        return {}
    time = time_of(at)
    if time is None:
        raise InvalidOption(f"--at {at!r}: give a time as 2026-01-31T12:00:00Z")
    return {"at": time}


def _publish_one(url: str, message: Message, *, as_json: bool) -> None:
    tell = _tell_json if as_json else _tell
    with opened(url, Purpose.FEEDING) as store:
        tell([message], store.publish([message]))


def publish_lines(
    store: Store,
    stream: BinaryIO,
    make: Callable[[bytes], Message],
    tell: Tell,
    *,
    prints: bool = False,
) -> int:
    """Publish what each line of a stream says, in order; give how many there were.

    `prints` says that `tell` does.

    Raises:
        InvalidOption: A line cannot be used; those before it are published.
    """
    total = 0
    with _progress(stream, prints=prints) as tell_progress:
        for lines in batches(stream):
            messages, flaw = _made(lines, make)
            if messages:
                tell(messages, store.publish(messages))
            total += len(messages)
            tell_progress(total)
            if flaw is not None:
                raise InvalidOption(f"{flaw}; published before it: {counted(total, 'event')}")
    return total


def _progress(stream: BinaryIO, *, prints: bool) -> AbstractContextManager[Callable[[int], None]]:
    """Show how much is done; to who types, say how that ends."""
    if not stream.isatty():
        return progress("publishing", prints=prints)
    complain("each line of JSON that you type is published, until Ctrl-D")
    return nullcontext(lambda done: None)


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


def _tell(messages: Sequence[Message], receipts: Sequence[Receipt]) -> None:
    for message, one in zip(messages, receipts, strict=True):
        stored = "was there already" if one.duplicate else "is stored"
        show_line(f"{one.id} {stored}{_place(message, one)}")


def _place(message: Message, receipt: Receipt) -> str:
    if receipt.position is not None:
        return f" at position {receipt.position}"
    due = None if receipt.duplicate else _due(message)
    return ", and goes out when it is due" if due is None else f", and goes out at {moment(due)}"


def _due(message: Message) -> datetime | None:
    later = later_of(message)
    return None if later is None else datetime.fromtimestamp(later.at, UTC)


def _tell_json(messages: Sequence[Message], receipts: Sequence[Receipt]) -> None:
    for message, one in zip(messages, receipts, strict=True):
        told = {"id": one.id, "topic": one.topic, "position": one.position}
        due = None if one.duplicate else _due(message)
        is_later = {} if due is None else {"due": due}
        show_line(json_text({**told, "duplicate": one.duplicate, **is_later}))


def _ignore(messages: Sequence[Message], receipts: Sequence[Receipt]) -> None:
    """Say nothing of each."""
