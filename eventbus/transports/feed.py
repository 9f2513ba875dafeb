"""What a subscription has of a transport that keeps messages itself: its feed.

A feed is a task that asks the subscription's source for what the queue can hold, validates what
comes, and queues it. From there on everything is as in memory: the same queue, workers and
policies. How each delivery ended goes back to the source.
"""

__all__ = ("Feed", "Feeder")

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from anyio import TASK_STATUS_IGNORED, CancelScope, move_on_after
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint_if_cancelled

from eventbus.attempts import give_up
from eventbus.errors import (
    EventBusError,
    InvalidEvent,
    PositionGone,
    StoreCorrupt,
    StoreError,
    StoreVersion,
)
from eventbus.message import Delivery, Entry, LaterDelivery, Message, delivery_of
from eventbus.subscription import Subscription
from eventbus.timers import Timer, Timers
from eventbus.transports.base import (
    Ack,
    CatchesUp,
    Commit,
    Dead,
    Outcome,
    Released,
    RetryLater,
    Sequences,
    Source,
    Transport,
)
from eventbus.transports.burying import refuse
from eventbus.transports.retries import bring_back_later
from eventbus.waiters import wait_for_places

PATIENCE_SECONDS = 0.5
GIVE_BACK_SECONDS = 1.0
FINISH_SECONDS = 5.0


class Feeder(Protocol):
    """What a feed asks of who keeps all feeds of a bus."""

    @property
    def transport(self) -> Transport[Subscription]:
        """What gives the sources."""
        ...

    @property
    def timers(self) -> Timers:
        """What tells when a retry is due."""
        ...

    @property
    def is_draining(self) -> bool:
        """Whether nothing more is begun that the store can keep for later."""
        ...

    def bury(self, subscription: Subscription, dead: Dead) -> None:
        """Count what a subscription gave up on, and show it to who wants to see."""
        ...

    def note_committed(self, messages: Sequence[Message]) -> None:
        """Count as work what was committed with a delivery."""
        ...


