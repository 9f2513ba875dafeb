"""A connection that also runs SQL of users, and not all of it.

What a statement would do SQLite itself tells, when it prepares it: nothing is read out of its text.
"""

__all__ = ("GuardedConnection",)

import sqlite3
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from eventbus.errors import UnsupportedByTransport
from eventbus.transaction import Parameters
from eventbus.transports.sqlite.schema import OWN_TABLES

_BREAKING = {
    sqlite3.SQLITE_TRANSACTION: "would begin or end a transaction",
    sqlite3.SQLITE_SAVEPOINT: "would set or release a savepoint",
    sqlite3.SQLITE_ATTACH: "would attach a file",
    sqlite3.SQLITE_DETACH: "would detach a file",
    sqlite3.SQLITE_PRAGMA: "would set the connection up otherwise",
    sqlite3.SQLITE_CREATE_TEMP_TABLE: "would leave something in the connection",
    sqlite3.SQLITE_CREATE_TEMP_INDEX: "would leave something in the connection",
    sqlite3.SQLITE_CREATE_TEMP_TRIGGER: "would leave something in the connection",
    sqlite3.SQLITE_CREATE_TEMP_VIEW: "would leave something in the connection",
}
_TABLE_FIRST = frozenset(
    {
        sqlite3.SQLITE_INSERT,
        sqlite3.SQLITE_UPDATE,
        sqlite3.SQLITE_DELETE,
        sqlite3.SQLITE_DROP_TABLE,
    }
)
_TABLE_SECOND = frozenset(
    {
        sqlite3.SQLITE_ALTER_TABLE,
        sqlite3.SQLITE_CREATE_INDEX,
        sqlite3.SQLITE_DROP_INDEX,
        sqlite3.SQLITE_CREATE_TRIGGER,
        sqlite3.SQLITE_DROP_TRIGGER,
    }
)
_MARK = "/* of a handler */ "
"""Keeps a statement apart from one of the bus's own with the same text, prepared without a look."""


class GuardedConnection(sqlite3.Connection):
    """A connection of the bus on which statements of handlers run."""

    _has_guard = False
    _is_guarding = False
    _refusal: str | None = None

    def run(self, sql: str, rows: Iterable[Parameters]) -> None:
        """Run a statement of a handler with each of some parameters.

        Raises:
            UnsupportedByTransport: It would do what is the bus's to do, or touch its tables.
            Exception: As SQLite refuses it, or Python the parameters.
        """
        with self._guarding():
            try:
                for parameters in rows:
                    self.execute(_MARK + sql, parameters)
            except sqlite3.DatabaseError as error:
                if self._refusal is None:
                    raise
                raise UnsupportedByTransport(
                    f"context.transaction does not run {sql!r}: it {self._refusal}, which is the "
                    "bus's to do; leave it out, or use a connection of your own"
                ) from error

    @contextmanager
    def _guarding(self) -> Generator[None]:
        if not self._has_guard:
            self._has_guard = True
            self.set_authorizer(self._judge)
        self._is_guarding, self._refusal = True, None
        try:
            yield
        finally:
            self._is_guarding, self._refusal = False, None

    def _judge(self, action: int, first: str | None, second: str | None, *_: object) -> int:
        if self._is_guarding:
            self._refusal = self._refusal or _refusal(action, first, second)
        return sqlite3.SQLITE_OK if self._refusal is None else sqlite3.SQLITE_DENY


def _refusal(action: int, first: str | None, second: str | None) -> str | None:
    """Tell why an action is refused; None if it is not."""
    table = first if action in _TABLE_FIRST else second if action in _TABLE_SECOND else None
    if table in OWN_TABLES:
        return f"would change {table!r}, a table of the store"
    return _BREAKING.get(action)
