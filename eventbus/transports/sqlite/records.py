"""Messages as records: what is written of them, and how they are read back.

A page of records is read as one JSON array. Fetched row by row, each row would let go of the
interpreter's lock, and a thread that wants it back waits as long as the event loop is busy: 256
rows would take half a second instead of two milliseconds.
"""

__all__ = (
    "COLUMNS_AS_JSON",
    "EXACT_COLUMNS_AS_JSON",
    "Record",
    "checksum_of",
    "exact_record_of",
    "is_sound",
    "message_of",
    "packed",
    "record_of",
    "records_of",
    "sealed",
    "sound_record_of",
)

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, cast
from zlib import crc32

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from eventbus.errors import InvalidEvent, InvalidOption, StoreError
from eventbus.message import BYTES, JSON, Message, Traits
from eventbus.schedule import later_of
from eventbus.schema import flaws_of
from eventbus.transports.sqlite.packing import Compression, check_installed, pack, split, unpack

_COLUMNS = (
    "json_array(position, id, topic, time, key, traits, content_type, schema_version, %s, checksum)"
)

COLUMNS_AS_JSON = _COLUMNS % (
    f"CASE content_type WHEN '{JSON}' THEN CAST(payload AS TEXT) ELSE hex(payload) END"
)
"""A record as one JSON value; real numbers would not survive it, so that there are none."""

EXACT_COLUMNS_AS_JSON = _COLUMNS % "hex(payload)"
"""The same for what may not even be text, where it says that it is JSON."""

_PLAIN = (JSON, BYTES)
_MOST_DEPTH = 200
_MOST_DIGITS = 4300
_TOO_MANY_DIGITS = b"0" * (_MOST_DIGITS + 1)
_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_END_OF_TIME = 253_402_300_800 * 1_000_000  # the year 10,000
_SAID: Mapping[str, tuple[type, ...]] = {
    "correlation_id": (str,),
    "causation_id": (str,),
    "expires_at": (int, float),
    "published": (int,),
    "headers": (dict,),
    "reply_to": (list,),
}
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
    """A message read from the log: its `event` is the payload as it was stored, but not packed."""

    __slots__ = ("stored_type",)

    stored_type: str

    @property
    def content_type(self) -> str:
        """What the payload is in the log, once it is unpacked."""
        return self.stored_type

    @property
    def payload(self) -> object:
        """What was published: what JSON makes of it, or the bytes; these also if it is no JSON."""
        try:
            return self.decoded()
        except InvalidEvent:
            return self.event

    def decoded(self) -> object:
        """Give what was published.

        Raises:
            InvalidEvent: It is no JSON.
        """
        data = cast("bytes", self.event)
        if self.stored_type == BYTES:
            return data
        try:
            return from_json(data, allow_inf_nan=False)
        except ValueError as error:
            raise _unreadable(self.position, f"it is no JSON: {error}") from error


class UnreadableMessage(Message):
    """A message read from the log whose payload cannot be: its `event` is the reason why."""

    __slots__ = ("data", "stored_type")

    data: bytes
    stored_type: str

    @property
    def content_type(self) -> str:
        """What the record says that it is."""
        return self.stored_type

    @property
    def payload(self) -> object:
        """What is stored."""
        return self.data

    def decoded(self) -> object:
        """Refuse.

        Raises:
            InvalidEvent: It cannot be read.
        """
        raise cast("InvalidEvent", self.event)


def _unreadable(position: int | None, flaw: str) -> InvalidEvent:
    return InvalidEvent(f"the payload at position {position} cannot be read: {flaw}")


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
    version = head[3]
    text = key = None
    if traits is not None:
        published = None
        if (later := later_of(message)) is not None:
            published, time = time, round(later.at * 1e6)
        text, key = _traits_text(traits, published), traits.key
    checksum = crc32(payload, _crc_of(id, topic, time, key, text, content_type, version))
    return Record(0, id, topic, time, key, text, content_type, version, payload, checksum)


def packed(record: Record, compression: Compression) -> Record:
    """Make a record's payload smaller, if that is worth it; to be done before it is sealed."""
    made = pack(record.content_type, record.payload, compression)
    if made is None or record.content_type not in _PLAIN:
        return record
    smaller = record._replace(content_type=made[0], payload=made[1])
    return smaller._replace(checksum=checksum_of(smaller))


def sealed(checksum: int, position: int) -> int:
    """Extend a checksum over the position, so that a record cannot stand in another's place."""
    return crc32(position.to_bytes(8, "big"), checksum)


def _crc_of(
    id: str,
    topic: str,
    time: int,
    key: str | None,
    traits: str | None,
    content_type: str,
    schema_version: int,
) -> int:
    # No field holds a control character, so that two different heads give two different texts.
    head = f"{id}\n{topic}\n{time}\n{key}\n{traits}\n{content_type}\n{schema_version}"
    return crc32(head.encode())


def _traits_text(traits: Traits, published: int | None) -> str | None:
    said = {name: value for name in _TRAITS if (value := getattr(traits, name, None)) is not None}
    if published is not None:
        said["published"] = published
    if traits.reply_to is not None:
        said["reply_to"] = traits.reply_to
    if traits.headers:
        said["headers"] = dict(traits.headers)
    return to_json(said).decode() if said else None


def _encoded(message: Message) -> tuple[str, bytes]:
    payload = message.payload
    if isinstance(payload, bytes):
        return BYTES, payload
    try:
        if isinstance(payload, BaseModel):
            data = payload.model_dump_json(by_alias=True, round_trip=True).encode()
        else:
            data = to_json(payload)
        if _may_be_unreadable(data):
            from_json(data, allow_inf_nan=False)
        return JSON, data
    except Exception as error:  # a model's own serializers may raise anything
        raise InvalidEvent(
            f"this {type(payload).__name__} for {message.topic!r} cannot be JSON: "
            f"{flaws_of(error)}; publish what JSON can hold, or a model that says how it is written"
        ) from error


