"""Retries that wait in this process: their place in the queue is kept until they are due."""

__all__ = ("abandon", "bring_back_later")

from eventbus.message import Delivery
from eventbus.subscription import Subscription
from eventbus.timers import Timer, Timers
from eventbus.transports.base import RetryLater


def bring_back_later(
    subscription: Subscription, again: Delivery, retry: RetryLater, timers: Timers
) -> Timer:
    """Put a delivery back into the place that is held for it when it is due, or abandon it."""

    def come_back() -> None:
        subscription.put_back(again)
        retry.then()

    def stay_away() -> None:
        abandon(subscription, again)
        retry.then()

    return timers.call_later(retry.delay, come_back, drop=stay_away)


def abandon(subscription: Subscription, delivery: Delivery) -> None:
    """Give up a retry that will not come before the bus ends, and the place held for it."""
    if subscription.queue is None:
        return
    subscription.queue.release()
    subscription.counts.abandoned += 1
    subscription.host.logger.warning(
        "%s abandons %r: attempt %d would come after the bus has ended",
        subscription.name,
        delivery.message,
        delivery.attempt,
    )
    if delivery.lane is not None:
        subscription.leave_lane(delivery.lane)