class Feed:
    """A subscription's source, and the task that empties it."""

    def __init__(self, feeder: Feeder, subscription: Subscription) -> None:
        self.subscription = subscription
        self._feeder = feeder
        self._contracts = subscription.host.contracts
        # Made in the loop: handlers are registered before there is one.
        self._scope: CancelScope | None = None
        self._source: Source | None = None
        self._expected = 0
        self._stirs = 0
        self._is_busy = False
        self._is_closed = False
        self._waiting: dict[Timer, tuple[Delivery, RetryLater]] = {}

    # --- its task ---------------------------------------------------------------------------

    def begin(self) -> None:
        """Open the source: what is published after this is not missed."""
        self._scope = CancelScope()
        self._is_closed = False
        self._context = self._feeder.transport.open(self.subscription)
        self.expect(0)

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Fetch and queue until closed."""
        try:
            assert self._scope is not None  # noqa: S101 - it was begun
            with self._scope:
                self.expect(0)
                async with self._context as self._source:
                    task_status.started()
                    while True:
                        try:
                            await self._feed(self._source)
                        except StoreError as error:
                            await self._be_patient(error)
        finally:
            self._rest()

    def close(self) -> None:
        """Fetch nothing more."""
        self._is_closed = True
        if self._scope is not None:
            self._scope.cancel()
        self._rest()

    def expect(self, position: int) -> None:
        """Count as busy until everything up to a position, and then nothing, has been fetched."""
        reached = self.reached
        # Race: who published it may be told after the feed was, and has fetched it.
        if position and reached is not None and reached >= position:
            return
        self._expected = max(self._expected, position)
        if not (self._is_busy or self._is_closed) and self._is_waited_for:
            self._is_busy = True
            self.subscription.host.activity.begin()

    @property
    def _is_waited_for(self) -> bool:
        """Whether who joins the bus waits for it: not for iterators.

        It is asked before a handler has joined its subscription, and again when the task begins.
        """
        subscription = self.subscription
        is_served = subscription.is_durable and not subscription.options.is_iterated
        return is_served or bool(subscription.members)

    def stir(self) -> None:
        """Count as busy until it has turned out that there is nothing to fetch."""
        self._stirs += 1
        self.expect(0)
        if self._source is not None:
            self._source.wake()

    def _rest(self) -> None:
        if self._is_busy:
            self._is_busy = False
            self.subscription.host.activity.end()

    async def _feed(self, source: Source) -> None:
        queue = self.subscription.ready_queue()
        await queue.wait_for_room()
        stirs = self._stirs
        fetched = await source.fetch(queue.size - queue.depth)
        if isinstance(source, CatchesUp):
            self.subscription.replayed_up_to = source.began  # anew, where it was forgotten
        await self._put_all(source, fetched)
        # Race: a fetch that had begun before it was stirred tells nothing about what came since.
        if not fetched and stirs != self._stirs:
            source.wake()
            return
        is_at_end = not fetched and (source.reached or 0) >= self._expected
        if source.reached is None or is_at_end:
            self._rest()

    async def _be_patient(self, error: StoreError) -> None:
        """Wait until the store may be better, unless it never will."""
        subscription = self.subscription
        if isinstance(error, StoreCorrupt | StoreVersion | PositionGone):
            with move_on_after(FINISH_SECONDS):  # what was fetched before is none the worse for it
                await subscription.ready_queue().wait_idle()
            raise error
        subscription.host.logger.error("%s is fed again in a moment: %s", subscription.name, error)
        await subscription.clock.sleep(PATIENCE_SECONDS)

    async def _put_all(self, source: Source, deliveries: Sequence[Delivery]) -> None:
        placed, most = 0, self.subscription.max_deliveries
        try:
            await checkpoint_if_cancelled()  # Race: what came while the feed was closed goes back.
            for delivery in deliveries:
                await self._put(delivery, most)
                placed += 1
        finally:
            if placed < len(deliveries):
                # Not for ever: what cannot be written is given back by the end of the transport.
                with move_on_after(GIVE_BACK_SECONDS, shield=True):
                    await source.settle([(one, Released()) for one in deliveries[placed:]])

    # --- queueing ---------------------------------------------------------------------------

    async def _put(self, delivery: Delivery, most: int) -> None:
        subscription, options = self.subscription, self.subscription.options
        if options.is_sequenced and not self.holds(delivery):
            return
        if options.skips_replays and subscription.skips_replay_of(delivery.message):
            subscription.counts.started += 1
            subscription.counts.skipped += 1
            await self.settle([(delivery, Ack())])
        elif delivery.attempt > most:
            await self._give_up_exhausted(delivery)
        elif (error := self._validate(delivery)) is not None:
            await self._refuse(delivery, error)
        else:
            if delivery.message.expires_at is not None and not subscription.is_durable:
                subscription.expect_expiry()
            waiter = subscription.ready_queue().offer(delivery)
            if waiter is not None:
                await wait_for_places([waiter])

    def _validate(self, delivery: Delivery) -> Exception | None:
        """Make the event of a delivery what the model makes of it; give the error that refuses."""
        schema, message = self.subscription.schema, delivery.message
        try:
            if schema is None:
                delivery.event = message.decoded()
            elif isinstance(delivery.event, InvalidEvent):
                raise delivery.event
            else:
                if (version := message.head[3]) > 1:  # a call for each is a fiftieth of a replay
                    self._contracts.refuse_newer(message.topic, version)
                delivery.event = schema.validate(delivery.event)
        except Exception as error:  # noqa: BLE001 - a model's own validators may raise anything
            return error
        return None

    async def _refuse(self, delivery: Delivery, error: Exception) -> None:
        unbegun = LaterDelivery(delivery.message, delivery.event, attempt=0, token=delivery.token)
        dead = refuse(self.subscription, unbegun, error)
        await self.settle([(unbegun, dead or Ack())])

    async def _give_up_exhausted(self, delivery: Delivery) -> None:
        most = self.subscription.max_deliveries
        last = delivery_of(delivery)
        last.attempt = most
        reason = EventBusError(
            f"no delivery of it ended, and max_deliveries={most} allows no other: its handler may "
            "end the process"
        )
        await give_up(self.subscription, last, reason)

    # --- settling ---------------------------------------------------------------------------

    async def settle(self, outcomes: Sequence[tuple[Delivery, Outcome]]) -> None:
        """Tell the source how deliveries ended, and do what is to be done here."""
        kept = [one for one in outcomes if one[0].failure is None]
        if self._source is not None and kept:
            await self._source.settle(kept)
        for delivery, outcome in outcomes:
            if isinstance(outcome, RetryLater):
                self._retry_later(delivery, outcome)
            elif isinstance(outcome, Dead):
                self._feeder.bury(self.subscription, outcome)
            elif isinstance(outcome, Commit):
                self._feeder.note_committed(outcome.transaction.messages)
            if self.subscription.is_sequenced and self._lets_go(delivery):
                self.stir()

    def _lets_go(self, delivery: Delivery) -> bool:
        source: object = self._source
        return isinstance(source, Sequences) and source.is_waited_for(delivery)

    def holds(self, delivery: Delivery) -> bool:
        """Tell whether a delivery is still to be begun, and not left to wait in the store."""
        source: object = self._source
        is_shown = delivery.failure is not None
        return is_shown or not isinstance(source, Sequences) or source.holds(delivery)

    @property
    def reached(self) -> int | None:
        """How far the source has been read."""
        return None if self._source is None else self._source.reached

    def _retry_later(self, delivery: Delivery, retry: RetryLater) -> None:
        subscription = self.subscription
        if subscription.queue is None:
            return
        again = delivery_of(delivery).next_attempt()
        subscription.queue.hold()
        if subscription.is_durable and self._feeder.is_draining:
            self._leave_to_the_store(retry)
            return

        def is_over() -> None:
            self._waiting.pop(timer, None)
            retry.then()

        followed = replace(retry, then=is_over)
        timer = bring_back_later(subscription, again, followed, self._feeder.timers)
        self._waiting[timer] = again, retry

    def _leave_to_the_store(self, retry: RetryLater) -> None:
        if self.subscription.queue is not None:
            self.subscription.queue.release()
        retry.then()

    def give_back(self) -> None:
        """Fetch nothing more, and leave to the store what has not been begun."""
        self.close()
        for timer, (_, retry) in tuple(self._waiting.items()):
            self._feeder.timers.forget(timer)
            self._leave_to_the_store(retry)
        self._waiting.clear()
        self.subscription.give_back()

    async def let_go(self, in_hand: Sequence[Entry]) -> None:
        """Fetch nothing more, and have the store give all that is not settled to who comes next."""
        queue = self.subscription.queue
        unsettled = [*in_hand, *(() if queue is None else queue.items)]
        unsettled += [again for again, _ in self._waiting.values()]
        self.give_back()
        with CancelScope(shield=True):
            await self.settle([(delivery_of(one), Released()) for one in unsettled])
