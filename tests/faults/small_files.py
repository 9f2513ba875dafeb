"""Lets a store grow until the system allows its files no more, and tells what became of it.

`python -m tests.faults.small_files FOLDER BACKEND [CONTROL]`, with one of `CONTROLS`. The limit is
that of the process.
"""

__all__ = ("EVENTS",)

import json
import logging
import resource
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from unittest.mock import patch

import anyio

from eventbus import StoreError
from eventbus.transports.sqlite import SqliteTransport, clerks
from tests.faults.power_user import open_impatiently, publish_hastily
from tests.faults.small_disk import EVENT, Life

LIMIT_BYTES = 400 * 1024
EVENTS = 400
CONTROLS: Mapping[str, AbstractContextManager[object]] = {
    "": nullcontext(),
    "hasty": patch.object(SqliteTransport, "publish", publish_hastily),
}


def limit_files(most: int | None) -> None:
    """Let no file of this process grow beyond a size, or each as far as it will."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if most is None else most, hard))


async def grow(life: Life) -> None:
    """Publish far more than the files may hold."""
    for _ in range(EVENTS):
        try:
            life.stored.append((await life.bus.publish("work", EVENT)).id)
        except StoreError as error:
            life.refused.append(str(error))


async def live(store: Path, patience: float) -> dict[str, object]:
    """Publish under the limit, handle all without it, and tell what was seen."""
    life = Life(store, patience)
    with patch.object(clerks, "open_store", open_impatiently):
        async with life.bus:
            limit_files(LIMIT_BYTES)
            await grow(life)
            sizes = sizes_of(store)
            limit_files(None)
            life.opened.set()
            is_settled = await life.come_to_rest()
            await life.go_on()
    return {
        "is_settled": is_settled,
        "sizes": sizes,
        "refused": sorted(set(life.refused)),
        "stored": len(life.stored),
        "missing": len(set(life.stored) - life.handled.keys()),
        "twice": sum(times > 1 for times in life.handled.values()),
        "flaws": flaws_of(store),
    }


def sizes_of(store: Path) -> list[float]:
    """Tell how far a store, and its log, have come to the limit."""
    files = (store, store.with_name(f"{store.name}-wal"))
    return [one.stat().st_size / LIMIT_BYTES for one in files]


def flaws_of(store: Path) -> list[str]:
    """Have SQLite look through the file."""
    with closing(sqlite3.connect(store)) as connection:
        found = connection.execute("PRAGMA integrity_check").fetchall()
    return [text for (text,) in found if text != "ok"]


def main(folder: str, backend: str, control: str = "") -> None:
    """Live with small files."""
    logging.disable()  # every failure would be told of
    patience = 1.0 if control else 60.0
    with CONTROLS[control]:
        found = anyio.run(live, Path(folder) / "events.db", patience, backend=backend)
    print(json.dumps(found))  # noqa: T201 - it is what this program is for


if __name__ == "__main__":
    main(*sys.argv[1:])
