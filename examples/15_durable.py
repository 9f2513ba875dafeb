"""A process is killed in the middle of its work. Started again, it goes on: nothing is lost.

Prints:

    8 orders are stored
    killed with -9: 3 of 8 orders shipped
    started again: 8 of 8 orders shipped, 0 left
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import anyio

from eventbus import EventBus, Topic

ORDER = Topic("orders.placed", int)
BACKEND = "trio" if "--trio" in sys.argv else "asyncio"


async def place_orders(folder: Path) -> None:
    async with EventBus(f"sqlite:///{folder}/events.db") as bus:
        await bus.publish_many(ORDER, range(1, 9))
        print("8 orders are stored")  # on disk, by now


async def ship_orders(folder: Path, *, fatal: int) -> None:
    bus = EventBus(f"sqlite:///{folder}/events.db")

    @bus.on(ORDER, name="shipping", start="first")  # durable by its name: it goes on where it was
    async def ship(order: int) -> None:
        if order == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / f"shipped-{order}").touch()

    async with bus:
        await bus.join()


def work(folder: Path, *fatal: str) -> int:
    """Ship in a process of its own, then count what was shipped."""
    command = [sys.executable, __file__, str(folder), *fatal, f"--{BACKEND}"]
    subprocess.run(command, stderr=subprocess.DEVNULL, check=False)  # noqa: S603 - it is this file
    return len(list(folder.glob("shipped-*")))


if __name__ == "__main__" and len(sys.argv) > 2:
    where, *rest = (word for word in sys.argv[1:] if not word.startswith("--"))
    deadly = int(rest[0]) if rest else 0
    anyio.run(lambda: ship_orders(Path(where), fatal=deadly), backend=BACKEND)
elif __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        anyio.run(place_orders, Path(made), backend=BACKEND)
        print(f"killed with -9: {work(Path(made), '4')} of 8 orders shipped")
        print(f"started again: {(done := work(Path(made)))} of 8 orders shipped, {8 - done} left")
