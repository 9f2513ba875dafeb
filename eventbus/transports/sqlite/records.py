"""Messages as records: what is written of them, and how they are read back.

A page of records is read as one JSON array. Fetched row by row, each row would let go of the
interpreter's lock, and a thread that wants it back waits as long as the event loop is busy: 256
rows would take half a second instead of two milliseconds.
"""

__all__ = (
    "COLUMNS_AS_JSON",
    "Record",
    "checksum_of",
    "is_sound",
    "message_of",
    "record_of",
    "records_of",
    "sealed",
)

from types import MappingProxyType
from typing import Any, NamedTuple, cast
from zlib import crc32

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from eventbus.errors import InvalidEvent
from eventbus.message import Message, Traits
from eventbus.schedule import later_of
from eventbus.schema import flaws_of

JSON = "application/json"
BYTES = "application/octet-stream"
SCHEMA_VERSION = 1

COLUMNS_AS_JSON = (
    "json_array(position, id, topic, time, key, traits, content_type, schema_version, "
    f"CASE content_type WHEN '{JSON}' THEN CAST(payload AS TEXT) ELSE hex(payload) END, checksum)"
)
"""A record as one JSON value; real numbers would not survive it, so that there are none."""

_TRAITS = ("correlation_id", "causation_id", "expires_at")


class Record(NamedTuple):
    """One row of the log; `time` is in microseconds since the epoch, `traits` a JSON object.

    Before it is stored, `position` is 0, and the checksum does not cover it. The time of a message
    that was published for later is when it is due: only then is it stored, by whatever retention
    and a start go. When it was published stands among its traits.
    """

    position: int
    id: str
    topic: str
    time: int
    key: str | None
    traits: str | None
    content_type: str
    schema_version: int
    payload: bytes
    checksum: int


class Departed:
    """The place of a stored message among those published for later: it has gone out."""

    def __init__(self, at: float) -> None:
        self.at = at

    def cancel(self) -> bool:
        """Tell that it cannot be kept from that."""
        return False


class StoredMessage(Message):
    """A message read from the log: its `event` is the payload as it is stored."""

    __slots__ = ("content_type",)

    content_type: str

    @property
    def payload(self) -> object:
        """What was published: what JSON makes of it, or the bytes."""
        data = cast("bytes", self.event)
        return data if self.content_type == BYTES else from_json(data)


# --- writing --------------------------------------------------------------------------------------


def record_of(message: Message) -> Record:
    """Make the record of a message, to be sealed with its position.

    Raises:
        InvalidEvent: The payload cannot be JSON.
    """
    content_type, payload = _encoded(message)
    head = message.head
    traits = head[2]
    id, topic, time = message.id, head[0], round(message.seconds * 1e6)
    text = key = None
    if traits is not None:
        published = None
        if (later := later_of(message)) is not None:
            published, time = time, round(later.at * 1e6)
        text, key = _traits_text(traits, published), traits.key
    checksum = crc32(payload, _crc_of(id, topic, time, key, text, content_type, SCHEMA_VERSION))
    return Record(0, id, topic, time, key, text, content_type, SCHEMA_VERSION, payload, checksum)


def sealed(checksum: int, position: int) -> int:
    """Extend a checksum over the position, so that a record cannot stand in another's place."""
    return crc32(position.to_bytes(8, "big"), checksum)


def _crc_of(*fields: object) -> int:
    # No field holds a control character, so that two different heads give two different texts.
    return crc32("\n".join(map(str, fields)).encode())


def _traits_text(traits: Traits, published: int | None) -> str | None:
    said = {name: value for name in _TRAITS if (value := getattr(traits, name, None)) is not None}
    if published is not None:
        said["published"] = published
    if traits.headers:
        said["headers"] = dict(traits.headers)
    return to_json(said).decode() if said else None


def _encoded(message: Message) -> tuple[str, bytes]:
    payload = message.payload
    if isinstance(payload, bytes):
        return BYTES, payload
    try:
        if isinstance(payload, BaseModel):
            return JSON, payload.model_dump_json(by_alias=True, round_trip=True).encode()
        return JSON, to_json(payload)
    except Exception as error:  # a model's own serializers may raise anything
        raise InvalidEvent(
            f"this {type(payload).__name__} for {message.topic!r} cannot be JSON: "
            f"{flaws_of(error)}; publish what JSON can hold, or a model that says how it is written"
        ) from error


# --- reading --------------------------------------------------------------------------------------


def records_of(page: bytes) -> list[Record]:
    """Read the records of a page.

    Raises:
        ValueError: Damaged text among them.
    """
    return [_record(fields) for fields in from_json(page)]


def _record(fields: list[Any]) -> Record:
    payload = fields[8]
    fields[8] = payload.encode() if fields[6] == JSON else bytes.fromhex(payload)
    return Record(*fields)


def is_sound(record: Record) -> bool:
    """Tell whether a record is what was written at its position."""
    return sealed(checksum_of(record), record.position) == record.checksum


def checksum_of(record: Record) -> int:
    """Work out the checksum of a record without its position."""
    return crc32(record.payload, _crc_of(*record[1:8]))


def message_of(record: Record) -> StoredMessage:
    """Make the message that a record holds."""
    traits = Traits()
    traits.id = record.id
    traits.key = record.key
    traits.position = record.position
    seconds = record.time / 1e6
    if record.traits is not None:
        said = from_json(record.traits)
        if (published := said.pop("published", None)) is not None:
            traits.scheduled, seconds = Departed(seconds), published / 1e6
        traits.headers = MappingProxyType(said.pop("headers", {}))
        for name, value in said.items():
            setattr(traits, name, value)
    message = StoredMessage()
    message.head = (record.topic, None, traits)
    message.seconds = seconds
    message.event = record.payload
    message.content_type = record.content_type
    return message
