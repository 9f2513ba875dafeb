"""Payloads are made smaller in a store, and come out as they were."""

import os
import sqlite3
import sys
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import anyio
import pytest
from pydantic import BaseModel

from eventbus import EventBus, InvalidEvent, InvalidOption
from eventbus.middleware import DeadLetter
from eventbus.transports.sqlite import packing
from eventbus.transports.sqlite.packing import MOST_BYTES, Compression, pack, unpack

Opened: TypeAlias = Callable[..., EventBus]

both = pytest.mark.parametrize("compression", ["zlib", "zstd"])
PROSE = b" ".join(b"%d little words" % number for number in range(500))


class Note(BaseModel):
    text: str


def content_types(store: Path, table: str = "log") -> list[str]:
    """Read what the records of a store say they hold."""
    with closing(sqlite3.connect(store)) as connection:
        rows = connection.execute(f"SELECT content_type FROM {table} ORDER BY position")
        return [content_type for (content_type,) in rows]


# --- in a store -----------------------------------------------------------------------------------


@both
async def test_what_is_large_is_packed(opened: Opened, store: Path, compression: str) -> None:
    """What is small stays as it is, and its record says nothing of packing."""
    async with opened(f"?compression={compression}") as bus:
        await bus.publish("notes", {"text": PROSE.decode()})
        await bus.publish("notes", PROSE)
        await bus.publish("notes", {"text": "short"})

    assert content_types(store) == [
        f"application/json; coding={compression}",
        f"application/octet-stream; coding={compression}",
        "application/json",
    ]


async def test_nothing_is_packed_unless_asked(opened: Opened, store: Path) -> None:
    """A URL that says nothing of it stores payloads as they are."""
    async with opened() as bus:
        await bus.publish("notes", {"text": PROSE.decode()})

    assert content_types(store) == ["application/json"]


@both
async def test_all_is_read_whatever_the_url_says(opened: Opened, compression: str) -> None:
    """By those with a name and those without, by models and as it was published."""
    text = PROSE.decode()
    async with opened(f"?compression={compression}") as bus:
        await bus.publish("notes", {"text": text})
        await bus.publish("raw", PROSE)
    bus, seen = opened(), list[object]()

    @bus.on("notes", start="first")
    async def as_model(note: Note) -> None:
        seen.append(note.text)

    @bus.on("notes", name="durable", start="first", key=lambda note: note["text"][:8])
    async def as_dict(note: dict[str, str]) -> None:
        seen.append(note["text"])

    @bus.on("raw", start="first")
    async def as_bytes(note: bytes) -> None:
        seen.append(note)

    async with bus:
        await bus.join()

    assert sorted(seen, key=str) == sorted([text, text, PROSE], key=str)


@both
async def test_dead_letters_are_packed_too(opened: Opened, store: Path, compression: str) -> None:
    """They are listed and sent again as any other."""
    bus, is_well = opened(f"?compression={compression}", middleware=[DeadLetter()]), False
    seen: list[str] = []

    @bus.on("notes", name="reader")
    async def read(note: Note) -> None:
        if not is_well:
            raise ConnectionError
        seen.append(note.text)

    async with bus:
        await bus.publish("notes", {"text": PROSE.decode()})
        await bus.join()
        (letter,) = await bus.dead_letters()
        is_well = True
        assert content_types(store, "dead_letter") == [f"application/json; coding={compression}"]
        await bus.redrive()
        await bus.join()

    assert letter.message.payload == {"text": PROSE.decode()}
    assert seen == [PROSE.decode()]


@both
async def test_a_transaction_of_the_publisher_packs_too(
    opened: Opened, store: Path, compression: str
) -> None:
    """So it is read back by `replay`, and by a subscription."""
    async with opened(f"?compression={compression}") as bus:
        with closing(sqlite3.connect(store)) as connection:
            connection.execute("BEGIN")
            await bus.publish("notes", {"text": PROSE.decode()}, connection=connection)
            connection.commit()
        replayed = [one.event async for one in bus.replay("notes", model=Note)]

    assert content_types(store) == [f"application/json; coding={compression}"]
    assert replayed == [Note(text=PROSE.decode())]


