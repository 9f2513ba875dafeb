"""Messages carried within the process.

`publish` feeds the queues of the matching subscriptions itself. For each topic there is a route:
the subscriptions that match, grouped by model, so that a payload is validated once per model
however many listen. The bus keeps routes for the topics in use.
"""

__all__ = ("Group", "MemorySource", "MemoryTransport", "Route")

import logging
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeAlias

from anyio import sleep_forever
from typing_extensions import Self

from eventbus.clock import Clock
from eventbus.context import FailedDelivery
from eventbus.contracts import Schema
from eventbus.errors import QueueFull
from eventbus.message import Delivery, Entry, Message, Receipt
from eventbus.queue import DeliveryQueue, Waiter, wait_for_places
from eventbus.subscription import Subscription
from eventbus.timers import Timers
from eventbus.topics import TopicTree
from eventbus.transports.base import Capabilities, Dead, Outcome, RetryLater
from eventbus.transports.dead_letters import DeadLetters

logger = logging.getLogger("eventbus")

Refuse: TypeAlias = Callable[[Subscription, Message, Exception], None]


class MemorySource:
    """One subscription's place in the memory transport; its queue is fed by every publish."""

    __slots__ = ("_subscription", "_transport")

    def __init__(self, transport: "MemoryTransport", subscription: Subscription) -> None:
        self._transport = transport
        self._subscription = subscription

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self._transport.close(self._subscription)

    async def fetch(self, most: int) -> Sequence[Delivery]:  # noqa: ARG002 - there is never one
        """Wait for ever: what is published is in the queue already."""
        await sleep_forever()
        raise AssertionError("unreachable")

    async def settle(self, outcomes: Sequence[tuple[Delivery, Outcome]]) -> None:
        """Set retries on their way and keep dead letters; done before it returns."""
        for delivery, outcome in outcomes:
            if isinstance(outcome, RetryLater):
                self._transport.retry_later(self._subscription, delivery, outcome.delay)
            elif isinstance(outcome, Dead):
                self._transport.bury(self._subscription, outcome)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Do nothing: in memory nobody else can take them over."""


class Group:
    """The subscriptions of a route that share a model, and so one validation."""

    __slots__ = ("_refuse", "_subscriptions", "exact", "is_raw", "queues", "schema")

    def __init__(self, subscriptions: Sequence[Subscription], refuse: Refuse) -> None:
        self.schema = subscriptions[0].schema
        self.is_raw = self.schema is None
        self.exact = None if self.schema is None else self.schema.exact
        self.queues = tuple(subscription.ready_queue() for subscription in subscriptions)
        self._subscriptions = subscriptions
        self._refuse = refuse

    def parse(self, message: Message) -> Entry | None:
        """Make this group's entry of a message; refused, it is each subscription's dead letter."""
        if self.schema is None:
            return message
        payload = message.payload
        try:
            event = self.schema.validate(payload)
        except Exception as error:  # noqa: BLE001 - a model's own validators may raise anything
            for subscription in self._subscriptions:
                self._refuse(subscription, message, error)
            return None
        return message if event is payload else Delivery(message, event)


class Route:
    """Where the messages of one topic go, and what its contract asks of them."""

    __slots__ = ("contract", "groups", "is_refusing", "matched", "topic")

    def __init__(
        self,
        topic: str,
        contract: Schema[Any] | None,
        subscriptions: Sequence[Subscription],
        refuse: Refuse,
    ) -> None:
        self.topic = topic
        self.contract = contract
        self.matched = len(subscriptions)
        self.groups = tuple(Group(group, refuse) for group in _by_schema(subscriptions))
        self.is_refusing = any(s.options.overflow == "fail" for s in subscriptions)

    def check(self, message: Message) -> None:
        """Hold a message against the topic's contract.

        Raises:
            InvalidEvent: The contract's model refuses the payload.
        """
        if self.contract is not None and type(message.payload) is not self.contract.exact:
            self.contract.check(self.topic, message.payload)

    def feed(self, message: Message) -> Sequence[Waiter[Entry]]:
        """Check a message and put it into every queue with room; give what else to wait for.

        Raises:
            InvalidEvent: The topic's contract refuses the payload.
            QueueFull: A full queue refuses; then no queue got it.
        """
        kind = type(message.payload)
        if self.contract is not None and kind is not self.contract.exact:
            self.contract.check(self.topic, message.payload)
        if self.is_refusing:
            return self.feed_all([message])
        waiters: Sequence[Waiter[Entry]] = ()
        for group in self.groups:
            entry = message if kind is group.exact or group.is_raw else group.parse(message)
            if entry is None:
                continue
            for queue in group.queues:
                if len(queue.items) < queue.limit:
                    queue.items.append(entry)
                elif (waiter := queue.offer(entry)) is not None:
                    waiters = (*waiters, waiter)
        return waiters

    def feed_all(
        self, messages: Sequence[Message], *, may_wait: bool = True
    ) -> Sequence[Waiter[Entry]]:
        """Put messages into the queues: all of them or, where one is refused, none.

        Raises:
            QueueFull: A queue refuses, or would have to be waited for when `may_wait` is False.
        """
        parsed = [(group.queues, _entries(group, messages)) for group in self.groups]
        for queues, entries in parsed:
            for queue in queues:
                if queue.overflow == "fail" or not (may_wait or queue.overflow in _DROPPING):
                    self._require_room(queue, entries)
        return [
            waiter
            for queues, entries in parsed
            for queue in queues
            for waiter in queue.offer_all(entries)
        ]

    def _require_room(self, queue: DeliveryQueue[Entry], entries: Sequence[Entry]) -> None:
        if not queue.has_room_for(entries):
            raise QueueFull(
                f"no room for {len(entries)} more on {self.topic!r}: {queue.depth} of {queue.size} "
                f"places are taken in a queue with overflow={queue.overflow!r}, so no queue got "
                "any; publish slower, or give that subscription a larger queue_size"
            )


_DROPPING = frozenset({"drop_newest", "drop_oldest"})


def _by_schema(subscriptions: Iterable[Subscription]) -> Iterable[list[Subscription]]:
    groups: dict[Schema[Any] | None, list[Subscription]] = {}
    for subscription in subscriptions:
        groups.setdefault(subscription.schema, []).append(subscription)
    return groups.values()


def _entries(group: Group, messages: Sequence[Message]) -> Sequence[Entry]:
    exact = group.exact
    if group.is_raw or all(type(message.payload) is exact for message in messages):
        return messages
    return [entry for entry in map(group.parse, messages) if entry is not None]


class MemoryTransport:
    """Carries messages within the process; everything ends with the bus but its dead letters."""

    capabilities = Capabilities(feeds=True)

    def __init__(self, clock: Clock, timers: Timers) -> None:
        self._clock = clock
        self._timers = timers
        self._tree: TopicTree[Subscription] = TopicTree()
        self._subscriptions: dict[str, Subscription] = {}
        self._deadline: float | None = None
        self._dead_letters = DeadLetters(self._count_lost)

    async def __aenter__(self) -> Self:
        """Begin anew, with no deadline."""
        self._deadline = None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        """End; nothing is open."""

    # --- publishing -------------------------------------------------------------------------

    def route(self, topic: str, contract: Schema[Any] | None) -> Route:
        """Work out where messages of a topic go; good until a subscription is opened or closed."""
        return Route(topic, contract, self._tree.match(topic), self._refuse)

    async def publish(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Put messages into the queues they match, waiting where those are full."""
        for message in messages:
            await wait_for_places(self.route(message.topic, None).feed(message))
        return messages

    def _refuse(self, subscription: Subscription, message: Message, error: Exception) -> None:
        subscription.counts.invalid += 1
        if subscription.options.skips_invalid:
            return
        delivery = Delivery(message, message.payload, attempt=0)
        failure = FailedDelivery.of(delivery, subscription.name, error, now=self._clock.now())
        logger.warning("%s refuses the payload of %r: %s", subscription.name, message, error)
        self.bury(subscription, Dead(failure, keep=subscription.keeps_dead_letters))

    # --- subscriptions ----------------------------------------------------------------------

    def open(self, spec: Subscription) -> MemorySource:
        """Route messages to a subscription from now on, without waiting."""
        for pattern in spec.patterns:
            self._tree.add(pattern, spec)
        self._subscriptions[spec.name] = spec
        return MemorySource(self, spec)

    def close(self, spec: Subscription) -> None:
        """Route nothing more to a subscription; what is in its queue stays; idempotent."""
        if self._subscriptions.pop(spec.name, None) is not None:
            for pattern in spec.patterns:
                self._tree.remove(pattern, spec)

    # --- retries ----------------------------------------------------------------------------

    def retry_later(self, subscription: Subscription, delivery: Delivery, delay: float) -> None:
        """Bring a delivery back after that many seconds; its place in the queue is kept."""
        if subscription.queue is None:
            return
        again = delivery.next_attempt()
        subscription.queue.hold()
        timer = self._timers.call_later(
            delay,
            lambda: _restore(subscription, again),
            drop=lambda: _abandon(subscription, again),
        )
        if self._deadline is not None and timer.due > self._deadline:
            self._timers.drop(timer)

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
            self._show(listener, dead.failure)

    def list_dead_letters(
        self, subscription: str | None, *, limit: int, before: str | None
    ) -> list[FailedDelivery]:
        """List what is kept, newest first."""
        return self._dead_letters.newest(subscription, limit=limit, before=before)

    def purge_dead_letters(self, subscription: str | None, ids: Sequence[str] | None) -> int:
        """Forget dead letters; give how many."""
        return sum(map(self._dead_letters.remove, self._dead_letters.chosen(subscription, ids)))

    async def redrive(self, subscription: str | None, ids: Sequence[str] | None) -> int:
        """Send dead letters to the subscriptions that failed; give how many went."""
        chosen = self._dead_letters.chosen(subscription, ids)
        return sum([await self._redrive_one(failure) for failure in chosen])

    async def _redrive_one(self, failure: FailedDelivery) -> bool:
        subscription = self._subscriptions.get(failure.subscription)
        delivery = subscription and _delivery_for(subscription, failure.message)
        if subscription is None or delivery is None or not self._dead_letters.remove(failure):
            return False
        try:
            await subscription.ready_queue().put(delivery)
        except BaseException:
            self._dead_letters.keep(failure)
            raise
        return True

    def _show(self, listener: Subscription, failure: FailedDelivery) -> None:
        queue = listener.ready_queue()
        delivery = _delivery_for(listener, failure.message)
        if delivery is None:
            listener.counts.invalid += 1
            return
        delivery.failure = failure
        # Nobody may wait here: a worker would stand still behind whoever looks at its failures.
        if queue.overflow in _DROPPING or queue.has_room_for([delivery]):
            queue.offer(delivery)
        else:
            queue.dropped += 1

    def _count_lost(self, failure: FailedDelivery) -> None:
        if subscription := self._subscriptions.get(failure.subscription):
            subscription.counts.lost += 1


def _delivery_for(subscription: Subscription, message: Message) -> Delivery | None:
    if subscription.schema is None:
        return Delivery(message, message.payload)
    try:
        return Delivery(message, subscription.schema.validate(message.payload))
    except Exception as error:  # noqa: BLE001 - a model's own validators may raise anything
        logger.warning("%s still refuses the payload of %r: %s", subscription.name, message, error)
        return None


def _restore(subscription: Subscription, delivery: Delivery) -> None:
    if subscription.queue is not None:
        subscription.queue.restore(delivery)


def _abandon(subscription: Subscription, delivery: Delivery) -> None:
    """Give up a retry that will not come before the bus ends."""
    if subscription.queue is None:
        return
    subscription.queue.release()
    subscription.counts.abandoned += 1
    logger.warning(
        "%s abandons %r: attempt %d would come after the bus has ended",
        subscription.name,
        delivery.message,
        delivery.attempt,
    )
    if delivery.lane is not None:
        subscription.leave_lane(delivery.lane)
