"""Threads that publish to a store: together, in their order, and as soon as it can."""

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest
from anyio.to_thread import run_sync

from eventbus import EventBus, Message, Receipt
from eventbus.middleware import PublishNext
from eventbus.transports.sqlite.clerks import Writer

Opened: TypeAlias = Callable[..., EventBus]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a store that is not there yet."""
    return tmp_path / "events.db"


@pytest.fixture
def opened(path: Path) -> Opened:
    """Give what makes a bus on the store."""

    def open_bus(**options: Any) -> EventBus:
        return EventBus(f"sqlite:///{path}", **options)

    return open_bus


def stored(path: Path, column: str) -> list[Any]:
    """Read a column of the log."""
    with closing(sqlite3.connect(path)) as connection:
        query = f"SELECT {column} FROM log ORDER BY position"
        return [value for (value,) in connection.execute(query)]


async def test_leaving_the_block_stores_all_of_it(opened: Opened, path: Path) -> None:
    """With what was said about it, in the order of the thread."""

    def publish() -> None:
        for n in range(2000):
            said: Any = {"id": f"m-{n}"} if n % 2 else {}
            bus.publish_from_thread(f"bells.{n % 3}", {}, key=f"{n}", **said)

    async with opened() as bus:
        await run_sync(publish)
    stats = bus.stats()

    assert stored(path, "key") == [f"{n}" for n in range(2000)]
    assert stored(path, "id")[1::2] == [f"m-{n}" for n in range(1, 2000, 2)]
    assert (stats.published, stats.lost, stats.abandoned) == (2000, 0, 0)


async def test_many_share_a_commit(
    opened: Opened, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would else wait for the disk alone."""
    commits = 0
    serve = Writer.serve

    def count(self: Writer, *taken: Any) -> None:
        nonlocal commits
        commits += 1
        serve(self, *taken)

    monkeypatch.setattr(Writer, "serve", count)

    def publish() -> None:
        for _ in range(2000):
            bus.publish_from_thread("bells", {})

    async with opened() as bus:
        await run_sync(publish)

    assert len(stored(path, "id")) == 2000
    assert commits < 200


async def test_what_is_no_json_leaves_the_others_alone(
    opened: Opened, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and counted as lost: nobody is left to be told."""

    def publish() -> None:
        for n in range(5):
            bus.publish_from_thread("bells", {"n": object() if n == 2 else n})

    async with opened() as bus:
        await run_sync(publish)
    stats = bus.stats()

    assert stored(path, "CAST(payload AS TEXT)") == [f'{{"n":{n}}}' for n in (0, 1, 3, 4)]
    assert (stats.lost, stats.published) == (1, 4)
    assert "published from a thread, is lost" in caplog.text


async def test_it_waits_while_the_store_fails(
    opened: Opened, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And is stored once, whether the store had taken it before it failed, or not."""
    flaws = iter(["before", "after"])
    commit = Writer._commit  # pyright: ignore[reportPrivateUsage] - the place where it fails

    def fail_twice(self: Writer, connection: sqlite3.Connection, jobs: Any) -> None:
        when = next(flaws, None)
        if when != "before":
            commit(self, connection, jobs)
        if when is not None:
            raise sqlite3.OperationalError("disk I/O error")

    async with opened() as bus:
        monkeypatch.setattr(Writer, "_commit", fail_twice)
        await run_sync(lambda: [bus.publish_from_thread("bells", {}) for _ in range(3)])
    stats = bus.stats()

    assert len(stored(path, "id")) == 3
    assert (stats.published, stats.lost, stats.abandoned) == (3, 0, 0)
    assert "from threads wait to be stored" in caplog.text


async def test_middleware_sees_each_and_a_delay_is_kept(opened: Opened, path: Path) -> None:
    """One by one, in their order."""
    seen: list[str] = []

    async def watch(message: Message, call_next: PublishNext) -> Receipt:
        seen.append(message.topic)
        return await call_next(message)

    def publish() -> None:
        bus.publish_from_thread("bells.later", {}, delay=3600)
        bus.publish_from_thread("bells.now", {})

    async with opened(publish_middleware=[watch]) as bus:
        await run_sync(publish)

    assert (seen, stored(path, "topic")) == (["bells.later", "bells.now"], ["bells.now"])
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT topic FROM scheduled").fetchall() == [("bells.later",)]


async def test_what_cannot_be_stored_in_time_is_abandoned(
    opened: Opened, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The bus ends when it says it will, and tells how much it leaves."""
    with caplog.at_level(logging.CRITICAL, "eventbus"), anyio.fail_after(20):
        async with opened(drain_timeout=0.3) as bus:
            with closing(sqlite3.connect(path, isolation_level=None)) as hog:
                hog.execute("BEGIN IMMEDIATE")
                await run_sync(lambda: [bus.publish_from_thread("bells", {}) for _ in range(3)])
                await bus.drain()
                hog.execute("ROLLBACK")

    assert bus.stats().published + bus.stats().abandoned == 3
