"""Kills processes that share keys, and whose messages become dead letters that the others wait for.

`python -m tests.faults.lane_trials FOLDER KILLS [leaping]`, where `leaping` workers do not let
messages wait for a dead letter of their key: the control. It prints what it found as JSON.
"""

__all__ = ()

import json
import logging
import random
import sqlite3
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from time import monotonic, monotonic_ns, sleep
from typing import Any, NamedTuple
from unittest.mock import patch

import anyio

from eventbus import Context, EventBus
from eventbus.middleware import DeadLetter
from eventbus.transports.sqlite import cursors, durable
from tests.faults.mortals import Mortal, Say

KEYS = 8
EVENTS_PER_KILL = 24
WORKERS = 3
FAILING = 0.15
REDRIVE_SECONDS = 0.02
PATIENCE_SECONDS = 60.0


class Attempt(NamedTuple):
    """What was told of one attempt; its process may have been killed amid it."""

    key: str
    n: int
    began: int
    ended: int
    has_succeeded: bool


# --- a worker -------------------------------------------------------------------------------------


async def publish(path: Path, many: int) -> None:
    """Store events of some keys, those of each numbered."""
    async with EventBus(f"sqlite:///{path}") as bus:
        for n in range(many // KEYS):
            for key in range(KEYS):
                await bus.publish("work", {"n": n}, key=f"k-{key}")


async def work(path: Path, say: Say) -> None:
    """Handle some, fail now and then for good, and send dead letters again, until killed."""
    bus = EventBus(f"sqlite:///{path}", middleware=[DeadLetter(sequenced=True)])

    @bus.on("work", group="workers", start="first", concurrency=4, queue_size=16)
    async def handle(event: dict[str, int], context: Context[Any]) -> None:
        which = f"{context.message.key} {event['n']}"
        say(f"begun {which} {monotonic_ns()}")
        await anyio.sleep(random.uniform(0, 0.002))
        if random.random() < FAILING:
            say(f"failed {which} {monotonic_ns()}")
            raise ConnectionError("now and then")
        say(f"done {which} {monotonic_ns()}")

    logging.disable()  # every failure would be told of
    async with bus:
        say("up")
        while True:
            await anyio.sleep(REDRIVE_SECONDS)
            await bus.redrive()


# --- what is seen of them -------------------------------------------------------------------------


def left(path: Path) -> int:
    """Count what is not handled, as far as the store knows."""
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        (many,) = connection.execute(
            "SELECT (SELECT count(*) FROM delivery) + (SELECT count(*) FROM waiting)"
            " + (SELECT count(*) FROM dead_letter)"
            " + (SELECT max(position) FROM log) - (SELECT min(cursor) FROM subscription)"
        ).fetchone()
    return int(many)


def attempts_of(words: Sequence[str], killed: int) -> Iterator[Attempt]:
    """Understand what a process told; what it had not ended ended when it was killed."""
    begun: dict[tuple[str, int], int] = {}
    for verb, key, number, time in map(str.split, words):
        n = int(number)
        if verb == "begun":
            begun[key, n] = int(time)
        else:
            yield Attempt(key, n, begun.pop((key, n)), int(time), verb == "done")
    for (key, n), began in begun.items():
        yield Attempt(key, n, began, killed, has_succeeded=False)


def leaps(attempts: Sequence[Attempt]) -> int:
    """Count attempts of one key that began before all earlier messages had been handled."""
    times = 0
    ended: dict[int, int] = {}
    for one in sorted(attempts, key=lambda one: one.ended):
        if one.has_succeeded:
            ended.setdefault(one.n, one.ended)
    for one in attempts:
        earlier = [ended.get(n) for n in range(one.n)]
        times += any(end is None or end > one.began for end in earlier)
    return times


def overlaps(attempts: Sequence[Attempt]) -> int:
    """Count attempts of one key that began while another one ran."""
    in_order = sorted(attempts, key=lambda one: one.began)
    return sum(later.began < one.ended for one, later in pairwise(in_order))


def torment(path: Path, kills: int) -> Mapping[str, object]:
    """Kill one of some workers again and again, until they have handled all."""
    events = kills * EVENTS_PER_KILL
    anyio.run(publish, path, events)
    workers = [Mortal(lambda say: anyio.run(work, path, say)) for _ in range(WORKERS)]
    told: list[Attempt] = []
    for _ in range(kills):
        workers[-1].hear("up")
        sleep(random.uniform(0, 0.05))
        victim = workers.pop(random.randrange(WORKERS))
        told += _end(victim)
        workers.append(Mortal(lambda say: anyio.run(work, path, say)))
    is_over = monotonic() + PATIENCE_SECONDS
    while left(path) and monotonic() < is_over:
        for worker in workers:
            worker.overhear()
        sleep(0.02)
    for worker in workers:
        told += _end(worker)
    by_key: defaultdict[str, list[Attempt]] = defaultdict(list)
    for one in told:
        by_key[one.key].append(one)
    handled = {(one.key, one.n) for one in told if one.has_succeeded}
    return {
        "unhandled": events - len(handled),
        "left": left(path),
        "failed": sum(not one.has_succeeded for one in told),
        "leaps": sum(map(leaps, by_key.values())),
        "overlaps": sum(map(overlaps, by_key.values())),
    }


def _end(worker: Mortal) -> Iterator[Attempt]:
    killed = monotonic_ns()
    worker.kill()
    return attempts_of([word for word in worker.words() if word != "up"], killed)


def leave_nothing_waiting(
    connection: sqlite3.Connection, subscription: int, entries: list[tuple[int, str | None]]
) -> list[tuple[int, str | None]]:
    """Let nothing wait for a dead letter."""
    return entries


def hold_nothing_back(
    connection: sqlite3.Connection, subscription: int, session: int, *, lane: str, after: int
) -> None:
    """Give back what is to wait for a dead letter, to who comes next."""
    connection.execute(
        "UPDATE delivery SET owner = NULL WHERE subscription = ? AND owner = ? AND key = ? "
        "AND position > ?",
        (subscription, session, lane, after),
    )


def main(folder: str, kills: str, *control: str) -> None:
    """Kill so many of them, and tell what was seen."""
    with ExitStack() as patches:
        if control:
            patches.enter_context(patch.object(cursors, "leave_waiting", leave_nothing_waiting))
            patches.enter_context(patch.object(durable, "hold_back", hold_nothing_back))
        found = torment(Path(folder) / "events.db", int(kills))
    print(json.dumps(found))  # noqa: T201 - it is what this program is for


if __name__ == "__main__":
    main(*sys.argv[1:])
