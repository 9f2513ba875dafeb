"""What comes after an attempt that failed: the next one, or the end."""

__all__ = ("delay_of_next", "give_up", "retry_later")

import logging
from collections.abc import Callable

from eventbus.answers import Failure
from eventbus.context import FailedDelivery
from eventbus.message import Delivery
from eventbus.responding import is_answer, tell_caller
from eventbus.retry import Backoff
from eventbus.settling import Failing, Rejected, RetryAsked, Unsettled
from eventbus.subscription import Subscription
from eventbus.transports.base import Ack, Dead, RetryLater
from eventbus.wording import counted

SOON_SECONDS = 0.0005  # what is less is told as none


def delay_of_next(
    subscription: Subscription, delivery: Delivery, error: BaseException
) -> float | None:
    """Tell how many seconds after a failed attempt there is another; None if it was the last."""
    retry = subscription.retry
    if is_answer(subscription, delivery.message, error):
        return None
    if isinstance(error, RetryAsked):
        is_last = delivery.attempt >= subscription.max_deliveries
        backoff = Backoff() if retry is None else retry.backoff
        delay = backoff.delay(delivery.attempt) if error.delay is None else error.delay
        return None if is_last else delay
    is_last = delivery.attempt >= subscription.max_attempts or isinstance(error, Rejected)
    if retry is None or is_last or not retry.applies_to(error):
        return None
    return retry.backoff.delay(delivery.attempt)


async def retry_later(
    subscription: Subscription,
    delivery: Delivery,
    delay: float,
    error: BaseException,
    *,
    then: Callable[[], None] = lambda: None,
) -> None:
    """Settle a delivery as to be attempted again; `then` is called when that comes, or cannot."""
    subscription.counts.retried += 1
    is_asked = isinstance(error, RetryAsked) and not isinstance(error, Unsettled)
    subscription.host.logger.warning(
        "%s %s attempt %d of %d at %r, trying again %s: %r",
        subscription.name,
        "asks for more than" if is_asked else "failed",
        delivery.attempt,
        subscription.max_deliveries,
        delivery.message,
        f"in {delay:.3f} s" if delay >= SOON_SECONDS else "at once",
        error,
    )
    await subscription.source.settle([(delivery, RetryLater(delay, then))])


async def give_up(subscription: Subscription, delivery: Delivery, error: BaseException) -> None:
    """Settle a delivery as dead; a handler of dead letters never makes further ones."""
    told = tell_caller(subscription, delivery.message, error)
    is_settled = subscription.options.ack == "first"
    may_keep = delivery.failure is None and not is_settled
    keep = may_keep and subscription.keeps_dead_letter_of(delivery.message)
    _tell_of_the_end(subscription, delivery, error, told, keep=keep)
    now = subscription.host.clock.now()
    failure = FailedDelivery.of(delivery, subscription.name, error, now=now)
    for probe in subscription.host.probes:
        probe.on_given_up(failure, error)
    if is_settled:
        subscription.counts.lost += told is None
    elif told is not None and not keep:
        await subscription.source.settle([(delivery, Ack())])
    else:
        await subscription.source.settle([(delivery, Dead(failure, keep=keep))])


def _tell_of_the_end(
    subscription: Subscription,
    delivery: Delivery,
    error: BaseException,
    told: Failure | None,
    *,
    keep: bool,
) -> None:
    is_agreed = told is not None and bool(told.declared)  # an answer, as much as a reply
    subscription.host.logger.log(
        logging.INFO if is_agreed else logging.ERROR,
        "%s gives up %r after %s, %s",
        subscription.name,
        delivery.message,
        counted(delivery.attempt, "attempt"),
        "a dead letter now" if keep else _why_none(subscription, told),
        exc_info=None if is_agreed else _without_our_frames(error),
    )


def _why_none(subscription: Subscription, told: Failure | None) -> str:
    if told is not None:
        return "as its caller is told"
    if subscription.options.ack == "first":
        return "lost: ack='first' settled it before"
    return "lost: no DeadLetter() keeps it"


def _without_our_frames(error: BaseException) -> BaseException:
    """Take the way of a verdict through the bus off it: where it was given, is not in it."""
    return error.with_traceback(None) if isinstance(error, Failing) else error
