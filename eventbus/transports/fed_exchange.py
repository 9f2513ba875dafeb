"""Where subscriptions and publishers meet on a transport that keeps messages itself.

What is published goes to the transport; each subscription has its messages from there, by a feed.
"""

__all__ = ("FedExchange",)

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from eventbus.activity import Activity
from eventbus.bus_logger import BusLogger
from eventbus.clock import Clock
from eventbus.codec import JsonCodec
from eventbus.context import FailedDelivery
from eventbus.errors import BusClosed, UnsupportedByTransport
from eventbus.message import Entry, Message, Receipt, within_of
from eventbus.schema import Schema
from eventbus.subscription import Subscription
from eventbus.timers import Timers
from eventbus.topics import TopicTree
from eventbus.transaction import Transaction
from eventbus.transports.base import (
    Capabilities,
    CarriesRequests,
    Dead,
    JoinsTransactions,
    KeepsDeadLetters,
    KeepsMessages,
    KeepsSubscriptions,
    KeepsTime,
    LogsAsBus,
    Transport,
)
from eventbus.transports.burying import bury
from eventbus.transports.feed import Feed
from eventbus.transports.route import Route
from eventbus.transports.stored_schedule import StoredSchedule


class FedExchange:
    """Feeds the subscriptions of a bus from a transport that keeps messages itself."""

    def __init__(
        self,
        transport: Transport[Subscription],
        timers: Timers,
        activity: Activity,
        logger: BusLogger,
        *,
        schedule_size: int,
    ) -> None:
        self.transport = transport
        if isinstance(transport, LogsAsBus):
            transport.bus_logger = logger
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
        self._schedule = StoredSchedule(
            transport, activity, size=schedule_size, on_departure=self._stir_all
        )
        self._tree: TopicTree[Subscription] = TopicTree()
        self._feeds: dict[str, Feed] = {}

    def keep_time_by(self, clock: Clock) -> None:
        """Let the transport take the time from another clock, if it takes it from the bus."""
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
        self._schedule.begin()
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
            self._schedule.end()
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
        if not self._schedule.keeps_any_of(messages):
            return await self._publish(messages)
        wanted = self._schedule.entrust(messages)
        if wanted:
            await self._publish(wanted)
            self._schedule.look()
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
        self._schedule.look()

    def _expect(self, receipts: Sequence[Receipt]) -> None:
        for receipt in receipts:
            if receipt.position is not None and not receipt.duplicate:
                for subscription in self._tree.match(receipt.topic):
                    self._feeds[subscription.name].expect(receipt.position)

    def look(self) -> None:
        """Look into the store where publishers may have committed something by themselves."""
        if self._has_joined:
            self._stir_all()

    def _stir_all(self) -> None:
        for feed in self._feeds.values():
            feed.stir()

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
        self._schedule.end()
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
        bury(subscription, dead, self._tree)

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
