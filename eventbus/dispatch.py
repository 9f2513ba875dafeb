"""From a queue to a handler, and what becomes of it: the heart.

`run_worker` drains a queue in bursts, `deliver` runs one attempt, `fail` decides what becomes of a
failed one and settles it.

A worker parks when the queue is empty, and while it is not, works on without giving way: for at
most 200 microseconds of handlers that never wait. Per message there is no task, lock, scope or
event.

There are two loops with one meaning. The plain one serves what most subscriptions are: one worker,
a handler that takes the event alone, no middleware. The careful one knows contexts, middleware,
keys, and policies that take from the queue.
"""

__all__ = ("Attempt", "Ending", "deliver", "fail", "give_up", "run_worker")

import logging
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from enum import Enum, auto
from functools import partial
from inspect import isawaitable, iscoroutine
from typing import Any, TypeAlias, cast

from anyio import CancelScope, get_cancelled_exc_class, to_thread
from anyio.lowlevel import checkpoint

from eventbus._loop import is_foreign_cancellation
from eventbus.clock import stopwatch
from eventbus.context import Context, FailedDelivery
from eventbus.errors import HandlerTimeout, InvalidHandler
from eventbus.message import Delivery, Entry, delivery_of
from eventbus.middleware import Retry
from eventbus.middleware.chain import CallNext, compose, layers_of
from eventbus.queue import DeliveryQueue
from eventbus.subscription import Member, Subscription, Worker
from eventbus.transports.base import Dead, RetryLater

logger = logging.getLogger("eventbus")

SLICE_SECONDS = 200e-6
BURST = 16  # handlers between two looks at the watch: a look costs as much as half a handler

Call: TypeAlias = Callable[..., Awaitable[object]]


class Ending(Enum):
    """Why a worker left its loop."""

    FINISHED = auto()  # there is nothing left to serve
    UNSUITED = auto()  # the other loop suits better now
    OVERDUE = auto()  # the attempt failed because its time was up
    LATE = auto()  # it succeeded though its time was up: the scope is cancelled all the same
    TAINTED = auto()  # the handler set context variables, which the next must not see


class Attempt(Enum):
    """How an attempt ended, for the lane it ran in."""

    SETTLED = auto()
    WAITING = auto()  # in its lane, for the next attempt
    OVERDUE = auto()  # to be settled outside of the cancelled scope


async def run_worker(worker: Worker) -> None:
    """Serve a subscription with one of its handlers until there is nothing left to serve."""
    subscription = worker.subscription
    queue = subscription.ready_queue()
    layers = layers_of(subscription.options.middleware)
    call = _call_of(worker.member, subscription)
    link = compose(layers, _link_of(worker.member, call))
    worker.is_simple = not (layers or worker.member.shape.takes_context)
    worker.pristine = copy_context()
    ending = Ending.UNSUITED
    while ending not in {Ending.FINISHED, Ending.TAINTED}:
        worker.is_timed_out = False
        ending = Ending.OVERDUE  # stays so if the scope is cancelled
        with CancelScope() as scope:
            worker.scope = scope
            if _suits_plain(worker):
                ending = await _serve_plain(worker, queue, call)
            else:
                ending = await _serve_carefully(worker, queue, link)
        if ending is Ending.OVERDUE:
            await _time_out(worker)
    _leave(worker, queue, ending)


def _leave(worker: Worker, queue: DeliveryQueue[Entry], ending: Ending) -> None:
    worker.flush()
    worker.current = None
    worker.subscription.host.unwatch(worker)
    if ending is Ending.TAINTED:
        worker.subscription.host.spawn(worker)
    else:
        worker.subscription.workers.remove(worker)
        queue.worker_ended()


# --- The two loops --------------------------------------------------------------------------------


def _suits_plain(worker: Worker) -> bool:
    subscription = worker.subscription
    return worker.is_simple and subscription.is_alone_at_queue and not subscription.lanes


async def _serve_plain(worker: Worker, queue: DeliveryQueue[Entry], call: Call) -> Ending:
    subscription = worker.subscription
    where = subscription.options.where
    items, waiters, take = queue.items, queue.waiters, queue.items.popleft
    while await _has_work(worker, queue):
        if not _suits_plain(worker):
            return Ending.UNSUITED
        for _ in worker.begin_burst(min(len(items), BURST)):
            try:
                worker.current = entry = take()
            except IndexError:  # Race: a handler that joined the group meanwhile took it.
                subscription.counts.started -= 1
                break
            if waiters:
                queue.refill()
            try:
                if where is None or where(entry.payload):
                    await call(entry.payload)
                else:
                    subscription.counts.skipped += 1
            except BaseException as error:  # noqa: BLE001 - raises again what is no failure
                ending = await _fail_plain(worker, entry, error)
                if ending is not None:
                    return ending
            # 25 ns for the contexts, where a task of its own per delivery would cost 3,000.
            if worker.is_timed_out or copy_context() != worker.pristine:
                return _ending_after_success(worker)
    return Ending.FINISHED


