"""What no handler will have: refused by the model, or given up on.

Whether it is kept as a dead letter is the subscription's to say, and how, the transport's. Who
listens on `$dlq.…` of this bus is shown it in any case.
"""

__all__ = ("bury", "letter_for", "refuse")

from eventbus.context import FailedDelivery
from eventbus.message import LaterDelivery, Message
from eventbus.queue import DROPPING
from eventbus.responding import refuse_request
from eventbus.schema import flaws_to_log
from eventbus.subscription import Subscription
from eventbus.topics import TopicTree
from eventbus.transports.base import Dead
from eventbus.transports.coded import as_sent


def refuse(subscription: Subscription, delivery: LaterDelivery, error: Exception) -> Dead | None:
    """Count and tell what a subscription's model refuses; None if that was all to be done."""
    message, host = delivery.message, subscription.host
    subscription.counts.invalid += 1
    is_told = refuse_request(subscription, message, error)
    if subscription.options.skips_invalid:
        return None
    host.logger.warning("%s refuses %r: %s", subscription.name, message, flaws_to_log(error))
    failure = FailedDelivery.of(delivery, subscription.name, error, now=host.clock.now())
    for probe in host.probes:
        probe.on_given_up(failure, error)
    keep = subscription.keeps_dead_letter_of(message)
    return Dead(failure, keep=keep) if keep or not is_told else None


def bury(subscription: Subscription, dead: Dead, listeners: TopicTree[Subscription]) -> None:
    """Count what was given up on, and show it to who listens on `$dlq.…` if it is kept."""
    if not dead.keep:
        subscription.counts.lost += 1
        return
    subscription.counts.dead_lettered += 1
    for listener in listeners.match(f"$dlq.{subscription.name}"):
        _show(listener, dead.failure)


def _show(listener: Subscription, failure: FailedDelivery) -> None:
    queue = listener.ready_queue()
    delivery = letter_for(listener, failure.message)
    if delivery is None:
        listener.counts.invalid += 1
        return
    delivery.failure = failure
    # Nobody may wait here: a worker would stand still behind whoever looks at its failures.
    if queue.overflow in DROPPING or queue.has_room_for([delivery]):
        queue.offer(delivery)
    else:
        queue.dropped += 1


def letter_for(subscription: Subscription, message: Message) -> LaterDelivery | None:
    """Make a delivery of a dead letter: asked for, it goes even if its time has passed.

    None where the subscription's model refuses it, which is logged.
    """
    message = message.without_expiry()
    if subscription.schema is None:
        return LaterDelivery(message, message.payload)
    try:
        return LaterDelivery(message, subscription.schema.validate(as_sent(message)))
    except Exception as error:  # noqa: BLE001 - a model's own validators may raise anything
        subscription.host.logger.warning(
            "%s still refuses %r: %s", subscription.name, message, flaws_to_log(error)
        )
        return None
