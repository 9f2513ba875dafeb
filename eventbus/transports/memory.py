"""Messages carried within the process.

Publishing feeds the queues of the matching subscriptions itself, along a route per topic. What else
a transport keeps is here: retries that wait, and dead letters.
"""

__all__ = ("MemoryExchange", "MemorySource")

from collections.abc import Sequence
from typing import Any, Self

from eventbus.clock import Clock
from eventbus.codec import JsonCodec
from eventbus.context import FailedDelivery
from eventbus.errors import UnsupportedByTransport
from eventbus.message import Delivery, LaterDelivery, Message, Receipt, delivery_of
from eventbus.schema import Schema
from eventbus.subscription import Subscription
from eventbus.timers import Timers
from eventbus.topics import TopicTree
from eventbus.transports.base import Capabilities, Dead, KeepsMessages, Outcome, RetryLater
from eventbus.transports.burying import bury, letter_for, refuse
from eventbus.transports.coded import CodedRoute
from eventbus.transports.dead_letters import DeadLetters
from eventbus.transports.retries import abandon, bring_back_later
from eventbus.transports.route import Route
from eventbus.waiters import wait_for_places


class MemorySource:
    """What a subscription has of the exchange in memory; its queue is fed by every publish."""

    __slots__ = ("_exchange", "_subscription")

    def __init__(self, exchange: "MemoryExchange", subscription: Subscription) -> None:
        self._exchange = exchange
        self._subscription = subscription

    async def settle(self, outcomes: Sequence[tuple[Delivery, Outcome]]) -> None:
        """Set retries on their way and keep dead letters; done before it returns."""
        for delivery, outcome in outcomes:
            if isinstance(outcome, RetryLater):
                self._exchange.retry_later(self._subscription, delivery, outcome)
            elif isinstance(outcome, Dead):
                self._exchange.bury(self._subscription, outcome)

    def holds(self, delivery: Delivery) -> bool:
        """Tell that each is still to be begun: in memory none is left to wait elsewhere."""
        return True


