"""Stores of older versions, and processes that open them: a program, given a trial and a folder."""

__all__ = ("make_first",)

import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anyio

from eventbus import Context, EventBus
from eventbus.errors import StoreError
from eventbus.transports.sqlite import schema
from eventbus.transports.sqlite.schema import APPLICATION_ID, set_up
from tests.faults.mortals import Mortal, Say

PROCESSES = 6

_FIRST = """
CREATE TABLE meta (removed INTEGER NOT NULL, lost INTEGER NOT NULL);
INSERT INTO meta VALUES (0, 0);
CREATE TABLE log (
    position INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    topic TEXT NOT NULL,
    time INTEGER NOT NULL,
    key TEXT,
    traits TEXT,
    content_type TEXT NOT NULL,
    schema_version INTEGER NOT NULL,
    payload BLOB NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE TABLE seen (
    id TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    time INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE session (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    place TEXT NOT NULL,
    process INTEGER NOT NULL,
    beat INTEGER NOT NULL
);
CREATE TABLE subscription (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    patterns TEXT NOT NULL,
    cursor INTEGER NOT NULL
);
CREATE TABLE delivery (
    subscription INTEGER NOT NULL,
    position INTEGER NOT NULL,
    key TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    suspect INTEGER NOT NULL DEFAULT 0,
    owner INTEGER,
    due INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (subscription, position)
) WITHOUT ROWID;
CREATE INDEX delivery_free ON delivery (subscription, position) WHERE owner IS NULL;
CREATE TABLE dead_letter (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    letter TEXT NOT NULL UNIQUE,
    subscription TEXT NOT NULL,
    error_type TEXT NOT NULL,
    error TEXT NOT NULL,
    traceback TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    failed_at INTEGER NOT NULL,
    is_sent INTEGER NOT NULL DEFAULT 0,
    position INTEGER NOT NULL,
    id TEXT NOT NULL,
    topic TEXT NOT NULL,
    time INTEGER NOT NULL,
    key TEXT,
    traits TEXT,
    content_type TEXT NOT NULL,
    schema_version INTEGER NOT NULL,
    payload BLOB NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE INDEX dead_letter_of ON dead_letter (subscription, number);
"""
"""The tables of version 1, as they were."""

_FIRST_RECORDS = """
INSERT INTO log VALUES
    (1, 'o-0', 'orders.created', 1795644896243764, NULL, NULL,
     'application/json', 1, X'7B226E223A307D', 3478724521),
    (2, 'o-1', 'orders.created', 1795644896245052, 'k', '{"headers":{"by":"hand"}}',
     'application/json', 1, X'7B226E223A317D', 1201288041),
    (3, 'o-2', 'orders.created', 1795644896259435, NULL, NULL,
     'application/octet-stream', 1, X'00FF', 484752913),
    (4, 'o-3', 'orders.created', 1795644896382594, NULL, NULL,
     'application/json', 1, X'7B226E223A337D', 3145833374);
INSERT INTO subscription VALUES (1, 'billing', '["orders.*"]', 3);
INSERT INTO delivery VALUES (1, 3, NULL, 1, 0, NULL, 1795644896769660);
INSERT INTO dead_letter VALUES
    (1, '01a214c6-b3f8-74ff-9aa0-3c6d28eccfa1', 'billing', 'ValueError', 'no', 'ValueError: no',
     1, 1795644896248911, 0, 2, 'o-1', 'orders.created', 1795644896245052, 'k',
     '{"headers":{"by":"hand"}}', 'application/json', 1, X'7B226E223A317D', 1201288041);
"""
"""One record is handled, one a dead letter, one failed once and waits, one is new."""


