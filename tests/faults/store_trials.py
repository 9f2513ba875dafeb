"""What happens to stores, and to processes on them: a program, given a trial and a folder.

Each trial forks the processes it torments, and prints what it found as JSON.
"""

__all__ = ()

import json
import os
import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import anyio

from eventbus import Context, EventBus, StoreError
from eventbus.middleware import DeadLetter
from eventbus.transports.sqlite.cursors import Claimed
from eventbus.transports.sqlite.durable import DurableSource
from tests.faults.mortals import Mortal, Say

EVENTS = 20
POISON = 7
STARTS = 3


# --- An event that ends the process ---------------------------------------------------------------


async def survive(path: Path, say: Say) -> None:
    """Handle what there is, and die of one."""
    bus = EventBus(f"sqlite:///{path}", middleware=[DeadLetter()])

    @bus.on("work", name="workers", start="first", max_deliveries=STARTS)
    async def handle(event: dict[str, int], context: Context[Any]) -> None:
        say(f"{event['n']} {context.attempt}")
        if event["n"] == POISON:
            os._exit(1)
        await anyio.sleep(0.001)

    async with bus:
        await bus.join()
        for letter in await bus.dead_letters():
            say(f"dead {letter.attempts}")


async def publish_work(path: Path) -> None:
    """Store what is to be handled."""
    async with EventBus(f"sqlite:///{path}") as bus:
        await bus.publish_many("work", [{"n": n} for n in range(EVENTS)])


def poison(path: Path) -> dict[str, object]:
    """Start the process again until it ends by itself."""
    anyio.run(publish_work, path)
    words: list[str] = []
    lives = 0
    while not any(word.startswith("dead") for word in words) and lives < 3 * STARTS:
        words += Mortal(lambda say: anyio.run(survive, path, say)).words()
        lives += 1
    starts = Counter(int(word.split()[0]) for word in words if not word.startswith("dead"))
    attempts = {word.split()[1] for word in words if word.split()[0] not in {str(POISON), "dead"}}
    return {
        "poison_starts": starts[POISON],
        "dead": [word for word in words if word.startswith("dead")],
        "unhandled": EVENTS - len(starts),
        "attempts_of_others": sorted(attempts),
    }


def unbounded_poison(path: Path) -> dict[str, object]:
    """Do the same where that an attempt begins is not written: the control."""
    DurableSource._attempt = _always_the_first  # type: ignore[method-assign]  # the control
    return poison(path)


def _always_the_first(self: DurableSource, claimed: Claimed) -> int:
    return 1


# --- Several processes on one file ----------------------------------------------------------------


async def share(path: Path, say: Say) -> None:
    """Publish and handle, beside others that do so too."""
    bus = EventBus(f"sqlite:///{path}")

    @bus.on("work", name="workers", start="first", queue_size=4)
    async def handle(event: dict[str, int], context: Context[Any]) -> None:
        say(f"handled {context.message.id}")

    async with bus, anyio.create_task_group() as group:
        for _ in range(EVENTS):
            group.start_soon(bus.publish, "work", {"n": 1})
    say("ended")


def crowd(path: Path) -> dict[str, object]:
    """Let many do so at once, from the making of the file on."""
    many = [Mortal(lambda say: anyio.run(share, path, say)) for _ in range(8)]
    words = [word for mortal in many for word in mortal.words()]
    words += Mortal(lambda say: anyio.run(share, path, say)).words()
    handled = Counter(word for word in words if word.startswith("handled"))
    return {"ended": words.count("ended"), "handled_twice": sum(n > 1 for n in handled.values())}


# --- A full disk ----------------------------------------------------------------------------------


async def fill(path: Path, say: Say) -> None:
    """Publish until the disk is full, make room, and go on."""
    bus = EventBus(f"sqlite:///{path}")
    stored = 0
    async with bus:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
        began = monotonic()
        try:
            while stored < 10_000:
                began = monotonic()
                await bus.publish("work", {"text": "x" * 1000}, id=f"m-{stored}")
                stored += 1
        except StoreError as error:
            say(f"refused {type(error).__name__}")
            say(f"seconds {monotonic() - began}")
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await bus.publish("work", {}, id="again")
        stored += 1
        say(f"stored {stored}")


async def count(path: Path, say: Say) -> None:
    """Read all there is."""
    bus = EventBus(f"sqlite:///{path}")
    ids: set[str] = set()

    @bus.on("work", start="first")
    async def handle(event: dict[str, str], context: Context[Any]) -> None:
        ids.add(context.message.id)

    async with bus:
        await bus.join()
    say(f"found {len(ids)}")


def full_disk(path: Path) -> dict[str, str]:
    """Let one publish onto a full disk, then count what is there."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    words = Mortal(lambda say: anyio.run(fill, path, say)).words()
    words += Mortal(lambda say: anyio.run(count, path, say)).words()
    return dict(word.split() for word in words)


TRIALS: dict[str, Callable[[Path], Mapping[str, object]]] = {
    "poison": poison,
    "unbounded_poison": unbounded_poison,
    "crowd": crowd,
    "full_disk": full_disk,
}

if __name__ == "__main__":
    print(json.dumps(TRIALS[sys.argv[1]](Path(sys.argv[2]) / "events.db")))  # noqa: T201 - its use
