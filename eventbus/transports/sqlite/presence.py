"""Whether the process that owned something is still there."""

__all__ = ("is_gone", "this_place", "this_process")

import os
import platform


def this_place() -> str:
    """Name what process numbers are counted in: this machine, and a namespace if it has some."""
    try:
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def this_process() -> int:
    """Give the number of this process."""
    return os.getpid()


def is_gone(place: str, process: int) -> bool:
    """Tell whether a process has certainly ended; False where that cannot be known."""
    if os.name != "posix" or place != this_place():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
