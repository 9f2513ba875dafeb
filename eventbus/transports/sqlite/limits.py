"""How much is kept of which topics."""

__all__ = ("KEEP_MORE", "Limit", "LimitName", "limits_of")

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from eventbus.topics import covers, matches

LimitName: TypeAlias = Literal["max_age", "max_count", "max_bytes"]

KEEP_MORE = "keep more, by a larger max_age, max_count or max_bytes"
"""What to do about records that are gone: of which limit it was nothing is noted."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that is kept of a pattern, or of the rest: in seconds, records or bytes."""

    name: LimitName
    most: int
    pattern: str | None = None

    def fits(self, topic: str) -> bool:
        """Tell whether it could be that of a topic."""
        return self.pattern is None or matches(self.pattern, topic)

    def is_narrower_than(self, other: "Limit") -> bool:
        """Tell whether it goes before another that fits, too."""
        if self.pattern is None or other.pattern is None:
            return other.pattern is None and self.pattern is not None
        return covers(other.pattern, self.pattern) and not covers(self.pattern, other.pattern)


def limits_of(topic: str, limits: Sequence[Limit]) -> list[Limit]:
    """Choose, by name, the limit of a topic.

    It is that of the most specific pattern that fits; of two where neither covers the other, the
    first; and where no pattern fits, the one without.
    """
    chosen: dict[LimitName, Limit] = {}
    for limit in limits:
        if limit.fits(topic):
            other = chosen.get(limit.name)
            if other is None or limit.is_narrower_than(other):
                chosen[limit.name] = limit
    return list(chosen.values())
