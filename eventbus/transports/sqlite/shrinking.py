"""Giving room back to the disk that removed records have left in the file.

Files of today give it back step by step. Those that were made before have to be written anew once,
as a whole: publishers wait meanwhile.
"""

__all__ = ("rewrite_once", "shrink")

import sqlite3

from eventbus.transports.sqlite.schema import insist

PAGES_PER_STEP = 1000
_INCREMENTAL = 2


def rewrite_once(connection: sqlite3.Connection) -> None:
    """Make a file one that can shrink, unless it is; not in a transaction."""
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    if mode != _INCREMENTAL:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        insist(connection, "VACUUM")


def shrink(connection: sqlite3.Connection) -> int:
    """Give some pages back; give how many are left."""
    connection.execute(f"PRAGMA incremental_vacuum({PAGES_PER_STEP})").fetchall()
    (left,) = connection.execute("PRAGMA freelist_count").fetchone()
    pages: int = left
    return pages
