"""A long log is read again in little memory, and never by a transaction that lasts."""

import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from sqlite3 import Connection, connect
from time import thread_time
from typing import Any

import anyio
import pytest

from eventbus import EventBus, Replay, SystemClock
from eventbus.message import Message, write_message, write_traits
from eventbus.transports.sqlite import Settings, SqliteTransport, reading
from eventbus.transports.sqlite.clerks import Reader
from eventbus.transports.sqlite.desk import Begin
from tests.faults.scale import full

RECORDS = full(5_000_000, small=100_000)
MOST_BYTES = full(96, small=24) * 1024 * 1024  # eight for each message chosen are allowed
MOST_BLOCKS = 30_000  # of memory; what is read ahead takes a few thousand
MOST_IN_WAL = 16 * 1024 * 1024
BATCH = 1000

pytestmark = pytest.mark.timeout(3600 if RECORDS > 1_000_000 else 180)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a long log; every second message has a key that comes twice, far apart."""
    store = tmp_path_factory.mktemp("long") / "events.db"

    async def fill() -> None:
        settings = Settings.of_url(f"sqlite:///{store}?durability=normal")
        async with SqliteTransport(settings, SystemClock()) as transport:
            for first in range(0, RECORDS, BATCH):
                await transport.publish([_message(n) for n in range(first, first + BATCH)])

    anyio.run(fill)
    return store


def _message(n: int) -> Message:
    key = f"key-{n % (RECORDS // 2)}" if n % 2 else None
    head = "orders.placed", None, write_traits(key=key), 1
    return write_message(head, 1.7e9 + n, {"n": n, "text": "x" * 150})


class Watched:
    """A bus on the long log, and how long its reader worked: at most at once, and in all."""

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus
        self.longest = 0.0
        self.total = 0.0

    def note(self, seconds: float) -> None:
        """Note how long a piece of reading took, of the processor."""
        self.longest = max(self.longest, seconds)
        self.total += seconds


@pytest.fixture
def watched(log: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Give what opens a bus on the long log, and times what its reader does."""
    serve = Reader.serve

    @asynccontextmanager
    async def opened() -> AsyncGenerator[Watched]:
        async with EventBus(f"sqlite:///{log}") as bus:
            watch = Watched(bus)

            def timed(reader: Reader, jobs: Sequence[Any], begin: Begin) -> None:
                for job in jobs:
                    began = thread_time()
                    serve(reader, [job], begin)
                    watch.note(thread_time() - began)

            monkeypatch.setattr(Reader, "serve", timed)
            yield watch

    return opened


def resident() -> int:
    """Tell how many bytes of this process are in memory, where the system tells."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0


class Growth:
    """By how much memory grows from the first message on: bytes of the process, and blocks."""

    def __init__(self) -> None:
        self.given = 0
        self.bytes = 0
        self.blocks = 0

    async def read(self, replay: Replay[Any], keep: Callable[[object], object]) -> None:
        """Read to the end, and look now and then."""
        first = (0, 0)
        async for context in replay:
            keep(context)
            self.given += 1
            if self.given % 5000 == 1:
                now = resident(), sys.getallocatedblocks()
                first = first if self.given > 1 else now
                self.bytes = max(self.bytes, now[0] - first[0])
                self.blocks = max(self.blocks, now[1] - first[1])


@pytest.mark.parametrize(
    ("last_per_key", "expected"), [(False, RECORDS), (True, RECORDS // 2 + RECORDS // 4)]
)
async def test_memory_stays_flat(
    watched: Callable[[], Any], expected: int, *, last_per_key: bool
) -> None:
    """However long the log is, and however many keys are in it."""
    before, growth = resident(), Growth()
    async with watched() as one:
        await growth.read(one.bus.replay("orders.*", last_per_key=last_per_key), id)

    assert growth.given == expected
    assert max(growth.bytes, resident() - before) < MOST_BYTES
    assert growth.blocks < MOST_BLOCKS


async def test_that_what_is_kept_would_be_seen(watched: Callable[[], Any]) -> None:
    """Control: a reader that keeps what it is given."""
    kept: list[object] = []
    growth = Growth()
    async with watched() as one:
        await growth.read(one.bus.replay("orders.*", until=100_000), kept.append)

    assert growth.blocks > MOST_BLOCKS


@pytest.mark.parametrize("last_per_key", [False, True])
async def test_no_reading_lasts(watched: Callable[[], Any], *, last_per_key: bool) -> None:
    """It is many short ones."""
    async with watched() as one:
        async for _ in one.bus.replay("orders.*", last_per_key=last_per_key):
            pass

    assert one.longest < 1.0
    assert one.longest < one.total / 2


async def test_that_one_that_lasts_would_be_seen(
    watched: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: all of it as one page."""
    monkeypatch.setattr(reading, "RECORDS_PER_PAGE", 100_000)
    async with watched() as one:
        async for _ in one.bus.replay("orders.*", until=100_000):
            pass

    assert one.longest > one.total / 2


# --- beside who writes ----------------------------------------------------------------------------


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[tuple[Path, Connection]]:
    """Give a store, and a connection to it that can hold a transaction open."""
    store = tmp_path / "events.db"

    async def fill() -> None:
        async with EventBus(f"sqlite:///{store}") as bus:
            await bus.publish_many("orders.placed", [{"n": n} for n in range(2000)])

    anyio.run(fill)
    with closing(connect(store)) as connection:
        yield store, connection


async def largest_wal(store: Path, bus: EventBus) -> int:
    """Publish a lot; tell how large the log of SQLite became."""
    wal, largest = store.with_name("events.db-wal"), 0
    for _ in range(60):
        await bus.publish_many("orders.placed", [{"text": "x" * 900}] * 500)
        largest = max(largest, wal.stat().st_size)
    return largest


async def test_who_reads_slowly_holds_up_no_checkpoint(busy: tuple[Path, Connection]) -> None:
    """In the middle of a replay, what is written moves into the file as ever."""
    store, _ = busy
    async with EventBus(f"sqlite:///{store}") as bus:
        replay = bus.replay(">")
        await anext(replay)
        largest = await largest_wal(store, bus)
        left = [context async for context in replay]

    assert largest < MOST_IN_WAL
    assert len(left) == 1999


async def test_that_who_holds_it_up_would_be_seen(busy: tuple[Path, Connection]) -> None:
    """Control: a reader with a transaction of its own."""
    store, connection = busy
    async with EventBus(f"sqlite:///{store}") as bus:
        connection.execute("BEGIN")
        connection.execute("SELECT * FROM log").fetchone()
        largest = await largest_wal(store, bus)
        connection.rollback()

    assert largest > MOST_IN_WAL
