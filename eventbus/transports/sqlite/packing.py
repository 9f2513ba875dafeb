"""Payloads made smaller on their way to disk, and made what they were when they are read.

How a payload was packed stands in its record's content type, as `application/json; coding=zlib`,
which the checksum covers. What is packed is read whatever a URL says. What comes out is bounded,
absolutely and by what went in; and what the bound would keep from being read is never packed.
"""

__all__ = (
    "MOST_BYTES",
    "MOST_RATIO",
    "Compression",
    "check_installed",
    "pack",
    "split",
    "unpack",
)

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

from eventbus.errors import InvalidEvent, InvalidOption

Compression: TypeAlias = Literal["zlib", "zstd"]

LEAST_BYTES = 1000
"""What is smaller is left as it is: it would gain little, and cost a page its quick reading."""

MOST_BYTES = 16 * 1024 * 1024
"""The most that comes out of a packed payload; what is larger is not packed."""

MOST_RATIO = 100
"""The most that comes out for each byte; what would be packed tighter is not packed."""

_PART_BYTES = 256 * 1024
_MARK = "; coding="


class _Method(NamedTuple):
    """How one of them packs, and how it unpacks part by part."""

    compress: Callable[[bytes], bytes]
    parts_of: Callable[[bytes, int], Iterator[bytes]]


def pack(content_type: str, payload: bytes, compression: Compression) -> tuple[str, bytes] | None:
    """Make a payload smaller; give its new content type and what it has become.

    None if it stays as it is.
    """
    if not LEAST_BYTES < len(payload) <= MOST_BYTES:
        return None
    data = _METHODS[compression]().compress(payload)
    if not len(data) < len(payload) <= len(data) * MOST_RATIO:
        return None
    return f"{content_type}{_MARK}{compression}", data


def split(content_type: str) -> tuple[str, str]:
    """Tell what a payload is, and how it was packed; that is empty if it was not."""
    kind, _, coding = content_type.partition(_MARK)
    return kind, coding


def unpack(data: bytes, coding: str) -> bytes:
    """Make of a packed payload what it was.

    Raises:
        InvalidEvent: It is not known how, it is damaged, or more would come out than is allowed.
        InvalidOption: It takes a library that is not installed.
    """
    if coding not in _METHODS:
        raise InvalidEvent(f"it is packed as {coding!r}, which this eventbus does not know")
    try:
        return b"".join(_parts_of(data, coding))
    except ValueError as error:
        raise InvalidEvent(f"it is no {coding}: {error}") from error


def _parts_of(data: bytes, coding: str) -> Iterator[bytes]:
    """Unpack data part by part, as far as is allowed."""
    most = left = min(MOST_BYTES, len(data) * MOST_RATIO)
    for part in _METHODS[coding]().parts_of(data, _PART_BYTES):
        left -= len(part)
        if left < 0:
            raise InvalidEvent(
                f"more than {most:,} bytes would come out of {len(data):,}, and that is too much"
            )
        yield part


def check_installed(compression: str) -> None:
    """Find the library that a way of packing takes, if it is a known one.

    Raises:
        InvalidOption: It is not installed.
    """
    if compression in _METHODS:
        _METHODS[compression]()


# --- the two of them ------------------------------------------------------------------------------


def _zlib() -> _Method:
    return _Method(zlib.compress, _zlib_parts)


def _zlib_parts(data: bytes, most: int) -> Iterator[bytes]:
    decompressor = zlib.decompressobj()
    while not decompressor.eof:
        try:
            part = decompressor.decompress(data, most)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        data = decompressor.unconsumed_tail
        if not part and not data:
            raise ValueError("it is cut off")
        yield part
    if decompressor.unused_data:
        raise ValueError("something follows it")


def _zstd() -> _Method:
    try:
        from eventbus.transports.sqlite import zstd
    except ImportError as error:
        raise InvalidOption(
            "compression='zstd' needs a library before Python 3.14: pip install 'eventbus[zstd]', "
            "or take 'zlib'"
        ) from error
    return _Method(zstd.compress, zstd.parts_of)


_METHODS: Mapping[str, Callable[[], _Method]] = {"zlib": _zlib, "zstd": _zstd}
