"""The answering half of requests: around a responder's handler, and when it fails.

The reply goes out when the attempt has succeeded: after what the handler published through its
context, as the acknowledgement of any other delivery.
"""

__all__ = ("answering", "comes_too_late", "is_answer", "refuse_request", "tell_caller")

from dataclasses import replace
from functools import partial
from typing import Any

from eventbus.answers import Answer, Failure, Kind, failure_of
from eventbus.carrying_out import carry_out
from eventbus.context import Context
from eventbus.message import Delivery, Message, reply_to_of
from eventbus.middleware.chain import CallNext
from eventbus.subscription import Subscription


def answering(subscription: Subscription, answer: Answer, call_next: CallNext) -> CallNext:
    """Make the outermost link of a responder's chain, which sends what the chain returns.

    `where=` is asked here and not by the worker, so that the caller hears of a no.
    """
    where, replies = subscription.options.where, subscription.host.replies
    exact, check = answer.exact, answer.check
    if replies.codec is not None:
        exact, check = None, partial(answer.write, codec=replies.codec)

    async def respond(context: Context[Any]) -> None:
        if where is not None and not where(context.event):
            subscription.counts.skipped += 1
            context.is_handled = True  # it was not middleware that held it back
            _decline(subscription, context.message)
            return
        reply = await call_next(context)
        entry = context.entry
        traits = (entry.message if isinstance(entry, Delivery) else entry).head[2]
        if traits is None or traits.reply_to is None:
            return  # published: nobody asked
        if reply is None and not context.is_handled:
            _decline(subscription, context.message)
            return
        if reply.__class__ is not exact:
            reply = check(subscription.name, reply)
        if context.asked is not None:
            await carry_out(subscription, context.asked)
        replies.answer(traits.reply_to, reply)

    return respond


def comes_too_late(subscription: Subscription, message: Message, delay: float) -> bool:
    """Tell whether an attempt after so many seconds could not answer who asked any more."""
    traits = message.head[2]
    if subscription.options.answer is None or traits is None or traits.reply_to is None:
        return False
    due = subscription.host.clock.now() + delay
    return traits.expires_at is not None and due >= traits.expires_at


def is_answer(subscription: Subscription, message: Message, error: BaseException) -> bool:
    """Tell whether a failure is an answer that the topic declares, and the caller waits for it.

    A `Retry` of the responder's own, or its router's, may still ask for another attempt.
    """
    options = subscription.options
    if options.answer is None or options.retries_answers or reply_to_of(message) is None:
        return False
    return isinstance(error, options.answer.raises)


def tell_caller(
    subscription: Subscription, message: Message, error: BaseException
) -> Failure | None:
    """Tell who asked that the responder gives up, and what; None if nobody did."""
    answer, retry = subscription.options.answer, subscription.retry
    reply_to = reply_to_of(message)
    if answer is None or reply_to is None:
        return None
    is_temporary = retry is not None and retry.applies_to(error)
    failure = failure_of(error, answer.raises, retryable=is_temporary)
    subscription.host.replies.fail(reply_to, failure)
    return failure


def refuse_request(subscription: Subscription, message: Message, error: Exception) -> bool:
    """Tell who asked that the responder's model refuses the request; False if nobody did."""
    reply_to = reply_to_of(message)
    if subscription.options.answer is None or reply_to is None:
        return False
    refusal = replace(failure_of(error), kind=Kind.REFUSED)
    subscription.host.replies.fail(reply_to, refusal)
    return True


def _decline(subscription: Subscription, message: Message) -> None:
    reply_to = reply_to_of(message)
    if reply_to is not None:
        refusal = Failure(kind=Kind.DECLINED, type=subscription.name, text="")
        subscription.host.replies.fail(reply_to, refusal)
