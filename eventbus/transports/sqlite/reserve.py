"""Room on the disk that a store holds in reserve: when the disk is full, it is given up for acks.

It is a file without a name, so nothing stays of it, however the process ends. A log of SQLite that
is not larger can then be moved into the store, and what comes after it takes no more room.
"""

__all__ = ("Reserve",)

import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

MOST_BYTES = 4 * 1024 * 1024  # of the log, before SQLite moves it into the store by itself


class Reserve:
    """The reserve of one process for its store."""

    def __init__(self, store: Path) -> None:
        self._folder = store.absolute().parent
        self._size = 0
        self._file: IO[bytes] | None = None
        self.is_used = False  # given up, and not taken again yet

    @property
    def is_short(self) -> bool:
        """Whether more could be held, if there is more room by now: looked at before each commit.

        Later would be too late: who made room may fill it at once.
        """
        return self.is_used or (self._file is not None and self._size < MOST_BYTES)

    def take(self) -> None:
        """Hold it, or more of it: half of the room there is, and no less than ever before."""
        with suppress(OSError):  # a store can do without it
            held = 0 if self._file is None else self._size
            half = (_free_bytes(self._folder) + held) // 2
            size = max(self._size, min(MOST_BYTES, half))
            if size > held:
                self._hold(size)

    def _hold(self, size: int) -> None:
        file = self._file or TemporaryFile(dir=self._folder)  # noqa: SIM115 - it stays open
        try:
            _fill(file, size)
        except BaseException:
            if file is not self._file:
                file.close()
            raise
        self._size, self._file, self.is_used = size, file, False

    def give_up(self) -> bool:
        """Let the store have it; False if there never was any."""
        if self._file is not None:
            self.close()
            self.is_used = True
        return self.is_used

    def close(self) -> None:
        """Hold nothing any more; idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _free_bytes(folder: Path) -> int:
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


def _fill(file: IO[bytes], size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.seek(0)
        file.write(bytes(size))
        file.flush()
