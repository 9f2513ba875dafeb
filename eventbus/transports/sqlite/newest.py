"""Which messages are the newest of their topic and key.

Looked up in a database of its own, a temporary one, which SQLite moves to the disk as it grows: a
dictionary of all keys would take as much memory as there are keys. What is left in memory in the
end is a number of eight bytes for each message chosen.
"""

__all__ = ("newest_per_key",)

import sqlite3
from array import array
from collections.abc import Callable, Sequence
from contextlib import closing

from pydantic_core import from_json, to_json

from eventbus.errors import PositionGone
from eventbus.transports.sqlite.clerks import Look
from eventbus.transports.sqlite.damage import OnDamage, stop
from eventbus.transports.sqlite.desk import Desk
from eventbus.transports.sqlite.limits import KEEP_MORE
from eventbus.transports.sqlite.log import Page, read_between
from eventbus.transports.sqlite.scan import RECORDS_PER_PAGE

POSITIONS_AT_ONCE = 10_000

# Keys that are NULL differ from each other: all of them stay.
_TABLE = (
    "CREATE TABLE newest (position INTEGER PRIMARY KEY, topic TEXT, key TEXT, UNIQUE (topic, key))"
)


async def newest_per_key(
    desk: Desk,
    first: int,
    end: int,
    is_wanted: Callable[[str], bool],
    on_damage: OnDamage = stop,
) -> Sequence[int]:
    """Give the positions of the newest of each topic and key, and of all that have no key.

    They rise. Every record from the first position to the end is read and checked.

    Raises:
        PositionGone: Retention removes some of them meanwhile.
        StoreCorrupt: A record is damaged or missing, and `on_damage` stops there.
        StoreError: The store cannot be read.
    """
    # Used by the desk's thread alone, until nothing more is asked of it.
    with closing(sqlite3.connect("", isolation_level=None, check_same_thread=False)) as table:
        table.execute(_TABLE)
        reached = first - 1
        while reached < end:
            reached = await desk.ask(Look(_noting(table, reached, end, is_wanted, on_damage)))
        positions = array("q")
        while more := await desk.ask(Look(_listing(table, positions[-1] if positions else 0))):
            positions.extend(more)
    return positions


def _noting(
    table: sqlite3.Connection,
    after: int,
    end: int,
    is_wanted: Callable[[str], bool],
    on_damage: OnDamage,
) -> Callable[[sqlite3.Connection], int]:
    def note(connection: sqlite3.Connection) -> int:
        page = read_between(connection, after, end, RECORDS_PER_PAGE, on_damage)
        if page.removed > after:
            raise PositionGone(
                f"retention removes positions up to {page.removed} while they are looked through: "
                f"begin behind them, or {KEEP_MORE}"
            )
        _note(table, page, is_wanted)
        return page.reached

    return note


def _note(table: sqlite3.Connection, page: Page, is_wanted: Callable[[str], bool]) -> None:
    rows = [(one.position, one.topic, one.key) for one in page.records if is_wanted(one.topic)]
    table.execute(
        "REPLACE INTO newest (position, topic, key) "
        "SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)",
        (to_json(rows).decode(),),
    )


def _listing(table: sqlite3.Connection, after: int) -> Callable[[sqlite3.Connection], list[int]]:
    def list_positions(_: sqlite3.Connection) -> list[int]:
        (positions,) = table.execute(
            "SELECT json_group_array(position) FROM "
            "(SELECT position FROM newest WHERE position > ? ORDER BY position LIMIT ?)",
            (after, POSITIONS_AT_ONCE),
        ).fetchone()
        listed: list[int] = from_json(positions)
        return listed

    return list_positions
