"""While another connection has a transaction open that writes, whoever wants to has to wait."""

import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeAlias

import anyio
import pytest

from eventbus import EventBus, StoreError
from eventbus.transports.sqlite import schema
from tests.waiting import until

Opened: TypeAlias = Callable[..., EventBus]

NOTHING: dict[str, int] = {}


@pytest.fixture
def hog(store: Path, opened: Opened) -> Generator[sqlite3.Connection]:
    """Give a connection to the store, whose transactions are its own affair."""
    anyio.run(touch, opened)
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        yield connection


async def touch(opened: Opened) -> None:
    """Make the store."""
    async with opened():
        pass


async def test_who_publishes_meanwhile_can_be_cancelled(
    opened: Opened, hog: sqlite3.Connection
) -> None:
    """At once; then it is not stored, and what is published later is."""
    async with opened() as bus:
        hog.execute("BEGIN IMMEDIATE")
        with anyio.move_on_after(0.2) as scope:
            await bus.publish("orders.placed", {"n": 1})
        was_locked = hog.in_transaction
        hog.execute("ROLLBACK")
        receipt = await bus.publish("orders.placed", {"n": 2})
        stored = [context.event async for context in bus.replay("orders.placed")]

    assert scope.cancelled_caught
    assert was_locked
    assert stored == [{"n": 2}]
    assert receipt.position == 1


async def test_only_who_is_cancelled_is_left_out(opened: Opened, hog: sqlite3.Connection) -> None:
    """Others that wait for the same commit are stored, each told so."""
    receipts: list[int | None] = []

    async def publish(number: int) -> None:
        receipts.append((await bus.publish("orders.placed", {"n": number})).position)

    async with opened() as bus:
        hog.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as others:
            others.start_soon(publish, 1)
            others.start_soon(publish, 2)
            with anyio.move_on_after(0.2):
                await bus.publish("orders.placed", {"n": 3})
            hog.execute("ROLLBACK")
        stored = [context.event async for context in bus.replay("orders.placed")]

    assert sorted(receipts, key=str) == [1, 2]
    assert sorted(stored, key=str) == [{"n": 1}, {"n": 2}]


async def test_a_start_meanwhile_can_be_cancelled(opened: Opened, hog: sqlite3.Connection) -> None:
    """The bus can be started again when the transaction is over."""
    bus = opened()
    hog.execute("BEGIN IMMEDIATE")
    with anyio.move_on_after(0.2) as scope:
        async with bus:
            await anyio.sleep_forever()
    hog.execute("ROLLBACK")
    async with bus:
        await bus.publish("orders.placed", {})

    assert scope.cancelled_caught
    assert bus.stats().published == 1


async def test_a_long_wait_is_told_of_once(
    opened: Opened,
    hog: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With what may be the cause, as it may be the program's own."""
    monkeypatch.setattr(schema, "LONG_SECONDS", 0.05)

    def told() -> list[str]:
        return [text for text in caplog.messages if "writing waits" in text]

    async with opened() as bus, anyio.create_task_group() as tasks:
        hog.execute("BEGIN IMMEDIATE")
        tasks.start_soon(partial(bus.publish, "orders.placed", NOTHING))
        await until(lambda: bool(told()))
        await anyio.sleep(0.2)
        hog.execute("ROLLBACK")

    (text,) = told()
    assert "commit it first" in text
    assert "give connection=" in text


async def test_who_waits_too_long_is_told_why(
    opened: Opened, hog: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what may keep the file, and what to do."""
    monkeypatch.setattr(schema, "LOCK_SECONDS", 0.1)
    async with opened() as bus:
        hog.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"of this program.*give connection="):
            await bus.publish("orders.placed", {})
        hog.execute("ROLLBACK")
        await bus.publish("orders.placed", {})
