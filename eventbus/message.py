"""What travels: the message, its publisher's view of it, and one delivery of it."""

__all__ = (
    "BYTES",
    "JSON",
    "Delivery",
    "Entry",
    "Head",
    "LaterDelivery",
    "Message",
    "MessageChanges",
    "Receipt",
    "ReplyTo",
    "Scheduled",
    "Traits",
    "Within",
    "converted",
    "delivery_of",
    "given_ids_of",
    "join",
    "message_of",
    "note_matched",
    "note_stored",
    "reply_to_of",
    "went_out_at",
    "with_traits",
    "within_of",
    "write_message",
    "write_traits",
)

from collections.abc import Mapping, Sequence
from copy import copy
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Protocol, TypeAlias, TypedDict, runtime_checkable

from typing_extensions import Unpack

from eventbus.clock import uuid7_text

JSON = "application/json"
BYTES = "application/octet-stream"

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@runtime_checkable
class Receipt(Protocol):
    """What `publish` gives back: the publisher's view of the message, no second object."""

    @property
    def id(self) -> str:
        """The message's id: the one given, or a UUIDv7 of the publish time."""
        ...

    @property
    def topic(self) -> str:
        """The topic it was published to."""
        ...

    @property
    def matched(self) -> int | None:
        """How many subscriptions it reached; None where that is not known, as before it is due."""
        ...

    @property
    def position(self) -> int | None:
        """Where it stands in the log; None where there is none."""
        ...

    @property
    def duplicate(self) -> bool:
        """Whether its id was stored before, so that nothing was stored now."""
        ...

    def cancel(self) -> bool:
        """Keep a scheduled message from going out.

        True once; False if it has gone out, was cancelled before, or was never scheduled. In a
        store it is known by its id, so that a duplicate's receipt cancels it too; there the event
        loop stands still until that is written: as long as a commit takes, 5 seconds at most.

        Raises:
            StoreError: The store has failed, or does not answer; ask again.
            DeadlockError: This task has a transaction open, by `connection=`, that it would wait
                for.
        """
        ...


class Scheduled(Protocol):
    """A message's place among those published for later."""

    @property
    def at(self) -> float:
        """The wall time at which it is due, in seconds since the epoch, as it seemed at first."""
        ...

    def cancel(self) -> bool:
        """Keep it from going out; True once."""
        ...


class Within:
    """The transaction that a publish is to be part of, for as long as it is being published.

    It lets go of it then: a receipt that is kept must not keep a connection from being closed.
    """

    __slots__ = ("connection",)

    def __init__(self, connection: object) -> None:
        self.connection: object = connection


class Traits:
    """What only some messages have; the others share the absence of it."""

    # Defaults of the class, and no `__init__`: reading an id makes one, for 0.2 us less.
    id: str | None = None
    key: str | None = None
    headers: Mapping[str, str] = _NO_HEADERS
    correlation_id: str | None = None
    causation_id: str | None = None
    reply_to: "ReplyTo | None" = None
    is_required: bool = False  # that at least one subscription matches
    expires_at: float | None = None  # seconds since the epoch
    scheduled: Scheduled | None = None
    within: Within | None = None
    position: int | None = None  # in the log that keeps it
    is_duplicate: bool = False  # of an earlier one in that log


def write_traits(
    *,
    id: str | None = None,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    correlation_id: str | None = None,
    causation_id: str | None = None,
) -> Traits:
    """Write what is special about a message; the headers are copied."""
    traits = Traits()
    traits.id = id
    traits.key = key
    traits.headers = MappingProxyType(dict(headers)) if headers else _NO_HEADERS
    traits.correlation_id = correlation_id
    traits.causation_id = causation_id
    return traits


ReplyTo: TypeAlias = tuple[str, int]
"""The address of one request, in two parts: the bus that asks, and its number there."""


Head: TypeAlias = tuple[str, int | None, Traits | None, int]
"""What a message says beside its payload and its time: topic, matched, traits, schema version."""


def with_traits(head: Head, traits: Traits | None) -> Head:
    """Make the head of a message that says the same, but has these traits."""
    topic, matched, _, schema_version = head
    return topic, matched, traits, schema_version


class MessageChanges(TypedDict, total=False):
    """What `Message.replace` can change."""

    topic: str
    payload: object
    key: str | None
    headers: Mapping[str, str]
    id: str
    correlation_id: str | None
    causation_id: str | None
    schema_version: int


