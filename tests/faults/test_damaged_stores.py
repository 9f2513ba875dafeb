"""A damaged store is reported: what was acknowledged is never silently missing, or another."""

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from sqlite3 import Connection
from zlib import crc32

import anyio
import pytest

from eventbus import EventBus, StoreCorrupt, StoreError
from eventbus.transports.sqlite import gaps, log
from eventbus.transports.sqlite.edge import translated
from eventbus.transports.sqlite.log import first_and_last, read_page
from eventbus.transports.sqlite.mark import Mark
from eventbus.transports.sqlite.removal import remove_at
from eventbus.transports.sqlite.schema import open_store, set_up
from tests.faults.scale import full

RECORDS = 40


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a store as a killed process leaves it: its WAL beside it."""
    folder = tmp_path_factory.mktemp("sound")
    used = folder / "used.db"

    async def fill() -> None:
        async with EventBus(f"sqlite:///{used}") as bus:
            for number in range(RECORDS):
                await bus.publish("numbers", {"number": number, "text": "x" * 200})
            await be_marked(used)
            for suffix in ("", "-wal", "-mark"):
                shutil.copy(f"{used}{suffix}", folder / f"events.db{suffix}")

    anyio.run(fill)
    return folder


async def be_marked(store: Path) -> None:
    """Wait for what a publisher is not made to wait for: the mark of the last record."""
    mark = Mark(store)
    try:
        while mark.read() < RECORDS:  # noqa: ASYNC110 - a file
            await anyio.sleep(0.001)
    finally:
        mark.close()


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Callable[[], Path]:
    """Give what makes a fresh copy of that store."""

    def make() -> Path:
        for suffix in ("", "-wal", "-mark", "-shm"):
            with suppress(FileNotFoundError):
                (tmp_path / f"events.db{suffix}").unlink()
        for suffix in ("", "-wal", "-mark"):
            shutil.copy(sound / f"events.db{suffix}", tmp_path / f"events.db{suffix}")
        return tmp_path / "events.db"

    return make


def numbers_in(store: Path, *, heeds_mark: bool = True) -> list[int]:
    """Read a store as the bus does when it starts and delivers.

    Raises:
        StoreError: It is damaged.
    """
    with translated(store):
        set_up(store, "full")
        with closing(open_store(store, "full")) as connection:
            if heeds_mark:
                mark = Mark(store)
                try:
                    mark.check(lambda: first_and_last(connection)[1])
                finally:
                    mark.close()
            return list(_numbers(connection))


def _numbers(connection: Connection) -> Iterator[int]:
    reached = 0
    while records := (page := read_page(connection, reached, 1000)).records:
        for record in records:
            yield int(record.payload.partition(b":")[2].partition(b",")[0])
        reached = page.reached


def cuts(store: Path) -> Iterator[int]:
    """Give lengths for the WAL: every 512 bytes, and in full every byte of the last commit."""
    size = store.with_name("events.db-wal").stat().st_size
    yield from range(0, size, 512)
    yield from range(size - full(16_384, small=64), size)


@pytest.mark.timeout(600)
def test_a_wal_cut_anywhere_is_noticed(copy: Callable[[], Path]) -> None:
    """Whatever is missing at its end, the mark tells that it was acknowledged."""
    unnoticed = 0
    for length in cuts(copy()):
        store = copy()
        with store.with_name("events.db-wal").open("r+b") as wal:
            wal.truncate(length)
        with suppress(StoreCorrupt):
            unnoticed += numbers_in(store) != list(range(RECORDS))

    assert unnoticed == 0


def test_without_the_mark_a_cut_wal_is_only_a_shorter_log(copy: Callable[[], Path]) -> None:
    """Control: SQLite alone gives a part of the records, in order, and says nothing."""
    store = copy()
    with store.with_name("events.db-wal").open("r+b") as wal:
        wal.truncate(store.with_name("events.db-wal").stat().st_size // 2)
    found = numbers_in(store, heeds_mark=False)

    assert found == list(range(len(found)))
    assert 0 < len(found) < RECORDS


def test_a_bus_does_not_start_on_a_shortened_log(copy: Callable[[], Path]) -> None:
    """It says how much is missing, and what can be done; the sound one it opens."""

    async def start(store: Path) -> None:
        async with EventBus(f"sqlite:///{store}"):
            pass

    anyio.run(start, copy())
    store = copy()
    store.with_name("events.db-wal").unlink()
    with pytest.raises(StoreCorrupt, match=r"position 0, .* up to 40 .*events\.db-mark"):
        anyio.run(start, store)


def flips(path: Path) -> list[tuple[int, int]]:
    """Give places in a file, and a bit to flip at each; alike in every run."""
    draw, size = random.Random(7), path.stat().st_size
    return [(draw.randrange(size), 1 << draw.randrange(8)) for _ in range(full(1000, small=150))]


def flip(path: Path, place: int, bit: int) -> None:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    data[place] ^= bit
    path.write_bytes(data)


def settle_into_file(store: Path) -> Path:
    """Move what is in the WAL into the file itself."""
    with closing(open_store(store, "full")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return store


def wal_of(store: Path) -> Path:
    """Name the WAL of a store."""
    return store.with_name(f"{store.name}-wal")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("damaged", [settle_into_file, wal_of])
def test_no_flipped_bit_changes_what_is_delivered(
    copy: Callable[[], Path], damaged: Callable[[Path], Path]
) -> None:
    """Each is harmless, or reported."""
    wrong = reported = 0
    for place, bit in flips(damaged(copy())):
        store = copy()
        flip(damaged(store), place, bit)
        try:
            wrong += numbers_in(store) != list(range(RECORDS))
        except StoreError:
            reported += 1

    assert wrong == 0
    assert reported > 0


@pytest.mark.timeout(600)
def test_without_the_checksum_some_would(
    copy: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: SQLite hands out what a flipped bit has made of a record."""
    monkeypatch.setattr(log, "is_sound", bool)
    store = settle_into_file(copy())
    data = store.read_bytes()
    place = data.index(b'{"number":7,') + len(b'{"number":')
    flip(store, place, 1)

    assert 6 in numbers_in(store)[6:8]


@pytest.mark.timeout(600)
def test_gaps_hide_no_damage(copy: Callable[[], Path]) -> None:
    """Where retention has removed records between others, a flipped bit is as harmless."""
    store = copy()
    removed = list(range(2, RECORDS, 3))  # positions, which are one more than the numbers
    with closing(open_store(store, "full")) as connection:
        remove_at(connection, removed, remember_since=0)
    sound = settle_into_file(store).read_bytes()
    kept = [number for number in range(RECORDS) if number + 1 not in removed]
    assert numbers_in(store) == kept
    wrong = reported = 0
    for place, bit in flips(store):
        store.write_bytes(sound)
        flip(store, place, bit)
        try:
            wrong += numbers_in(store) != kept
        except StoreError:
            reported += 1

    assert wrong == 0
    assert reported > 0


def test_without_its_checksum_a_gap_would(
    copy: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: a gap that is believed whatever it says hides that a record was lost."""
    store = copy()
    with closing(open_store(store, "full")) as connection:
        remove_at(connection, [5, 6], remember_since=0)
        connection.execute("DELETE FROM log WHERE position = 7")
        connection.execute("UPDATE gap SET last = 7")
    with pytest.raises(StoreCorrupt, match="positions 5 to 7 are missing"):
        numbers_in(store)

    def believe(first: int, last: int) -> int:
        return crc32(b"5 6")

    monkeypatch.setattr(gaps, "_checksum", believe)

    assert 6 not in numbers_in(store)
