"""Processes that are killed while they schedule, beside two that let out what is due.

Run with a folder, a number of kills, and a flaw to be built in, if any; it prints what it found.
"""

__all__ = ()

import json
import logging
import random
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from eventbus import Context, EventBus
from eventbus.transports.sqlite import scheduled
from eventbus.transports.sqlite.damage import OnDamage
from eventbus.transports.sqlite.log import append
from eventbus.transports.sqlite.records import Record, checksum_of
from tests.faults.mortals import Mortal, Say, live_for

SHORTEST, LONGEST = 0.05, 0.4  # seconds until what is scheduled is due
PATIENCE = 60.0


async def schedule(path: Path, say: Say) -> None:
    """Schedule until killed, and tell of each that was acknowledged."""
    async with EventBus(f"sqlite:///{path}") as bus:
        while True:
            seconds = random.uniform(SHORTEST, LONGEST)
            receipt = await bus.publish("bells", {"at": time() + seconds}, delay=seconds)
            say(f"kept {receipt.id}")
            await checkpoint()


async def let_out(path: Path, say: Say) -> None:
    """Let out what is due, beside another that does so too, and tell of what is heard."""
    bus = EventBus(f"sqlite:///{path}")

    @bus.on("bells", group="ears", start="first")
    async def hear(event: dict[str, float], context: Context[Any]) -> None:
        say(f"heard {context.message.id.partition('/')[0]} {time() - event['at']}")

    async with bus:
        while await anyio.Path(path).exists():  # noqa: ASYNC110 - until the parent is content
            await anyio.sleep(0.05)


def torment(path: Path, kills: int) -> dict[str, object]:
    """Kill the first before anybody could let out what is due, and the others while two do."""
    words = live_for(Mortal(lambda say: anyio.run(schedule, path, say)), 0.2)
    ears = [Mortal(lambda say: anyio.run(let_out, path, say)) for _ in range(2)]
    for _ in range(kills - 1):
        one = Mortal(lambda say: anyio.run(schedule, path, say))
        words += live_for(one, random.uniform(0.02, 0.2))
        overhear(ears)
    is_over = monotonic() + PATIENCE
    while left(path) and monotonic() < is_over:
        overhear(ears)
        sleep(0.05)
    path.rename(path.with_suffix(".done"))
    told = [word.split() for ear in ears for word in ear.words()]
    heard = Counter(id for _, id, _ in told)
    kept = {word.split()[1] for word in words}
    late = sorted(float(seconds) for _, _, seconds in told)
    return {
        "kept": len(kept),
        "lost": len(kept - heard.keys()),
        "twice": sum(times > 1 for times in heard.values()),
        "median": late[len(late) // 2] if late else None,
    }


def overhear(mortals: Sequence[Mortal]) -> None:
    """Take in what they have said by now."""
    for one in mortals:
        one.overhear()


def left(path: Path) -> int:
    """Count what is scheduled, and what is not handled."""
    with closing(sqlite3.connect(path)) as connection:
        (scheduled_ones, unread) = connection.execute(
            "SELECT (SELECT count(*) FROM scheduled), (SELECT count(*) FROM delivery) + "
            "(SELECT ifnull(max(position), 0) FROM log) - (SELECT max(cursor) FROM subscription)"
        ).fetchone()
    return int(scheduled_ones + unread)


# --- The controls ---------------------------------------------------------------------------------


def keep_nothing(connection: sqlite3.Connection, records: Sequence[Record]) -> None:
    """Acknowledge what is not written."""


def depart_in_two_steps(
    connection: sqlite3.Connection, tell_time: Callable[[], int], on_damage: OnDamage
) -> int:
    """Append what is due now, under ids of its own, and remove it another time."""
    records = scheduled.due(connection, tell_time(), on_damage)
    append(connection, [[renamed(one) for one in records]], [])
    scheduled.remove(connection, [one.id for one in records if one.id in has_departed])
    has_departed.update(one.id for one in records)
    return scheduled.first_due(connection)


def renamed(record: Record) -> Record:
    """Give a record another id, so that the log does not know it."""
    other = record._replace(id=f"{record.id}/{random.random()}")
    return other._replace(checksum=checksum_of(other))


has_departed: set[str] = set()

FLAWS: dict[str, Callable[[], None]] = {
    "": lambda: None,
    "forgetful": lambda: setattr(scheduled, "_insert", keep_nothing),
    "careless": lambda: setattr(scheduled, "depart", depart_in_two_steps),
}

if __name__ == "__main__":
    logging.disable()  # kills are told of
    FLAWS[sys.argv[3]]()
    print(json.dumps(torment(Path(sys.argv[1]) / "events.db", int(sys.argv[2]))))  # noqa: T201 - its use