class Message:
    """The envelope of what was published; immutable.

    `payload` is what was published, before any subscription's model was applied. Change a message
    in publish middleware by passing on another: `message.replace(headers=...)`.
    """

    # Written by `write_message`, and field by field where it is hot: an `__init__` costs 50 ns, and
    # so does a guard against writing. What all plain messages of a route have in common is a tuple
    # they share: one for each was 0.03 F. What users see are properties, which cannot be set.
    __slots__ = ("event", "head", "seconds")

    head: Head
    seconds: float  # when it was published, since the epoch
    event: object

    @property
    def payload(self) -> object:
        """What was published."""
        return self.event

    def decoded(self) -> object:
        """Give the payload of a message as it comes from a transport.

        Raises:
            InvalidEvent: It cannot be read; `payload` is then what is stored, as bytes.
        """
        return self.payload

    @property
    def content_type(self) -> str:
        """What the payload is where it travels: `application/json`, or bytes as they are."""
        return BYTES if isinstance(self.payload, bytes) else JSON

    @property
    def schema_version(self) -> int:
        """The version of the `Topic` it was published by; 1 where that states none."""
        return self.head[3]

    @property
    def topic(self) -> str:
        """Where it was published."""
        return self.head[0]

    @property
    def time(self) -> datetime:
        """When it was published, in UTC."""
        return datetime.fromtimestamp(self.seconds, UTC)

    @property
    def matched(self) -> int | None:
        """How many subscriptions it reached; None before it is sent."""
        return self.head[1]

    @property
    def id(self) -> str:
        """The id given by the publisher, else a UUIDv7 of the publish time, made on first use."""
        traits = self.head[2]
        if traits is None:
            traits = Traits()
            self.head = with_traits(self.head, traits)
        if traits.id is None:
            traits.id = uuid7_text(self.seconds)
        return traits.id

    @property
    def key(self) -> str | None:
        """What orders it among others: messages of one key are handled one after the other."""
        traits = self.head[2]
        return None if traits is None else traits.key

    @property
    def headers(self) -> Mapping[str, str]:
        """Text that travels beside the payload; read-only."""
        traits = self.head[2]
        return _NO_HEADERS if traits is None else traits.headers

    @property
    def correlation_id(self) -> str | None:
        """The id of the message that began the conversation, if a handler published this one."""
        traits = self.head[2]
        return None if traits is None else traits.correlation_id

    @property
    def causation_id(self) -> str | None:
        """The id of the message whose handler published this one."""
        traits = self.head[2]
        return None if traits is None else traits.causation_id

    @property
    def reply_to(self) -> str | None:
        """Where the reply to a request goes; None where nobody asks for one."""
        traits = self.head[2]
        if traits is None or traits.reply_to is None:
            return None
        inbox, number = traits.reply_to
        return f"{inbox}.{number}"

    @property
    def expires_at(self) -> datetime | None:
        """When it is worth nothing any more, in UTC: a delivery not begun by then is left out.

        Of a request it is the deadline.
        """
        traits = self.head[2]
        if traits is None or traits.expires_at is None:
            return None
        return datetime.fromtimestamp(traits.expires_at, UTC)

    def cancel(self) -> bool:
        """Keep it from going out, if it was published for later; True once."""
        traits = self.head[2]
        return traits is not None and traits.scheduled is not None and traits.scheduled.cancel()

    @property
    def position(self) -> int | None:
        """Where it stands in the log; None where there is none, or it is not yet stored."""
        traits = self.head[2]
        return None if traits is None else traits.position

    @property
    def duplicate(self) -> bool:
        """Whether its id was stored before, so that nothing was stored now."""
        traits = self.head[2]
        return traits is not None and traits.is_duplicate

    def replace(self, **changes: Unpack[MessageChanges]) -> "Message":
        """Make a copy with some fields changed; the publish time and the id stay unless given."""
        traits = write_traits(
            id=changes.get("id", self.id),
            key=changes.get("key", self.key),
            headers=changes.get("headers", self.headers),
            correlation_id=changes.get("correlation_id", self.correlation_id),
            causation_id=changes.get("causation_id", self.causation_id),
        )
        if (own := self.head[2]) is not None:
            traits.is_required, traits.expires_at = own.is_required, own.expires_at
            traits.scheduled, traits.reply_to = own.scheduled, own.reply_to
            traits.within = own.within
        topic = changes.get("topic", self.topic)
        payload = changes.get("payload", self.payload)
        schema_version = changes.get("schema_version", self.schema_version)
        head = topic, self.head[1], traits, schema_version
        return write_message(head, self.seconds, payload)

    def without_expiry(self) -> "Message":
        """Give the same message as one that is always worth something, and answered to nobody."""
        traits = self.head[2]
        if traits is None or traits.expires_at is None:
            return self
        traits.id = self.id
        lasting = copy(traits)
        lasting.expires_at = lasting.reply_to = None
        return write_message(with_traits(self.head, lasting), self.seconds, self.payload)

    def __repr__(self) -> str:
        """Show where it went and which one it is; never the payload, which may be secret."""
        place = "" if self.position is None else f" at {self.position}"
        known = ", stored before" if self.duplicate else ""
        return f"<Message {self.id} on {self.topic!r}{place}{known}>"


