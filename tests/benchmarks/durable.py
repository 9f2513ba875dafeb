"""What durability costs: the store beside the same work by hand, in wall time; a table of its own.

By hand is: the same columns, an id, a checksum, a unique index, and a sync before anyone is told.
As `python -m tests.benchmarks.durable FILE N` it is the other process, whose events arrive.
"""

__all__ = ("CASES", "ROWS", "arrived_ms", "lines")

import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic_ns, perf_counter_ns, time
from typing import TypeAlias
from zlib import crc32

import anyio
from anyio import to_thread
from pydantic_core import to_json

from eventbus import EventBus
from eventbus.clock import uuid7_text
from tests.benchmarks import rereading
from tests.benchmarks.measure import Case, Sample, Samples, expect
from tests.benchmarks.table import missed_by

CROWD = 64
BATCH = 1000
GROUP = 256
EVENT = {"order_id": "o-1", "cents": 990}
BODY = {"order_id": "o-1", "note": "n" * 170}  # 200 bytes as JSON
EVENTS_PER_SECOND = 200

Record: TypeAlias = tuple[str, str, int, None, None, str, int, bytes, int]
Publish: TypeAlias = Callable[[int], Awaitable[object]]

_TABLE = """
CREATE TABLE log (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, topic TEXT NOT NULL,
    time INTEGER NOT NULL, key TEXT, traits TEXT, content_type TEXT NOT NULL,
    schema_version INTEGER NOT NULL, payload BLOB NOT NULL, checksum INTEGER NOT NULL
)
"""
_INSERT = (
    "INSERT INTO log (id, topic, time, key, traits, content_type, schema_version, payload, "
    "checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


# --- By hand --------------------------------------------------------------------------------------


class ByHand:
    """A table, written in worker threads; who comes while one writes is written next, together."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute(_TABLE)
        self._waiting: list[tuple[Record, anyio.Event]] = []
        self._is_writing = False

    async def publish(self, count: int, event: object = EVENT) -> None:
        """Write so many, and wait until they are synced."""
        await to_thread.run_sync(self._write, [_row(event) for _ in range(count)])

    async def publish_together(self, count: int) -> None:
        """Write one with those of others that come at the same time."""
        done = anyio.Event()
        self._waiting.append((_row(), done))
        if self._is_writing:
            await done.wait()
            return
        self._is_writing = True
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            await to_thread.run_sync(self._write, [row for row, _ in waiting])
            for _, event in waiting:
                event.set()
        self._is_writing = False

    def count(self) -> int:
        """Count what is there, and close."""
        with closing(self._connection) as connection:
            return int(connection.execute("SELECT count(*) FROM log").fetchone()[0])

    def _write(self, rows: Sequence[Record]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(_INSERT, rows)
        self._connection.execute("COMMIT")


def _row(event: object = EVENT) -> Record:
    seconds, payload = time(), to_json(event)
    id = uuid7_text(seconds)
    return (
        id,
        "orders.placed",
        round(seconds * 1e6),
        None,
        None,
        "application/json",
        1,
        payload,
        crc32(payload, crc32(id.encode())),
    )


# --- What is measured -----------------------------------------------------------------------------


def by_hand(publishers: int, batch: int, event: object = EVENT) -> Sample:
    """Make the case of publishers that write by hand, so many at once."""

    async def sample(messages: int) -> float:
        with TemporaryDirectory() as folder:
            table = ByHand(Path(folder, "events.db"))
            alone = partial(table.publish, event=event)
            publish = alone if publishers == 1 else table.publish_together
            spent = await _timed(publish, publishers, messages // batch, batch)
            expect(table.count(), messages)
        return spent / messages

    return sample


def by_bus(publishers: int, batch: int) -> Sample:
    """Make the case of publishers on a durable bus nobody listens to."""

    async def sample(messages: int) -> float:
        async with _bus() as bus:

            async def publish(count: int) -> None:
                if count == 1:
                    await bus.publish("orders.placed", EVENT)
                else:
                    await bus.publish_many("orders.placed", [EVENT] * count)

            spent = await _timed(publish, publishers, messages // batch, batch)
            expect((await bus.publish("orders.placed", EVENT)).position or 0, messages + 1)
        return spent / messages

    return sample


async def handled(messages: int) -> float:
    """Publish in batches, to a named subscription, until all is handled and acknowledged."""
    tally = 0
    async with _bus() as bus:

        @bus.on("orders.placed", name="audit")
        async def handle(event: object) -> None:
            nonlocal tally
            tally += 1

        started = perf_counter_ns()
        for _ in range(messages // GROUP):
            await bus.publish_many("orders.placed", [BODY] * GROUP)
        await bus.join()
        spent = perf_counter_ns() - started
    expect(tally, messages)
    return spent / messages


async def arrival(messages: int) -> float:
    """Tell after how long 99 of 100 events of another process have reached a handler."""
    taken: list[int] = []
    with TemporaryDirectory() as folder:
        path = Path(folder, "events.db")
        bus = EventBus(f"sqlite:///{path}")
        everything = anyio.Event()

        @bus.on("clock", model=dict[str, int])
        async def handle(event: dict[str, int]) -> None:
            taken.append(monotonic_ns() - event["at"])
            if len(taken) == messages:
                everything.set()

        async with bus:
            command = [sys.executable, "-m", __name__, str(path), str(messages)]
            await anyio.run_process(command, stdout=subprocess.DEVNULL)
            await everything.wait()
    expect(len(taken), messages)
    return float(sorted(taken)[messages * 99 // 100])


@asynccontextmanager
async def _bus() -> AsyncGenerator[EventBus]:
    with TemporaryDirectory() as folder:
        async with EventBus(f"sqlite:///{Path(folder, 'events.db')}") as bus:
            yield bus


async def _timed(publish: Publish, publishers: int, times: int, batch: int) -> int:
    async def publish_all() -> None:
        for _ in range(times // publishers):
            await publish(batch)

    started = perf_counter_ns()
    async with anyio.create_task_group() as group:
        for _ in range(publishers):
            group.start_soon(publish_all)
    return perf_counter_ns() - started


CASES = {
    "one by hand": Case(by_hand(1, 1), 500),
    "one on a bus": Case(by_bus(1, 1), 500),
    "64 by hand": Case(by_hand(CROWD, 1), CROWD * 100),
    "64 on a bus": Case(by_bus(CROWD, 1), CROWD * 100),
    "batches by hand": Case(by_hand(1, BATCH), 20 * BATCH),
    "batches on a bus": Case(by_bus(1, BATCH), 20 * BATCH),
    "groups by hand": Case(by_hand(1, GROUP, BODY), 80 * GROUP),
    "handled": Case(handled, 80 * GROUP),
    **rereading.CASES,
    "arrival": Case(arrival, 200),
}


# --- The table ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """The same work on a bus and by hand, and at least how fast the bus is to be, of that."""

    what: str
    bus: str
    hand: str
    bar: float

    def rate(self, samples: Samples) -> float:
        """Tell how fast the bus is, of the same work by hand."""
        return median(h / b for h, b in zip(samples[self.hand], samples[self.bus], strict=True))

    def verdict(self, rate: float) -> str:
        """Say whether the bar is reached."""
        return "reached" if rate >= self.bar else missed_by(1 - rate / self.bar)


ROWS = (
    Row("one publisher, awaited", "one on a bus", "one by hand", 0.8),
    Row("64 publishers at once", "64 on a bus", "64 by hand", 0.6),
    Row("publish_many of 1000", "batches on a bus", "batches by hand", 0.5),
    Row("256 of 200 B, until handled and acknowledged", "handled", "groups by hand", 0.25),
    Row("200 B, replayed; by hand bare pages of rows", "replay", "pages by hand", 1 / 6),
    Row('handler with start="first", likewise', "handler again", "pages by hand", 1 / 6),
    Row("the same, durable", "durable again", "pages by hand", 1 / 6),
)


def lines(samples: Samples) -> Iterator[str]:
    """Write the table, line by line."""
    heads = f"{'bus':>12}{'by hand':>12}{'rate':>8}{'bar':>6}"
    yield f"{'durable, synced: wall time per event':46}{heads}"
    for row in ROWS:
        bus, hand, rate = median(samples[row.bus]), median(samples[row.hand]), row.rate(samples)
        figures = f"{bus / 1e3:9.1f} us{hand / 1e3:9.1f} us{rate:8.2f}{row.bar:6.2f}"
        yield f"{row.what:46}{figures} {row.verdict(rate)}"
    yield f"{'from another process, 99 of 100 within':46}{arrived_ms(samples):9.1f} ms"


def arrived_ms(samples: Samples) -> float:
    """Tell within how many milliseconds 99 of 100 events of another process arrived."""
    return median(samples["arrival"]) / 1e6


async def _publish_times(path: str, messages: int) -> None:
    """Publish, at an even pace, what time it is."""
    async with EventBus(f"sqlite:///{path}") as bus:
        for _ in range(messages):
            await anyio.sleep(1 / EVENTS_PER_SECOND)
            await bus.publish("clock", {"at": monotonic_ns()})


if __name__ == "__main__":
    anyio.run(_publish_times, sys.argv[1], int(sys.argv[2]))
