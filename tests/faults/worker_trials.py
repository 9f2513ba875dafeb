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
from eventbus.transports.sqlite.settlements import Settlements
from tests.faults.mortals import Mortal, Say, live_to_say

EVENTS_PER_KILL = 40
QUICK_EVENTS_PER_KILL = 100
QUICK_WORDS = 60
WORKERS = 4
QUEUE = 8
MOST_AGAIN = 2 * QUEUE + 1
"""How many that are done may come again: of the batch that was being written, its queue's worth, as
much of the batch behind it, and the one in hand."""


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
        words += live_to_say(mortal, random.randint(1, EVENTS_PER_KILL // 2))
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


# --- Acks after the handler -----------------------------------------------------------------------


async def handle_quickly(path: Path, say: Say) -> None:
    """Handle one after the other, and wait for no ack."""
    bus = EventBus(f"sqlite:///{path}")

    @bus.on("work", name="quick", start="first", queue_size=QUEUE)
    async def handle(event: dict[str, int], context: Context[Any]) -> None:
        say(f"handled {event['n']}")

    async with bus:
        say("begun")
        await bus.join()


def batched(path: Path, kills: int) -> Mapping[str, object]:
    """Kill one after the other; count what each had done that another does again."""
    events = kills * QUICK_EVENTS_PER_KILL
    anyio.run(publish, path, events)
    done: list[set[str]] = []
    for _ in range(kills):
        mortal = Mortal(lambda say: anyio.run(handle_quickly, path, say))
        done.append(_handled(live_to_say(mortal, random.randint(QUICK_WORDS // 2, QUICK_WORDS))))
    done.append(_handled(Mortal(lambda say: anyio.run(handle_quickly, path, say)).words()))
    later: set[str] = set()
    again: list[int] = []
    for one in reversed(done):
        again.append(len(one & later))
        later |= one
    return {
        "unhandled": events - len(later),
        "most_again": max(again),
        "killed_amid_work": sum(n > 0 for n in again),
    }


def _handled(words: Sequence[str]) -> set[str]:
    return {word for word in words if word.startswith("handled")}


def hoarding(path: Path, kills: int) -> Mapping[str, object]:
    """Do the same where many acks are gathered before any is written: the control."""
    with patch.object(Settlements, "flush", flush_rarely):
        return batched(path, kills)


def flush_rarely(self: Settlements) -> None:
    """Write nothing until there is much, or no more to come."""
    if len(vars(self)["_gathered"]) >= QUICK_EVENTS_PER_KILL:
        flush_at_once(self)


flush_at_once = Settlements.flush


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


def grasping(path: Path, kills: int) -> Mapping[str, object]:
    """Do the same where each takes what others have taken: the control."""
    with patch.object(cursors, "claim_new", claim_for_all):
        return four(path, kills)


def claim_for_all(
    connection: sqlite3.Connection,
    subscription: int,
    session: int,
    *,
    entries: Sequence[tuple[int, str | None]],
    **named: Any,
) -> Any:
    """Claim all that was read, whoever has taken it meanwhile."""
    if entries:
        connection.execute("DELETE FROM delivery WHERE position >= ?", entries[0][:1])
        connection.execute("UPDATE subscription SET cursor = ? - 1", entries[0][:1])
    return claim_carefully(connection, subscription, session, entries=entries, **named)


claim_carefully = cursors.claim_new


TRIALS: dict[str, Callable[[Path, int], Mapping[str, object]]] = {
    "urgent": urgent,
    "hasty": hasty,
    "batched": batched,
    "hoarding": hoarding,
    "four": four,
    "forgetful": forgetful,
    "grasping": grasping,
}

if __name__ == "__main__":
    trial, folder, kills = sys.argv[1:]
    print(json.dumps(TRIALS[trial](Path(folder) / "events.db", int(kills))))  # noqa: T201 - its use
