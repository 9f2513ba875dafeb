"""A cache that stays small: two generations of plain dicts.

Keys go into the young generation. When that is full it becomes the old one, and what the old one
held is forgotten; a key found in the old one is young again. So a hit on what is used often is one
dict lookup, and forgetting costs nothing per key, unlike an order kept for each access.
"""

__all__ = ("BoundedCache",)

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """Remember the last `size` keys used for certain, and never more than twice as many.

    A hot path may hold on to `young`, look there first, and call `get` only on a miss: it is the
    same dict for the life of the cache, so the reference stays good when generations change. Read
    it; `put` alone keeps the bound.

        plans = BoundedCache[str, Plan](4096)
        young = plans.young
        plan = young.get(topic) or plans.get(topic)

    Values are never `None`, which says that a key is absent.
    """

    __slots__ = ("_old", "_size", "young")

    def __init__(self, size: int) -> None:
        self._size = size
        self.young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """Give the value of the key, or `None`; a key that was found counts as new again."""
        value = self.young.get(key)
        if value is None and key in self._old:
            value = self._old[key]
            self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Remember the value, forgetting the oldest keys where there is no room."""
        self._old.pop(key, None)
        if len(self.young) >= self._size and key not in self.young:
            self._old = self.young.copy()
            self.young.clear()
        self.young[key] = value

    def clear(self) -> None:
        """Forget everything."""
        self.young.clear()
        self._old.clear()

    def __len__(self) -> int:
        """Count the keys remembered, `2 * size` at most."""
        return len(self.young) + len(self._old)
