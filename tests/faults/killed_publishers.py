"""Kills processes that publish and handle on a store, and compares what they said and left.

`python -m tests.faults.killed_publishers FOLDER KILLS BACKEND [hasty]`, where `hasty` publishers
acknowledge before the commit: the control.
"""

__all__ = ()

import json
import random
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from eventbus import Context, EventBus, Message, Receipt
from eventbus.transports.sqlite.store import SqliteTransport
from tests.faults.mortals import Mortal, Say, live_for

BATCH: list[dict[str, int]] = [{}] * 7


async def work(path: Path, say: Say) -> None:
    """Publish one by one, in batches and side by side, and handle all of it."""
    bus = EventBus(f"sqlite:///{path}", drain_timeout=5)

    @bus.on("work.*", name="workers", concurrency=2)
    async def handle(event: dict[str, int], context: Context[Any]) -> None:
        say(f"handled {context.message.id}")

    async def publish_alone() -> None:
        while True:
            say(f"stored {(await bus.publish('work.alone', {})).id}")

    async def publish_batches() -> None:
        while True:
            receipts = await bus.publish_many("work.batch", BATCH)
            say(f"stored {' '.join(one.id for one in receipts)}")

    async with bus, anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(publish_alone)
        group.start_soon(publish_batches)


async def finish(path: Path, say: Say) -> None:
    """Handle what is left, and end well."""
    bus = EventBus(f"sqlite:///{path}")

    @bus.on("work.*", name="workers", concurrency=2)
    async def handle(event: dict[str, int], context: Context[Any]) -> None:
        say(f"handled {context.message.id}")

    async with bus:
        await bus.join()


async def publish_hastily(self: SqliteTransport, messages: Sequence[Message]) -> Sequence[Receipt]:
    """Acknowledge what is only on its way."""
    with anyio.CancelScope(shield=True):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(publish_carefully, self, messages))
            group.cancel_scope.cancel()
    return messages


publish_carefully = SqliteTransport.publish


def stored(path: Path) -> tuple[set[str], set[int]]:
    """Read the ids in the log, and the sizes of the batches in it, cut short ones included."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT id, topic, position FROM log ORDER BY position"
        ).fetchall()
    batches = [row for row in rows if row[1] == "work.batch"]
    return {row[0] for row in rows}, {len(batches) % len(BATCH)}


def said(words: Sequence[str], verb: str) -> set[str]:
    """Give the ids that somebody said to have stored, or handled."""
    found = [word.split() for word in words]
    return {one for kind, *ids in found if kind == verb for one in ids}


def main(folder: str, kills: str, backend: str, *control: str) -> None:
    """Kill so many of them, then let one finish."""
    if control:
        SqliteTransport.publish = publish_hastily  # type: ignore[method-assign]  # the control
    path = Path(folder) / "events.db"
    words: list[str] = []
    for _ in range(int(kills)):
        mortal = Mortal(lambda say: anyio.run(work, path, say, backend=backend))
        words += live_for(mortal, random.uniform(0.02, 0.2))
    words += Mortal(lambda say: anyio.run(finish, path, say, backend=backend)).words()
    there, torn = stored(path)
    acknowledged = said(words, "stored")
    found = {
        "acknowledged": len(acknowledged),
        "lost": len(acknowledged - there),
        "torn": len(torn - {0}),
        "unhandled": len(there - said(words, "handled")),
        "handled_twice": sum(w.startswith("handled") for w in words) - len(said(words, "handled")),
    }
    print(json.dumps(found))  # noqa: T201 - it is what this program is for


if __name__ == "__main__":
    main(*sys.argv[1:])
