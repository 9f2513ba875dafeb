"""The edge at which errors of SQLite and of the file system become ours."""

__all__ = ("WAITING", "full_disk", "is_full_disk", "translated", "unwritable")

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from eventbus.errors import StoreCorrupt, StoreError, StoreVersion

_MAKE_ROOM = "make room on the disk; the bus goes on by itself then"
_LET_WRITE = "see that this process may write the file, those beside it, and its folder"
_PUBLISH_AGAIN = "what was being published may be stored: publish it again with the same id"
_UNLOCK = (
    "a transaction of this program, or of another one, keeps the file locked: commit it first, or, "
    "to publish in one of your own, give connection="
)
WAITING = f"writing waits: {_UNLOCK}"

_NEXT_STEPS = {
    "SQLITE_IOERR_WRITE": f"see that the disk works, and `ulimit -f` is no limit; {_PUBLISH_AGAIN}",
    "SQLITE_FULL": _MAKE_ROOM,
    "SQLITE_IOERR_SHMSIZE": _MAKE_ROOM,
    "SQLITE_BUSY": _UNLOCK,
    "SQLITE_LOCKED": _UNLOCK,
    "SQLITE_CANTOPEN": "see that its folder exists and that this process may read and write there",
    "SQLITE_READONLY": _LET_WRITE,
    "SQLITE_PERM": _LET_WRITE,
}


@contextmanager
def translated(path: Path) -> Generator[None]:
    """Raise what SQLite and the file system raise as errors of the store.

    Raises:
        StoreCorrupt: The file is damaged.
        StoreVersion: It is no database at all.
        StoreError: Anything else.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _translation(path, error) from error
    except UnicodeDecodeError as error:  # of the file's own text, in an error of SQLite even
        raise StoreCorrupt(
            f"{path} is damaged (text in it cannot be read): restore it from a copy"
        ) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StoreError(
            f"{path} cannot be used: {reason}; see that its folder exists and that this process "
            "may read and write there"
        ) from error


def _translation(path: Path, error: sqlite3.Error) -> StoreError:
    name = str(getattr(error, "sqlite_errorname", ""))  # absent where it is the module's own error
    if name == "SQLITE_NOTADB":
        return StoreVersion(f"{path} is no database: name another file, or a new one")
    if name.startswith("SQLITE_CORRUPT"):
        return StoreCorrupt(f"{path} is damaged ({error}): restore it from a copy")
    step = next(
        (step for code, step in _NEXT_STEPS.items() if name.startswith(code)),
        _PUBLISH_AGAIN,
    )
    return StoreError(f"{path}: {error}; {step}")


def unwritable(path: Path) -> StoreError:
    """Make the error of a store that is not even opened, as it cannot be written."""
    return StoreError(f"{path} cannot be written: {_LET_WRITE}")


def is_full_disk(error: Exception) -> bool:
    """Tell whether the disk was full, so that nothing was written."""
    return getattr(error.__cause__, "sqlite_errorname", "") == "SQLITE_FULL"


def full_disk(path: Path) -> StoreError:
    """Make the error of what is not even tried while the disk is full."""
    return StoreError(f"{path}: the disk is full; {_MAKE_ROOM}")
