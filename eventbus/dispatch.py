"""From a queue to a handler, and what becomes of it: the heart.

`run_worker` drains a queue: `deliver` hands entry after entry to the handler, `settle` decides what
becomes of an attempt that failed. What they call is built in `calling.py`; whether an entry may
begin is said in `admission.py`, and what comes after a failure, in `attempts.py`.

A worker parks when the queue is empty, and while it is not, works on without giving way: for at
most 200 microseconds of handlers that never wait. Per message there is no task, lock, scope or
event; what only some subscriptions need (a context, keys, a policy that looks at the queue) the
others pay with a look at a local variable.
"""

__all__ = ("Ending", "deliver", "run_worker", "settle")

from contextvars import copy_context
from enum import Enum, auto
from typing import Any, cast

from anyio import CancelScope, Event
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from eventbus._loop import is_foreign_cancellation
from eventbus.admission import keep_lane, leave_lane, may_start
from eventbus.attempts import delay_of_next, give_up, retry_later
from eventbus.calling import Call, calls_of, where_of
from eventbus.carrying_out import carry_out
from eventbus.clock import stopwatch
from eventbus.context import Context
from eventbus.correlation import note_handling
from eventbus.deadlocks import serve_here
from eventbus.errors import HandlerTimeout
from eventbus.message import Entry, LaterDelivery, delivery_of
from eventbus.middleware.chain import CallNext
from eventbus.queue import DeliveryQueue
from eventbus.responding import comes_too_late
from eventbus.settling import Asked, Overtaken, Postponed
from eventbus.subscription import Worker

SLICE_SECONDS = 200e-6
# Handlers between two looks at the watch, at first, and where they turn out to be quick: what is
# done once per burst costs as much as seven of them. So the pace is kept while a worker is parked:
# found anew each time it was 0.05 F.
PACE = 16
FASTEST_PACE = 128

_NOTHING_ASKED: Asked | None = None  # its type, for what begins with it to become more


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
    call, link = calls_of(worker)
    serve_here(worker)
    note_handling(worker, correlates=subscription.correlates)
    worker.pristine = copy_context()
    worker.end_slice()
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
            call, link = calls_of(worker)
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
    subscription, where = worker.subscription, where_of(worker.subscription)
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
                if is_gated and not may_start(worker, entry):
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
                return await _fail(worker, entry, error)  # a retry may have closed a lane
            if is_gated:
                leave_lane(worker)
            try:  # 25 ns, where a task of its own per delivery would cost 3,000
                if copy_context() != pristine or worker.is_interrupted:
                    return _ending(worker)
            except Exception:  # noqa: BLE001 - a variable's value that cannot be compared has changed
                return Ending.TAINTED
    return Ending.FINISHED


async def _has_work(worker: Worker, queue: DeliveryQueue[Entry]) -> bool:
    """Wait until there is something to take; False once there never will be."""
    worker.current = None
    if worker.lane is not None:  # taken for it by a handler that joined the group meanwhile
        leave_lane(worker)
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


def _ending(worker: Worker) -> Ending:
    try:
        return Ending.AGAIN if copy_context() == worker.pristine else Ending.TAINTED
    except Exception:  # noqa: BLE001 - as above
        return Ending.TAINTED


# --- What becomes of a failed attempt -------------------------------------------------------------


async def _fail(worker: Worker, entry: Entry, error: BaseException) -> Ending:
    _raise_cancellation(error)
    if worker.is_interrupted:
        return Ending.OVERDUE
    await settle(worker, entry, error)
    return _ending(worker)


async def settle(worker: Worker, entry: Entry, error: BaseException) -> None:
    """Decide what becomes of a failed attempt: another one, or the end."""
    subscription, delivery = worker.subscription, delivery_of(entry)
    if isinstance(error, Postponed):
        await _postpone(worker, entry, error)
        return
    if isinstance(error, Overtaken):
        subscription.counts.failed += 1
        leave_lane(worker)
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
        leave_lane(worker)
        return
    delivery = delivery.in_lane(keep_lane(worker, entry))
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
    worker.end_slice()


async def _hold(
    worker: Worker, delivery: LaterDelivery, delay: float, error: BaseException
) -> None:
    """Wait until the retry is due, so that all behind waits too."""
    is_over = Event()
    worker.current = None
    await retry_later(worker.subscription, delivery, delay, error, then=is_over.set)
    await is_over.wait()
    worker.end_slice()


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
