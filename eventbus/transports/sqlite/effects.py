"""What handlers do in the commit that acknowledges their deliveries.

Each has a savepoint of its own in the transaction that the writer commits for many: what SQLite
refuses one of them is undone, and the others stay.
"""

__all__ = ("Effects", "Places", "Storing", "Undone", "carry_out")

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from eventbus.settling import Overtaken
from eventbus.transaction import Statement
from eventbus.transports.sqlite import cursors
from eventbus.transports.sqlite.guard import GuardedConnection
from eventbus.transports.sqlite.letters import unsend

Places: TypeAlias = Sequence[tuple[int, bool]]
"""Where messages stand in the log, 0 if that is not known yet, and whether they were there before.
"""

_OF_THE_STORE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
"""Errors of which no statement is the cause: all that was to be committed has failed."""


@dataclass(frozen=True, slots=True)
class Storing:
    """How messages are stored in a transaction, and what is to be done when it is over."""

    write: Callable[[sqlite3.Connection], Places]
    then: Callable[[Places], None]


class Effects(NamedTuple):
    """What belongs to one delivery: whose it is, SQL to run, and messages to store."""

    subscription: int
    session: int
    position: int
    statements: Sequence[Statement]
    storing: Storing | None


class Undone(Exception):
    """A statement has rolled back the whole transaction, as `ON CONFLICT ROLLBACK` does."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause
        self.job: object = None  # whose statement it was


def carry_out(connection: sqlite3.Connection, effects: Effects) -> Places | Exception:
    """Acknowledge a delivery, and do what belongs to it; or none of that, and tell why.

    Raises:
        Undone: With it, all that others have done in this transaction is gone.
        sqlite3.Error: The store failed.
    """
    connection.execute("SAVEPOINT delivery")
    try:
        places = _carry_out(connection, effects)
    except Exception as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _OF_THE_STORE:
            raise
        if not connection.in_transaction:
            raise Undone(error) from error
        connection.execute("ROLLBACK TO delivery")
        connection.execute("RELEASE delivery")
        return error
    connection.execute("RELEASE delivery")
    return places


def _carry_out(connection: sqlite3.Connection, effects: Effects) -> Places:
    position = effects.position
    done = cursors.Outcomes(done=[position])
    if cursors.settle(connection, effects.subscription, effects.session, done):
        raise Overtaken
    if position < 0:
        unsend(connection, [position])
    assert isinstance(connection, GuardedConnection)  # noqa: S101 - as the writer opens it
    for statement in effects.statements:
        connection.run(*statement)
    return () if effects.storing is None else effects.storing.write(connection)
