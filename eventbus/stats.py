"""Figures of a bus and its subscriptions, read at one moment."""

__all__ = ("BusStats", "SubscriptionStats", "read_bus", "read_subscription")

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from eventbus.message import message_of, went_out_at
from eventbus.subscription import Counts, Subscription


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionStats:
    """What one subscription has done, and what waits for it.

    `delivered` counts attempts started, `failed` attempts failed, `filtered` what `where=` or
    middleware held back (never part of `succeeded`), `lost` what was given up on and not kept, or
    removed before it was handled, `expired` what was left out because its time had passed,
    `in_flight` handlers running. `queue_depth` counts what is queued, waiting for a retry, or set
    aside behind its key; `lag` adds what blocked publishers hold. `oldest_age` is in seconds, 0
    when nothing is queued. These three tell of this process: in a store there may be more, not read
    by it yet, with another process, or waiting there for a retry since before a restart.
    `eventbus stats` counts all of that.
    """

    name: str
    delivered: int
    succeeded: int
    failed: int
    retried: int
    dead_lettered: int
    lost: int
    dropped: int
    expired: int
    invalid: int
    filtered: int
    abandoned: int
    in_flight: int
    queue_depth: int
    queue_size: int
    oldest_age: float
    lag: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BusStats:
    """What a bus has done, the sum over subscriptions that ended included.

    `published` counts messages accepted, `unmatched` those that no subscription wanted,
    `late_replies` replies that nobody waited for any more; the others are sums over subscriptions,
    see `SubscriptionStats`.
    """

    published: int
    unmatched: int
    delivered: int
    succeeded: int
    failed: int
    retried: int
    dead_lettered: int
    lost: int
    dropped: int
    expired: int
    invalid: int
    filtered: int
    abandoned: int
    late_replies: int
    in_flight: int
    subscriptions: Mapping[str, SubscriptionStats]

    def __str__(self) -> str:
        """Show the figures as aligned lines: of the bus, then of each subscription.

        Of the figures that stay 0 as long as nothing is wrong, those are shown that are not 0.
        """
        each = self.subscriptions.values()
        shown = [one for one in _SHOWN if one in _ALWAYS or any(getattr(s, one) for s in each)]
        rows = [[_label(name) for name in ("subscription", *shown)]]
        rows += [[one.name, *(_text(getattr(one, name)) for name in shown)] for one in each]
        heading = f"published {self.published}, unmatched {self.unmatched}"
        late = f", late replies {self.late_replies}" if self.late_replies else ""
        return "\n".join([heading + late, *_aligned(rows)] if each else [heading + late])


_SUMMED = tuple(
    field.name
    for field in fields(BusStats)
    if field.name not in {"published", "unmatched", "late_replies", "subscriptions"}
)

_SHOWN = (*_SUMMED, "queue_depth", "lag", "oldest_age")
_ALWAYS = frozenset({"delivered", "succeeded", "failed", "queue_depth"})


def _label(name: str) -> str:
    return name.replace("_", " ")


def _text(figure: float) -> str:
    return str(figure) if isinstance(figure, int) else f"{figure:.1f} s"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *figures in rows:
        padded = (text.rjust(width) for text, width in zip(figures, widths[1:], strict=True))
        yield "  ".join((name.ljust(widths[0]), *padded))


def read_subscription(subscription: Subscription, now: float) -> SubscriptionStats:
    """Read the figures of one subscription, at that wall time."""
    queue = subscription.queue
    return SubscriptionStats(
        name=subscription.name,
        queue_depth=0 if queue is None else queue.depth,
        queue_size=subscription.options.queue_size,
        oldest_age=_oldest_age(subscription, now),
        lag=0 if queue is None else queue.depth + len(queue.waiters),
        **_figures(subscription),
    )


def read_bus(
    published: int,
    unmatched: int,
    late_replies: int,
    ended: Counts,
    subscriptions: Iterable[Subscription],
    now: float,
) -> BusStats:
    """Read the figures of a whole bus, at that wall time."""
    each = {s.name: read_subscription(s, now) for s in subscriptions}
    sums = _derived(ended, in_flight=0, uncounted=0)
    for stats in each.values():
        for name in _SUMMED:
            sums[name] += getattr(stats, name)
    return BusStats(
        published=published,
        unmatched=unmatched,
        late_replies=late_replies,
        subscriptions=each,
        **sums,
    )


def _figures(subscription: Subscription) -> dict[str, int]:
    workers = subscription.workers
    figures = _derived(
        subscription.counts,
        in_flight=subscription.taken + sum(worker.current is not None for worker in workers),
        uncounted=sum(worker.uncounted for worker in workers),
    )
    if subscription.queue is not None:
        figures["dropped"] += subscription.queue.dropped
    return figures


def _derived(counts: Counts, *, in_flight: int, uncounted: int) -> dict[str, int]:
    delivered = counts.started + uncounted - counts.skipped
    unsuccessful = counts.failed + counts.filtered + counts.cancelled + in_flight
    return {
        "delivered": delivered,
        "succeeded": delivered - unsuccessful,
        "failed": counts.failed,
        "retried": counts.retried,
        "dead_lettered": counts.dead_lettered,
        "lost": counts.lost,
        "dropped": counts.dropped,
        "expired": counts.expired,
        "invalid": counts.invalid,
        "filtered": counts.skipped + counts.filtered,
        "abandoned": counts.abandoned,
        "in_flight": in_flight,
    }


def _oldest_age(subscription: Subscription, now: float) -> float:
    queue = subscription.queue
    if queue is None or not queue.items:
        return 0.0
    return max(0.0, now - went_out_at(message_of(queue.items[0])))