def make_first(path: Path) -> Path:
    """Make a store as version 1 left it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(_FIRST + _FIRST_RECORDS)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute("PRAGMA user_version=1")
    return path


# --- Processes that are killed while they migrate -------------------------------------------------


def killed(folder: Path) -> dict[str, object]:
    """Kill one before each of its statements, and let another open what it leaves."""
    kills = halfway = unopened = 0
    for statement in count(1):
        path = make_first(folder / f"{statement}.db")
        before = layout(path)
        migrating = Mortal(lambda say: migrate(path, statement, say))  # noqa: B023 - it runs at once
        if migrating.words() == ["done"]:
            break
        kills += 1
        halfway += layout(path) not in (before, layout(made_new(folder)))
        unopened += not opens(path)
    return {"kills": kills, "halfway": halfway, "unopened": unopened}


def migrate(path: Path, dying_at: int, say: Say) -> None:
    """Open a store, and die before one of the statements that this takes."""
    left = dying_at

    def trace(statement: str) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    def open_and_trace(*given: Any) -> sqlite3.Connection:
        connection = open_store(*given)
        connection.set_trace_callback(trace)
        return connection

    with patch.object(schema, "open_store", open_and_trace):
        set_up(path, "full")
    say("done")


open_store = schema.open_store


def layout(path: Path) -> tuple[object, ...]:
    """Tell of which version a store says it is, and what it has of tables."""
    with closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        return version, *sorted(connection.execute("SELECT name FROM sqlite_schema"))


def made_new(folder: Path) -> Path:
    """Make a store of this version."""
    set_up(folder / "new.db", "full")
    return folder / "new.db"


def opens(path: Path) -> bool:
    """Open a store as the bus does, and read what is in it."""
    seen: list[str] = []
    bus = EventBus(f"sqlite:///{path}")

    @bus.on("orders.*", start="first")
    async def hear(event: object, context: Context[object]) -> None:
        seen.append(context.message.id)

    async def run() -> None:
        async with bus:
            await bus.join()

    try:
        anyio.run(run)
    except StoreError:
        return False
    return seen == ["o-0", "o-1", "o-2", "o-3"]


def killed_halfway(folder: Path) -> dict[str, object]:
    """Do the same where the steps are not taken in one transaction: the control."""
    with patch.object(schema, "_run", run_and_commit):
        return killed(folder)


def run_and_commit(connection: sqlite3.Connection, script: str) -> None:
    """Execute statements, each in a transaction of its own."""
    for statement in script.split(";\n"):
        connection.execute(statement)
        connection.execute("COMMIT")
        connection.execute("BEGIN IMMEDIATE")


# --- Processes that migrate at once ---------------------------------------------------------------


def crowd(folder: Path) -> dict[str, object]:
    """Let several find an old store at the same time, and lead it on one after the other."""
    path = make_first(folder / "events.db")
    other = Mortal(lambda say: hold(path, say))
    other.hear("locked")
    many = [Mortal(lambda say: come_late(path, say)) for _ in range(PROCESSES)]
    for one in many:
        one.hear("late")
    other.kill()
    other.words()
    words = [word for one in many for word in one.words()]
    return {"opened": words.count("done"), "readable": opens(path)}


def hold(path: Path, say: Say) -> None:
    """Have the lock for writing, until killed."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    say("locked")
    signal.pause()


def come_late(path: Path, say: Say) -> None:
    """Open a store, and tell when another is seen to be at it."""

    def wait(connection: sqlite3.Connection, statement: str) -> None:
        say("late")
        insist(connection, statement)

    with patch.object(schema, "insist", wait):
        set_up(path, "full")
    say("done")


insist = schema.insist


def careless_crowd(folder: Path) -> dict[str, object]:
    """Do the same where nobody looks again what there is: the control."""
    with patch.object(schema, "version_of", always_the_first):
        return crowd(folder)


def always_the_first(connection: sqlite3.Connection, path: Path) -> int:
    """Say what was true before."""
    return 1


TRIALS: dict[str, Callable[[Path], Mapping[str, object]]] = {
    "killed": killed,
    "killed_halfway": killed_halfway,
    "crowd": crowd,
    "careless_crowd": careless_crowd,
}

if __name__ == "__main__":
    print(json.dumps(TRIALS[sys.argv[1]](Path(sys.argv[2]))))  # noqa: T201 - its use
