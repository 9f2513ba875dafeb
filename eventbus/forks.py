"""Telling a copy of a running bus, in a forked child, that it is one."""

__all__ = ("forks_so_far",)

import os

_count = 0


def forks_so_far() -> int:
    """Count the forks between the first process and this one: what began with fewer is a copy."""
    return _count


def _note_fork() -> None:
    global _count
    _count += 1


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_note_fork)
