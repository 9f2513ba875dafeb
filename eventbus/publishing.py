"""What may be said beside the event when publishing, checked at the door."""

__all__ = ("PublishOptions", "caused_by", "traits_of")

import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypedDict, TypeGuard

from eventbus.clock import seconds_of
from eventbus.errors import InvalidOption
from eventbus.message import Message, Traits, Within, write_traits
from eventbus.schedule import Later
from eventbus.wording import did_you_mean

if TYPE_CHECKING:  # who needs no store, loads no SQLite
    from sqlite3 import Connection

MAX_HEADERS = 64
MAX_HEADER_NAME = 64
MAX_HEADER_BYTES = 16 * 1024
MAX_KEY_BYTES = 255
MAX_ID_BYTES = 128
_HEADER_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


class PublishOptions(TypedDict, total=False):
    """The keyword arguments of `publish`.

    `key` orders the message among those of the same key; `headers` travel beside the payload; `id`
    replaces the generated one; `require=True` makes it an error that no subscription matches.

    `delay` (seconds or a timedelta) and `at` (a datetime with a time zone) keep it until then; what
    is due already goes out at once. `expires` (seconds or a timedelta, counted from when it is due)
    leaves out each delivery that has not begun by then.

    `connection` writes it in the open transaction of a connection to the file of the bus's store:
    it is delivered when that commits, and only then.
    """

    key: str | None
    headers: Mapping[str, str] | None
    id: str | None
    delay: float | timedelta | None
    at: datetime | None
    expires: float | timedelta | None
    require: bool
    connection: "Connection | None"


_KNOWN = frozenset(PublishOptions.__annotations__)


def traits_of(options: PublishOptions, now: float) -> Traits | None:
    """Check the options of one publish at that wall time; None when they leave nothing to note.

    Raises:
        InvalidOption: An unknown option, a key, header or id that cannot travel, or a time that is
            none; also options that contradict each other.
    """
    if not options:
        return None
    unknown = options.keys() - _KNOWN
    if unknown:
        word = min(unknown)
        raise InvalidOption(
            f"publish has no option {word!r}: give {', '.join(sorted(_KNOWN))}"
            f"{did_you_mean(word, _KNOWN)}"
        )
    _check_text("key", options.get("key"), MAX_KEY_BYTES)
    _check_text("id", options.get("id"), MAX_ID_BYTES)
    headers = options.get("headers")
    if headers is not None:
        _check_headers(headers)
    traits = write_traits(id=options.get("id"), key=options.get("key"), headers=headers)
    traits.is_required = options.get("require", False)
    _note_times(traits, options, now)
    _note_connection(traits, options)
    return traits


def caused_by(cause: Message, traits: Traits | None) -> Traits:
    """Note which message led to this one."""
    traits = traits or write_traits()
    traits.causation_id = cause.id
    traits.correlation_id = cause.correlation_id or cause.id
    return traits


def _note_times(traits: Traits, options: PublishOptions, now: float) -> None:
    traits.scheduled = later = _later(options, now)
    if later is not None and traits.is_required:
        raise InvalidOption("require=True: who subscribes when it is due is not known yet")
    expires = options.get("expires")
    if expires is None:
        return
    seconds = seconds_of("expires", expires)
    if not seconds:
        raise InvalidOption(f"expires={expires!r}: give more than 0, or nobody would get it")
    traits.expires_at = (now if later is None else later.at) + seconds
    _check_date("expires", expires, traits.expires_at)


def _note_connection(traits: Traits, options: PublishOptions) -> None:
    connection = options.get("connection")
    if connection is None:
        return
    for word in options.keys() & {"delay", "at"}:
        if options.get(word) is not None:
            raise InvalidOption(
                f"connection= and {word}=: what its transaction commits goes out at once; leave "
                f"{word}= out, or publish without connection="
            )
    traits.within = Within(connection)


def _later(options: PublishOptions, now: float) -> Later | None:
    """Read when a message is to go out; None if that is now."""
    delay, at = options.get("delay"), options.get("at")
    if delay is not None and at is not None:
        raise InvalidOption(f"delay={delay!r} and at={at!r}: give one of them")
    if at is not None:
        moment = _seconds_at(at)
        return Later(moment, None) if moment > now else None
    if delay is None:
        return None
    seconds = seconds_of("delay", delay)
    _check_date("delay", delay, now + seconds)
    return Later(now + seconds, seconds) if seconds else None


def _seconds_at(at: object) -> float:
    if not isinstance(at, datetime):
        raise InvalidOption(f"at={at!r}: give a datetime with a time zone")
    if at.utcoffset() is None:
        raise InvalidOption(
            f"at={at!r} has no time zone: give one, as datetime(..., tzinfo=UTC), or use delay="
        )
    return at.timestamp()


def _check_date(word: str, duration: object, moment: float) -> None:
    try:
        datetime.fromtimestamp(moment, UTC)
    except (OverflowError, ValueError, OSError):
        raise InvalidOption(f"{word}={duration!r} ends after the year 9999: give less") from None


def _check_text(what: str, text: object, most_bytes: int) -> None:
    if text is None:
        return
    if not isinstance(text, str):
        raise InvalidOption(f"{what}={text!r} is no text: give a str")
    if not text or _has_control(text) or len(text.encode()) > most_bytes:
        raise InvalidOption(
            f"{what}={text[:most_bytes]!r} cannot travel: give 1 to {most_bytes} bytes of text "
            "without control characters"
        )


def _is_mapping(headers: object) -> TypeGuard[Mapping[str, str]]:
    return isinstance(headers, Mapping)


def _check_headers(headers: object) -> None:
    if not _is_mapping(headers):
        raise InvalidOption(f"headers={headers!r}: give a mapping of names to text")
    if len(headers) > MAX_HEADERS:
        raise InvalidOption(f"{len(headers)} headers: give at most {MAX_HEADERS}")
    for name, value in headers.items():
        _check_header_name(name)
        _check_header_value(name, value)
    size = sum(len(name) + len(value.encode()) for name, value in headers.items())
    if size > MAX_HEADER_BYTES:
        raise InvalidOption(f"headers of {size} bytes: give at most {MAX_HEADER_BYTES} in all")


def _check_header_name(name: object) -> None:
    has_letters = isinstance(name, str) and _HEADER_LETTERS.issuperset(name)
    if not isinstance(name, str) or not has_letters or not 0 < len(name) <= MAX_HEADER_NAME:
        raise InvalidOption(
            f"header name {name!r}: give 1 to {MAX_HEADER_NAME} characters of A-Z a-z 0-9 - _"
        )


def _check_header_value(name: str, value: object) -> None:
    if not isinstance(value, str) or _has_control(value):
        raise InvalidOption(
            f"header {name!r} has the value {value!r}: give text without control characters"
        )


def _has_control(text: str) -> bool:
    return not text.isprintable() and any(unicodedata.category(c) in {"Cc", "Cs"} for c in text)
