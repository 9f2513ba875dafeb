"""What a transport that keeps messages does for its store only when it is asked to."""

__all__ = ("KeepsHouse", "NoticesDamage")

from collections.abc import Callable
from typing import Protocol, runtime_checkable


@runtime_checkable
class KeepsHouse(Protocol):
    """A transport whose store can be made smaller, also while others use it."""

    async def remove_now(self, tell: Callable[[int], None]) -> None:
        """Remove all that is beyond the limits; `tell` is called with how many were looked at."""
        ...

    async def shrink(self) -> int:
        """Give some room back to the disk; give how many pages there are left to give back."""
        ...


@runtime_checkable
class NoticesDamage(Protocol):
    """A transport that reads on behind what is damaged, if whoever is told lets it.

    `on_damage` is told what is wrong, in whichever thread reads; from its next reading on.
    """

    on_damage: Callable[[str], None]
