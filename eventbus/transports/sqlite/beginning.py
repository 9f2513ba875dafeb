"""Where a new subscription begins.

That is decided by the writer, among what others publish. What has to be looked for is found in the
log as it was at that moment: see `searching.look_for`.
"""

__all__ = ("Begin", "begin_of", "is_sought")

import sqlite3
from datetime import datetime
from typing import NamedTuple

from eventbus.errors import InvalidOption, PositionGone
from eventbus.transports.base import Start
from eventbus.transports.sqlite.log import first_and_last


class Begin(NamedTuple):
    """The position before the first that it is to get, and the one before what is new to it."""

    cursor: int
    began: int


def begin_of(connection: sqlite3.Connection, start: Start, first_new: int | None = None) -> Begin:
    """Tell where a subscription begins now; with what is new, where it is still to be found.

    Where it is known already, `first_new` is the position that "new" means.

    Raises:
        PositionGone: Retention has removed it.
        InvalidOption: It is no position.
    """
    removed, last = first_and_last(connection)
    new = last if first_new is None else max(removed, min(last, first_new - 1))
    if start == "first":
        return Begin(removed, new)
    if isinstance(start, int):
        _check_position(start, removed, last)
        return Begin(start - 1, new)
    return Begin(new, new)


def _check_position(position: int, removed: int, last: int) -> None:
    if position < 1 or position > last + 1:
        raise InvalidOption(
            f"position {position} is not in the log, which ends at {last}: give one up to "
            f"{last + 1}, or 'first', 'last' or 'new'"
        )
    if position <= removed:
        raise PositionGone(
            f"retention has removed position {position}: begin at {removed + 1} or later, or at "
            "'first'"
        )


def is_sought(start: Start) -> bool:
    """Tell whether a start has to be looked for in the log."""
    return start == "last" or isinstance(start, datetime)
