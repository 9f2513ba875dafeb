"""A program that uses a store while what it writes is recorded; it tells what it relies on.

`python -m tests.faults.power_user STORE WORDS DURABILITY [CONTROL]`. It says `stored` of what was
acknowledged to it, `begun` of what an urgent ack allowed it to begin, `handled` of the rest. Where
the store fails it says `refused` and does it again, but for the start.

The controls: a `hasty` publisher is told before the commit, a `clinging` writer keeps its
connection after an error.
"""

__all__ = (
    "PAGES_PER_CHECKPOINT",
    "listen_all",
    "listen_once",
    "open_impatiently",
    "publish_hastily",
)

import logging
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from typing import Any, TypeVar
from unittest.mock import patch

import anyio

from eventbus import Context, EventBus, Message, Receipt, StoreError
from eventbus.transports.sqlite import clerks, schema
from eventbus.transports.sqlite.clerks import Append, Writer
from eventbus.transports.sqlite.records import record_of
from eventbus.transports.sqlite.store import SqliteTransport
from tests.faults.hasty_clock import HastyClock
from tests.faults.mortals import Say
from tests.faults.scale import full

R = TypeVar("R")

ROUNDS = full(16, small=8)
TRIES = 25  # more than any disk fails here
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


async def insist(say: Say, act: Callable[[], Awaitable[R]]) -> R:
    """Do something on a store, and again where that fails."""
    for _ in range(TRIES):
        try:
            return await act()
        except StoreError:
            say("refused")
    return await act()


async def use(url: str, say: Say) -> None:
    """Publish alone, in batches and side by side, and handle all of it."""
    bus = EventBus(url, clock=HastyClock())
    listen_once(bus, lambda id: say(f"begun {id}"))
    listen_all(bus, lambda id: say(f"handled {id}"))

    async def publish() -> None:
        receipt = await insist(say, lambda: bus.publish("work.alone", {}))
        say(f"stored {receipt.id}")

    async def publish_batch() -> None:
        receipts = await insist(say, lambda: bus.publish_many("work.batch", BATCH))
        say(f"stored {' '.join(one.id for one in receipts)}")

    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(bus)
        except StoreError:
            say("refused")
            return
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


async def publish_hastily(self: SqliteTransport, messages: Sequence[Message]) -> Sequence[Receipt]:
    """Acknowledge what is only on its way."""
    vars(self)["_writer"].submit(Append([record_of(one) for one in messages], []))
    await anyio.sleep(0.005)  # that not all of them go into one commit
    return messages


def cling(self: Writer) -> None:
    """Use a connection again, whatever has happened on it."""
    vars(self)["_connection"].rollback()


CONTROLS: dict[str, AbstractContextManager[object]] = {
    "": nullcontext(),
    "hasty": patch.object(SqliteTransport, "publish", publish_hastily),
    "clinging": patch.object(Writer, "_disconnect", cling),
}


def main(store: str, words: str, durability: str, control: str = "") -> None:
    """Use the store, and write down what is said."""
    mouth = os.open(words, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def say(word: str) -> None:
        os.write(mouth, f"{word}\n".encode())

    logging.disable()  # every failure would be told of
    with patch.object(clerks, "open_store", open_impatiently), CONTROLS[control]:
        anyio.run(use, f"sqlite:///{store}?durability={durability}", say)


if __name__ == "__main__":
    main(*sys.argv[1:])
