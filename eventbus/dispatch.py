"""From a queue to a handler, and what becomes of it: the heart.

`run_worker` drains a queue: `deliver` hands entry after entry to the handler, `settle` decides what
becomes of an attempt that failed.

A worker parks when the queue is empty, and while it is not, works on without giving way: for at
most 200 microseconds of handlers that never wait. Per message there is no task, lock, scope or
event; what only some subscriptions need (a context, keys, a policy that looks at the queue) the
others pay with a look at a local variable.
"""

__all__ = (
    "Ending",
    "carry_out",
    "delay_of_next",
    "deliver",
    "give_up",
    "retry_later",
    "run_worker",
    "settle",
)

import logging
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from enum import Enum, auto
from functools import partial
from inspect import isawaitable, iscoroutine
from typing import Any, TypeAlias, cast

from anyio import CancelScope, Event
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from eventbus._loop import is_foreign_cancellation
from eventbus.answers import Failure
from eventbus.clock import stopwatch
from eventbus.context import Context, FailedDelivery, decide, verdict_on
from eventbus.correlation import note_handling
from eventbus.deadlocks import serve_here
from eventbus.errors import HandlerTimeout, InvalidHandler
from eventbus.message import Delivery, Entry, LaterDelivery, Within, delivery_of, join
from eventbus.middleware.chain import CallNext, compose, layers_of
from eventbus.queue import DeliveryQueue
from eventbus.responding import answering, comes_too_late, is_answer, tell_caller
from eventbus.retry import Backoff
from eventbus.settling import (
    ACKED,
    Asked,
    Failing,
    Overtaken,
    Postponed,
    Rejected,
    RetryAsked,
    Unsettled,
)
from eventbus.subscription import Member, Subscription, Worker
from eventbus.transaction import Transaction
from eventbus.transports.base import Ack, Commit, Dead, RetryLater
from eventbus.wording import counted

SLICE_SECONDS = 200e-6
# Handlers between two looks at the watch, at first, and where they turn out to be quick: what is
# done once per burst costs as much as seven of them. So the pace is kept while a worker is parked:
# found anew each time it was 0.05 F.
PACE = 16
FASTEST_PACE = 128
SOON_SECONDS = 0.0005  # and what is less is told as none

_ACK = Ack()
_NOTHING_ASKED: Asked | None = None  # its type, for what begins with it to become more

Call: TypeAlias = Callable[..., Awaitable[object]]


class Ending(Enum):
    """Why a worker stopped delivering."""

    FINISHED = auto()  # there is nothing left to serve
    OVERDUE = auto()  # an attempt failed because its time was up
    AGAIN = auto()  # it needs a fresh scope, or to look again at what is special here
    TAINTED = auto()  # a handler set context variables, which the next must not see


async def run_worker(worker: Worker) -> None:
    """Serve a subscription with one of its handlers until there is nothing left to serve."""
    subscription = worker.subscription
    queue = subscription.ready_queue()
    call, link = _calls_of(worker)
    serve_here(worker)
    note_handling(worker, correlates=subscription.correlates)
    worker.pristine = copy_context()
    worker.slice_ends = 0.0  # begin a new slice, and with it to be watched
    ending = Ending.AGAIN
    while ending not in {Ending.FINISHED, Ending.TAINTED}:
        worker.is_interrupted = False
        ending = Ending.OVERDUE  # stays so if the scope is cancelled
        with CancelScope() as scope:
            worker.scope = scope
            ending = await deliver(worker, queue, call, link)
        if ending is Ending.OVERDUE and worker.current is not None:
            await settle(worker, worker.current, _timeout_of(worker))
            ending = _ending(worker)
        elif worker.is_interrupted:
            await _tell_of_ignored_cancellation(worker)
        if ending is Ending.FINISHED and worker.is_stale and not worker.member.is_retired:
            call, link = _calls_of(worker)
            ending = Ending.AGAIN
    worker.flush()
    worker.current = None
    subscription.host.runtime.unwatch(worker)
    if ending is Ending.TAINTED:
        subscription.host.runtime.spawn(worker)
    else:
        subscription.workers.remove(worker)
        queue.worker_ended()


