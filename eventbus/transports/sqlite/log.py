"""The log itself: appending records and reading pages of them."""

__all__ = (
    "Page",
    "append",
    "first_and_last",
    "positions_of",
    "read_at",
    "read_between",
    "read_page",
)

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

from pydantic_core import from_json, to_json

from eventbus.errors import StoreCorrupt
from eventbus.transports.sqlite.damage import OnDamage, stop
from eventbus.transports.sqlite.gaps import Span, check_removed
from eventbus.transports.sqlite.records import (
    COLUMNS_AS_JSON,
    EXACT_COLUMNS_AS_JSON,
    Record,
    is_sound,
    records_of,
    sealed,
    sound_record_of,
)
from eventbus.transports.sqlite.schema import RECORD

Database: TypeAlias = sqlite3.Connection | sqlite3.Cursor
"""Where SQL is executed."""

_ROW = f"({', '.join('?' * len(Record._fields))})"


@cache
def _inserts(schema: str) -> dict[int, str]:
    """Write by the number of rows: of few sizes, so that SQLite prepares its statements once."""
    return {
        rows: f"INSERT INTO {schema}log ({RECORD}) VALUES {', '.join([_ROW] * rows)}"
        for rows in (256, 128, 64, 32, 16, 8, 4, 2, 1)
    }


@dataclass(frozen=True, slots=True)
class Page:
    """Records that follow one another; `removed` is the last position retention has removed.

    `reached` is the last position looked at: what was left out may stand behind the last record.
    """

    records: Sequence[Record]
    removed: int
    reached: int


# --- appending ------------------------------------------------------------------------------------


def append(
    database: Database,
    batches: Sequence[Sequence[Record]],
    given_ids: Sequence[str],
    schema: str = "",
) -> list[list[tuple[int, bool]]]:
    """Append batches of records; tell of each record its position, and whether it was there before.

    That is 0 where it is scheduled, and so has none yet. Only those of `given_ids` can have been
    there: the others were made for this append. `schema` stands before the names of tables, with
    its dot.
    """
    _, last = first_and_last(database, schema)
    known = positions_of(database, given_ids, schema) if given_ids else {}
    values: list[object] = []
    places: list[list[tuple[int, bool]]] = []
    for batch in batches:
        placed: list[tuple[int, bool]] = []
        for record in batch:
            earlier = known.get(record.id)
            if earlier is None:
                last += 1
                known[record.id] = last
                values += (last, *record[1:9], sealed(record.checksum, last))
            placed.append((last, False) if earlier is None else (earlier, True))
        places.append(placed)
    _insert(database, values, schema)
    return places


def positions_of(database: Database, ids: Sequence[str], schema: str = "") -> dict[str, int]:
    """Find the positions of those ids that are known: 0 of what is scheduled."""
    (found,) = database.execute(
        "SELECT CAST(json_group_array(json_array(id, position)) AS BLOB) FROM ("
        f"SELECT id, position FROM {schema}log WHERE id IN (SELECT value FROM json_each(?)) "
        f"UNION ALL SELECT id, position FROM {schema}seen "
        "WHERE id IN (SELECT value FROM json_each(?)) "
        f"UNION ALL SELECT id, 0 FROM {schema}scheduled "
        "WHERE id IN (SELECT value FROM json_each(?)))",
        (to_json(ids).decode(),) * 3,
    ).fetchone()
    return dict(from_json(found))


def _insert(database: Database, values: Sequence[object], schema: str) -> None:
    width, start = len(Record._fields), 0
    for rows, statement in _inserts(schema).items():
        while len(values) - start >= rows * width:
            database.execute(statement, values[start : start + rows * width])
            start += rows * width


# --- reading --------------------------------------------------------------------------------------


def first_and_last(database: Database, schema: str = "") -> tuple[int, int]:
    """Tell the last position removed and the last one there is."""
    removed, last = database.execute(
        f"SELECT removed, (SELECT max(position) FROM {schema}log) FROM {schema}meta"
    ).fetchone()
    return removed, max(removed, last or 0)


