"""Records that another program, or another eventbus, might have written into a store."""

__all__ = ("store_record",)

import sqlite3
from contextlib import closing
from pathlib import Path

from eventbus.transports.sqlite.records import Record, checksum_of, sealed
from eventbus.transports.sqlite.schema import RECORD, set_up


def store_record(
    store: Path,
    payload: bytes,
    *,
    topic: str = "orders.placed",
    traits: str | None = None,
    content_type: str = "application/json",
    schema_version: int = 1,
) -> int:
    """Append a record with a checksum as it has to be, whatever it holds; give its position."""
    set_up(store, "full")
    with closing(sqlite3.connect(store)) as connection, connection:
        (last,) = connection.execute("SELECT ifnull(max(position), 0) FROM log").fetchone()
        position = int(last) + 1
        record = Record(
            position,
            f"strange-{position}",
            topic,
            position * 1_000_000,
            None,
            traits,
            content_type,
            schema_version,
            payload,
            0,
        )
        record = record._replace(checksum=sealed(checksum_of(record), position))
        places = ", ".join("?" * len(record))
        connection.execute(f"INSERT INTO log ({RECORD}) VALUES ({places})", record)
    return position
