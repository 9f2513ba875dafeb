"""Where the messages of one topic go.

A route holds the subscriptions that match a topic, grouped by model, so that a payload is validated
once per model however many listen; and the contract of the topic, so that a publish finds both at
once.
"""

__all__ = ("Group", "Refuse", "Route", "require_room")

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from eventbus.errors import QueueFull
from eventbus.message import Delivery, Entry, Head, Message, converted
from eventbus.queue import DROPPING, DeliveryQueue
from eventbus.schema import Schema
from eventbus.subscription import Subscription
from eventbus.waiters import Waiter

Refuse: TypeAlias = Callable[[Subscription, Message, Exception], None]
"""Told of each subscription whose model refuses a message, and why."""

Way: TypeAlias = tuple[Callable[[object], object] | None, tuple[DeliveryQueue[Entry], ...]]
"""What makes the event of a payload, None where that is the payload itself; and where it goes."""

_NO_WAY: Way = (None, ())

KINDS_KEPT = 64  # types of payload remembered per route


class Route:
    """Feeds the queues of the subscriptions that match one topic."""

    __slots__ = (
        "_groups",
        "_kinds",
        "_subscriptions",
        "answering",
        "contract",
        "head",
        "is_expiring",
        "is_refusing",
        "matched",
        "responders",
        "topic",
        "ways",
    )

    def __init__(
        self,
        topic: str,
        contract: Schema[Any] | None,
        subscriptions: Sequence[Subscription],
        refuse: Refuse,
        *,
        group_type: "type[Group] | None" = None,
    ) -> None:
        make = group_type or Group
        self.topic = topic
        self.contract = contract
        self.matched = len(subscriptions)
        self.answering = tuple(s for s in subscriptions if s.options.answer is not None)
        self.responders = len(self.answering)
        self.is_expiring = False  # whether messages that may expire were ever on this way
        self.head: Head = (topic, self.matched, None, 1)  # of messages that say nothing more
        self._subscriptions = subscriptions
        self.is_refusing = any(s.options.overflow == "fail" for s in subscriptions)
        # By type of payload, where publishing is simply this: validate once, if that is needed at
        # all, and append to all queues. It spares a publish all that `feed` does: 0.25 F.
        self.ways: dict[type, Way] = {}
        self._kinds: set[type] = set()
        self._groups = tuple(make(one, contract, refuse) for one in _by_schema(subscriptions))

    def note_version(self, schema_version: int) -> None:
        """Note which version of its topic's model messages of this route are published by."""
        self.head = self.topic, self.matched, None, schema_version

    def check(self, payload: object) -> object:
        """Hold a payload against the topic's contract; give it as the contract's model.

        Raises:
            InvalidEvent: The contract's model refuses it.
        """
        if self.contract is None or type(payload) is self.contract.exact:
            return payload
        return self.contract.check(self.topic, payload)

    def feed_quickly(self, message: Message) -> Sequence[Waiter[Entry]]:
        """Do the same as `feed`, on the short way where there is one for the payload as it is."""
        validate, queues = self.ways.get(type(message.event)) or _NO_WAY
        if validate is not None or not queues:
            return self.feed(message)
        waiters: list[Waiter[Entry]] = []
        for queue in queues:
            if (waiter := queue.offer(message)) is not None:
                waiters.append(waiter)
        return waiters

    def feed(self, message: Message) -> list[Waiter[Entry]]:
        """Check a message and put it into every queue with room; give what else to wait for.

        Raises:
            InvalidEvent: The topic's contract refuses the payload.
            QueueFull: A full queue refuses; then no queue got it.
        """
        payload = message.event
        if type(payload) not in self._kinds:
            self._learn(type(payload))
        checked = payload if self.contract is None else self.check(payload)
        if self.is_refusing:
            return self.feed_all([message])
        waiters: list[Waiter[Entry]] = []
        for group in self._groups:
            entry = group.entry(message, checked) if group.is_checked else group.parse(message)
            if entry is None:
                continue
            for queue in group.queues:
                if len(queue.items) < queue.limit:
                    queue.items.append(entry)
                elif (waiter := queue.offer(entry)) is not None:
                    waiters.append(waiter)
        return waiters

    def feed_late(self, messages: Sequence[Message]) -> list[Waiter[Entry]]:
        """Put messages into the queues whose publisher has gone; give what has to wait.

        Nobody can be told of a refusal any more: so a full queue that would refuse is lined up for
        like one that blocks, and the contract is that of the time when they were published.
        """
        parsed = [(group.queues, group.parse_all(messages)) for group in self._groups]
        return [
            waiter
            for queues, entries in parsed
            for queue in queues
            for waiter in queue.enter_all(entries)
        ]

    @property
    def refusing(self) -> Sequence[DeliveryQueue[Entry]]:
        """The queues that refuse what they have no room for."""
        if not self.is_refusing:
            return ()
        queues = (queue for group in self._groups for queue in group.queues)
        return [queue for queue in queues if queue.overflow == "fail"]

    def expect_expiry(self) -> None:
        """Tell the subscriptions that a message comes which may expire in their queues."""
        self.is_expiring = True
        for subscription in self._subscriptions:
            subscription.expect_expiry()

    def feed_all(
        self, messages: Sequence[Message], *, may_wait: bool = True
    ) -> list[Waiter[Entry]]:
        """Put checked messages into the queues: all of them or, where one is refused, none.

        Raises:
            QueueFull: A queue refuses, or would have to be waited for when `may_wait` is False.
        """
        parsed = [(group.queues, group.parse_all(messages)) for group in self._groups]
        for queues, entries in parsed:
            for queue in queues:
                if queue.overflow == "fail" or not (may_wait or queue.overflow in DROPPING):
                    self.require_room(queue, entries)
        return [
            waiter
            for queues, entries in parsed
            for queue in queues
            for waiter in queue.offer_all(entries)
        ]

    def _learn(self, kind: type) -> None:
        """Find the short way for payloads of a type, if there is one."""
        if len(self._kinds) >= KINDS_KEPT:
            self._kinds.clear()
            self.ways.clear()
        self._kinds.add(kind)
        if self.is_refusing or not self._groups:
            return
        is_exact = self.contract is None or kind is self.contract.exact
        if is_exact and all(group.takes_as_is(kind) for group in self._groups):
            self.ways[kind] = None, tuple(queue for group in self._groups for queue in group.queues)
        elif kind is dict and len(self._groups) == 1:
            (group,) = self._groups
            if group.schema is not None and (self.contract is None or group.is_checked):
                self.ways[kind] = group.schema.validate_dict, group.queues

    def require_room(self, queue: DeliveryQueue[Entry], entries: Sequence[Entry]) -> None:
        """Raise unless a queue takes all of these without waiting, refusing or dropping.

        Raises:
            QueueFull: It does not.
        """
        if not queue.has_room_for(entries):
            raise QueueFull(
                f"no room for {len(entries)} on {self.topic!r}: {queue.depth} of {queue.size} "
                f"places are taken in a queue with overflow={queue.overflow!r}, and no queue got "
                "any; publish later, fewer at once, or give the subscription a larger queue_size"
            )


