"""An event as a line of JSON, which says all that is needed to publish it again as it was."""

__all__ = (
    "line_of",
    "message_of_line",
    "moment",
    "new_message",
    "payload_text",
    "readable",
    "time_of",
)

from base64 import b64decode, b64encode
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, PositiveInt, ValidationError

from eventbus.cli.text import json_text
from eventbus.clock import SystemClock
from eventbus.contracts import Topic
from eventbus.errors import InvalidOption
from eventbus.message import Message, write_message
from eventbus.publishing import PublishOptions, traits_of
from eventbus.schema import flaws_of

_SAID = ("position", "key", "correlation_id", "causation_id", "expires_at")


class _Line(BaseModel):
    """One event as it is read; its position is another one in another store."""

    model_config = ConfigDict(extra="forbid")

    topic: str
    payload: Any = None
    payload_base64: str | None = None
    id: str | None = None
    time: AwareDatetime | None = None
    position: int | None = None
    key: str | None = None
    headers: dict[str, str] | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    expires_at: AwareDatetime | None = None
    schema_version: PositiveInt = 1


def new_message(topic: str, payload: object, options: PublishOptions) -> Message:
    """Make a message of now.

    Raises:
        InvalidTopic, InvalidOption: As `bus.publish`.
    """
    name, now = Topic(topic, object).name, SystemClock().now()
    return write_message((name, None, traits_of(options, now), 1), now, payload)


def message_of_line(line: bytes) -> Message:
    """Make the message that a line of JSON tells of, as of the time when it was published.

    Raises:
        InvalidTopic, InvalidOption: The line is not what `line_of` writes, or cannot travel.
    """
    try:
        read = _Line.model_validate_json(line)
    except ValidationError as error:
        raise InvalidOption(f"this is no event: {flaws_of(error)}") from error
    message = new_message(
        read.topic, _payload_of(read), {"key": read.key, "headers": read.headers, "id": read.id}
    )
    if read.time is not None:
        message.seconds = read.time.timestamp()
    traits = message.head[2]
    assert traits is not None  # noqa: S101 - as options were given
    traits.correlation_id, traits.causation_id = read.correlation_id, read.causation_id
    traits.expires_at = None if read.expires_at is None else read.expires_at.timestamp()
    return message.replace(schema_version=read.schema_version)


def _payload_of(read: _Line) -> object:
    if read.payload_base64 is not None:
        try:
            return b64decode(read.payload_base64, validate=True)
        except ValueError as error:
            raise InvalidOption(f"this event's payload_base64 is none: {error}") from error
    if "payload" not in read.model_fields_set:
        raise InvalidOption("this event has no payload: give one, or null")
    return read.payload


def line_of(message: Message) -> dict[str, object]:
    """Tell all that is known of a message, in what JSON can hold."""
    line: dict[str, object] = {"id": message.id, "topic": message.topic, "time": message.time}
    line |= {name: said for name in _SAID if (said := getattr(message, name)) is not None}
    if message.schema_version > 1:
        line["schema_version"] = message.schema_version
    if message.headers:
        line["headers"] = dict(message.headers)
    payload = message.payload
    if isinstance(payload, bytes):
        line["payload_base64"] = b64encode(payload).decode()
    else:
        line["payload"] = payload
    return line


def readable(message: Message) -> str:
    """Write a message as people read it."""
    key = "" if message.key is None else f" [{message.key}]"
    return (
        f"{moment(message.time)}  {message.position or '-':>6}  {message.topic}{key}  "
        f"{payload_text(message.payload)}"
    )


def payload_text(payload: object) -> str:
    """Write a payload as people read it."""
    if isinstance(payload, bytes):
        return payload.decode("utf-8", "backslashreplace")
    return json_text(payload)


def time_of(text: str) -> datetime | None:
    """Read a time that has a zone, as 2026-01-31T12:00:00Z; None if it is none."""
    with suppress(ValueError):
        time = datetime.fromisoformat(text)
        if time.utcoffset() is not None:
            return time
    return None


def moment(time: datetime) -> str:
    """Write a time as people read it, in UTC."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}.{time.microsecond // 1000:03}Z"
