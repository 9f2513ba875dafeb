"""Lines that come in: as many at a time as there are, so that none waits for another."""

__all__ = ("Line", "batches")

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from eventbus.errors import InvalidOption

READ_BYTES = 64 * 1024
MOST_BYTES = 16 * 1024 * 1024
"""How long one line may be."""
MOST_LINES = 256


class Line(NamedTuple):
    """A line that is not empty, and its number, from 1 on."""

    number: int
    text: bytes


def batches(stream: BinaryIO) -> Iterator[list[Line]]:
    """Read the lines of a stream in batches of what is there, until its end.

    Raises:
        InvalidOption: A line is longer than 16 MiB.
    """
    number, rest = 0, b""
    while data := _read(stream):
        *texts, rest = (rest + data).split(b"\n")
        if len(rest) > MOST_BYTES:
            raise InvalidOption(
                f"line {number + len(texts) + 1} is longer than {MOST_BYTES:,} bytes: split it"
            )
        yield from _cut(number, texts)
        number += len(texts)
    yield from _cut(number, [rest])


def _read(stream: BinaryIO) -> bytes:
    read1 = getattr(stream, "read1", stream.read)
    data: bytes = read1(READ_BYTES)
    return data


def _cut(number: int, texts: list[bytes]) -> Iterator[list[Line]]:
    lines = [Line(number + at, text) for at, text in enumerate(texts, 1) if text.strip()]
    for begin in range(0, len(lines), MOST_LINES):
        yield lines[begin : begin + MOST_LINES]
