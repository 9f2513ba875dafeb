"""What is stored, read again by a bus, beside bare pages of the same rows; in wall time.

By hand is: the same columns, page by page, in one thread, and nothing made of them.
"""

__all__ = ("CASES",)

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter_ns

from pydantic import BaseModel

from eventbus import EventBus
from tests.benchmarks.measure import Case, expect

MESSAGES = 30_000
BATCH = 1000
PER_PAGE = 256
BODY = {"order_id": "o-1", "note": "n" * 170}  # 200 bytes as JSON

_PAGE = "SELECT * FROM log WHERE position > ? ORDER BY position LIMIT ?"


class Body(BaseModel):
    """The model of what is stored."""

    order_id: str
    note: str


@asynccontextmanager
async def _filled(messages: int) -> AsyncGenerator[Path]:
    """Give the path of a store that holds so many."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "events.db")
        async with EventBus(f"sqlite:///{path}?durability=normal") as bus:
            for begin in range(0, messages, BATCH):
                batch = [BODY] * min(BATCH, messages - begin)
                await bus.publish_many("orders.placed", batch)
        yield path


async def by_hand(messages: int) -> float:
    """Read pages of rows."""
    read, last = 0, 0
    async with _filled(messages) as path:
        with closing(sqlite3.connect(path)) as connection:
            started = perf_counter_ns()
            while rows := connection.execute(_PAGE, (last, PER_PAGE)).fetchall():
                read += len(rows)
                last = rows[-1][0]
            spent = perf_counter_ns() - started
    expect(read, messages)
    return spent / messages


async def replay(messages: int) -> float:
    """Iterate over contexts, with their events validated."""
    async with _filled(messages) as path, EventBus(f"sqlite:///{path}") as bus:
        replay = bus.replay("orders.*", model=Body)
        started = perf_counter_ns()
        async for _ in replay:
            pass
        spent = perf_counter_ns() - started
    expect(replay.progress.given, messages)
    return spent / messages


async def handler(messages: int) -> float:
    """Let a handler begin with the first."""
    return await _handled(messages, is_durable=False)


async def durable_handler(messages: int) -> float:
    """Let one begin with the first that claims and acknowledges each."""
    return await _handled(messages, is_durable=True)


async def _handled(messages: int, *, is_durable: bool) -> float:
    handled = 0
    async with _filled(messages) as path:
        bus = EventBus(f"sqlite:///{path}")

        @bus.on("orders.*", name="again", start="first", durable=is_durable)
        async def handle(event: Body) -> None:
            nonlocal handled
            handled += 1

        started = perf_counter_ns()
        async with bus:
            await bus.join()
            spent = perf_counter_ns() - started
    expect(handled, messages)
    return spent / messages


CASES = {
    "pages by hand": Case(by_hand, MESSAGES),
    "replay": Case(replay, MESSAGES),
    "handler again": Case(handler, MESSAGES),
    "durable again": Case(durable_handler, MESSAGES),
}
