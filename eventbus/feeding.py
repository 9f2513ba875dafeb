"""From a transport that keeps messages itself into the queues of subscriptions.

Each subscription has a feed: a task that asks its source for what the queue can hold, validates
what comes, and queues it. From there on everything is as in memory: the same queue, workers and
policies. How each delivery ended goes back to the source.
"""

__all__ = ("FedExchange",)

from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from anyio import TASK_STATUS_IGNORED, CancelScope, move_on_after
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint_if_cancelled

from eventbus.clock import Clock
from eventbus.codec import JsonCodec
from eventbus.context import FailedDelivery
from eventbus.dispatch import give_up
from eventbus.errors import (
    BusClosed,
    EventBusError,
    InvalidEvent,
    PositionGone,
    StoreCorrupt,
    StoreError,
    StoreVersion,
    UnsupportedByTransport,
)
from eventbus.message import (
    Delivery,
    Entry,
    LaterDelivery,
    Message,
    Receipt,
    delivery_of,
    within_of,
)
from eventbus.queue import Activity, wait_for_places
from eventbus.responding import refuse_request
from eventbus.schedule import later_of
from eventbus.schema import Schema, flaws_to_log
from eventbus.subscription import Subscription
from eventbus.timers import Timer, Timers
from eventbus.topics import TopicTree
from eventbus.transaction import Transaction
from eventbus.transports.base import (
    Ack,
    Capabilities,
    CarriesRequests,
    CatchesUp,
    Commit,
    Dead,
    JoinsTransactions,
    KeepsDeadLetters,
    KeepsMessages,
    KeepsSchedule,
    KeepsSubscriptions,
    KeepsTime,
    Outcome,
    Released,
    RetryLater,
    Sequences,
    Source,
    Transport,
)
from eventbus.transports.memory import abandon, show
from eventbus.transports.route import Route

PATIENCE_SECONDS = 0.5
GIVE_BACK_SECONDS = 1.0


