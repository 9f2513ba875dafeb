"""Fills a small disk with a store, and tells what publishers and consumers do on it.

`unshare --mount python -m tests.faults.small_disk LIFE FOLDER BACKEND [CONTROL]`, with one of
`LIVES`, and of `CONTROLS`. The disk is gone with the namespace of the process.
"""

__all__ = ("EVENT", "LOG_EVENTS", "ROUNDS", "Life")

import json
import logging
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from time import monotonic
from typing import Any
from unittest.mock import patch

import anyio

from eventbus import Context, EventBus, StoreError
from eventbus.middleware import DeadLetter
from eventbus.transports.sqlite import clerks, reserve
from eventbus.transports.sqlite.reserve import Reserve
from tests.faults.power_user import open_impatiently

DISK_KILOBYTES = 2048
QUEUE = 4
ROUNDS = 3
LOG_EVENTS = 100
LEFT_BYTES = 128 * 1024
EVENT = {"text": "x" * 2000}


class Life:
    """A bus on the disk, and what was seen of it."""

    def __init__(self, store: Path, patience: float) -> None:
        self._patience = patience
        self.store = store
        self.opened = anyio.Event()
        self.stored: list[str] = []
        self.handled: Counter[str] = Counter()
        self.refused: list[str] = []
        self.slowest = 0.0
        self.bus = EventBus(f"sqlite:///{store}", middleware=[DeadLetter()])
        self.bus.on("work", name="workers", start="first", queue_size=QUEUE)(self.handle)

    async def handle(self, event: dict[str, str], context: Context[Any]) -> None:
        """Handle one, or fail for good now and then, from when the disk is full."""
        await self.opened.wait()
        self.handled[context.message.id] += 1
        if len(self.handled) % 20 == 0:
            raise ConnectionError("now and then")

    async def fill(self) -> int:
        """Publish until the disk is full; give how large the store was by then."""
        while True:
            began, size = monotonic(), self.store.stat().st_size
            try:
                receipt = await self.bus.publish("work", EVENT)
            except StoreError as error:
                self.slowest = max(self.slowest, monotonic() - began)
                self.refused.append(type(error).__name__)
                return size
            self.stored.append(receipt.id)

    async def come_to_rest(self) -> bool:
        """Wait until all is handled, and settled on the full disk."""
        with anyio.move_on_after(self._patience):
            while self._open_deliveries() or len(self.handled) < len(self.stored):  # noqa: ASYNC110 - of the file
                await anyio.sleep(0.02)
            return True
        return False

    def _open_deliveries(self) -> int:
        with closing(sqlite3.connect(self.store)) as connection:
            (open_ones,) = connection.execute("SELECT count(*) FROM delivery").fetchone()
        return int(open_ones)

    async def go_on(self) -> None:
        """Publish once more, now that there is room, and handle all."""
        self.stored.append((await self.bus.publish("work", {}, id="again")).id)
        await self.bus.join()


async def fill_again_and_again(life: Life) -> dict[str, object]:
    """Fill the disk, handle what there is, and again; then make room, and go on."""
    async with life.bus:
        await life.fill()
        life.opened.set()
        is_settled = await life.come_to_rest()
        for _ in range(ROUNDS if is_settled else 0):
            await life.fill()
            is_settled = is_settled and await life.come_to_rest()
        dead = len(await life.bus.dead_letters(limit=1000))
        mount(life.store.parent, f"remount,size={4 * DISK_KILOBYTES}k")
        await life.go_on()
    return {"is_settled": is_settled, "dead": dead}


async def fill_amid_a_checkpoint(life: Life) -> dict[str, object]:
    """Let the log of SQLite find room on the full disk, and the store none for what is in it."""
    with patch.object(clerks, "open_store", open_impatiently):
        async with life.bus:
            receipts = await life.bus.publish_many("work", [EVENT] * LOG_EVENTS)
            life.stored += [one.id for one in receipts]
            await life.bus.publish("work", EVENT, id="first")
            ballast, size = weigh_down(life.store.parent), life.store.stat().st_size
            moved = await life.fill() - size
            life.opened.set()
            is_settled = await life.come_to_rest()
            ballast.unlink()
            await life.go_on()
    moved_later = life.store.stat().st_size - size
    return {"is_settled": is_settled, "moved": moved, "moved_later": moved_later}


async def refusal_to_start(store: Path) -> str:
    """Start a bus; give the error that says why it cannot."""
    try:
        async with EventBus(f"sqlite:///{store}"):
            return ""
    except StoreError as error:
        return str(error)


async def begin_on_a_full_disk(life: Life) -> dict[str, object]:
    """Open a store where there is no room, or next to none, make some, and fill the disk again."""
    assert not await refusal_to_start(life.store)
    ballast = weigh_down(life.store.parent)
    told = await refusal_to_start(life.store)
    os.truncate(ballast, ballast.stat().st_size - LEFT_BYTES)
    async with life.bus:
        await life.fill()
        ballast.unlink()
        await life.fill()
        life.opened.set()
        is_settled = await life.come_to_rest()
        mount(life.store.parent, f"remount,size={4 * DISK_KILOBYTES}k")
        await life.go_on()
    return {"is_settled": is_settled, "told": told}


LIVES: Mapping[str, Callable[[Life], Awaitable[dict[str, object]]]] = {
    "again": fill_again_and_again,
    "checkpoint": fill_amid_a_checkpoint,
    "begin": begin_on_a_full_disk,
}


def weigh_down(folder: Path) -> Path:
    """Fill a disk with a file."""
    room = os.statvfs(folder)
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)
    return ballast


def take_nothing(_: Reserve) -> None:
    """Do without a reserve."""


CONTROLS: Mapping[str, AbstractContextManager[object]] = {
    "": nullcontext(),
    "without": patch.object(Reserve, "take", take_nothing),
    "little": patch.object(reserve, "MOST_BYTES", LEFT_BYTES // 2),
}


def mount(folder: Path, options: str) -> None:
    """Make a disk of some size there, in memory."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    subprocess.run(command, check=True)  # noqa: S603 - it is written above


async def live(store: Path, name: str, patience: float) -> dict[str, object]:
    """Live on the disk, and tell what was seen."""
    life = Life(store, patience)
    return {
        **await LIVES[name](life),
        "refused": sorted(set(life.refused)),
        "times_refused": len(life.refused),
        "slowest": life.slowest,
        "stored": len(life.stored),
        "missing": len(set(life.stored) - life.handled.keys()),
        "twice": sum(times > 1 for times in life.handled.values()),
    }


def main(name: str, folder: str, backend: str, control: str = "") -> None:
    """Make the disk, and live on it."""
    mount(Path(folder), f"size={DISK_KILOBYTES}k")
    logging.disable()  # every failure would be told of
    patience = 1.0 if control else 60.0
    with CONTROLS[control]:
        found = anyio.run(live, Path(folder) / "events.db", name, patience, backend=backend)
    print(json.dumps(found))  # noqa: T201 - it is what this program is for


if __name__ == "__main__":
    main(*sys.argv[1:])
