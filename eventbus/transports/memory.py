"""Messages carried within the process.

Publishing feeds the queues of the matching subscriptions itself, along a route per topic. What else
a transport keeps is here: retries that wait, and dead letters.
"""

__all__ = ("MemorySource", "MemoryTransport", "abandon", "show")

from collections.abc import Sequence
from typing import Any, Self

from anyio import sleep_forever

from eventbus.clock import Clock
from eventbus.codec import JsonCodec
from eventbus.context import FailedDelivery
from eventbus.errors import UnsupportedByTransport
from eventbus.message import (
    Delivery,
    LaterDelivery,
    Message,
    Receipt,
    delivery_of,
)
from eventbus.queue import DROPPING, wait_for_places
from eventbus.responding import refuse_request
from eventbus.schema import Schema, flaws_to_log
from eventbus.subscription import Subscription
from eventbus.timers import Timers
from eventbus.topics import TopicTree
from eventbus.transports.base import (
    Capabilities,
    Dead,
    KeepsMessages,
    Outcome,
    RetryLater,
)
from eventbus.transports.coded import CodedRoute, as_sent
from eventbus.transports.dead_letters import DeadLetters
from eventbus.transports.route import Route


class MemorySource:
    """One subscription's place in the memory transport; its queue is fed by every publish."""

    __slots__ = ("_subscription", "_transport")

    def __init__(self, transport: "MemoryTransport", subscription: Subscription) -> None:
        self._transport = transport
        self._subscription = subscription

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._transport.close(self._subscription)

    @property
    def reached(self) -> int | None:
        """Nothing: there are no positions in memory."""
        return None

    async def fetch(self, most: int) -> Sequence[Delivery]:
        """Wait for ever: what is published is in the queue already."""
        await sleep_forever()
        raise AssertionError("unreachable")

    def wake(self) -> None:
        """Do nothing: nobody fetches."""

    async def settle(self, outcomes: Sequence[tuple[Delivery, Outcome]]) -> None:
        """Set retries on their way and keep dead letters; done before it returns."""
        for delivery, outcome in outcomes:
            if isinstance(outcome, RetryLater):
                self._transport.retry_later(self._subscription, delivery, outcome)
            elif isinstance(outcome, Dead):
                self._transport.bury(self._subscription, outcome)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Do nothing: in memory nobody else can take them over."""


class MemoryTransport:
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
        subscription.counts.invalid += 1
        is_told = refuse_request(subscription, message, error)
        keep = subscription.keeps_dead_letter_of(message)
        if subscription.options.skips_invalid:
            return
        delivery = LaterDelivery(message, message.payload, attempt=0)
        failure = FailedDelivery.of(delivery, subscription.name, error, now=self.clock.now())
        subscription.host.logger.warning(
            "%s refuses %r: %s", subscription.name, message, flaws_to_log(error)
        )
        for probe in subscription.host.probes:
            probe.on_given_up(failure, error)
        if keep or not is_told:
            self.bury(subscription, Dead(failure, keep=keep))

    # --- subscriptions ----------------------------------------------------------------------

    def open(self, spec: Subscription) -> MemorySource:
        """Route messages to a subscription from now on, without waiting."""
        for pattern in spec.patterns:
            self._tree.add(pattern, spec)
        self._subscriptions[spec.name] = spec
        return MemorySource(self, spec)

    def close(self, spec: Subscription) -> None:
        """Route nothing more to a subscription; what is in its queue stays; idempotent."""
        if self._subscriptions.get(spec.name) is spec:
            del self._subscriptions[spec.name]
            for pattern in spec.patterns:
                self._tree.remove(pattern, spec)

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

        def come_back() -> None:
            subscription.put_back(again)
            retry.then()

        def stay_away() -> None:
            abandon(subscription, again)
            retry.then()

        if self._deadline is not None and self.clock.monotonic() + retry.delay > self._deadline:
            stay_away()
        else:
            self._timers.call_later(retry.delay, come_back, drop=stay_away)

    def set_deadline(self, deadline: float) -> None:
        """Abandon every retry due later than that, of now and from now on."""
        self._deadline = deadline
        self._timers.drop_after(deadline)

    # --- dead letters -----------------------------------------------------------------------

    def bury(self, subscription: Subscription, dead: Dead) -> None:
        """Keep a failure if that is wanted, and show it to who listens on `$dlq.…`."""
        if not dead.keep:
            subscription.counts.lost += 1
            return
        subscription.counts.dead_lettered += 1
        self._dead_letters.keep(dead.failure)
        for listener in self._tree.match(f"$dlq.{subscription.name}"):
            show(listener, dead.failure)

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
        delivery = _delivery_for(subscription, failure.message)
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


def show(listener: Subscription, failure: FailedDelivery) -> None:
    """Queue a dead letter for who listens on `$dlq.…`."""
    queue = listener.ready_queue()
    delivery = _delivery_for(listener, failure.message)
    if delivery is None:
        listener.counts.invalid += 1
        return
    delivery.failure = failure
    # Nobody may wait here: a worker would stand still behind whoever looks at its failures.
    if queue.overflow in DROPPING or queue.has_room_for([delivery]):
        queue.offer(delivery)
    else:
        queue.dropped += 1


def _delivery_for(subscription: Subscription, message: Message) -> LaterDelivery | None:
    """Make a delivery of a dead letter: asked for, it goes even if its time has passed."""
    message = message.without_expiry()
    if subscription.schema is None:
        return LaterDelivery(message, message.payload)
    try:
        return LaterDelivery(message, subscription.schema.validate(as_sent(message)))
    except Exception as error:  # noqa: BLE001 - a model's own validators may raise anything
        subscription.host.logger.warning(
            "%s still refuses %r: %s", subscription.name, message, flaws_to_log(error)
        )
        return None


def abandon(subscription: Subscription, delivery: Delivery) -> None:
    """Give up a retry that will not come before the bus ends."""
    if subscription.queue is None:
        return
    subscription.queue.release()
    subscription.counts.abandoned += 1
    subscription.host.logger.warning(
        "%s abandons %r: attempt %d would come after the bus has ended",
        subscription.name,
        delivery.message,
        delivery.attempt,
    )
    if delivery.lane is not None:
        subscription.leave_lane(delivery.lane)