async def deliver(  # noqa: C901 - see below
    worker: Worker, queue: DeliveryQueue[Entry], call: Call, link: CallNext | None
) -> Ending:
    """Hand what is queued to the handler, entry after entry; the one loop all deliveries run in.

    It is one function because a call per message costs as much as a handler; that long because each
    case below is a promise. `link` is the chain around the handler, where there is more to call
    than the handler itself.
    """
    subscription, where = worker.subscription, _where_of(worker.subscription)
    take, pristine = queue.quick_take, worker.pristine
    while await _has_work(worker, queue):
        is_gated = subscription.may_expire or subscription.has_lanes
        for _ in worker.begin_burst(len(queue.items)):
            try:
                entry = take()
            except IndexError:  # Race: another worker, or a publisher that drops, took it.
                worker.uncount()
                break
            if queue.waiters:
                queue.refill()
            worker.current = entry
            try:
                if is_gated and not _may_start(worker, entry):
                    continue
                if where is not None and not where(entry.event):
                    subscription.counts.skipped += 1
                elif link is None:
                    await call(entry.event)
                else:
                    context: Context[Any] = Context()
                    context.entry = entry
                    context.origin = subscription
                    context.lagged = queue.dropped and subscription.take_lagged(queue)
                    context.asked = _NOTHING_ASKED
                    context.is_handled = False
                    await link(context)
                    if context.asked is not None:
                        await carry_out(subscription, context.asked)
                    if not context.is_handled:
                        subscription.counts.filtered += 1
            except BaseException as error:  # noqa: BLE001 - raises again what is no failure
                _raise_cancellation(error)
                if worker.is_interrupted:
                    return Ending.OVERDUE
                await settle(worker, entry, error)
                return _ending(worker)  # also since a retry may have closed a lane
            if is_gated:
                _leave_lane(worker)
            try:  # 25 ns, where a task of its own per delivery would cost 3,000
                is_tainted = copy_context() != pristine
            except Exception:  # noqa: BLE001 - a variable's value that cannot be compared has changed
                is_tainted = True
            if is_tainted or worker.is_interrupted:
                return _ending(worker)
    return Ending.FINISHED


def _ending(worker: Worker) -> Ending:
    try:
        return Ending.AGAIN if copy_context() == worker.pristine else Ending.TAINTED
    except Exception:  # noqa: BLE001 - as above
        return Ending.TAINTED


async def _has_work(worker: Worker, queue: DeliveryQueue[Entry]) -> bool:
    """Wait until there is something to take; False once there never will be."""
    worker.current = None
    if worker.lane is not None:  # taken for it by a handler that joined the group meanwhile
        _leave_lane(worker)
    is_rested = _find_pace(worker) < worker.slice_ends
    while not worker.is_stale:
        if queue.items and is_rested:
            return True
        if queue.items:
            await checkpoint()
        elif queue.is_finished:
            return False
        else:
            await queue.wait()
        is_rested = True
        worker.burst_begins = stopwatch()
        worker.slice_ends = worker.burst_begins + SLICE_SECONDS
        if (seconds := worker.subscription.timeout_seconds) is not None:
            worker.subscription.host.runtime.watch(worker, seconds)
    return False


def _find_pace(worker: Worker) -> float:
    """Let the next burst be longer if the one before was quick; give the time."""
    now = stopwatch()
    seconds = now - worker.burst_begins
    worker.burst_begins = now
    if seconds > SLICE_SECONDS:
        worker.pace = PACE
    elif worker.burst_size >= worker.pace and 2 * seconds < SLICE_SECONDS:
        worker.pace = min(2 * worker.pace, FASTEST_PACE)
    return now


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


# --- What becomes of a failed attempt -------------------------------------------------------------


async def settle(worker: Worker, entry: Entry, error: BaseException) -> None:
    """Decide what becomes of a failed attempt: another one, or the end."""
    subscription, delivery = worker.subscription, delivery_of(entry)
    if isinstance(error, Postponed):
        await _postpone(worker, entry, error)
        return
    if isinstance(error, Overtaken):
        subscription.counts.failed += 1
        _leave_lane(worker)
        return
    await checkpoint_if_cancelled()  # what fails because the bus stops was cancelled
    subscription.counts.failed += 1
    for gate in subscription.gates:
        gate.failed(error)
    for tell in subscription.failure_listeners:
        tell(entry)
    delay = delay_of_next(subscription, delivery, error)
    if delay is None or comes_too_late(subscription, delivery.message, delay):
        await give_up(subscription, delivery, error)
        _leave_lane(worker)
        return
    delivery = delivery.in_lane(_keep_lane(worker, entry))
    if subscription.retry is not None and subscription.retry.hold:
        await _hold(worker, delivery, delay, error)
    else:
        await retry_later(subscription, delivery, delay, error)


