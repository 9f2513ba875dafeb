"""Who answers which topics: one responder each, or one group."""

__all__ = ("Responders",)

from eventbus.errors import DuplicateSubscription
from eventbus.subscription import Subscription
from eventbus.topics import is_literal, overlaps


class Responders:
    """The subscriptions that answer requests, by what they listen to."""

    def __init__(self) -> None:
        self._literal: dict[str, list[Subscription]] = {}
        self._wild: list[tuple[str, Subscription]] = []

    def add(self, subscription: Subscription) -> None:
        """Add a subscription, if it answers.

        Raises:
            DuplicateSubscription: Another answers a topic that it would answer, too, and not both
                belong to a `RequestTopic(many=True)`.
        """
        if subscription.options.answer is None:
            return
        for pattern in subscription.patterns:
            self._refuse_second(pattern, subscription)
        for pattern in subscription.patterns:
            if is_literal(pattern):
                self._literal.setdefault(pattern, []).append(subscription)
            else:
                self._wild.append((pattern, subscription))

    def remove(self, subscription: Subscription) -> None:
        """Remove a subscription; idempotent."""
        if subscription.options.answer is None:
            return
        for pattern in subscription.patterns:
            if subscription in self._literal.get(pattern, ()):
                self._literal[pattern].remove(subscription)
        self._wild = [one for one in self._wild if one[1] is not subscription]

    def _refuse_second(self, pattern: str, subscription: Subscription) -> None:
        for other in self._others_on(pattern):
            if not (_is_one_of_many(other) and _is_one_of_many(subscription)):
                raise DuplicateSubscription(
                    f"{other.name!r} answers requests to {pattern!r} already, and "
                    f"{subscription.name!r} would too: put both into one group=, or use a "
                    "RequestTopic(many=True) with request_many()"
                )

    def _others_on(self, pattern: str) -> list[Subscription]:
        found = [one for wild, one in self._wild if overlaps(wild, pattern)]
        if is_literal(pattern):
            return [*self._literal.get(pattern, ()), *found]
        literal = [each for text, each in self._literal.items() if overlaps(text, pattern)]
        return [*(one for each in literal for one in each), *found]


def _is_one_of_many(subscription: Subscription) -> bool:
    return subscription.options.answer is not None and subscription.options.answer.many
