"""The high-water mark: how far records have been acknowledged, kept apart from the file.

SQLite takes a damaged log for a shorter one and says nothing. So the last position acknowledged is
noted beside it, after each commit and without a sync of its own: it may lag behind the records, but
never lead.
"""

__all__ = ("Mark",)

import os
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

from eventbus.errors import StoreCorrupt


class Mark:
    """The mark of one store, held open."""

    def __init__(self, store: Path, flags: int = os.O_RDWR | os.O_CREAT) -> None:
        self.path = store.with_name(f"{store.name}-mark")
        self._file = os.open(self.path, flags, 0o644)

    def read(self) -> int:
        """Tell the last position noted; 0 if there is none that can be read."""
        position, _, checksum = os.pread(self._file, 64, 0).partition(b" ")
        if checksum.strip() != b"%08x" % crc32(position):
            return 0
        return int(position)

    def write(self, position: int) -> None:
        """Note a position, in place."""
        text = b"%020d" % position
        os.pwrite(self._file, b"%b %08x\n" % (text, crc32(text)), 0)

    def check(self, last_position: Callable[[], int]) -> None:
        """Hold the last position of the log against what was acknowledged.

        Raises:
            StoreCorrupt: Records are missing.
        """
        acknowledged = self.read()  # Race: before the log, to which another process may add now
        last = last_position()
        if acknowledged > last:
            raise StoreCorrupt(
                f"the log ends at position {last}, but records up to {acknowledged} were "
                f"acknowledged: restore it from a copy, or delete {self.path} to go on without "
                "them"
            )

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
