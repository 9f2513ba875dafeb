"""What a handler or middleware may know and do about one delivery."""

__all__ = ("OUTBOX_SIZE", "Context", "FailedDelivery", "Origin", "Payload", "decide", "verdict_on")

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from traceback import format_exception
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, cast, overload

from pydantic import BaseModel
from typing_extensions import Unpack

from eventbus.bus_logger import BusLogger
from eventbus.clock import Clock, seconds_of, uuid7_text
from eventbus.contracts import Topic
from eventbus.errors import AlreadySettled, InvalidOption, QueueFull, UnsupportedByTransport
from eventbus.message import Delivery, Entry, Message, Receipt
from eventbus.publishing import PublishOptions
from eventbus.schema import flaws_of
from eventbus.settling import ACKED, Asked, Rejected, RetryAsked, Verdict
from eventbus.topics import captures, is_reserved, matches
from eventbus.transaction import Transaction

M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)

Payload: TypeAlias = BaseModel | Mapping[str, Any] | bytes
"""What a string topic can carry: a model, a mapping, or the JSON of one."""

OUTBOX_SIZE = 1000
"""How many messages a handler can publish through its context before it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedDelivery:
    """A delivery that a subscription gave up on: the dead letter.

    `waiting` counts later messages of its key that wait for it, where dead letters are sequenced.
    """

    id: str
    message: Message
    subscription: str
    error_type: str
    error: str
    traceback: str = field(repr=False)
    attempts: int
    failed_at: datetime
    waiting: int = 0

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

    @property
    def replayed_up_to(self) -> int:
        """The last position of what was stored before it was created; 0 where there is none."""
        ...

    @property
    def clock(self) -> Clock:
        """Where the time comes from."""
        ...

    @property
    def logger(self) -> BusLogger:
        """Where the bus logs."""
        ...

    def require_transactions(self) -> None:
        """Raise where SQL could not be run with the acknowledgement of a delivery."""
        ...

    def tell_failures(self, listener: Callable[[Entry], None]) -> None:
        """Tell a listener of every attempt that fails from now on."""
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
    __slots__ = ("asked", "entry", "is_handled", "lagged", "origin")

    entry: Entry
    origin: Origin
    lagged: int  # messages dropped from the subscription's queue since the delivery before
    is_handled: bool
    asked: Asked | None

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
        """Which attempt this is, from 1.

        The first that ends with its process is not known to have begun: its number comes twice.
        """
        return self.entry.attempt if isinstance(self.entry, Delivery) else 1

    @property
    def last_attempt(self) -> bool:
        """Whether a failure of this attempt is final; with `ack="manual"`, a `retry` too."""
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
    def replay(self) -> bool:
        """Whether the message was stored before the subscription was created.

        So it is while a subscription with `start=` catches up, and for all that `bus.replay` gives;
        never in memory.
        """
        if self.failure is not None:
            return False
        position = self.message.position
        return position is not None and position <= self.origin.replayed_up_to

    @property
    def failure(self) -> FailedDelivery | None:
        """Why the message came here, in a handler on `$dlq.…`; None elsewhere."""
        if isinstance(self.entry, Delivery):
            return cast("FailedDelivery | None", self.entry.failure)
        return None

    @property
    def outbox(self) -> list[Message] | None:
        """What the handler has published so far, which is not sent yet; None if nothing."""
        return None if self.asked is None else self.asked.messages

    @outbox.setter
    def outbox(self, messages: list[Message]) -> None:
        _asked(self).messages = messages

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
        room as `bus.publish` does; an error there fails the attempt. Nothing of what a handler
        published goes out if it is known that one of it will be refused; a wait that ends with a
        `DeadlockError`, and publish middleware, can still refuse one when others have gone out.

        The message carries this one's id as `causation_id`, and its conversation as
        `correlation_id`. The receipt's `matched` is None.

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
        messages = _asked(self).messages
        if len(messages) >= OUTBOX_SIZE:
            raise QueueFull(
                f"subscription {self.subscription!r} published {OUTBOX_SIZE} messages in one "
                "delivery: publish the rest with bus.publish, or split the work"
            )
        message = self.origin.prepare(topic, event, options, self.message)
        messages.append(message)
        return message

    @property
    def transaction(self) -> Transaction:
        """Record SQL, to be run in one commit with the acknowledgement of this delivery.

        `context.transaction.execute(sql, parameters)` and `executemany` note what is run on the
        file of the store when the handler has succeeded, together with what it has published by
        this context: all of that is done, once, or nothing. An error of SQLite fails the attempt;
        and where another process has taken the delivery over, nothing is run and that is logged.

        Works in handlers that are not async too. With `ack="manual"` it takes `ack()`.

        Raises:
            UnsupportedByTransport: The subscription is not durable, in a file.
            AlreadySettled: `ack="first"` has settled the delivery before.
        """
        asked = _asked(self)
        if asked.transaction is None:
            if self.failure is not None:
                raise UnsupportedByTransport(
                    "context.transaction: a dead letter is shown here, and not acknowledged; use "
                    "a connection of your own"
                )
            self.origin.require_transactions()
            asked.transaction = Transaction(self.subscription)
        return asked.transaction

    async def ack(self) -> None:
        """Settle this delivery as done.

        A verdict takes effect when the handler has returned: an exception after it fails the
        attempt as if it had not been given. It wins over what `ack="auto"` would do.

        Raises:
            AlreadySettled: It has a verdict, or `ack="first"` gave it one before the handler ran.
        """
        self.ack_nowait()

    def ack_nowait(self) -> None:
        """Do the same as `ack`, for handlers that are not async."""
        decide(self, ACKED)

    async def retry(self, delay: float | timedelta = 0.0) -> None:
        """Have this delivery come again, `delay` seconds after the handler has returned.

        A failed attempt: what it published is dropped. Where the attempts that `Retry` allows, or
        `max_deliveries` without it, are used up, the delivery is given up on instead. See `ack`.

        Raises:
            AlreadySettled: As `ack`.
            InvalidOption: The delay is less than nothing.
        """
        self.retry_nowait(delay)

    def retry_nowait(self, delay: float | timedelta = 0.0) -> None:
        """Do the same as `retry`, for handlers that are not async."""
        decide(self, RetryAsked(seconds_of("delay", delay)))

    async def reject(self, reason: str) -> None:
        """Give this delivery up, whatever `Retry` says: a dead letter, where those are kept.

        A failed attempt: what it published is dropped. See `ack`.

        Raises:
            AlreadySettled: As `ack`.
            InvalidOption: The reason is no text.
        """
        self.reject_nowait(reason)

    def reject_nowait(self, reason: str) -> None:
        """Do the same as `reject`, for handlers that are not async."""
        if not isinstance(cast("object", reason), str):
            raise InvalidOption(f"reason={reason!r}: say in text why it is given up")
        decide(self, Rejected(reason))


def decide(context: Context[Any], verdict: Verdict) -> None:
    """Give the verdict on a delivery.

    Raises:
        AlreadySettled: It has one.
    """
    asked = _asked(context)
    if asked.verdict is not None:
        raise AlreadySettled(
            f"{context.subscription} says {verdict!r} to {context.message!r}, which is settled by "
            f"{asked.verdict!r}: say one thing about a delivery, and nothing with ack='first'"
        )
    asked.verdict = verdict


def verdict_on(context: Context[Any]) -> Verdict | None:
    """Tell what was said about a delivery, so far."""
    return None if context.asked is None else context.asked.verdict


def _asked(context: Context[Any]) -> Asked:
    if context.asked is None:
        context.asked = Asked()
    return context.asked