async def _fail_plain(worker: Worker, entry: Entry, error: BaseException) -> Ending | None:
    _raise_cancellation(error)
    if worker.is_timed_out:
        return Ending.OVERDUE
    await fail(worker, entry, error)
    # A retry may wait now, and what has its key must stay behind it: this loop knows no keys.
    return Ending.UNSUITED if worker.subscription.lanes else None


async def _serve_carefully(worker: Worker, queue: DeliveryQueue[Entry], link: CallNext) -> Ending:
    while await _has_work(worker, queue):
        if _suits_plain(worker):
            return Ending.UNSUITED
        for _ in range(_share(worker, queue)):
            if not queue.items:
                break
            entry = queue.take_nowait()
            if not _enter_lane(worker, entry):
                continue
            worker.current = entry
            worker.subscription.counts.started += 1
            attempt = await deliver(worker, queue, entry, link)
            if attempt is Attempt.OVERDUE:
                return Ending.OVERDUE
            _leave_lane(worker, attempt)
            if worker.is_timed_out or copy_context() != worker.pristine:
                return _ending_after_success(worker)
    return Ending.FINISHED


def _ending_after_success(worker: Worker) -> Ending:
    return Ending.LATE if worker.is_timed_out else Ending.TAINTED


async def _has_work(worker: Worker, queue: DeliveryQueue[Entry]) -> bool:
    """Wait until there is something to take; False once there never will be."""
    worker.current = None
    while not worker.member.is_retired:
        if queue.items and stopwatch() < worker.slice_ends:
            return True
        if queue.items:
            await checkpoint()
        elif queue.is_closed:
            return False
        else:
            await queue.wait()
        worker.slice_ends = stopwatch() + SLICE_SECONDS
        if worker.timeout_seconds is not None:
            worker.subscription.host.watch(worker, worker.timeout_seconds)
    return False