def write_message(head: Head, seconds: float, payload: object) -> Message:
    """Write a message."""
    message = Message()
    message.head = head
    message.seconds = seconds
    message.event = payload
    return message


def reply_to_of(message: Message) -> ReplyTo | None:
    """Tell where the reply to a message goes; None where nobody asks for one."""
    traits = message.head[2]
    return None if traits is None else traits.reply_to


def given_ids_of(messages: Sequence[Message]) -> list[str]:
    """Give the ids of those messages that have one already: only they can have been stored."""
    return [one.id for one in messages if (traits := one.head[2]) and traits.id is not None]


def join(message: Message, within: Within) -> None:
    """Make a message that is not sent yet part of a transaction."""
    traits = message.head[2]
    if traits is None:
        traits = Traits()
        message.head = with_traits(message.head, traits)
    traits.within = within


def within_of(messages: Sequence[Message]) -> Within | None:
    """Tell the transaction that messages published together are to be part of; None if none."""
    traits = messages[0].head[2] if messages else None
    return None if traits is None else traits.within


def went_out_at(message: Message) -> float:
    """Tell the wall time at which a message went out: later than published, if it was delayed."""
    traits = message.head[2]
    scheduled = None if traits is None else traits.scheduled
    return message.seconds if scheduled is None else scheduled.at


def note_matched(message: Message, matched: int) -> None:
    """Note how many subscriptions a message reached: known only once it is routed."""
    topic, _, traits, schema_version = message.head
    message.head = topic, matched, traits, schema_version


def note_stored(message: Message, position: int | None, *, is_duplicate: bool) -> None:
    """Note where a message stands in the log that took it, or had it; None if that is to come."""
    traits = message.head[2]
    if traits is None:
        traits = Traits()
        message.head = with_traits(message.head, traits)
    traits.position = position
    traits.is_duplicate = is_duplicate


class Delivery:
    """A message on its way to one subscription, where that is more than the message itself.

    `event` is what the subscription's model made of the payload. A first attempt whose payload
    needs no model travels as the bare `Message`: no second object.
    """

    # As few fields as the hot path has to fill: the others are those of a first attempt.
    __slots__ = ("event", "message")

    event: object
    message: Message
    attempt: int = 1
    lane: str | None = None
    failure: object = None
    token: object = None


def converted(message: Message, event: object) -> Delivery:
    """Make the first delivery of a message whose payload a model has become this event."""
    delivery = Delivery()
    delivery.message = message
    delivery.event = event
    return delivery


class LaterDelivery(Delivery):
    """A delivery that is not simply the first attempt of a published message."""

    __slots__ = ("attempt", "failure", "lane", "token")

    def __init__(
        self,
        message: Message,
        event: object,
        *,
        attempt: int = 1,
        lane: str | None = None,
        failure: object = None,
        token: object = None,
    ) -> None:
        self.message = message
        self.event = event
        self.attempt = attempt
        self.lane = lane  # the key whose lane this delivery already holds
        self.failure = failure
        self.token = token  # by which a transport knows the delivery again

    def in_lane(self, lane: str | None) -> "LaterDelivery":
        """Make the same delivery, holding a lane."""
        return self._copy(self.attempt, lane)

    def next_attempt(self) -> "LaterDelivery":
        """Make the attempt after this one, holding the same lane."""
        return self._copy(self.attempt + 1, self.lane)

    def _copy(self, attempt: int, lane: str | None) -> "LaterDelivery":
        return LaterDelivery(
            self.message,
            self.event,
            attempt=attempt,
            lane=lane,
            failure=self.failure,
            token=self.token,
        )


Entry: TypeAlias = Message | Delivery


def message_of(entry: Entry) -> Message:
    """Give the message of an entry."""
    return entry.message if isinstance(entry, Delivery) else entry


def delivery_of(entry: Entry) -> LaterDelivery:
    """Give all that is known of an entry, as an object of its own."""
    if isinstance(entry, Message):
        return LaterDelivery(entry, entry.event)
    return LaterDelivery(
        entry.message,
        entry.event,
        attempt=entry.attempt,
        lane=entry.lane,
        failure=entry.failure,
        token=entry.token,
    )
