"""Publishing within a transaction of the publisher's own.

SQLite lets one connection write at a time. So while the publisher's transaction has the lock, no
other can append to the log, and positions are given out in that transaction. Its commit makes the
records visible, and all that read the log find them as they find those of another process.
"""

__all__ = ("Outbox",)

import os
import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

from anyio import sleep

from eventbus._loop import current_task
from eventbus.clock import stopwatch
from eventbus.errors import DeadlockError, InvalidOption, StoreError
from eventbus.transports.sqlite.edge import translated
from eventbus.transports.sqlite.log import append
from eventbus.transports.sqlite.records import Record
from eventbus.transports.sqlite.schema import LOCK_SECONDS, TRY_SECONDS


class _Joined(NamedTuple):
    """A connection of a publisher, and what stands before the names of the store's tables there."""

    connection: sqlite3.Connection
    schema: str


class _Open(NamedTuple):
    """A transaction in which something was published, and when that was."""

    connection: sqlite3.Connection
    since: float

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or is to be forgotten: it may have been left behind, open.

        Then only we keep the connection from being collected, and its lock from being given up.
        """
        try:
            is_open = self.connection.in_transaction
        except sqlite3.ProgrammingError:  # the connection is closed
            return True
        return not is_open or stopwatch() - self.since > LOCK_SECONDS


class Outbox:
    """Writes into transactions of publishers, and knows whose are still open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: WeakKeyDictionary[object, _Open] = WeakKeyDictionary()  # by task

    def check(self, connection: object) -> _Joined:
        """Look whether something can be published in a connection's transaction.

        Raises:
            InvalidOption: It is none to this store, cannot be used here, or has no transaction.
        """
        if not isinstance(connection, sqlite3.Connection):
            raise InvalidOption(f"connection={connection!r}: give a sqlite3.Connection")
        try:
            schema = _schema_of(connection, self._path)
        except sqlite3.ProgrammingError as error:
            raise InvalidOption(
                f"connection= cannot be used here: {error} Open it in the thread of the event "
                "loop, and publish before it is closed"
            ) from None
        if schema is None:
            raise InvalidOption(
                f"connection= is one to another file: connect to {self._path}, or ATTACH that"
            )
        if not connection.in_transaction and not _begins_by_itself(connection):
            raise InvalidOption(
                "connection= has no open transaction, and begins none by itself: execute BEGIN "
                "first, or leave connection= out"
            )
        return _Joined(connection, schema)

    async def append(
        self,
        connection: object,
        records: Sequence[Record],
        given_ids: Sequence[str],
        expect: Callable[[int], None],
    ) -> list[tuple[int, bool]]:
        """Append records in a transaction: all of them, or none.

        Give the position of each, and whether it was there before; `expect` is told the first that
        was not. Waits while others write; cancelled meanwhile, the transaction is as it was.

        Raises:
            InvalidOption: As `check`.
            StoreError: SQLite refused, or others wrote for too long.
        """
        joined = self.check(connection)
        cursor = joined.connection.cursor()
        cursor.row_factory = None
        with translated(self._path), _begun_by_us_undone(joined.connection):
            await _take_lock(cursor, joined)
            with _all_or_nothing(cursor):
                (places,) = append(cursor, [records], given_ids, joined.schema)
        self._open[current_task()] = _Open(joined.connection, stopwatch())
        if new := [position for position, is_known in places if not is_known]:
            expect(new[0])
        return places

    @property
    def is_open(self) -> bool:
        """Whether a transaction in which something was published has not ended."""
        self.forget_ended()
        return bool(self._open)

    def refuse_to_wait(self) -> None:
        """Refuse to write for a task that has the lock itself: it would wait for its own end.

        Raises:
            DeadlockError: Its transaction, in which it published before, is still open.
        """
        if not self._open:
            return
        self.forget_ended()
        if current_task() in self._open:
            raise DeadlockError(
                "this would wait for the transaction in which this task has published with "
                "connection=, and which only this task can end: commit it first, or, to publish, "
                "give connection= here too"
            )

    def forget_ended(self) -> None:
        """Let go of connections whose transactions are over."""
        for task, transaction in tuple(self._open.items()):
            if transaction.is_over:
                del self._open[task]


# --- What a connection is -------------------------------------------------------------------------


def _schema_of(connection: sqlite3.Connection, path: Path) -> str | None:
    """Find the store among the files of a connection."""
    cursor = connection.cursor()
    cursor.row_factory = None
    files = cursor.execute(  # as bytes, whatever its `text_factory` makes of text
        "SELECT CAST(name AS BLOB), CAST(file AS BLOB) FROM pragma_database_list"
    )
    for name, file in files.fetchall():
        if file and _is_same(os.fsdecode(file), path):
            quoted = name.decode().replace('"', '""')
            return f'"{quoted}".'
    return None


def _is_same(file: str, path: Path) -> bool:
    try:
        return os.path.samefile(file, path)
    except OSError:
        return False


def _begins_by_itself(connection: sqlite3.Connection) -> bool:
    """Tell whether Python begins a transaction before the first statement that writes."""
    is_legacy = getattr(connection, "autocommit", -1) == -1  # there from Python 3.12 on
    return is_legacy and connection.isolation_level is not None


# --- Writing into its transaction -----------------------------------------------------------------


async def _take_lock(cursor: sqlite3.Cursor, joined: _Joined) -> None:
    """Make the transaction one that writes, without blocking the event loop while others do.

    It may be the loop that has to go on before they can end.
    """
    for _ in range(round(LOCK_SECONDS / TRY_SECONDS)):
        if _has_taken_lock(cursor, joined.schema):
            return
        await sleep(TRY_SECONDS)
    raise StoreError("another connection keeps the store locked: end its transaction")


def _has_taken_lock(cursor: sqlite3.Cursor, schema: str) -> bool:
    (patience,) = cursor.execute("PRAGMA busy_timeout").fetchone()
    cursor.execute("PRAGMA busy_timeout=0")
    try:
        # It changes nothing, but SQLite, and before it Python, takes it for what it looks like.
        cursor.execute(f"UPDATE {schema}meta SET removed = removed WHERE 0")
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0)
        if code == sqlite3.SQLITE_BUSY_SNAPSHOT:
            raise StoreError(
                "the transaction of connection= has read what others have changed since, so that "
                "SQLite lets it write no more: roll it back, and begin with BEGIN IMMEDIATE"
            ) from error
        if code & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    finally:
        cursor.execute(f"PRAGMA busy_timeout={patience:d}")
    return True


@contextmanager
def _begun_by_us_undone(connection: sqlite3.Connection) -> Generator[None]:
    """Leave no transaction behind that Python has begun for an append that failed."""
    was_open = connection.in_transaction
    try:
        yield
    except BaseException:
        if not was_open:
            connection.rollback()
        raise


@contextmanager
def _all_or_nothing(cursor: sqlite3.Cursor) -> Generator[None]:
    cursor.execute("SAVEPOINT eventbus")
    try:
        yield
    except BaseException:
        if cursor.connection.in_transaction:  # else SQLite has undone all of it
            cursor.execute("ROLLBACK TO eventbus")
            cursor.execute("RELEASE eventbus")
        raise
    cursor.execute("RELEASE eventbus")