def _may_be_unreadable(data: bytes) -> bool:
    """Ask whether JSON might hold what is written and yet not read; that is quickly denied.

    Numbers that are none, deeply nested objects and lists, and numbers of thousands of digits.
    """
    if b"NaN" in data or b"Infinity" in data:
        return True
    if len(data) <= _MOST_DEPTH:
        return False
    if data.count(b"{") + data.count(b"[") > _MOST_DEPTH:
        return True
    return len(data) > _MOST_DIGITS and b"0" * (_MOST_DIGITS + 1) in data.translate(
        _DIGITS_AS_ZEROS
    )


# --- reading --------------------------------------------------------------------------------------


def records_of(page: bytes, *, is_exact: bool = False) -> list[Record]:
    """Read the records of a page.

    Raises:
        ValueError: Damaged text among them.
        StoreError: A payload was packed in a way that takes a library which is not installed.
    """
    return [_record(fields, is_exact) for fields in from_json(page)]


def _record(fields: list[Any], is_exact: bool) -> Record:
    content_type, payload = fields[6], fields[8]
    is_text = isinstance(content_type, str) and isinstance(payload, str)
    if not is_text or type(fields[7]) is not int:
        raise ValueError("damage has made something else of a column")
    if content_type == JSON and not is_exact:
        fields[8] = payload.encode()
    else:
        fields[8] = bytes.fromhex(payload)
        _check_can_unpack(content_type)
    return Record(*fields)


def _check_can_unpack(content_type: str) -> None:
    try:
        check_installed(split(content_type)[1])
    except InvalidOption as error:  # here it is not for good, and nobody's dead letter
        raise StoreError(f"a record that is {content_type} cannot be read: {error}") from error


def exact_record_of(row: bytes) -> Record | None:
    """Read a record that is given as `EXACT_COLUMNS_AS_JSON`; None if that is damaged text.

    Raises:
        StoreError: As `records_of`.
    """
    try:
        (record,) = records_of(b"[%b]" % row, is_exact=True)
    except ValueError:
        return None
    return record


def sound_record_of(row: bytes) -> Record | None:
    """Read a record in that way; None if it is not what was written at its position."""
    record = exact_record_of(row)
    return record if record is not None and is_sound(record) else None


def is_sound(record: Record) -> bool:
    """Tell whether a record is what was written at its position."""
    return sealed(checksum_of(record), record.position) == record.checksum


def checksum_of(record: Record) -> int:
    """Work out the checksum of a record without its position."""
    return crc32(record.payload, _crc_of(*record[1:8]))


def message_of(record: Record) -> Message:
    """Make the message that a record holds; if its payload cannot be read, one that says so."""
    traits = Traits()
    traits.id = record.id
    traits.key = record.key
    traits.position = record.position
    seconds = record.time / 1e6
    message: StoredMessage | UnreadableMessage
    try:
        if record.traits is not None:
            seconds = _note_said(traits, record.traits, seconds)
        message = _message_of(record)
    except InvalidEvent as flaw:
        message, seconds = _unreadable_message(record, flaw), 0.0
    message.head = record.topic, None, traits, record.schema_version
    message.seconds = seconds
    return message


def _note_said(traits: Traits, text: str, seconds: float) -> float:
    """Note what is said of a message beside its payload; give when it was published."""
    try:
        said = from_json(text)
    except ValueError as error:
        raise InvalidEvent(f"what is said beside it is no JSON: {error}") from error
    _check_said(said)
    if (published := said.pop("published", None)) is not None:
        traits.scheduled, seconds = Departed(seconds), published / 1e6
    if (reply_to := said.pop("reply_to", None)) is not None:
        inbox, number = reply_to
        traits.reply_to = inbox, number
    traits.headers = MappingProxyType(said.pop("headers", {}))
    for name, value in said.items():
        setattr(traits, name, value)
    return seconds


def _check_said(said: object) -> None:
    if not isinstance(said, dict):
        raise InvalidEvent("what is said beside it is no object")
    for name, value in cast("dict[str, object]", said).items():
        if not isinstance(value, _SAID.get(name, ())) or not _holds_what_it_should(value):
            raise InvalidEvent(f"what is said beside it, in {name!r}, is none of ours")


def _holds_what_it_should(value: object) -> bool:
    """Tell whether headers are text, and whom to reply to is a name and a number."""
    match value:
        case dict():
            return all(isinstance(one, str) for one in cast("dict[str, object]", value).values())
        case list():
            return [type(one) for one in cast("list[object]", value)] == [str, int]
        case _:
            return True


def _message_of(record: Record) -> StoredMessage:
    if record.schema_version < 1:
        raise InvalidEvent(f"its schema_version is {record.schema_version}, which is none")
    if not 0 <= record.time < _END_OF_TIME:
        raise InvalidEvent(f"it was published at no time there is: {record.time} microseconds")
    message = StoredMessage()
    message.stored_type, message.event = record.content_type, record.payload
    if message.stored_type not in _PLAIN:
        message.stored_type, message.event = _unpacked(record)
    return message


def _unreadable_message(record: Record, flaw: InvalidEvent) -> UnreadableMessage:
    message = UnreadableMessage()
    message.event = _unreadable(record.position, str(flaw))
    message.data, message.stored_type = record.payload, record.content_type
    return message


def _unpacked(record: Record) -> tuple[str, bytes]:
    content_type, coding = split(record.content_type)
    if content_type not in _PLAIN:
        raise InvalidEvent(f"its content type {record.content_type!r} is not known")
    return content_type, unpack(record.payload, coding)
