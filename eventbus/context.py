"""What a handler or middleware may know and do about one delivery."""

__all__ = ("OUTBOX_SIZE", "Context", "FailedDelivery", "Origin", "Payload")

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from traceback import format_exception
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, cast, overload

from pydantic import BaseModel
from typing_extensions import Unpack

from eventbus.clock import uuid7_text
from eventbus.contracts import Topic
from eventbus.errors import QueueFull
from eventbus.message import Delivery, Entry, Message, Receipt
from eventbus.publishing import PublishOptions
from eventbus.schema import flaws_of
from eventbus.topics import captures, is_reserved, matches

M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)

Payload: TypeAlias = BaseModel | Mapping[str, Any] | bytes
"""What a string topic can carry: a model, a mapping, or the JSON of one."""

OUTBOX_SIZE = 1000
"""How many messages a handler can publish through its context before it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedDelivery:
    """A delivery that a subscription gave up on: the dead letter."""

    id: str
    message: Message
    subscription: str
    error_type: str
    error: str
    traceback: str = field(repr=False)
    attempts: int
    failed_at: datetime

    @classmethod
    def of(
        cls, delivery: Delivery, subscription: str, error: BaseException, *, now: float
    ) -> "FailedDelivery":
        """Note why a delivery failed, as text: the error itself would keep whole frames alive.

        A payload that was refused has 0 attempts: it came before the first.
        """
        return cls(
            id=uuid7_text(now),
            message=delivery.message,
            subscription=subscription,
            error_type=type(error).__qualname__,
            error=flaws_of(error),
            traceback="".join(format_exception(error)) if error.__traceback__ else "",
            attempts=delivery.attempt,
            failed_at=datetime.fromtimestamp(now, UTC),
        )


class Origin(Protocol):
    """What a context asks of the subscription it was delivered to."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def patterns(self) -> Sequence[str]:
        """What it listens to."""
        ...

    @property
    def max_attempts(self) -> int:
        """How often a delivery is attempted at most."""
        ...

    def prepare(
        self, topic: Topic[Any] | str, event: object, options: PublishOptions, cause: Message
    ) -> Message:
        """Check what a handler publishes, and write its message."""
        ...


class Context(Generic[M_co]):
    """One delivery of a message to one subscription.

    Built only for handlers and middleware that take one. Valid while the handler runs.
    """

    # Filled field by field in `dispatch.deliver`, and all else computed when asked for: a context
    # is made per delivery once there is middleware, and an `__init__` would cost 0.5 A more.
    __slots__ = ("entry", "is_handled", "lagged", "origin", "outbox")

    entry: Entry
    origin: Origin
    lagged: int  # messages dropped from the subscription's queue since the delivery before
    is_handled: bool
    outbox: list[Message] | None

    @property
    def event(self) -> M_co:
        """The payload as the handler gets it: the subscription's model, validated."""
        return cast(M_co, self.entry.event)

    @property
    def message(self) -> Message:
        """The envelope as it was published."""
        entry = self.entry
        return entry.message if isinstance(entry, Delivery) else entry

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self.entry.attempt if isinstance(self.entry, Delivery) else 1

    @property
    def last_attempt(self) -> bool:
        """Whether a failure of this attempt is final."""
        return self.attempt >= self.origin.max_attempts

    @property
    def subscription(self) -> str:
        """The name of the subscription."""
        return self.origin.name

    @property
    def captures(self) -> Mapping[str, str]:
        """What the `{name}` tokens of the matching pattern stand for in this topic."""
        topic = self.message.topic
        for pattern in self.origin.patterns:
            if not is_reserved(pattern) and matches(pattern, topic):
                return captures(pattern, topic)
        return {}

    @property
    def failure(self) -> FailedDelivery | None:
        """Why the message came here, in a handler on `$dlq.…`; None elsewhere."""
        if isinstance(self.entry, Delivery):
            return cast("FailedDelivery | None", self.entry.failure)
        return None

    @overload
    async def publish(
        self, topic: Topic[M], event: M, /, **options: Unpack[PublishOptions]
    ) -> Receipt: ...
    @overload
    async def publish(
        self, topic: str, event: Payload, /, **options: Unpack[PublishOptions]
    ) -> Receipt: ...
    async def publish(
        self, topic: Topic[Any] | str, event: object, /, **options: Unpack[PublishOptions]
    ) -> Receipt:
        """Publish when this handler has succeeded; dropped if it fails.

        Checked now, sent after the handler returned and before the delivery is settled, waiting for
        room as `bus.publish` does; an error there fails the attempt. The message carries this one's
        id as `causation_id`, and its conversation as `correlation_id`. The receipt's `matched` is
        None.

        Raises:
            InvalidTopic, InvalidEvent, InvalidOption, UnknownTopic: As `bus.publish`.
            QueueFull: The handler has published 1,000 messages already.
        """
        return self._buffer(topic, event, options)

    @overload
    def publish_nowait(
        self, topic: Topic[M], event: M, /, **options: Unpack[PublishOptions]
    ) -> Receipt: ...
    @overload
    def publish_nowait(
        self, topic: str, event: Payload, /, **options: Unpack[PublishOptions]
    ) -> Receipt: ...
    def publish_nowait(
        self, topic: Topic[Any] | str, event: object, /, **options: Unpack[PublishOptions]
    ) -> Receipt:
        """Do the same as `publish`, for handlers that are not async."""
        return self._buffer(topic, event, options)

    def _buffer(self, topic: Topic[Any] | str, event: object, options: PublishOptions) -> Receipt:
        if self.outbox is None:
            self.outbox = []
        if len(self.outbox) >= OUTBOX_SIZE:
            raise QueueFull(
                f"subscription {self.subscription!r} published {OUTBOX_SIZE} messages in one "
                "delivery: publish the rest with bus.publish, or split the work"
            )
        message = self.origin.prepare(topic, event, options, self.message)
        self.outbox.append(message)
        return message
