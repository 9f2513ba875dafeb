"""Whether a subscription wants what was published to a topic."""

__all__ = ("wants",)

from collections.abc import Callable, Sequence

from eventbus.cache import BoundedCache
from eventbus.topics import is_reserved, matches

TOPICS_KEPT = 8192


def wants(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Make what tells whether one of the patterns fits a topic; for one thread."""
    looking = [pattern for pattern in patterns if not is_reserved(pattern)]
    if ">" in looking:
        return lambda topic: not is_reserved(topic)
    known: BoundedCache[str, bool] = BoundedCache(TOPICS_KEPT)

    def is_wanted(topic: str) -> bool:
        answer = known.get(topic)
        if answer is None:
            answer = any(matches(one, topic) for one in looking)
            known.put(topic, answer)
        return answer

    return is_wanted
