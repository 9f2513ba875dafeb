"""A store that is written to all the time, beside slow readers: SQLite's own log stays small."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio
import pytest

from eventbus import EventBus
from eventbus.transports.sqlite import clerks
from eventbus.transports.sqlite.desk import Begin, Job
from eventbus.transports.sqlite.schema import open_store
from tests.faults.scale import IS_SOAK, full

MEGABYTE = 1024 * 1024
BOUND = full(64, small=2) * MEGABYTE
PAGES_PER_CHECKPOINT = 50  # instead of 1,000, where it is small
BATCHES = full(20_000, small=60)
BATCH = [{"text": "x" * 1000}] * 50

pytestmark = pytest.mark.timeout(7200)  # seconds, in full


class Watch:
    """What is seen of a store while it is written."""

    def __init__(self, store: Path) -> None:
        self.log = store.with_name(f"{store.name}-wal")
        self.largest = 0
        self.longest_read = 0.0

    def look(self) -> int:
        """Measure the log."""
        size = self.log.stat().st_size if self.log.exists() else 0
        self.largest = max(self.largest, size)
        return size


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Watch a store; how large its log may grow is scaled down, where the test is small."""
    watch, serve = Watch(tmp_path / "events.db"), clerks.Reader.serve

    def serve_timed(reader: clerks.Reader, jobs: Sequence[Job[object]], begin: Begin) -> None:
        for job in jobs:
            began = perf_counter()
            serve(reader, [job], begin)
            watch.longest_read = max(watch.longest_read, perf_counter() - began)

    monkeypatch.setattr(clerks.Reader, "serve", serve_timed)
    monkeypatch.setattr(clerks, "WAL_ALARM_BYTES", BOUND)
    monkeypatch.setattr(clerks, "COMMITS_PER_LOOK_AT_WAL", full(256, small=8))
    if not IS_SOAK:
        monkeypatch.setattr(clerks, "open_store", open_impatiently)
    return watch


def open_impatiently(*arguments: Any) -> sqlite3.Connection:
    """Open a connection that moves its log into the file every few pages."""
    connection = open_store(*arguments)
    connection.execute(f"PRAGMA wal_autocheckpoint={PAGES_PER_CHECKPOINT}")
    return connection


async def write_all_the_time(store: Path, watch: Watch) -> None:
    """Publish a great deal, beside a slow replay and a slow subscription; then rest."""
    bus = EventBus(f"sqlite:///{store}")

    @bus.on("work", name="slow", start="first", queue_size=4)
    async def handle(event: dict[str, str]) -> None:
        await anyio.sleep(0.02)

    async def replay() -> None:
        async for _ in bus.replay("work", model=dict[str, str]):
            await anyio.sleep(0.02)

    async with bus, anyio.create_task_group() as tasks:
        await bus.publish_many("work", BATCH)
        tasks.start_soon(replay)
        for _ in range(BATCHES):
            await bus.publish_many("work", BATCH)
            watch.look()
        tasks.cancel_scope.cancel()


def test_the_log_of_sqlite_stays_small(
    tmp_path: Path, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """Slow readers read by short transactions, and let it be moved into the file all the time."""
    anyio.run(write_all_the_time, tmp_path / "events.db", watch)

    assert 0 < watch.largest <= BOUND
    assert watch.longest_read < 1.0
    assert "has grown" not in caplog.text


def test_a_reader_without_an_end_would_be_noticed(
    tmp_path: Path, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """Control: another program that keeps a transaction open lets it grow, and the log says so."""
    store = tmp_path / "events.db"

    async def make() -> None:
        async with EventBus(f"sqlite:///{store}"):
            pass

    anyio.run(make)
    with closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM log").fetchone()
        anyio.run(write_all_the_time, store, watch)

    assert watch.largest > BOUND
    assert "has grown" in caplog.text


async def test_a_store_at_rest_has_an_empty_log(tmp_path: Path, watch: Watch) -> None:
    """Once nothing is written for a second, all of it is in the file."""
    async with EventBus(f"sqlite:///{tmp_path / 'events.db'}") as bus:
        await bus.publish_many("work", BATCH)
        assert watch.look() > 0
        with anyio.fail_after(60):
            while watch.look():  # noqa: ASYNC110 - of the file
                await anyio.sleep(0.02)