class MemoryExchange:
    """Carries messages within the process; everything ends with the bus but its dead letters."""

    capabilities = Capabilities(
        feeds=True, delay=True, groups=True, requests=True, dead_letters=True
    )
    joiner = None
    carrier = None

    def __init__(self, clock: Clock, timers: Timers, codec: JsonCodec | None = None) -> None:
        self.clock = clock
        self.codec = codec
        self._timers = timers
        self._tree: TopicTree[Subscription] = TopicTree()
        self._subscriptions: dict[str, Subscription] = {}
        self._deadline: float | None = None
        self._dead_letters = DeadLetters(self._count_lost)

    async def __aenter__(self) -> Self:
        """Begin anew, with no deadline."""
        self._deadline = None
        return self

    async def __aexit__(self, *_: object) -> None:
        """End; nothing is open."""

    # --- publishing -------------------------------------------------------------------------

    def route(self, topic: str, contract: Schema[Any] | None) -> Route:
        """Work out where messages of a topic go; good until a subscription is opened or closed."""
        matching = self._tree.match(topic)
        if self.codec is not None:
            return CodedRoute(topic, contract, matching, self._refuse, self.codec)
        return Route(topic, contract, matching, self._refuse)

    def keep_time_by(self, clock: Clock) -> None:
        """Take the time from another clock."""
        self.clock = clock

    def check(self, topic: str, payload: object, contract: Schema[Any] | None) -> None:
        """Refuse now what is published later; from any thread.

        Raises:
            InvalidEvent: The contract refuses the payload, or it cannot be what the codec writes.
        """
        if contract is not None:
            contract.check(topic, payload)
        if self.codec is not None:
            self.codec.encode(topic, payload, contract)

    async def publish(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Put messages into the queues they match, waiting where those are full."""
        for message in messages:
            await wait_for_places(self.route(message.topic, None).feed(message))
        return messages

    def look(self) -> None:
        """Do nothing: whatever is published is known."""

    def _refuse(self, subscription: Subscription, message: Message, error: Exception) -> None:
        unbegun = LaterDelivery(message, message.payload, attempt=0)
        if (dead := refuse(subscription, unbegun, error)) is not None:
            self.bury(subscription, dead)

    # --- subscriptions ----------------------------------------------------------------------

    def open(self, subscription: Subscription) -> MemorySource:
        """Route messages to a subscription from now on, without waiting."""
        for pattern in subscription.patterns:
            self._tree.add(pattern, subscription)
        self._subscriptions[subscription.name] = subscription
        return MemorySource(self, subscription)

    def close(self, subscription: Subscription) -> None:
        """Route nothing more to a subscription; what is in its queue stays; idempotent."""
        if self._subscriptions.get(subscription.name) is subscription:
            del self._subscriptions[subscription.name]
            for pattern in subscription.patterns:
                self._tree.remove(pattern, subscription)

    # --- retries ----------------------------------------------------------------------------

    def retry_later(
        self, subscription: Subscription, delivery: Delivery, retry: RetryLater
    ) -> None:
        """Bring a delivery back when it is due; its place in the queue is kept."""
        if subscription.queue is None:  # an iterator settles after the bus has ended
            subscription.counts.abandoned += 1
            return
        again = delivery_of(delivery).next_attempt()
        subscription.queue.hold()
        if self._deadline is not None and self.clock.monotonic() + retry.delay > self._deadline:
            abandon(subscription, again)
            retry.then()
        else:
            bring_back_later(subscription, again, retry, self._timers)

    def set_deadline(self, deadline: float) -> None:
        """Abandon every retry due later than that, of now and from now on."""
        self._deadline = deadline
        self._timers.drop_after(deadline)

    # --- dead letters -----------------------------------------------------------------------

    def bury(self, subscription: Subscription, dead: Dead) -> None:
        """Keep a failure if that is wanted, and show it to who listens on `$dlq.…`."""
        if dead.keep:
            self._dead_letters.keep(dead.failure)
        bury(subscription, dead, self._tree)

    async def forget(self, name: str) -> bool:
        """Forget nothing: a name lasts as long as the bus."""
        return False

    def messages_kept(self) -> KeepsMessages:
        """Refuse: what was delivered is forgotten."""
        raise UnsupportedByTransport(
            "replay(): memory:// forgets what it has delivered; take "
            "EventBus('sqlite:///events.db'), which keeps it"
        )

    async def list_dead_letters(
        self, subscription: str | None, *, limit: int, before: str | None
    ) -> list[FailedDelivery]:
        """List what is kept, newest first."""
        return self._dead_letters.newest(subscription, limit=limit, before=before)

    async def purge_dead_letters(self, subscription: str | None, ids: Sequence[str] | None) -> int:
        """Forget dead letters; give how many."""
        return sum(map(self._dead_letters.remove, self._dead_letters.chosen(subscription, ids)))

    async def redrive(self, subscription: str | None, ids: Sequence[str] | None) -> int:
        """Send dead letters to the subscriptions that failed; give how many went."""
        chosen = self._dead_letters.chosen(subscription, ids)
        return sum([await self._redrive_one(failure) for failure in chosen])

    async def _redrive_one(self, failure: FailedDelivery) -> bool:
        subscription = self._subscriptions.get(failure.subscription)
        if subscription is None:
            return False
        delivery = letter_for(subscription, failure.message)
        if delivery is None or not self._dead_letters.claim(failure):
            return False
        waiter = subscription.ready_queue().line_up(delivery)
        try:
            await wait_for_places([waiter])
        finally:  # Race: it may be cancelled though it is in, and let go on though it is not.
            settled = self._dead_letters.remove if waiter.is_taken else self._dead_letters.release
            settled(failure)
        return waiter.is_taken

    def _count_lost(self, failure: FailedDelivery) -> None:
        if subscription := self._subscriptions.get(failure.subscription):
            subscription.counts.lost += 1
