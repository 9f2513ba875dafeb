"""Packed payloads that would be far too large: a program, given a trial and a folder.

Each trial opens a store that holds one among its records, and tells what that took.
"""

__all__ = ("PACKED_BYTES",)

import json
import os
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest.mock import patch

import anyio
from backports import zstd

from eventbus import EventBus
from eventbus.middleware import DeadLetter, Retry
from eventbus.transports.sqlite import packing
from eventbus.transports.sqlite import zstd as unpacking
from tests.strange_records import store_record

PACKED_BYTES = 1024 * 1024
UNPACKED_BYTES = 1024 * PACKED_BYTES
NEIGHBOURS = 20
MIB = 1024 * 1024


def zlib_bomb(size: int) -> bytes:
    """Pack zeros so that a megabyte of them takes a kilobyte."""
    packer = zlib.compressobj()
    start = packer.compress(b"")
    part = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"".join([start, *[part] * (size // MIB), packer.flush()])


def zstd_bomb(size: int) -> bytes:
    """Pack zeros, in a frame that wants 128 MiB set aside for it."""
    packer = zstd.ZstdCompressor(options={int(zstd.CompressionParameter.window_log): 27})
    return b"".join([*(packer.compress(bytes(MIB)) for _ in range(size // MIB)), packer.flush()])


def tight_bomb(size: int) -> bytes:
    """Pack zeros in a frame that wants no more than it is given."""
    packer = zstd.ZstdCompressor(options={int(zstd.CompressionParameter.window_log): 20})
    return b"".join([*(packer.compress(bytes(MIB)) for _ in range(size // MIB)), packer.flush()])


def endless(size: int) -> bytes:
    """Pack zeros, and never come to an end."""
    return zlib_bomb(size)[:-5]


BOMBS: Mapping[str, tuple[str, Callable[[int], bytes]]] = {
    "zlib": ("zlib", zlib_bomb),
    "zstd": ("zstd", zstd_bomb),
    "tight": ("zstd", tight_bomb),
    "endless": ("zlib", endless),
}


def opened(folder: Path, kind: str, size: int) -> dict[str, object]:
    """Open a store with a bomb among its neighbours, and tell how much memory unpacking took."""
    path = folder / "events.db"
    coding, make = BOMBS[kind]
    bomb = make(size)
    for number in range(NEIGHBOURS):
        if number == NEIGHBOURS // 2:
            store_record(path, bomb, content_type=f"application/json; coding={coding}")
        store_record(path, b'{"n": %d}' % number)
    # What a payload of that size takes by itself, which is not unpacked, is known then.
    store_record(folder / "other.db", os.urandom(len(bomb)), content_type="unknown")
    anyio.run(handle_all, folder / "other.db")
    before = peak_bytes()
    found = anyio.run(handle_all, path)
    return {"packed": len(bomb), "extra": peak_bytes() - before, **found}


def peak_bytes() -> int:
    """Tell the most memory this process has had so far."""
    # Not from `getrusage`, which begins with what the process had that started this one.
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def handle_all(path: Path) -> dict[str, object]:
    """Handle what is in a store, and give what became of it."""
    bus = EventBus(f"sqlite:///{path}", middleware=[DeadLetter(), Retry(attempts=5)])
    handled = 0

    @bus.on("orders.placed", name="billing", start="first")
    async def bill(event: dict[str, int]) -> None:
        nonlocal handled
        handled += 1

    async with bus:
        await bus.join()
        letters = await bus.dead_letters()
        return {
            "handled": handled,
            "dead": [f"{one.error_type}: {one.error}" for one in letters],
            "kept": [
                len(one.message.payload)
                for one in letters
                if isinstance(one.message.payload, bytes)
            ],
            "retried": bus.stats().retried,
        }


def unbounded(folder: Path, kind: str) -> dict[str, object]:
    """Do the same where nothing is bounded, with a smaller bomb: the control."""
    window = {int(zstd.DecompressionParameter.window_log_max): 27}
    with (
        patch.object(packing, "MOST_BYTES", UNPACKED_BYTES),
        patch.object(packing, "MOST_RATIO", UNPACKED_BYTES),
        patch.object(unpacking, "_WINDOW", window),
    ):
        return opened(folder, kind, 64 * MIB)


if __name__ == "__main__":
    kind, place, *control = sys.argv[1:]
    found = unbounded(Path(place), kind) if control else opened(Path(place), kind, UNPACKED_BYTES)
    print(json.dumps(found))  # noqa: T201 - its use
