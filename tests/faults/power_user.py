"""A program that uses a store while what it writes is recorded; it tells what it relies on.

`python -m tests.faults.power_user STORE WORDS DURABILITY`. It says `stored` of what was
acknowledged to it, `begun` of what an urgent ack allowed it to begin, `handled` of the rest.
"""

__all__ = ("listen_all", "listen_once")

import os
import sqlite3
import sys
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import anyio

from eventbus import Context, EventBus
from eventbus.transports.sqlite import clerks, schema
from tests.faults.mortals import Say
from tests.faults.scale import full

ROUNDS = full(16, small=8)
BATCH: list[dict[str, int]] = [{}] * 5
PAGES_PER_CHECKPOINT = 30

Hear = Callable[[str], None]


def listen_once(bus: EventBus, hear: Hear) -> None:
    """Handle each message at most once: its ack is safe before the handler begins."""

    @bus.on("work.*", name="once", start="first", ack="first")
    async def begin(event: dict[str, int], context: Context[Any]) -> None:
        hear(context.message.id)


def listen_all(bus: EventBus, hear: Hear) -> None:
    """Handle each message at least once."""

    @bus.on("work.*", name="all", start="first")
    async def handle(event: dict[str, int], context: Context[Any]) -> None:
        hear(context.message.id)


async def use(url: str, say: Say) -> None:
    """Publish alone, in batches and side by side, and handle all of it."""
    bus = EventBus(url)
    listen_once(bus, lambda id: say(f"begun {id}"))
    listen_all(bus, lambda id: say(f"handled {id}"))

    async def publish() -> None:
        say(f"stored {(await bus.publish('work.alone', {})).id}")

    async def publish_batch() -> None:
        receipts = await bus.publish_many("work.batch", BATCH)
        say(f"stored {' '.join(one.id for one in receipts)}")

    async with bus:
        for _ in range(ROUNDS):
            await publish()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(publish)
                tasks.start_soon(publish_batch)
                tasks.start_soon(publish)
        await bus.join()


def open_impatiently(*arguments: Any) -> sqlite3.Connection:
    """Open a connection that moves its log into the file every few pages."""
    connection = schema.open_store(*arguments)
    connection.execute(f"PRAGMA wal_autocheckpoint={PAGES_PER_CHECKPOINT}")
    return connection


def main(store: str, words: str, durability: str) -> None:
    """Use the store, and write down what is said."""
    mouth = os.open(words, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def say(word: str) -> None:
        os.write(mouth, f"{word}\n".encode())

    with patch.object(clerks, "open_store", open_impatiently):
        anyio.run(partial(use, f"sqlite:///{store}?durability={durability}", say))


if __name__ == "__main__":
    main(*sys.argv[1:])