class Group:
    """The subscriptions of a route that share a model, and so one validation."""

    __slots__ = ("_refuse", "_subscriptions", "is_checked", "queues", "schema")

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        contract: Schema[Any] | None,
        refuse: Refuse,
    ) -> None:
        self.schema = subscriptions[0].schema
        self.is_checked = contract is not None and self.schema == contract
        self.queues = tuple(subscription.ready_queue() for subscription in subscriptions)
        self._subscriptions = subscriptions
        self._refuse = refuse

    def takes_as_is(self, kind: type) -> bool:
        """Tell whether payloads of a type need no validation here."""
        return self.schema is None or kind is self.schema.exact

    def entry(self, message: Message, event: object) -> Entry | None:
        """Make the entry of a message whose payload has become this event."""
        return message if event is message.event else converted(message, event)

    def parse(self, message: Message) -> Entry | None:
        """Make the entry of a message; refused, it is each subscription's dead letter."""
        schema, payload = self.schema, message.event
        if schema is None:
            return message
        try:
            # A dict goes to pydantic itself: a call between costs 0.1 of the validation.
            is_dict = isinstance(payload, dict)
            event = (schema.validate_dict if is_dict else schema.validate)(payload)
        except Exception as error:  # noqa: BLE001 - a model's own validators may raise anything
            self.refuse(message, error)
            return None
        if event is payload:
            return message
        delivery = Delivery()  # inlined `converted`, for another 0.1
        delivery.message = message
        delivery.event = event
        return delivery

    def refuse(self, message: Message, error: Exception) -> None:
        """Tell of each subscription that its model refuses a message."""
        for subscription in self._subscriptions:
            self._refuse(subscription, message, error)

    def parse_all(self, messages: Sequence[Message]) -> Sequence[Entry]:
        """Make the entries of messages, without those that are refused."""
        if self.schema is None:
            return messages
        kinds = {type(message.event) for message in messages}
        if all(map(self.takes_as_is, kinds)):
            return messages
        return [entry for entry in map(self.parse, messages) if entry is not None]


def require_room(ways: Iterable[tuple[Route, Message]]) -> None:
    """Raise unless every queue that refuses has room for all of several topics' messages.

    Raises:
        QueueFull: One has not.
    """
    wanted: dict[DeliveryQueue[Entry], list[Message]] = {}
    for route, message in ways:
        for queue in route.refusing:
            wanted.setdefault(queue, []).append(message)
            route.require_room(queue, wanted[queue])


def _by_schema(subscriptions: Iterable[Subscription]) -> Iterable[list[Subscription]]:
    groups: dict[Schema[Any] | None, list[Subscription]] = {}
    for subscription in subscriptions:
        groups.setdefault(subscription.schema, []).append(subscription)
    return groups.values()
