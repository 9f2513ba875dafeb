"""What a handler asked for through its context is done when it has returned, not before."""

__all__ = ("ACK", "carry_out", "outcome_of")

from eventbus.message import Within, join
from eventbus.settling import Asked, Failing
from eventbus.subscription import Subscription
from eventbus.transports.base import Ack, Commit

ACK = Ack()


async def carry_out(subscription: Subscription, asked: Asked) -> None:
    """Do what a handler asked for through its context, now that it has returned.

    Raises:
        Failing: Its verdict is that the attempt has failed.
    """
    if isinstance(asked.verdict, Failing):
        raise asked.verdict
    if asked.messages:
        await subscription.host.send_all(asked.messages)
        asked.messages = []
    if asked.if_done is not None:
        asked.if_done()


async def outcome_of(subscription: Subscription, asked: Asked) -> Ack | Commit:
    """Do what a handler asked for, and give how its delivery ended; raises as `carry_out`.

    What it recorded as a transaction is committed together with the acknowledgement. What it
    published goes the way of all messages even then; at the end of that it joins the transaction.
    """
    transaction = asked.transaction
    if transaction is None or not transaction.recorded:
        await carry_out(subscription, asked)
        return ACK
    joined = Within(transaction)
    for message in asked.messages:
        join(message, joined)
    try:
        await carry_out(subscription, asked)
    finally:
        joined.connection = None
    return Commit(transaction)
