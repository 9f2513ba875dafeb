"""The order of entries that have the same key."""

__all__ = ("Lanes",)

from collections import deque
from typing import Generic, TypeVar

from eventbus.queue import DeliveryQueue

T = TypeVar("T")


class Lanes(Generic[T]):
    """One key at a time: what comes behind a running or waiting entry of its key is set aside.

    Entries set aside keep their place in the queue's size.
    """

    __slots__ = ("_queue", "taken")

    def __init__(self, queue: DeliveryQueue[T]) -> None:
        self._queue = queue
        self.taken: dict[str, deque[T] | None] = {}  # by key: who waits behind; for others to read

    @property
    def set_aside(self) -> int:
        """How many entries wait behind one of their key."""
        return sum(len(behind) for behind in self.taken.values() if behind)

    def enter(self, key: str, entry: T) -> bool:
        """Enter the key's lane; if it is taken, the entry waits behind and the answer is False."""
        if key not in self.taken:
            self.taken[key] = None
            return True
        behind = self.taken[key]
        if behind is None:
            behind = self.taken[key] = deque()
        behind.append(entry)
        self._queue.hold()
        return False

    def leave(self, key: str) -> T | None:
        """Leave the lane; who waited first behind inherits it, and is given to be restored."""
        behind = self.taken.get(key)
        if behind:
            return behind.popleft()
        self.taken.pop(key, None)
        return None
