"""Telling what runs that it does not run in a forked child, at no cost until then."""

__all__ = ("Forkable", "unwatch_forks", "watch_forks")

import os
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """What belongs to the process that runs it."""

    def note_fork(self) -> None:
        """Note that this is a copy in a child: its tasks and its loop stayed with the parent."""
        ...


# No register of buses to be looked up in: a child walks it once, and it keeps nothing alive.
_running: WeakSet[Forkable] = WeakSet()


def watch_forks(running: Forkable) -> None:
    """Tell it when the process was forked, in the child."""
    _running.add(running)


def unwatch_forks(running: Forkable) -> None:
    """Tell it no more; idempotent."""
    _running.discard(running)


def _tell() -> None:
    for running in list(_running):
        running.note_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_tell)
