"""Kills processes that handle what is in a store: a program that prints what it found as JSON.

`python -m tests.faults.worker_trials TRIAL FOLDER KILLS`
"""

__all__ = ()

import json
import random
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anyio

from eventbus import Context, EventBus
from eventbus.message import Delivery
from eventbus.transports.base import Ack, Outcome
from eventbus.transports.sqlite import cursors
from eventbus.transports.sqlite.durable import DurableSource
from tests.faults.mortals import Mortal, Say, live_for

EVENTS_PER_KILL = 40
WORKERS = 4
QUEUE = 8


# --- Acks before the handler ----------------------------------------------------------------------


async def begin_each(path: Path, say: Say) -> None:
    """Publish, and begin each event at most once."""
    bus = EventBus(f"sqlite:///{path}", drain_timeout=2)

    @bus.on("work", name="once", start="first", ack="first")
    async def begin(event: dict[str, int], context: Context[Any]) -> None:
        say(f"begun {context.message.id}")

    async with bus:
        for _ in range(EVENTS_PER_KILL):
            await bus.publish("work", {})
            await anyio.sleep(0.0005)
        await bus.join()
    say("ended")


def urgent(path: Path, kills: int) -> Mapping[str, object]:
    """Kill one after the other."""
    words: list[str] = []
    for _ in range(kills):
        mortal = Mortal(lambda say: anyio.run(begin_each, path, say))
        words += live_for(mortal, random.uniform(0.0, 0.04))
    words += Mortal(lambda say: anyio.run(begin_each, path, say)).words()
    begun = Counter(word for word in words if word.startswith("begun"))
    killed = kills + 1 - words.count("ended")
    return {
        "killed": killed,
        "begun": len(begun),
        "again": sum(times > 1 for times in begun.values()),
    }


def hasty(path: Path, kills: int) -> Mapping[str, object]:
    """Do the same where the handler does not wait for the ack: the control."""
    with patch.object(DurableSource, "settle", settle_hastily):
        return urgent(path, kills)


async def settle_hastily(self: DurableSource, outcomes: Sequence[tuple[Delivery, Outcome]]) -> None:
    """Take no ack for urgent."""
    acks = [(one, Ack() if isinstance(how, Ack) else how) for one, how in outcomes]
    await settle_carefully(self, acks)


settle_carefully = DurableSource.settle


# --- Four workers ---------------------------------------------------------------------------------


async def publish(path: Path, many: int) -> None:
    """Store what is to be handled."""
    async with EventBus(f"sqlite:///{path}") as bus:
        await bus.publish_many("work", [{"n": n} for n in range(many)])


async def work(path: Path, say: Say) -> None:
    """Handle, beside others, until nothing is left."""
    bus = EventBus(f"sqlite:///{path}")

    @bus.on("work", name="workers", start="first", queue_size=QUEUE, concurrency=2)
    async def handle(event: dict[str, int], context: Context[Any]) -> None:
        await anyio.sleep(0.005)
        say(f"handled {context.message.id}")

    say("begun")
    async with bus:
        await bus.join()


def in_flight(path: Path, process: int) -> int:
    """Count what a process has of a store and has not settled."""
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        (many,) = connection.execute(
            "SELECT count(*) FROM delivery JOIN session ON owner = session.id WHERE process = ?",
            (process,),
        ).fetchone()
    return int(many)


def four(path: Path, kills: int) -> Mapping[str, object]:
    """Let four work, and kill one of them again and again."""
    events = kills * EVENTS_PER_KILL
    anyio.run(publish, path, events)
    workers = [Mortal(lambda say: anyio.run(work, path, say)) for _ in range(WORKERS)]
    words: list[str] = []
    held = 0
    for worker in workers:
        worker.hear("begun")
    for _ in range(kills):
        time.sleep(0.02)
        victim = workers.pop(random.randrange(WORKERS))
        victim.stop()
        held += in_flight(path, victim.process)
        victim.kill()
        words += victim.words()
        workers.append(Mortal(lambda say: anyio.run(work, path, say)))
        workers[-1].hear("begun")
    for worker in workers:
        words += worker.words()
    words += Mortal(lambda say: anyio.run(work, path, say)).words()
    handled = Counter(word for word in words if word.startswith("handled"))
    return {
        "unhandled": events - len(handled),
        "again": handled.total() - len(handled),
        "in_flight": held,
    }


def forgetful(path: Path, kills: int) -> Mapping[str, object]:
    """Do the same where what is taken counts as done: the control."""
    with patch.object(cursors, "claim_new", claim_and_forget):
        return four(path, kills)


def claim_and_forget(connection: sqlite3.Connection, *arguments: Any, **named: Any) -> Any:
    """Claim, and keep nothing of it."""
    claimed = claim_carefully(connection, *arguments, **named)
    connection.execute("DELETE FROM delivery")
    return claimed


claim_carefully = cursors.claim_new


TRIALS: dict[str, Callable[[Path, int], Mapping[str, object]]] = {
    "urgent": urgent,
    "hasty": hasty,
    "four": four,
    "forgetful": forgetful,
}

if __name__ == "__main__":
    trial, folder, kills = sys.argv[1:]
    print(json.dumps(TRIALS[trial](Path(folder) / "events.db", int(kills))))  # noqa: T201 - its use
