"""Messages for later: records that join the log when they are due, by whichever bus is there."""

__all__ = ("NEVER", "accept", "cancel", "depart", "due", "first_due", "remove")

import sqlite3
from collections.abc import Callable, Sequence

from pydantic_core import from_json, to_json

from eventbus.errors import QueueFull
from eventbus.transports.sqlite.damage import OnDamage, stop
from eventbus.transports.sqlite.log import append, positions_of
from eventbus.transports.sqlite.records import (
    EXACT_COLUMNS_AS_JSON,
    Record,
    checksum_of,
    exact_record_of,
)
from eventbus.transports.sqlite.schema import RECORD

NEVER = 2**62
PER_ROUND = 500
"""Records that join the log in one transaction at most, so that publishers do not wait for more."""

_COLUMNS = RECORD.removeprefix("position, ")
_INSERT = f"INSERT INTO scheduled ({_COLUMNS}) VALUES ({', '.join('?' * len(Record._fields[1:]))})"
_READ = (
    f"SELECT json_group_array(json_array(number, hex(id), hex({EXACT_COLUMNS_AS_JSON}))) "
    f"FROM (SELECT number, 0 AS position, {_COLUMNS} "
    "FROM scheduled WHERE time <= ? ORDER BY time, number LIMIT ?)"
)


def accept(
    connection: sqlite3.Connection,
    records: Sequence[tuple[Record, bool]],
    given_ids: Sequence[str],
    most: int,
) -> list[tuple[int, bool]]:
    """Keep those records that are marked as for later, and append the others.

    Tells of each its position, 0 of what is for later, and whether it was there before.

    Raises:
        QueueFull: More than so many would be scheduled.
    """
    later: dict[str, Record] = {}
    for record, is_later in records:
        if is_later:
            later.setdefault(record.id, record)
    new = later.keys() - positions_of(connection, given_ids).keys()
    _require_room(connection, len(new), most)
    places = append(connection, [[one for one, is_later in records if not is_later]], given_ids)
    prompt = iter(places[0])
    known = positions_of(connection, given_ids)  # anew: one may be published twice in one batch
    _insert(connection, [one for id, one in later.items() if id not in known])
    return [_place(one, known, later) if is_later else next(prompt) for one, is_later in records]


def _require_room(connection: sqlite3.Connection, messages: int, most: int) -> None:
    (kept,) = connection.execute("SELECT kept FROM schedule").fetchone()
    if messages and kept + messages > most:
        raise QueueFull(
            f"{kept} messages are scheduled in the store already: publish this one when some have "
            "gone out, or give the bus a larger schedule_size"
        )


def _place(record: Record, known: dict[str, int], later: dict[str, Record]) -> tuple[int, bool]:
    return known.get(record.id, 0), record.id in known or later[record.id] is not record


def _insert(connection: sqlite3.Connection, records: Sequence[Record]) -> None:
    connection.executemany(_INSERT, [record[1:] for record in records])
    connection.execute("UPDATE schedule SET kept = kept + ?", (len(records),))


def first_due(connection: sqlite3.Connection) -> int:
    """Tell when the first is due, in microseconds since the epoch; `NEVER` if there is none."""
    (time,) = connection.execute("SELECT min(time) FROM scheduled").fetchone()
    return NEVER if time is None else int(time)


def depart(
    connection: sqlite3.Connection, tell_time: Callable[[], int], on_damage: OnDamage = stop
) -> int:
    """Let those join the log that are due, at most a round of them; tell when the next is due.

    The time is asked for now that the lock is held: more may have become due while it was not.

    Raises:
        StoreCorrupt: One of them is damaged, and `on_damage` stops there.
    """
    records = due(connection, tell_time(), on_damage)
    if records:
        ids = [one.id for one in records]
        remove(connection, ids)
        append(connection, [records], ids)
    return first_due(connection)


def due(connection: sqlite3.Connection, now: int, on_damage: OnDamage = stop) -> list[Record]:
    """Read those that are due, in their order, at most a round of them.

    Raises:
        StoreCorrupt: One of them is damaged, and `on_damage` stops there.
    """
    (page,) = connection.execute(_READ, (now, PER_ROUND)).fetchone()
    records: list[Record] = []
    for number, name, text in from_json(page):
        record = exact_record_of(bytes.fromhex(text))
        if record is not None and checksum_of(record) == record.checksum:
            records.append(record)
        else:
            id = bytes.fromhex(name).decode(errors="replace")
            on_damage(f"the scheduled message {id!r} is damaged")
            _set_aside(connection, number)
    return records


def _set_aside(connection: sqlite3.Connection, number: int) -> None:
    """Keep one that will never go out."""
    connection.execute("UPDATE scheduled SET time = ? WHERE number = ?", (NEVER, number))


def cancel(connection: sqlite3.Connection, id: str) -> bool:
    """Keep one from going out; False if it is not there, or no longer."""
    return remove(connection, [id]) > 0


def remove(connection: sqlite3.Connection, ids: Sequence[str]) -> int:
    """Forget those of these ids; give how many there were."""
    removed = connection.execute(
        "DELETE FROM scheduled WHERE id IN (SELECT value FROM json_each(?))",
        (to_json(ids).decode(),),
    ).rowcount
    connection.execute("UPDATE schedule SET kept = kept - ?", (removed,))
    return removed
