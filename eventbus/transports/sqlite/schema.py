"""The tables of a store, and how a file becomes or is one.

`log` holds the records. Positions rise by one from record to record; those removed by retention,
all up to `meta.removed`, are never used again. A subscription has turned everything up to its
`cursor` into deliveries or passed it by; `delivery` holds those that are not settled. So all below
the first of them, or up to the cursor where there is none, is done with. What was stored when it
was created, up to `began`, it hears as a replay.

A delivery belongs to the session (a bus of some process) that `owner` names, or is free. It is
`suspect` if the process that had it died meanwhile: perhaps of it. `attempts` counts those begun,
as far as that was stored. A delivery at a negative position is a dead letter sent again: the
position is the letter's `number`. Where a letter names a `lane`, that is a key whose messages wait
for it: they are deliveries again when it is gone, and `waiting` until then.

`gap` names what retention has removed from the middle of the log: positions from `first` to `last`.
Where a record is missing and no gap says so, it was lost. `loss` tells what subscriptions were
still to be given of what was removed: so many `messages` between two positions, 0 once that was
said.

`responder` tells which sessions answer requests to what, and `reply` holds replies to requests of a
session, until it has read them.

`scheduled` holds the records that are to join the log at their `time`, those of one time by their
`number`, and `schedule` counts them. Their checksums do not cover a position yet.
"""

__all__ = (
    "APPLICATION_ID",
    "LOCK_SECONDS",
    "OWN_TABLES",
    "RECORD",
    "VERSION",
    "connect_to",
    "insist",
    "open_store",
    "secure_names",
    "set_up",
    "version_of",
)

import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from threading import Event

from eventbus.clock import stopwatch
from eventbus.errors import StoreVersion
from eventbus.transports.sqlite.edge import unwritable
from eventbus.transports.sqlite.settings import Durability

APPLICATION_ID = 0x65764273  # "evBs"
VERSION = 3
LOCK_SECONDS = 60.0
LONG_SECONDS = 3.0
TRY_SECONDS = 0.0005
WAL_KEPT_BYTES = 4 * 1024 * 1024

RECORD = "position, id, topic, time, key, traits, content_type, schema_version, payload, checksum"
"""The columns that make up a record, of a log and of a dead letter; times are in microseconds."""

# What version 2 has added: a new file gets it with the rest, an older one in the step to there.
_NEW_IN_2 = """
CREATE TABLE gap (
    first INTEGER PRIMARY KEY,
    last INTEGER NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE TABLE scheduled (
    number INTEGER PRIMARY KEY,
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
CREATE INDEX scheduled_due ON scheduled (time);
CREATE TABLE schedule (kept INTEGER NOT NULL);
INSERT INTO schedule VALUES (0);
CREATE TABLE responder (
    session INTEGER NOT NULL,
    name TEXT NOT NULL,
    pattern TEXT NOT NULL,
    is_shared INTEGER NOT NULL,
    PRIMARY KEY (session, name, pattern)
) WITHOUT ROWID;
CREATE TABLE reply (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    session INTEGER NOT NULL,
    request INTEGER NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX reply_to ON reply (session, number);
CREATE INDEX dead_letter_lane ON dead_letter (subscription, lane) WHERE lane IS NOT NULL;
CREATE TABLE waiting (
    subscription INTEGER NOT NULL,
    key TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (subscription, key, position)
) WITHOUT ROWID;
"""

# And what version 3 has.
_NEW_IN_3 = """
CREATE TABLE loss (
    subscription INTEGER PRIMARY KEY,
    messages INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL
);
"""

_TABLES = (
    """
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
    cursor INTEGER NOT NULL,
    began INTEGER NOT NULL DEFAULT 0
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
    checksum INTEGER NOT NULL,
    lane TEXT
);
CREATE INDEX dead_letter_of ON dead_letter (subscription, number);
"""
    + _NEW_IN_2
    + _NEW_IN_3
)

OWN_TABLES = frozenset(re.findall(r"CREATE TABLE (\w+)", _TABLES))
"""What the tables of a store are called; all others in the file are somebody else's."""

_STEPS = {
    1: f"""
ALTER TABLE dead_letter ADD COLUMN lane TEXT;
ALTER TABLE subscription ADD COLUMN began INTEGER NOT NULL DEFAULT 0;
{_NEW_IN_2}""",
    2: _NEW_IN_3,
}
"""By the version of a file, what leads it to the next; in the end it has what `_TABLES` makes."""


