"""The lock that writing takes, seen from outside."""

__all__ = ("is_locked",)

import sqlite3
from contextlib import closing
from pathlib import Path


def is_locked(store: Path) -> bool:
    """Tell whether somebody is writing a store, so that others have to wait."""
    try:
        with closing(
            sqlite3.connect(f"{store.absolute().as_uri()}?mode=rw", timeout=0.0, uri=True)
        ) as one:
            one.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
    except sqlite3.Error:  # what else is wrong is told to who works with it
        return False
    return False