class Feed:
    """What a subscription has of a transport: its source, and the task that empties it."""

    def __init__(self, exchange: "FedExchange", subscription: Subscription) -> None:
        self.subscription = subscription
        self._exchange = exchange
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
        self._context = self._exchange.transport.open(self.subscription)
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
        if isinstance(error, StoreCorrupt | StoreVersion | PositionGone):
            raise error
        subscription = self.subscription
        subscription.host.logger.error("%s is fed again in a moment: %s", subscription.name, error)
        await self._exchange.clock.sleep(PATIENCE_SECONDS)

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
        subscription = self.subscription
        if subscription.is_sequenced and not self.holds(delivery):
            return
        if subscription.skips_replay_of(delivery.message):
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
                delivery.event = schema.validate(delivery.event)
        except Exception as error:  # noqa: BLE001 - a model's own validators may raise anything
            return error
        return None

    async def _refuse(self, delivery: Delivery, error: Exception) -> None:
        subscription = self.subscription
        subscription.counts.invalid += 1
        if subscription.options.skips_invalid:
            await self.settle([(delivery, Ack())])
            return
        subscription.host.logger.warning(
            "%s refuses %r: %s", subscription.name, delivery.message, flaws_to_log(error)
        )
        unbegun = LaterDelivery(delivery.message, delivery.event, attempt=0, token=delivery.token)
        failure = FailedDelivery.of(
            unbegun, subscription.name, error, now=self._exchange.clock.now()
        )
        is_told = refuse_request(subscription, delivery.message, error)
        keep = subscription.keeps_dead_letter_of(delivery.message)
        for probe in subscription.host.probes:
            probe.on_given_up(failure, error)
        is_over = is_told and not keep
        await self.settle([(unbegun, Ack() if is_over else Dead(failure, keep=keep))])

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
                self._exchange.bury(self.subscription, outcome)
            elif isinstance(outcome, Commit):
                self._exchange.note_committed(outcome.transaction.messages)
            if self.subscription.is_sequenced and self._lets_go(delivery):
                self.stir()

    def _lets_go(self, delivery: Delivery) -> bool:
        source: object = self._source
        return isinstance(source, Sequences) and source.is_waited_for(delivery)

    async def fetch(self, most: int) -> Sequence[Delivery]:
        """Refuse: the feed itself fetches."""
        raise NotImplementedError

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Tell the source that these are still being worked on."""
        if self._source is not None:
            await self._source.extend(deliveries)

    def holds(self, delivery: Delivery) -> bool:
        """Tell whether a delivery is still to be begun, and not left to wait in the store."""
        source: object = self._source
        is_shown = delivery.failure is not None
        return is_shown or not isinstance(source, Sequences) or source.holds(delivery)

    def wake(self) -> None:
        """Refuse, as `fetch`."""
        raise NotImplementedError

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
        if subscription.is_durable and self._exchange.is_draining:
            self._leave_to_the_store(retry)
            return

        def come_back() -> None:
            self._waiting.pop(timer, None)
            subscription.put_back(again)
            retry.then()

        def stay_away() -> None:
            self._waiting.pop(timer, None)
            abandon(subscription, again)
            retry.then()

        timer = self._exchange.timers.call_later(retry.delay, come_back, drop=stay_away)
        self._waiting[timer] = again, retry

    def _leave_to_the_store(self, retry: RetryLater) -> None:
        if self.subscription.queue is not None:
            self.subscription.queue.release()
        retry.then()

    def give_back(self) -> None:
        """Fetch nothing more, and leave to the store what has not been begun."""
        self.close()
        for timer, (_, retry) in tuple(self._waiting.items()):
            self._exchange.timers.forget(timer)
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


class FedExchange:
    """Feeds the subscriptions of a bus from a transport that keeps messages itself."""

    def __init__(
        self,
        transport: Transport[Subscription],
        clock: Clock,
        timers: Timers,
        activity: Activity,
        *,
        schedule_size: int,
    ) -> None:
        self.clock = clock
        self.transport = transport
        self.capabilities: Capabilities = transport.capabilities
        self.timers = timers
        self.carrier: CarriesRequests | None = None
        if transport.capabilities.requests and isinstance(transport, CarriesRequests):
            self.carrier = transport
        self.codec = None if self.carrier is None else JsonCodec()
        self.joiner = transport if isinstance(transport, JoinsTransactions) else None
        self.is_draining = False
        self._has_joined = False
        self._is_open = False
        self._activity = activity
        self._has_awaited = False
        self._scheduler = transport if isinstance(transport, KeepsSchedule) else None
        if self._scheduler is not None:
            self._scheduler.schedule_size = schedule_size
            self._scheduler.on_departure = self._note_departure
        self._tree: TopicTree[Subscription] = TopicTree()
        self._feeds: dict[str, Feed] = {}

    def keep_time_by(self, clock: Clock) -> None:
        """Take the time from another clock, and let the transport, if it takes it from the bus."""
        self.clock = clock
        if isinstance(self.transport, KeepsTime):
            self.transport.clock = clock

    async def __aenter__(self) -> Self:
        """Open the transport and every source.

        Raises:
            EventBusError: As the transport raises.
        """
        self.is_draining = False
        await self.transport.__aenter__()
        self._is_open = True
        feeds = tuple(self._feeds.values())
        for feed in feeds:
            feed.begin()
            self._announce(feed.subscription)
        for feed in feeds:
            await feed.subscription.host.runtime.start_task(feed.run)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        """Close the transport; the feeds, tasks of the bus, have ended."""
        if self._is_open:
            self._is_open = False
            self._look_at_schedule()
            await self.transport.__aexit__(kind, error, trace)

    async def serve(self) -> None:
        """Do what the transport has to do meanwhile."""
        await self.transport.serve()

    # --- publishing -------------------------------------------------------------------------

    def route(self, topic: str, contract: Schema[Any] | None) -> Route:
        """Work out which subscriptions of this bus match; the transport knows of others."""
        return Route(topic, contract, self._tree.match(topic), _refuse_nothing)

    def check(self, topic: str, payload: object, contract: Schema[Any] | None) -> None:
        """Hold a payload against the topic's contract.

        Raises:
            InvalidEvent: The contract's model refuses it.
        """
        if contract is not None:
            contract.check(topic, payload)

    async def publish(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Have the transport accept messages; of those for later, what is not cancelled."""
        if self._scheduler is not None and any(map(later_of, messages)):
            return await self._publish_for_later(messages, self._scheduler)
        return await self._publish(messages)

    async def _publish_for_later(
        self, messages: Sequence[Message], scheduler: KeepsSchedule
    ) -> Sequence[Receipt]:
        def is_wanted(message: Message) -> bool:
            later = later_of(message)
            return later is None or later.entrust(partial(scheduler.cancel, message.id))

        wanted = [one for one in messages if is_wanted(one)]
        if wanted:
            await self._publish(wanted)
            self._look_at_schedule()
        return messages

    async def _publish(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        within = within_of(messages)
        if within is not None:
            return await self._publish_within(within.connection, messages)
        receipts = await self.transport.publish(messages)
        self._expect(receipts)
        return receipts

    async def _publish_within(
        self, transaction: object, messages: Sequence[Message]
    ) -> Sequence[Receipt]:
        if isinstance(transaction, Transaction):  # committed with the delivery, and expected then
            transaction.messages += messages
            return messages
        self._has_joined = True
        return await self.transport.publish(messages)

    def note_committed(self, messages: Sequence[Message]) -> None:
        """Count as work what was committed with a delivery, now or when it is due."""
        self._expect(messages)
        self._look_at_schedule()

    def _expect(self, receipts: Sequence[Receipt]) -> None:
        for receipt in receipts:
            if receipt.position is not None and not receipt.duplicate:
                for subscription in self._tree.match(receipt.topic):
                    self._feeds[subscription.name].expect(receipt.position)

    def look(self) -> None:
        """Look into the store where publishers may have committed something by themselves."""
        if self._has_joined:
            for feed in self._feeds.values():
                feed.stir()

    def _note_departure(self) -> None:
        """Have read what went out, before it is no longer waited for."""
        for feed in self._feeds.values():
            feed.stir()
        self._look_at_schedule()

    def _look_at_schedule(self) -> None:
        """Count as busy while something this bus has scheduled is to go out, unless it drains."""
        is_running = self._is_open and not self.is_draining
        has_awaited = is_running and self._scheduler is not None and self._scheduler.has_awaited
        if has_awaited != self._has_awaited:
            self._has_awaited = has_awaited
            (self._activity.begin if has_awaited else self._activity.end)()

    # --- subscriptions ----------------------------------------------------------------------

    def open(self, subscription: Subscription) -> Feed:
        """Feed a subscription, from now on or as soon as the bus starts."""
        for pattern in subscription.patterns:
            self._tree.add(pattern, subscription)
        feed = self._feeds[subscription.name] = Feed(self, subscription)
        if self._is_open:
            feed.begin()
            self._announce(subscription)
            if not _is_kept_for_loops(subscription):  # else by `start`, which is waited for
                subscription.host.runtime.start_soon(feed.run)
        return feed

    async def start(self, subscription: Subscription) -> None:
        """Wait until a subscription that loops read is there, if it is durable.

        Raises:
            InvalidOption: The store knows its name as that of other patterns.
            PositionGone: It is to start where nothing is kept any more.
            BusClosed: The bus was stopped meanwhile.
        """
        if not _is_kept_for_loops(subscription):
            return
        feed = self._feeds[subscription.name]
        try:
            await subscription.host.runtime.start_task(feed.run)
        except RuntimeError:  # of the task group: it was cancelled before the task had begun
            raise BusClosed(
                f"the bus closed before {subscription.name!r} was there: subscribe while it runs"
            ) from None

    def close(self, subscription: Subscription) -> None:
        """Feed a subscription no more; what is in its queue stays; idempotent."""
        feed = self._feeds.pop(subscription.name, None)
        if feed is not None:
            for pattern in subscription.patterns:
                self._tree.remove(pattern, subscription)
            feed.close()
            self._withdraw(subscription)

    def _announce(self, subscription: Subscription) -> None:
        """Let other buses know of a responder: what they ask from now on, it hears."""
        if self.carrier is not None and subscription.options.answer is not None:
            self.carrier.announce(
                subscription.name, subscription.patterns, is_shared=subscription.is_durable
            )

    def _withdraw(self, subscription: Subscription) -> None:
        if self.carrier is None or subscription.options.answer is None or not self._is_open:
            return
        self.carrier.withdraw(subscription.name)

    async def let_go(self, subscription: Subscription, in_hand: Sequence[Entry]) -> None:
        """Give back what a subscription has that is durable, and ends here."""
        feed = self._feeds.get(subscription.name)
        if feed is not None and subscription.is_durable:
            await feed.let_go(in_hand)

    def set_deadline(self, deadline: float) -> None:
        """Give back what is durable and not begun; what is not durable is finished until then."""
        self.is_draining = True
        self._look_at_schedule()
        self.timers.drop_after(deadline)
        for feed in self._feeds.values():
            self._withdraw(feed.subscription)
            if feed.subscription.is_durable:
                feed.give_back()

    async def forget(self, name: str) -> bool:
        """Forget a durable subscription; False if there is none of that name."""
        keeper = self.transport
        if not isinstance(keeper, KeepsSubscriptions):
            raise UnsupportedByTransport(
                f"forget({name!r}): this transport keeps no durable subscriptions"
            )
        return await keeper.forget(name)

    def messages_kept(self) -> KeepsMessages:
        """Give what reads messages again: the transport itself, if it can."""
        keeper = self.transport
        if isinstance(keeper, KeepsMessages):
            return keeper
        raise UnsupportedByTransport(
            "replay(): this transport does not give again what it carried; take "
            "EventBus('sqlite:///events.db'), say"
        )

    # --- dead letters -----------------------------------------------------------------------

    def bury(self, subscription: Subscription, dead: Dead) -> None:
        """Count a dead letter, and show it to who listens on `$dlq.…`; the source keeps it."""
        if not dead.keep:
            subscription.counts.lost += 1
            return
        subscription.counts.dead_lettered += 1
        for listener in self._tree.match(f"$dlq.{subscription.name}"):
            show(listener, dead.failure)

    async def list_dead_letters(
        self, subscription: str | None, *, limit: int, before: str | None
    ) -> list[FailedDelivery]:
        """List dead letters, newest first."""
        return await self._keeper().dead_letters(subscription, limit=limit, before=before)

    async def redrive(self, subscription: str | None, ids: Sequence[str] | None) -> int:
        """Send dead letters to the durable subscriptions that failed; give how many went."""
        sent = await self._keeper().redrive(subscription, ids)
        for feed in self._feeds.values() if sent else ():
            if feed.subscription.is_durable:
                feed.stir()
        return sent

    async def purge_dead_letters(self, subscription: str | None, ids: Sequence[str] | None) -> int:
        """Forget dead letters; give how many."""
        purged = await self._keeper().purge(subscription, ids)
        for feed in self._feeds.values() if purged and self._is_open else ():
            if feed.subscription.is_sequenced:
                feed.stir()
        return purged

    def _keeper(self) -> KeepsDeadLetters:
        keeper = self.transport
        if isinstance(keeper, KeepsDeadLetters):
            return keeper
        raise UnsupportedByTransport("this transport keeps no dead letters")


def _is_kept_for_loops(subscription: Subscription) -> bool:
    return subscription.is_durable and subscription.options.is_iterated


def _refuse_nothing(subscription: Subscription, message: Message, error: Exception) -> None:
    """Validate at fetch, not when publishing."""
