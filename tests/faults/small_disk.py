"""Fills a small disk with a store, and tells what publishers and consumers do on it.

`unshare --mount python -m tests.faults.small_disk FOLDER BACKEND [control]`; the control holds no
room in reserve. The disk is gone with the namespace of the process.
"""

__all__ = ()

import json
import logging
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any
from unittest.mock import patch

import anyio

from eventbus import Context, EventBus, StoreError
from eventbus.middleware import DeadLetter
from eventbus.transports.sqlite.reserve import Reserve

DISK_KILOBYTES = 2048
QUEUE = 4
ROUNDS = 3


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

    async def fill(self) -> None:
        """Publish until the disk is full."""
        while True:
            began = monotonic()
            try:
                receipt = await self.bus.publish("work", {"text": "x" * 2000})
            except StoreError as error:
                self.slowest = max(self.slowest, monotonic() - began)
                self.refused.append(type(error).__name__)
                return
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


def _hold_nothing(reserve: Reserve) -> None:
    """Do without a reserve: the control."""


async def live(store: Path, patience: float) -> dict[str, object]:
    """Fill the disk again and again, handle what there is, make room, and go on."""
    life = Life(store, patience)
    async with life.bus:
        await life.fill()
        life.opened.set()
        is_settled = await life.come_to_rest()
        for _ in range(ROUNDS if is_settled else 0):
            await life.fill()
            is_settled = is_settled and await life.come_to_rest()
        dead = len(await life.bus.dead_letters(limit=1000))
        mount(store.parent, f"remount,size={4 * DISK_KILOBYTES}k")
        life.stored.append((await life.bus.publish("work", {}, id="again")).id)
        await life.bus.join()
    return {
        "is_settled": is_settled,
        "refused": sorted(set(life.refused)),
        "times_refused": len(life.refused),
        "slowest": life.slowest,
        "stored": len(life.stored),
        "missing": len(set(life.stored) - life.handled.keys()),
        "twice": sum(times > 1 for times in life.handled.values()),
        "dead": dead,
    }


def mount(folder: Path, options: str) -> None:
    """Make a disk of some size there, in memory."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    subprocess.run(command, check=True)  # noqa: S603 - it is written above


def main(folder: str, backend: str, *control: str) -> None:
    """Make the disk, and live on it."""
    mount(Path(folder), f"size={DISK_KILOBYTES}k")
    logging.disable()  # every failure would be told of
    take, patience = (_hold_nothing, 1.0) if control else (Reserve.take, 60.0)
    with patch.object(Reserve, "take", take):
        found = anyio.run(live, Path(folder) / "events.db", patience, backend=backend)
    print(json.dumps(found))  # noqa: T201 - it is what this program is for


if __name__ == "__main__":
    main(*sys.argv[1:])
