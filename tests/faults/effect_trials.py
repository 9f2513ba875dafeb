"""What becomes of the effects of handlers whose processes die or stand still: a program.

Given a trial, a folder and what it takes, it forks the processes it torments, and prints what it
found as JSON. Each event is to have one effect, a row, and one event that tells of it.
"""

__all__ = ()

import json
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from unittest.mock import patch

import anyio

from eventbus import Context, EventBus
from eventbus.transports.sqlite import clerks, cursors
from eventbus.transports.sqlite.cursors import Outcomes
from eventbus.transports.sqlite.guard import GuardedConnection
from tests.faults.mortals import Mortal, Say, stop_between_writes
from tests.faults.store_trials import ACK_WAIT, Mouth

EVENTS = 8
EVENTS_PER_KILL = 40
STATEMENTS = 400
STEP = 7
"""A process is killed at one of its first 400 statements, the next one seven later: in the end, at
each of them."""


def transacting_bus(path: Path, *, is_careful: bool, pause: Callable[[int], Any]) -> EventBus:
    """Make a bus whose handler has an effect; one that is not careful, by its own connection."""
    bus = EventBus(f"sqlite:///{path}")

    @bus.on(
        "work",
        name="workers",
        start="first",
        queue_size=EVENTS,
        ack_wait=ACK_WAIT,
        max_deliveries=10**6,
    )
    async def work(event: Mapping[str, int], context: Context[Any]) -> None:
        effect = (context.message.id,)
        if is_careful:
            context.transaction.execute("INSERT INTO effect (id) VALUES (?)", effect)
        else:
            with closing(sqlite3.connect(path, timeout=60)) as connection, connection:
                connection.execute("INSERT INTO effect (id) VALUES (?)", effect)
        await context.publish("done", {})
        await pause(event["n"])

    return bus


async def go_on(n: int) -> None:
    """Do not pause."""


async def prepare(path: Path, events: int) -> None:
    """Make the store, with a table for effects, and store what is to have some."""
    async with EventBus(f"sqlite:///{path}") as bus:
        await bus.publish_many("work", [{"n": n} for n in range(events)])
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE effect (id TEXT)")


def findings(path: Path) -> dict[str, int]:
    """Count what is there, and what should be."""
    with closing(sqlite3.connect(path)) as connection:
        events, done = connection.execute(
            "SELECT sum(topic = 'work'), sum(topic = 'done') FROM log"
        ).fetchone()
        effects, kinds = connection.execute(
            "SELECT count(*), count(DISTINCT id) FROM effect"
        ).fetchone()
    return {"events": events, "done": done, "effects": effects, "doubled": effects - kinds}


# --- Killed at each statement ---------------------------------------------------------------------


def die_after(statements: int) -> None:
    """Let the next writer of this process kill it when it begins so many statements."""
    left = statements

    def count_down(statement: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    class Traced(GuardedConnection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.set_trace_callback(count_down)

    patch.object(clerks, "GuardedConnection", Traced).start()  # for the writer of this process


def killed(path: Path, kills: str, backend: str, *hasty: str) -> dict[str, int]:
    """Kill that many, each a few statements later than the one before; then let one finish."""

    async def live(statements: int | None, say: Say) -> None:
        if statements is not None:
            die_after(statements)
        async with transacting_bus(path, is_careful=not hasty, pause=go_on) as bus:
            await bus.join()
        say("ended")

    def mortal(statements: int | None) -> list[str]:
        return Mortal(lambda say: anyio.run(live, statements, say, backend=backend)).words()

    anyio.run(prepare, path, EVENTS_PER_KILL * int(kills))
    lives = [mortal(1 + STEP * n % STATEMENTS) for n in range(int(kills))]
    mortal(None)
    return findings(path) | {"kills": sum("ended" not in words for words in lives)}


# --- Standing still -------------------------------------------------------------------------------


def frozen(path: Path) -> dict[str, int]:
    """Stop a process for three times its `ack_wait`, when its handler has recorded its effect."""

    async def stand_still(say: Say) -> None:
        async def pause(n: int) -> None:
            say(f"begun {n}")
            await anyio.sleep(0.1)

        logging.basicConfig(stream=Mouth(say), level=logging.WARNING, format="%(message)s")
        async with transacting_bus(path, is_careful=True, pause=pause) as bus:
            await bus.join()

    async def take_over(say: Say) -> None:
        async with transacting_bus(path, is_careful=True, pause=go_on) as bus:
            say("here")
            while findings(path)["effects"] < EVENTS:  # noqa: ASYNC110 - of two processes
                await anyio.sleep(0.01)
            await bus.join()

    anyio.run(prepare, path, EVENTS)
    first = Mortal(lambda say: anyio.run(stand_still, say))
    first.hear("begun 0")
    stop_between_writes(first, path)
    stopped = monotonic()
    second = Mortal(lambda say: anyio.run(take_over, say))
    second.words()
    sleep(max(0.0, stopped + 3 * ACK_WAIT - monotonic()))
    first.go_on()
    told = [word for word in first.words() if "settled too late" in word]
    return findings(path) | {"told": len(told)}


def frozen_and_believed(path: Path) -> dict[str, int]:
    """Do the same where nobody asks whose a delivery is: the control."""
    settle_own = cursors.settle

    def settle_for_anyone(
        connection: sqlite3.Connection, subscription: int, session: int, outcomes: Outcomes
    ) -> int:
        settle_own(connection, subscription, session, outcomes)
        return 0

    cursors.settle = settle_for_anyone
    return frozen(path)


TRIALS: dict[str, Callable[..., Mapping[str, object]]] = {
    "killed": killed,
    "frozen": frozen,
    "frozen_and_believed": frozen_and_believed,
}

if __name__ == "__main__":
    trial, folder, *arguments = sys.argv[1:]
    print(json.dumps(TRIALS[trial](Path(folder) / "events.db", *arguments)))  # noqa: T201 - its use