def connect_to(
    path: Path, how: str, *, timeout: float, kind: type[sqlite3.Connection] = sqlite3.Connection
) -> sqlite3.Connection:
    """Connect to a file as the words of a URI say how, none of which create it.

    Transactions are begun by hand. Text comes back as bytes, so that damaged text can be read.
    `timeout` is how many seconds SQLite waits for a lock.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        factory=kind,
    )
    connection.text_factory = bytes
    return connection


def open_store(
    path: Path, durability: Durability, kind: type[sqlite3.Connection] = sqlite3.Connection
) -> sqlite3.Connection:
    """Open a connection that writes, for the thread that calls this; as `connect_to`."""
    connection = connect_to(path, "mode=rw", timeout=LOCK_SECONDS, kind=kind)
    try:
        connection.execute(f"PRAGMA synchronous={durability}")
        connection.execute(f"PRAGMA journal_size_limit={WAL_KEPT_BYTES}")
    except BaseException:
        connection.close()
        raise
    return connection


def insist(
    connection: sqlite3.Connection, statement: str, on_long_wait: Callable[[], None] | None = None
) -> None:
    """Execute what takes a lock, waiting while others have it; call back once if that takes long.

    SQLite's own waiting sleeps for ever longer, and loses against a process that writes all the
    time; and where two want to make one file, it gives up at once. Asked every half millisecond,
    each gets its turn.
    """
    pause = Event()  # never set: it is a way to sleep
    since = stopwatch()
    while (waited := stopwatch() - since) < LOCK_SECONDS:
        if on_long_wait is not None and waited > LONG_SECONDS:
            on_long_wait()
            on_long_wait = None
        try:
            connection.execute(statement).fetchall()  # some fail at their end alone
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            pause.wait(TRY_SECONDS)
        else:
            return
    connection.execute(statement).fetchall()


def set_up(path: Path, durability: Durability) -> int:
    """Make the file a store of this version, unless it is one already; give its version before.

    An older one is led to it in one transaction: all of it is done, or nothing. What was none yet
    counts as one of this version.

    Raises:
        StoreError: It cannot be written.
        StoreVersion: It is something else, or a store of a later version.
    """
    if not path.exists():
        path.touch()
    elif not os.access(path, os.W_OK):  # SQLite would put files beside it that cannot be either
        raise unwritable(path)
    connection = open_store(path, durability)
    try:
        connection.execute("BEGIN")  # Race: another process may be creating the tables
        version = version_of(connection, path)
        connection.execute("COMMIT")
        if version == 0:
            insist(connection, "PRAGMA auto_vacuum=INCREMENTAL")  # only an empty file can be told
        insist(connection, "PRAGMA journal_mode=WAL")  # nothing where it is so
        if version == 0:
            _create(connection)
        elif version < VERSION:
            return _migrate(connection, path)
        return VERSION
    finally:
        connection.close()


def version_of(connection: sqlite3.Connection, path: Path) -> int:
    """Tell of which version a store is; 0 if it is an empty file."""
    application, version, tables = (
        connection.execute(statement).fetchone()[0]
        for statement in (
            "PRAGMA application_id",
            "PRAGMA user_version",
            "SELECT count(*) FROM sqlite_schema",
        )
    )
    if application == APPLICATION_ID:
        return _known(version, path)
    if application or version or tables:
        raise StoreVersion(
            f"{path} is a database, but no store of eventbus: name a new file. Your tables can be "
            "created there once a bus has opened it, or stay here, and have it ATTACHed to their "
            "connection"
        )
    return 0


def _known(version: int, path: Path) -> int:
    if version > VERSION:
        raise StoreVersion(
            f"{path} is a store of version {version}, and this eventbus knows those up to "
            f"{VERSION}: upgrade eventbus"
        )
    return version


def _create(connection: sqlite3.Connection) -> None:
    """Create the tables, where no other process was faster."""
    connection.execute("BEGIN IMMEDIATE")
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not tables:
        _run(connection, _TABLES)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={VERSION}")
    connection.execute("COMMIT")
    # Into the file itself at once: a damaged WAL then costs records, but not the tables.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _migrate(connection: sqlite3.Connection, path: Path) -> int:
    """Lead an older store to this version, as far as no other process was faster; give its own."""
    insist(connection, "BEGIN IMMEDIATE")
    found = version_of(connection, path)
    for version in range(found, VERSION):
        _run(connection, _STEPS[version])
        connection.execute(f"PRAGMA user_version={version + 1}")
    connection.execute("COMMIT")
    return found


def _run(connection: sqlite3.Connection, script: str) -> None:
    # One by one: `executescript` would commit first.
    for statement in script.split(";\n"):
        connection.execute(statement)


def secure_names(connection: sqlite3.Connection, path: Path) -> None:
    """Make the names of the file and of its log as safe as what will be in them.

    SQLite would do so for its log, but not tell where that fails.
    """
    insist(connection, "SELECT count(*) FROM sqlite_schema")  # its log is there after this
    if os.name == "posix":
        _sync(path.absolute().parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