async def _postpone(worker: Worker, entry: Entry, postponed: Postponed) -> None:
    """Leave an entry queued, and wait before it is taken again, by this worker or another."""
    subscription, queue = worker.subscription, worker.subscription.ready_queue()
    worker.uncount()
    worker.current = None
    subscription.seen_dropped -= postponed.lagged
    lane, worker.lane = worker.lane, None
    queue.hold()
    subscription.put_back(entry if lane is None else delivery_of(entry).in_lane(lane))
    await postponed.wait()
    worker.slice_ends = 0.0  # begin a new slice, and with it to be watched


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


async def _hold(
    worker: Worker, delivery: LaterDelivery, delay: float, error: BaseException
) -> None:
    """Wait until the retry is due, so that all behind waits too."""
    is_over = Event()
    worker.current = None
    await retry_later(worker.subscription, delivery, delay, error, then=is_over.set)
    await is_over.wait()
    worker.slice_ends = 0.0  # begin a new slice, and with it to be watched


async def _tell_of_ignored_cancellation(worker: Worker) -> None:
    worker.subscription.host.logger.error(
        "%s returned though it was cancelled: its handler, or a middleware, catches cancellation "
        "and has to raise it again; unless it ended in that very moment",
        worker.subscription.name,
    )
    await checkpoint_if_cancelled()  # what was interrupted because the bus stops has not succeeded


def _timeout_of(worker: Worker) -> HandlerTimeout:
    return HandlerTimeout(
        f"{worker.subscription.name} ran longer than Timeout({worker.timeout_seconds}): "
        "give it more time, or make it faster"
    )


def _raise_cancellation(error: BaseException) -> None:
    """Raise what is no failure of the handler: our cancellation, and what ends the program."""
    if isinstance(error, Exception) or is_foreign_cancellation(error):
        return
    if isinstance(error, BaseExceptionGroup):
        # A task group of the handler's gathers our cancellation with errors it caused: those go.
        group = cast("BaseExceptionGroup[BaseException]", error)
        raise group.subgroup(_is_no_failure) or group
    raise error


def _is_no_failure(error: BaseException) -> bool:
    return not isinstance(error, (Exception, BaseExceptionGroup))


# --- What decides before an attempt ---------------------------------------------------------------


def _may_start(worker: Worker, entry: Entry) -> bool:
    """Ask whether an entry begins now; else it is counted as what it is, and no attempt."""
    subscription = worker.subscription
    if subscription.may_expire and subscription.has_expired(entry):
        worker.uncount()
        worker.current = None
        worker.lane = entry.lane if isinstance(entry, Delivery) else None
        subscription.counts.expired += 1
        _leave_lane(worker)
        return False
    return not subscription.has_lanes or _enter_lane(worker, entry)


# --- Lanes ----------------------------------------------------------------------------------------


def _enter_lane(worker: Worker, entry: Entry) -> bool:
    """Take the lane of the entry's key; False if it has to wait behind another of that key."""
    subscription, lanes = worker.subscription, worker.subscription.lanes
    worker.lane = entry.lane if isinstance(entry, Delivery) else None
    if worker.lane is not None or lanes is None:
        return True
    key = subscription.key_of(entry)
    if key is not None and not lanes.enter(key, entry):
        worker.uncount()
        worker.current = None
        return False
    worker.lane = key
    return True


def _leave_lane(worker: Worker) -> None:
    if worker.lane is not None:
        worker.subscription.leave_lane(worker.lane)
        worker.lane = None


def _keep_lane(worker: Worker, entry: Entry) -> str | None:
    """Close the lane behind an entry that will be tried again, if it does not hold it already."""
    subscription, lanes = worker.subscription, worker.subscription.lanes
    lane, worker.lane = worker.lane, None
    if lane is None and lanes is not None:
        lane = subscription.slot_of(entry)
        if lane is not None:
            lanes.enter(lane, entry)
    return lane


# --- Calling --------------------------------------------------------------------------------------


def _calls_of(worker: Worker) -> tuple[Call, CallNext | None]:
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
        chain = answering(subscription, answer, chain, carry_out)
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


def _where_of(subscription: Subscription) -> Callable[[Any], bool] | None:
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
                if asked.transaction is not None and asked.transaction.recorded:
                    await _commit(subscription, context, asked, asked.transaction)
                    return
                await carry_out(subscription, asked)
        await subscription.source.settle([(cast("Delivery", context.entry), _ACK)])

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


async def _commit(
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


def _not_awaited(subscription: Subscription, result: object) -> InvalidHandler:
    if iscoroutine(result):
        result.close()
    return InvalidHandler(
        f"{subscription.name} is no async function but returned {result!r}, which nobody awaits: "
        "register the async function itself"
    )
