"""What a handler asked for through its context is done when it has returned, not before."""

__all__ = ("carry_out", "commit")

from typing import Any, cast

from eventbus.context import Context
from eventbus.message import Delivery, Within, join
from eventbus.settling import Asked, Failing
from eventbus.subscription import Subscription
from eventbus.transaction import Transaction
from eventbus.transports.base import Commit


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


async def commit(
    subscription: Subscription, context: Context[Any], asked: Asked, transaction: Transaction
) -> None:
    """Have all that a handler asked for done in one commit with its acknowledgement.

    What it published goes the way of all messages; at the end of that it joins the transaction.
    """
    joined = Within(transaction)
    for message in asked.messages:
        join(message, joined)
    try:
        await carry_out(subscription, asked)
    finally:
        joined.connection = None
    delivery = cast("Delivery", context.entry)
    await subscription.source.settle([(delivery, Commit(transaction))])
