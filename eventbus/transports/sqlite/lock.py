"""The lock that writing takes, seen from outside."""

__all__ = ("is_locked",)

import sqlite3
from contextlib import closing
from pathlib import Path

from eventbus.transports.sqlite.schema import connect_to


def is_locked(store: Path) -> bool:
    """Tell whether somebody is writing a store, so that others have to wait."""
    try:
        with closing(connect_to(store, "mode=rw", timeout=0.0)) as one:
            one.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
    except sqlite3.Error:  # what else is wrong is told to who works with it
        return False
    return False
