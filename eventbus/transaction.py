"""SQL that a handler wants run together with the acknowledgement of its delivery."""

__all__ = ("TRANSACTION_SIZE", "Parameters", "Statement", "Transaction")

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, cast

from eventbus.errors import InvalidOption, QueueFull
from eventbus.message import Message

Parameters: TypeAlias = Sequence[object] | Mapping[str, object]
"""What stands in place of the placeholders of a statement."""

TRANSACTION_SIZE = 1000
"""How many statements one attempt can record; each row of `executemany` counts as one."""


class Statement(NamedTuple):
    """A statement, to be run with each of these parameters."""

    sql: str
    rows: Sequence[Parameters]


class Transaction:
    """What one attempt records, to be done in one commit with its acknowledgement; see `Context`.

    Nothing of it is done before the handler and all middleware have returned, so that there are no
    results. An attempt that fails, or is cancelled, takes what it recorded with it.
    """

    __slots__ = ("_subscription", "messages", "recorded", "statements")

    def __init__(self, subscription: str) -> None:
        self._subscription = subscription
        self.statements: list[Statement] = []
        self.messages: list[Message] = []  # what the handler has published, once it has passed
        self.recorded = 0

    def execute(self, sql: str, parameters: Parameters = (), /) -> None:
        """Record a statement.

        It runs with the bus's own connection: on the file of the store, with the defaults of
        SQLite, and between other writes, so that it should be quick.

        Raises:
            InvalidOption: No text, or parameters that are neither a sequence nor a mapping.
            QueueFull: The attempt has recorded 1,000 statements already.
        """
        self._record(sql, [_copied(parameters)])

    def executemany(self, sql: str, rows: Iterable[Parameters], /) -> None:
        """Record a statement that is run with each of these parameters.

        Raises:
            InvalidOption, QueueFull: As `execute`; each of the rows counts.
        """
        self._record(sql, [_copied(parameters) for parameters in rows])

    def _record(self, sql: object, rows: Sequence[Parameters]) -> None:
        if not isinstance(sql, str):
            raise InvalidOption(f"context.transaction: {sql!r} is no statement of SQL: give a str")
        if self.recorded + len(rows) > TRANSACTION_SIZE:
            raise QueueFull(
                f"subscription {self._subscription!r} records more than {TRANSACTION_SIZE} "
                "statements in one delivery: split the work, or say more with fewer of them"
            )
        self.recorded += len(rows)
        self.statements.append(Statement(sql, rows))


def _copied(parameters: object) -> Parameters:
    """Copy them, as they are used later and in another thread."""
    if isinstance(parameters, Mapping):
        return dict(cast("Mapping[str, object]", parameters))
    if isinstance(parameters, Sequence) and not isinstance(parameters, (str, bytes)):
        return tuple(cast("Sequence[object]", parameters))
    raise InvalidOption(
        f"context.transaction: parameters of {type(parameters).__name__}: give a tuple or a dict"
    )