def test_an_unknown_way_of_packing_is_refused(opened: Opened) -> None:
    """With those there are."""
    with pytest.raises(InvalidOption, match=r"'zlip'.*'zlib' or 'zstd'.*did you mean 'zlib'"):
        opened("?compression=zlip")


# --- without the library --------------------------------------------------------------------------


@pytest.fixture
def without_zstd(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Give what takes the library away, as where it was never installed."""

    def take_away() -> None:
        monkeypatch.setitem(sys.modules, "eventbus.transports.sqlite.zstd", None)
        monkeypatch.delattr("eventbus.transports.sqlite.zstd", raising=False)

    return take_away


def test_a_missing_library_is_named_at_once(
    opened: Opened, without_zstd: Callable[[], None]
) -> None:
    """With the extra that brings it."""
    without_zstd()
    with pytest.raises(InvalidOption, match=r"pip install 'eventbus\[zstd\]'"):
        opened("?compression=zstd")


async def test_what_a_missing_library_keeps_from_being_read_waits(
    opened: Opened, without_zstd: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an error of the store, and no dead letter: the next process may have the library."""
    async with opened("?compression=zstd") as bus:
        await bus.publish("notes", {"text": PROSE.decode()})
    without_zstd()
    bus, seen, complained = opened(), list[str](), anyio.Event()

    def complain(*_: object) -> None:
        complained.set()

    monkeypatch.setattr(bus.logger, "error", complain)

    @bus.on("notes", name="reader", start="first")
    async def read(note: Note) -> None:
        seen.append(note.text)

    async with bus:
        await complained.wait()
        monkeypatch.undo()
        await bus.join()

    assert seen == [PROSE.decode()]


# --- what is packed, and what comes out -----------------------------------------------------------


@both
def test_it_comes_out_as_it_was(compression: Compression) -> None:
    """Packed, it is smaller."""
    made = pack("application/json", PROSE, compression)

    assert made is not None
    content_type, data = made
    assert content_type == f"application/json; coding={compression}"
    assert len(data) < len(PROSE) / 2
    assert unpack(data, compression) == PROSE


@both
@pytest.mark.parametrize(
    "payload",
    [PROSE[:1000], os.urandom(5000), b"a" * 1_000_000, PROSE * (MOST_BYTES // len(PROSE) + 1)],
    ids=["small", "random", "repeating", "large"],
)
def test_what_would_not_come_out_is_not_packed(compression: Compression, payload: bytes) -> None:
    """Nor what would not be smaller: what is accepted stays readable."""
    assert pack("application/json", payload, compression) is None


@both
def test_what_is_packed_tightly_comes_out(
    compression: Compression, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the very ratio that is allowed."""
    payload = b"".join(b"%06d%090d" % (number, 0) for number in range(2000))
    made = pack("application/json", payload, compression)

    assert made is not None
    monkeypatch.setattr(packing, "MOST_RATIO", -(-len(payload) // len(made[1])))
    assert unpack(made[1], compression) == payload
    monkeypatch.setattr(packing, "MOST_RATIO", len(payload) // len(made[1]))
    with pytest.raises(InvalidEvent, match="would come out"):
        unpack(made[1], compression)


@both
def test_what_was_not_packed_so_is_refused(compression: Compression) -> None:
    """Cut off, followed by something, or anything else."""
    made = pack("application/json", PROSE, compression)
    assert made is not None
    for spoilt in (made[1][:-9], made[1] + b"x", PROSE):
        with pytest.raises(InvalidEvent, match=f"it is no {compression}"):
            unpack(spoilt, compression)


def test_an_unknown_way_of_unpacking_is_refused() -> None:
    """By name."""
    with pytest.raises(InvalidEvent, match="'lzma', which this eventbus does not know"):
        unpack(zlib.compress(PROSE), "lzma")
