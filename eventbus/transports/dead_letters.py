"""Dead letters kept in memory."""

__all__ = ("DEAD_LETTERS_KEPT", "DeadLetters")

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from eventbus.context import FailedDelivery
from eventbus.errors import InvalidOption

DEAD_LETTERS_KEPT = 10_000


class DeadLetters:
    """The newest failures, by id, in the order they failed.

    `on_lost` is told each failure that has to go because newer ones came.
    """

    def __init__(
        self, on_lost: Callable[[FailedDelivery], None], *, size: int = DEAD_LETTERS_KEPT
    ) -> None:
        self._on_lost = on_lost
        self._size = size
        self._kept: dict[str, FailedDelivery] = {}
        self._claimed: set[str] = set()

    def keep(self, failure: FailedDelivery) -> None:
        """Keep a failure; the oldest goes when there are too many."""
        self._kept[failure.id] = failure
        if len(self._kept) > self._size:
            self._on_lost(self._kept.pop(next(iter(self._kept))))

    def newest(
        self, subscription: str | None, *, limit: int, before: str | None
    ) -> list[FailedDelivery]:
        """List failures, newest first, from the one that failed just before the given id on.

        Raises:
            InvalidOption: A limit below 1, or an id that is not kept.
        """
        if limit < 1:
            raise InvalidOption(f"limit={limit!r}: give 1 or more")
        return list(islice(self._older_than(before, subscription), limit))

    def chosen(self, subscription: str | None, ids: Sequence[str] | None) -> list[FailedDelivery]:
        """List the failures of a subscription, or of all, and with these ids, oldest first."""
        candidates: Iterable[FailedDelivery] = self._kept.values()
        if ids is not None:
            candidates = [self._kept[key] for key in ids if key in self._kept]
        return [f for f in candidates if subscription in {None, f.subscription}]

    def claim(self, failure: FailedDelivery) -> bool:
        """Take a failure for oneself, where it is; False if it is taken or gone."""
        if failure.id in self._claimed or failure.id not in self._kept:
            return False
        self._claimed.add(failure.id)
        return True

    def release(self, failure: FailedDelivery) -> None:
        """Leave a claimed failure to others again."""
        self._claimed.discard(failure.id)

    def remove(self, failure: FailedDelivery) -> bool:
        """Remove a failure; False if somebody else did."""
        self._claimed.discard(failure.id)
        return self._kept.pop(failure.id, None) is not None

    def _older_than(self, before: str | None, subscription: str | None) -> Iterator[FailedDelivery]:
        if before is not None and before not in self._kept:
            raise InvalidOption(f"before={before!r}: no dead letter with this id is kept any more")
        is_older = before is None
        for failure in reversed(self._kept.values()):
            if is_older and subscription in {None, failure.subscription}:
                yield failure
            is_older = is_older or failure.id == before