def read_page(
    connection: sqlite3.Connection, after: int, most: int, on_damage: OnDamage = stop
) -> Page:
    """Read the records after a position: what is sound comes before the damage behind it.

    Raises:
        StoreCorrupt: The next one is damaged, or missing, and `on_damage` stops there.
    """
    try:
        return _read_all_of_page(connection, after, most, on_damage)
    except StoreCorrupt:
        if most == 1:
            raise
        return read_page(connection, after, most // 2, on_damage)


def _read_all_of_page(
    connection: sqlite3.Connection, after: int, most: int, on_damage: OnDamage
) -> Page:
    removed, page = connection.execute(
        f"SELECT (SELECT removed FROM meta), json_group_array({COLUMNS_AS_JSON}) "
        "FROM (SELECT * FROM log WHERE position > ? ORDER BY position LIMIT ?)",
        (after, most),
    ).fetchone()
    records = _sound_records_of(page)
    if records is not None:
        places = [one.position for one in records]
    else:
        places = _places(connection, "position > ? ORDER BY position LIMIT ?", after, most)
        records = _read_one_by_one(connection, places, on_damage)
    if holes := _holes(places, max(after, removed)):
        check_removed(connection, holes, on_damage)
    return Page(records, removed, places[-1] if places else after)


def read_between(
    connection: sqlite3.Connection, after: int, end: int, most: int, on_damage: OnDamage = stop
) -> Page:
    """Read the records after a position, none after another one, which is in the log.

    Raises:
        StoreCorrupt: The next one is damaged, or missing, and `on_damage` stops there.
    """
    page = read_page(connection, after, min(most, end - after), on_damage)
    if page.reached == after and page.removed < end:
        check_removed(connection, [(max(after, page.removed) + 1, end)], on_damage)
    # What retention has removed meanwhile may be followed by what lies behind the end.
    records = [one for one in page.records if one.position <= end]
    return Page(records, page.removed, end if page.reached == after else min(page.reached, end))


def read_at(
    connection: sqlite3.Connection, positions: Sequence[int], on_damage: OnDamage = stop
) -> Page:
    """Read the records at these positions, which rise, but for those that were removed.

    Raises:
        StoreCorrupt: One of them is damaged, or missing, and `on_damage` stops there.
    """
    among, wanted = "position IN (SELECT value FROM json_each(?))", to_json(positions).decode()
    removed, page = connection.execute(
        f"SELECT (SELECT removed FROM meta), json_group_array({COLUMNS_AS_JSON}) "
        f"FROM (SELECT * FROM log WHERE {among} ORDER BY position)",
        (wanted,),
    ).fetchone()
    records = _sound_records_of(page)
    if records is not None:
        places = [one.position for one in records]
    else:
        places = _places(connection, among, wanted)
        records = _read_one_by_one(connection, places, on_damage)
    there = set(places)
    if lost := [(at, at) for at in positions if at not in there and at > removed]:
        check_removed(connection, lost, on_damage)
    return Page(records, removed, positions[-1] if positions else 0)


def _sound_records_of(page: bytes) -> list[Record] | None:
    """Read the records of a page; None if one of them is not what it should be."""
    try:
        records = records_of(page)
    except ValueError:
        return None
    return records if all(map(is_sound, records)) else None


def _places(connection: sqlite3.Connection, where: str, *values: object) -> list[int]:
    """Tell at which positions there are records, whatever has become of them."""
    (places,) = connection.execute(
        f"SELECT json_group_array(position) FROM (SELECT position FROM log WHERE {where})",
        values,
    ).fetchone()
    found: list[int] = from_json(places)
    return found


def _read_one_by_one(
    connection: sqlite3.Connection, positions: Sequence[int], on_damage: OnDamage
) -> list[Record]:
    """Read records so that it can be told which of them is damaged, or that none is.

    That of a payload which says it is JSON, and is no text at all, may be as it was written.
    """
    statement = f"SELECT {EXACT_COLUMNS_AS_JSON} FROM log WHERE position = ?"
    records: list[Record] = []
    for position in positions:
        row = connection.execute(statement, (position,)).fetchone()
        if row is None:  # Race: retention was faster.
            continue
        record = sound_record_of(row[0])
        if record is None:
            on_damage(f"the record at position {position} is damaged")
        else:
            records.append(record)
    return records


def _holes(places: Sequence[int], before: int) -> list[Span]:
    """Tell where there is nothing, between one position and the last where there is something."""
    holes: list[Span] = []
    for place in places:
        if place != before + 1:
            holes.append((before + 1, place - 1))
        before = place
    return holes