def _share(worker: Worker, queue: DeliveryQueue[Entry]) -> int:
    """Take no more of the queue than a worker's share, and then give way to the others."""
    workers = worker.subscription.concurrency
    if workers > 1:
        worker.slice_ends = 0.0
    return min(BURST, -(-len(queue.items) // workers))


# --- One delivery ---------------------------------------------------------------------------------


async def deliver(
    worker: Worker, queue: DeliveryQueue[Entry], entry: Entry, link: CallNext
) -> Attempt:
    """Run one attempt of a delivery, send what its handler published, and settle it."""
    subscription = worker.subscription
    where = subscription.options.where
    context: Context[Any] = Context(entry, subscription, subscription.take_lagged(queue))
    try:
        if worker.flaw is not None:
            raise worker.flaw
        if where is not None and not where(entry.payload):
            subscription.counts.skipped += 1
            return Attempt.SETTLED
        await link(context)
        for message in context.outbox or ():
            await subscription.host.send(message)
    except BaseException as error:  # noqa: BLE001 - raises again what is no failure
        _raise_cancellation(error)
        return Attempt.OVERDUE if worker.is_timed_out else await fail(worker, entry, error)
    if not context.is_handled:
        subscription.counts.filtered += 1
    return Attempt.SETTLED


async def fail(worker: Worker, entry: Entry, error: BaseException) -> Attempt:
    """Decide what becomes of a failed attempt: another one, or the end; settle it so."""
    subscription, delivery = worker.subscription, delivery_of(entry)
    if subscription.host.is_stopping:
        await checkpoint()  # raises: what fails because the bus stops was cancelled
    subscription.counts.failed += 1
    retry = subscription.retry
    is_last = delivery.attempt >= subscription.max_attempts
    if retry is None or is_last or not retry.applies_to(error):
        await give_up(subscription, delivery, error)
        return Attempt.SETTLED
    await _retry(worker, delivery.in_lane(_lane_to_keep(worker, entry)), retry, error)
    return Attempt.WAITING


async def give_up(subscription: Subscription, delivery: Delivery, error: BaseException) -> None:
    """Settle a delivery as dead; a handler of dead letters never makes further ones."""
    keep = subscription.keeps_dead_letters and delivery.failure is None
    logger.error(
        "%s gives up %r after %d attempts, %s",
        subscription.name,
        delivery.message,
        delivery.attempt,
        "a dead letter now" if keep else "lost: no DeadLetter() keeps it",
        exc_info=error,
    )
    now = subscription.host.clock.now()
    failure = FailedDelivery.of(delivery, subscription.name, error, now=now)
    await subscription.source.settle([(delivery, Dead(failure, keep=keep))])


async def _retry(worker: Worker, delivery: Delivery, retry: Retry, error: BaseException) -> None:
    subscription = worker.subscription
    delay = retry.backoff.delay(delivery.attempt)
    subscription.counts.retried += 1
    logger.warning(
        "%s failed attempt %d of %d at %r, trying again in %.3f s: %r",
        subscription.name,
        delivery.attempt,
        subscription.max_attempts,
        delivery.message,
        delay,
        error,
    )
    if retry.hold:
        await _hold(worker, delivery, delay)
    else:
        await subscription.source.settle([(delivery, RetryLater(delay))])


async def _hold(worker: Worker, delivery: Delivery, delay: float) -> None:
    """Wait here, so that all behind waits too; a stop meanwhile finds the place still held."""
    queue = worker.subscription.ready_queue()
    worker.current = None
    queue.hold()
    await worker.subscription.host.clock.sleep(delay)
    queue.restore(delivery.next_attempt())


async def _time_out(worker: Worker) -> None:
    if worker.current is None:
        return
    error = HandlerTimeout(
        f"{worker.subscription.name} ran longer than Timeout({worker.timeout_seconds}): "
        "give it more time, or make it faster"
    )
    _leave_lane(worker, await fail(worker, worker.current, error))


def _raise_cancellation(error: BaseException) -> None:
    """Raise what is no failure of the handler: our cancellation, and what ends the program."""
    if isinstance(error, Exception) or is_foreign_cancellation(error):
        return
    if isinstance(error, BaseExceptionGroup):
        # A task group of the handler's gathers our cancellation with errors it caused: those go.
        group = cast("BaseExceptionGroup[BaseException]", error)
        raise group.subgroup(get_cancelled_exc_class()) or group
    raise error


# --- Lanes ----------------------------------------------------------------------------------------


def _enter_lane(worker: Worker, entry: Entry) -> bool:
    """Take the lane of the entry's key, if keys matter here; False if it has to wait behind."""
    subscription, lanes = worker.subscription, worker.subscription.lanes
    worker.lane = entry.lane if isinstance(entry, Delivery) else None
    worker.flaw = None
    if worker.lane is not None or lanes is None or (subscription.concurrency == 1 and not lanes):
        return True
    try:
        worker.lane = subscription.key_of(entry)
    except Exception as flaw:  # noqa: BLE001 - a user's function; `deliver` fails with it
        worker.flaw = flaw
    return worker.lane is None or lanes.enter(worker.lane, entry)


def _leave_lane(worker: Worker, attempt: Attempt) -> None:
    if worker.lane is not None and attempt is Attempt.SETTLED:
        worker.subscription.leave_lane(worker.lane)
    worker.lane = None


def _lane_to_keep(worker: Worker, entry: Entry) -> str | None:
    """Close the lane behind an entry that will be tried again, if nobody did before."""
    subscription, lanes = worker.subscription, worker.subscription.lanes
    if worker.lane is not None or worker.flaw is not None or lanes is None:
        return worker.lane
    key = _key_or_none(subscription, entry)
    if key is not None:
        lanes.enter(key, entry)
    return key


def _key_or_none(subscription: Subscription, entry: Entry) -> str | None:
    try:
        return subscription.key_of(entry)
    except Exception:  # noqa: BLE001 - a user's function; without a key the retry holds no lane
        return None


# --- Calling --------------------------------------------------------------------------------------


def _call_of(member: Member, subscription: Subscription) -> Call:
    """Give what calls the handler: itself, or a worker thread if it is not async."""
    handler, threads = member.handler, subscription.host.threads
    if member.shape.is_async:
        return handler

    async def call_in_thread(*arguments: object) -> object:
        result: object = await to_thread.run_sync(
            partial(handler, *arguments), abandon_on_cancel=True, limiter=threads
        )
        if isawaitable(result):
            raise _not_awaited(subscription, result)
        return result

    return call_in_thread


def _link_of(member: Member, call: Call) -> CallNext:
    """Give the innermost link of the chain; no coroutine of its own, for 1 A per delivery."""
    takes_context = member.shape.takes_context

    def link(context: Context[Any]) -> Awaitable[object]:
        context.is_handled = True
        return call(context.event, context) if takes_context else call(context.event)

    return link


def _not_awaited(subscription: Subscription, result: object) -> InvalidHandler:
    if iscoroutine(result):
        result.close()
    return InvalidHandler(
        f"{subscription.name} is no async function but returned {result!r}, which nobody awaits: "
        "register the async function itself"
    )
