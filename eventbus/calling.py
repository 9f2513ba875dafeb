"""What a worker calls: the handler, and the chain around it where there is more.

Both are built once per worker. What only some subscriptions need is a link of the chain, so that
the others pay nothing for it.
"""

__all__ = ("Call", "calls_of", "where_of")

from collections.abc import Awaitable, Callable
from functools import partial
from inspect import isawaitable, iscoroutine
from typing import Any, TypeAlias, cast

from eventbus.carrying_out import ACK, outcome_of
from eventbus.context import Context, decide, verdict_on
from eventbus.errors import InvalidHandler
from eventbus.message import Delivery, delivery_of
from eventbus.middleware.chain import CallNext, compose, layers_of
from eventbus.responding import answering
from eventbus.settling import ACKED, Unsettled
from eventbus.subscription import Member, Subscription, Worker
from eventbus.transports.base import Ack, Commit

Call: TypeAlias = Callable[..., Awaitable[object]]


def calls_of(worker: Worker) -> tuple[Call, CallNext | None]:
    """Build what a worker calls: the handler, and the chain around it where there is more."""
    member, subscription = worker.member, worker.subscription
    worker.is_stale = member.is_retired
    call = _call_of(member, subscription)
    return call, _chain_of(member, subscription, call)


def _call_of(member: Member, subscription: Subscription) -> Call:
    """Give what calls the handler: itself, or a worker thread if it is not async."""
    handler, threads = member.handler, subscription.host.runtime.threads
    if member.shape.is_async:
        return handler

    def call_and_check(*arguments: object) -> object:
        result: object = handler(*arguments)
        if isawaitable(result):
            raise _not_awaited(subscription, result)
        return result

    async def call_in_thread(*arguments: object) -> object:
        return await threads.run(partial(call_and_check, *arguments), subscription.name)

    return call_in_thread


def _chain_of(member: Member, subscription: Subscription, call: Call) -> CallNext | None:
    """Build the chain around the handler; None where there is nothing but the handler."""
    layers = layers_of(subscription.options.middleware)
    layers += [partial(probe.on_call, member.handler) for probe in subscription.host.probes]
    takes_context = member.shape.takes_context
    gates, answer = subscription.gates, subscription.options.answer
    is_plain = subscription.options.ack == "auto" and not subscription.is_durable
    if is_plain and answer is None and not (layers or gates or takes_context):
        return None

    def link(context: Context[Any]) -> Awaitable[object]:  # no coroutine of its own: that is 1 A
        context.is_handled = True
        event = context.entry.event
        return call(event, context) if takes_context else call(event)

    chain = _settling(subscription, compose(layers, link))
    for gate in reversed(gates):
        chain = gate.bind(chain)
    if answer is not None:
        chain = answering(subscription, answer, chain)
    if subscription.is_durable:
        chain = _acknowledging(subscription, chain)
    return _sequencing(subscription, chain) if subscription.is_sequenced else chain


def _settling(subscription: Subscription, chain: CallNext) -> CallNext:
    """Settle before or after the chain where that is not simply after success."""

    async def settle_first(context: Context[Any]) -> object:
        await subscription.source.settle([(delivery_of(context.entry), Ack(is_urgent=True))])
        decide(context, ACKED)
        return await chain(context)

    async def expect_verdict(context: Context[Any]) -> object:
        result = await chain(context)
        if context.is_handled and verdict_on(context) is None:
            decide(context, Unsettled())
        return result

    links = {"auto": chain, "first": settle_first, "manual": expect_verdict}
    return links[subscription.options.ack]


def where_of(subscription: Subscription) -> Callable[[Any], bool] | None:
    """Give what the worker asks before an attempt, unless the outermost link of the chain does."""
    is_asked_later = subscription.options.answer is not None or subscription.is_durable
    return None if is_asked_later else subscription.options.where


def _acknowledging(subscription: Subscription, chain: CallNext) -> CallNext:
    """Tell the source of all that is done, of what is held back too.

    What is done means all that the handler asked for: so that is carried out here.
    """
    options = subscription.options
    where = options.where if options.answer is None else None  # else the responder's link asks it

    async def acknowledge(context: Context[Any]) -> None:
        outcome: Ack | Commit = ACK
        if subscription.has_expired(context.entry):
            context.is_handled = True
            subscription.counts.started -= 1
            subscription.counts.expired += 1
        elif where is not None and not where(context.entry.event):
            context.is_handled = True
            subscription.counts.skipped += 1
        else:
            await chain(context)
            if context.asked is not None:
                asked, context.asked = context.asked, None
                outcome = await outcome_of(subscription, asked)
        await subscription.source.settle([(cast("Delivery", context.entry), outcome)])

    return acknowledge


def _sequencing(subscription: Subscription, chain: CallNext) -> CallNext:
    """Pass over what was queued when an earlier message of its key became a dead letter."""
    source = subscription.source

    async def pass_over_waiting(context: Context[Any]) -> None:
        if source.holds(cast("Delivery", context.entry)):
            await chain(context)
        else:
            context.is_handled = True
            subscription.counts.started -= 1

    return pass_over_waiting


def _not_awaited(subscription: Subscription, result: object) -> InvalidHandler:
    if iscoroutine(result):
        result.close()
    return InvalidHandler(
        f"{subscription.name} is no async function but returned {result!r}, which nobody awaits: "
        "register the async function itself"
    )
