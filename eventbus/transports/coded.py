"""The route of messages whose payloads go through a codec, as they would on a durable transport.

The receipt stays the publisher's message; what is delivered is its copy, made of the JSON alone.
"""

__all__ = ("CodedRoute", "as_sent")

from collections.abc import Sequence
from typing import Any

from eventbus.codec import JsonCodec
from eventbus.message import Entry, Message, converted
from eventbus.schema import Schema
from eventbus.subscription import Subscription
from eventbus.transports.route import Group, Refuse, Route
from eventbus.waiters import Waiter


class _CodedMessage(Message):
    """A message with its JSON beside the payload that was read from it."""

    __slots__ = ("data",)

    data: bytes


def as_sent(message: Message) -> object:
    """Give what a model has to validate: the JSON of a coded message, else the payload."""
    return message.data if isinstance(message, _CodedMessage) else message.payload


class CodedRoute(Route):
    """A route that converts each message once, and feeds the queues with what came out."""

    __slots__ = ("_codec",)

    def __init__(
        self,
        topic: str,
        contract: Schema[Any] | None,
        subscriptions: Sequence[Subscription],
        refuse: Refuse,
        codec: JsonCodec,
    ) -> None:
        super().__init__(topic, contract, subscriptions, refuse, group_type=_CodedGroup)
        self._codec = codec

    def feed(self, message: Message) -> list[Waiter[Entry]]:
        """Check and convert a message, and put it into every queue.

        Raises:
            InvalidEvent: The topic's contract refuses the payload, or it cannot be JSON.
            QueueFull: A full queue refuses; then no queue got it.
        """
        self.check(message.payload)
        return self.feed_all([message])

    def feed_late(self, messages: Sequence[Message]) -> list[Waiter[Entry]]:
        """Convert messages whose publisher has gone, and put them into the queues.

        Raises:
            InvalidEvent: The topic's contract refuses the payload, or it cannot be JSON.
        """
        for message in messages:
            self.check(message.payload)
        return super().feed_late([self._coded(message) for message in messages])

    def feed_all(
        self, messages: Sequence[Message], *, may_wait: bool = True
    ) -> list[Waiter[Entry]]:
        """Convert checked messages and put them into the queues: all of them or none.

        Raises:
            InvalidEvent: A payload cannot be JSON.
            QueueFull: A queue refuses, or would have to be waited for when `may_wait` is False.
        """
        return super().feed_all([self._coded(one) for one in messages], may_wait=may_wait)

    def _coded(self, message: Message) -> _CodedMessage:
        coded = _CodedMessage()
        coded.data, coded.event = self._codec.encode(self.topic, message.payload, self.contract)
        _ = message.id  # made now, so that the receipt and what is delivered have the same
        coded.head = self.topic, self.matched, *message.head[2:]
        coded.seconds = message.seconds
        return coded


class _CodedGroup(Group):
    """Subscriptions of one model, which validates the JSON and not what was read from it."""

    __slots__ = ()

    def parse(self, message: Message) -> Entry | None:
        """Make the entry of a message; refused, it is each subscription's dead letter."""
        if self.schema is None:
            return message
        try:
            return converted(message, self.schema.validate(as_sent(message)))
        except Exception as error:  # noqa: BLE001 - a model's own validators may raise anything
            self.refuse(message, error)
            return None
