"""What travels: the message, its publisher's view of it, and one delivery of it."""

__all__ = (
    "Delivery",
    "Draft",
    "Entry",
    "Head",
    "Message",
    "MessageChanges",
    "Receipt",
    "Traits",
    "blank",
    "delivery_of",
    "note_matched",
    "write_message",
)

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NoReturn, Protocol, TypeAlias, TypedDict, cast, runtime_checkable

from typing_extensions import Unpack

from eventbus.clock import uuid7_text

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
        """How many subscriptions it reached; None where that is not known."""
        ...


class Traits:
    """What only some messages have; the others share the absence of it."""

    __slots__ = ("causation_id", "correlation_id", "headers", "id", "key")

    def __init__(
        self,
        *,
        id: str | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
    ) -> None:
        self.id = id
        self.key = key
        self.headers = MappingProxyType(dict(headers)) if headers else _NO_HEADERS
        self.correlation_id = correlation_id
        self.causation_id = causation_id


Head: TypeAlias = tuple[str, float, int | None, Traits | None]
"""What a message says beside its payload: topic, wall time in seconds, matched, traits."""


class Draft:
    """A message still being written: fill `head` and `payload`, then set its class to `Message`.

    No `__init__`, and no guard while it is filled: writing one takes 95 ns this way, against 155 ns
    for five fields in an `__init__` that guards nothing. All but the payload is one tuple, which
    the messages of a batch share.
    """

    __slots__ = ("head", "payload")

    head: Head
    payload: object


class MessageChanges(TypedDict, total=False):
    """What `Message.replace` can change."""

    topic: str
    payload: object
    key: str | None
    headers: Mapping[str, str]
    id: str
    correlation_id: str | None
    causation_id: str | None


class Message(Draft):
    """The envelope of what was published; immutable.

    `payload` is what was published, before any subscription's model was applied; `topic` is where.
    Change a message in publish middleware by passing on another: `message.replace(headers=...)`.
    """

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"a Message is immutable: cannot set {name!r}; pass on message.replace({name}=...)"
        )

    @property
    def topic(self) -> str:
        """Where it was published."""
        return self.head[0]

    @property
    def seconds(self) -> float:
        """When it was published, in seconds since the epoch."""
        return self.head[1]

    @property
    def time(self) -> datetime:
        """When it was published, in UTC."""
        return datetime.fromtimestamp(self.head[1], UTC)

    @property
    def matched(self) -> int | None:
        """How many subscriptions it reached; None before it is sent."""
        return self.head[2]

    @property
    def id(self) -> str:
        """The id given by the publisher, else a UUIDv7 of the publish time, made on first use."""
        traits = self.head[3]
        if traits is None:
            traits = Traits()
            object.__setattr__(self, "head", (*self.head[:3], traits))
        if traits.id is None:
            traits.id = uuid7_text(self.seconds)
        return traits.id

    @property
    def key(self) -> str | None:
        """What orders it among others: messages of one key are handled one after the other."""
        traits = self.head[3]
        return None if traits is None else traits.key

    @property
    def headers(self) -> Mapping[str, str]:
        """Text that travels beside the payload; read-only."""
        traits = self.head[3]
        return _NO_HEADERS if traits is None else traits.headers

    @property
    def correlation_id(self) -> str | None:
        """The id of the message that began the conversation, if a handler published this one."""
        traits = self.head[3]
        return None if traits is None else traits.correlation_id

    @property
    def causation_id(self) -> str | None:
        """The id of the message whose handler published this one."""
        traits = self.head[3]
        return None if traits is None else traits.causation_id

    def replace(self, **changes: Unpack[MessageChanges]) -> "Message":
        """Make a copy with some fields changed; the publish time and the id stay unless given."""
        traits = Traits(
            id=changes.get("id", self.id),
            key=changes.get("key", self.key),
            headers=changes.get("headers", self.headers),
            correlation_id=changes.get("correlation_id", self.correlation_id),
            causation_id=changes.get("causation_id", self.causation_id),
        )
        topic = changes.get("topic", self.topic)
        return write_message((topic, *self.head[1:3], traits), changes.get("payload", self.payload))

    def __repr__(self) -> str:
        """Show where it went and which one it is; never the payload, which may be secret."""
        return f"<Message {self.id} on {self.topic!r}>"


blank = cast("Callable[[], Message]", Draft)
"""Begin a message; for a type checker it is one already."""


def write_message(head: Head, payload: object) -> Message:
    """Write a message."""
    message = blank()
    message.head = head
    message.payload = payload
    message.__class__ = Message
    return message


def note_matched(message: Message, matched: int) -> None:
    """Note how many subscriptions a message reached: known only once it is routed."""
    topic, seconds, _, traits = message.head
    object.__setattr__(message, "head", (topic, seconds, matched, traits))


class Delivery:
    """A message on its way to one subscription, where that is more than the message itself.

    `payload` is what the subscription's model made of the message's. A first attempt whose payload
    needs no model travels as the bare `Message`: no second object.
    """

    __slots__ = ("attempt", "failure", "lane", "message", "payload")

    def __init__(
        self,
        message: Message,
        payload: object,
        *,
        attempt: int = 1,
        lane: str | None = None,
        failure: object = None,
    ) -> None:
        self.message = message
        self.payload = payload
        self.attempt = attempt
        self.lane = lane  # the key whose lane this delivery already holds
        self.failure = failure

    def in_lane(self, lane: str | None) -> "Delivery":
        """Make the same delivery, holding a lane; this one may be shared by other subscriptions."""
        return self._copy(self.attempt, lane)

    def next_attempt(self) -> "Delivery":
        """Make the attempt after this one, holding the same lane."""
        return self._copy(self.attempt + 1, self.lane)

    def _copy(self, attempt: int, lane: str | None) -> "Delivery":
        return Delivery(
            self.message, self.payload, attempt=attempt, lane=lane, failure=self.failure
        )


Entry: TypeAlias = Message | Delivery


def delivery_of(entry: Entry) -> Delivery:
    """Give the full view of an entry: a bare message is its own first attempt."""
    return entry if isinstance(entry, Delivery) else Delivery(entry, entry.payload)
