"""What a transport that keeps messages tells of its store, whoever works on it."""

__all__ = ("KeepsFigures", "StoreFigures", "SubscriptionFigures")

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionFigures:
    """How far a durable subscription is, all processes together.

    `passed` counts the records it is done with, those not meant for it included. `lag` is what is
    kept for it and not settled: `in_flight` of that are with a process, queued or being handled;
    `retrying` have failed before. `oldest_age` is in seconds, 0 when there is no lag.
    """

    name: str
    patterns: Sequence[str]
    passed: int
    lag: int
    in_flight: int
    retrying: int
    dead_letters: int
    oldest_age: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFigures:
    """What a store holds at one moment.

    Records are kept from position `first` to `last`; where there are none, `first` is the one
    after. `buses` have it open, the one that asks included. `dead_letters` are of all
    subscriptions, those that are not durable included. `scheduled` are kept for later. Retention
    has `removed` so many records since there is the store, those between `first` and `last`
    included; deliveries that waited then are `lost`.
    """

    first: int
    last: int
    size: int
    buses: int
    dead_letters: int
    scheduled: int
    removed: int
    lost: int
    subscriptions: Sequence[SubscriptionFigures]


@runtime_checkable
class KeepsFigures(Protocol):
    """A transport that can tell what it holds."""

    async def figures(self) -> StoreFigures:
        """Read the figures; nothing is changed by that."""
        ...
