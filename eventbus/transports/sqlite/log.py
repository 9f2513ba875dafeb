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
from eventbus.transports.sqlite.gaps import Span, check_removed
from eventbus.transports.sqlite.records import (
    COLUMNS_AS_JSON,
    EXACT_COLUMNS_AS_JSON,
    Record,
    is_sound,
    records_of,
    sealed,
)
from eventbus.transports.sqlite.schema import RECORD

Database: TypeAlias = sqlite3.Connection | sqlite3.Cursor
"""Where SQL is executed."""

_ROW = f"({', '.join('?' * len(Record._fields))})"


@cache
def _inserts(schema: str) -> dict[int, str]:
    """Write by the number of rows: of few sizes, so that SQLite prepares its statements once."""
    return {
        rows: f"INSERT INTO {schema}log ({RECORD}) VALUES {', '.join([_ROW] * rows)}"  # noqa: S608
        for rows in (256, 128, 64, 32, 16, 8, 4, 2, 1)
    }


@dataclass(frozen=True, slots=True)
class Page:
    """Records that follow one another; `removed` is the last position retention has removed."""

    records: Sequence[Record]
    removed: int


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
        "SELECT CAST(json_group_array(json_array(id, position)) AS BLOB) FROM ("  # noqa: S608
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
        f"SELECT removed, (SELECT max(position) FROM {schema}log) FROM {schema}meta"  # noqa: S608
    ).fetchone()
    return removed, max(removed, last or 0)


def read_page(connection: sqlite3.Connection, after: int, most: int) -> Page:
    """Read the records after a position.

    Raises:
        StoreCorrupt: One of them is damaged, or missing.
    """
    removed, page = connection.execute(
        f"SELECT (SELECT removed FROM meta), json_group_array({COLUMNS_AS_JSON}) "  # noqa: S608
        "FROM (SELECT * FROM log WHERE position > ? ORDER BY position LIMIT ?)",
        (after, most),
    ).fetchone()
    records = _sound_records_of(page)
    if records is None:
        records = _read_one_by_one(connection, after, most)
    if holes := _holes(records, max(after, removed)):
        check_removed(connection, holes)
    return Page(records, removed)


def read_between(connection: sqlite3.Connection, after: int, end: int, most: int) -> Page:
    """Read the records after a position, none after another one, which is in the log.

    Raises:
        StoreCorrupt: One of them is damaged, or missing.
    """
    page = read_page(connection, after, min(most, end - after))
    # What retention has removed meanwhile may be followed by what lies behind the end.
    records = [one for one in page.records if one.position <= end]
    if not records and page.removed < end:
        check_removed(connection, [(max(after, page.removed) + 1, end)])
    return Page(records, page.removed)


def read_at(connection: sqlite3.Connection, positions: Sequence[int]) -> Page:
    """Read the records at these positions, which rise, but for those that were removed.

    Raises:
        StoreCorrupt: One of them is damaged, or missing.
    """
    removed, page = connection.execute(
        f"SELECT (SELECT removed FROM meta), json_group_array({COLUMNS_AS_JSON}) "  # noqa: S608
        "FROM (SELECT * FROM log WHERE position IN (SELECT value FROM json_each(?)) "
        "ORDER BY position)",
        (to_json(positions).decode(),),
    ).fetchone()
    records = _sound_records_of(page)
    if records is None:
        records = [one for at in positions for one in _read_one_by_one(connection, at - 1, 1)]
    found = {one.position for one in records}
    if lost := [(at, at) for at in positions if at not in found and at > removed]:
        check_removed(connection, lost)
    return Page(records, removed)


def _sound_records_of(page: bytes) -> list[Record] | None:
    """Read the records of a page; None if one of them is not what it should be."""
    try:
        records = records_of(page)
    except ValueError:
        return None
    return records if all(map(is_sound, records)) else None


def _read_one_by_one(connection: sqlite3.Connection, after: int, most: int) -> list[Record]:
    """Read a page so that it can be told which record is damaged, or that none is.

    That of a payload which says it is JSON, and is no text at all, may be as it was written.
    """
    statement = (
        f"SELECT position, json_array({EXACT_COLUMNS_AS_JSON}) FROM log "  # noqa: S608
        "WHERE position > ? ORDER BY position LIMIT 1"
    )
    records: list[Record] = []
    for _ in range(most):
        found = connection.execute(statement, (after,)).fetchone()
        if found is None:
            break
        after, row = found
        records += _sound_record_of(row, after)
    return records


def _sound_record_of(row: bytes, position: int) -> list[Record]:
    try:
        found = records_of(row, is_exact=True)
    except ValueError as error:
        raise _damaged(position) from error
    if not all(map(is_sound, found)):
        raise _damaged(position)
    return found


def _holes(records: Sequence[Record], before: int) -> list[Span]:
    """Tell which positions are not there, between one and the last of some records."""
    holes: list[Span] = []
    for record in records:
        if record.position != before + 1:
            holes.append((before + 1, record.position - 1))
        before = record.position
    return holes


def _damaged(position: int) -> StoreCorrupt:
    return StoreCorrupt(
        f"the record at position {position} is damaged, and nothing behind it is delivered: "
        "restore the store from a copy"
    )
