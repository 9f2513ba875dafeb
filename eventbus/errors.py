"""Every error this package raises, under one root.

    EventBusError
    ├── InvalidTopic, InvalidPattern (also ValueError)   text that is no topic, no pattern
    ├── InvalidOption (also ValueError)                  an option, name, key, header or id
    ├── InvalidHandler (also TypeError)                  a function that cannot be a handler
    ├── InvalidEvent                                     a payload its contract refuses
    ├── UnknownTopic                                     a topic that no contract names
    ├── ContractError                                    two statements about one topic disagree
    ├── DuplicateSubscription                            a name, or a topic to answer, taken twice
    ├── UnknownTransport                                 a URL scheme nobody serves
    ├── NotStarted, BusClosed                            used outside `async with bus:`
    ├── QueueFull                                        no room, and the caller must not wait
    ├── DeadlockError                                    waiting for what only the waiter can end
    ├── NoSubscribers                                    `require=True` and nobody listens
    ├── AlreadySettled                                   a second verdict on one delivery
    ├── NoResponders                                     nobody answers this request
    ├── RemoteError                                      the responder of a request failed
    ├── RequestTimeout (also TimeoutError)               no reply, or no event, in time
    ├── UnsupportedByTransport                           the transport cannot do what was asked
    ├── StoreError                                       the store could not do it, or may have
    │   ├── StoreCorrupt                                 what was stored is damaged or missing
    │   ├── StoreVersion                                 the store is no store of this version
    │   └── PositionGone                                 retention has removed that position
    └── HandlerTimeout (also TimeoutError)               an attempt took longer than `Timeout`

Each message holds the offending value and the next step.
"""

__all__ = (
    "AlreadySettled",
    "BusClosed",
    "ContractError",
    "DeadlockError",
    "DuplicateSubscription",
    "EventBusError",
    "HandlerTimeout",
    "InvalidEvent",
    "InvalidHandler",
    "InvalidOption",
    "InvalidPattern",
    "InvalidTopic",
    "NoResponders",
    "NoSubscribers",
    "NotStarted",
    "PositionGone",
    "QueueFull",
    "RemoteError",
    "RequestTimeout",
    "StoreCorrupt",
    "StoreError",
    "StoreVersion",
    "UnknownTopic",
    "UnknownTransport",
    "UnsupportedByTransport",
)

from collections.abc import Sequence


class EventBusError(Exception):
    """Root of every error that `eventbus` raises."""


class InvalidTopic(EventBusError, ValueError):
    """The text is not a topic, or names a topic that belongs to the bus."""


class InvalidPattern(EventBusError, ValueError):
    """The text is not a pattern."""


class InvalidOption(EventBusError, ValueError):
    """An option, name, key, header or id has a value that cannot be used."""


class InvalidHandler(EventBusError, TypeError):
    """The function cannot be a handler as it stands."""


class InvalidEvent(EventBusError):
    """The payload is not what the contract of its topic says, or cannot be written, or read."""


class UnknownTopic(EventBusError):
    """The bus has declared contracts and none of them names this topic."""


class ContractError(EventBusError):
    """Two statements about what a topic carries contradict each other."""


class DuplicateSubscription(EventBusError):
    """Two subscriptions were given the same explicit name, or two responders the same topic."""


class UnknownTransport(EventBusError):
    """No installed transport serves the URL's scheme."""


class NotStarted(EventBusError):
    """The bus is not running yet."""


class BusClosed(EventBusError):
    """The bus has been closed, or is draining and takes nothing new."""


class QueueFull(EventBusError):
    """A queue has no room, and this publish may not wait for it."""


class DeadlockError(EventBusError):
    """The call would wait for something that only its own handler could bring about.

    `cycle` names the subscriptions whose handlers wait for each other, each for the one after it
    and the last for the first; empty for `join` and `drain`.
    """

    def __init__(self, message: str, *, cycle: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.cycle = tuple(cycle)


class NoSubscribers(EventBusError):
    """The publish asked for at least one subscription, and none matches."""


class AlreadySettled(EventBusError):
    """The delivery has its verdict: another one came too late."""


class NoResponders(EventBusError):
    """Nobody answers requests on this topic, or who does holds this one back."""


class RemoteError(EventBusError):
    """The responder of a request failed.

    `type` and `text` are those of its exception. `retryable` says that the responder's `Retry`
    takes such failures for temporary ones, so that asking again later may help.
    """

    def __init__(self, topic: str, type: str, text: str, retryable: bool) -> None:
        super().__init__(topic, type, text, retryable)
        self.topic = topic
        self.type = type
        self.text = text
        self.retryable = retryable

    def __str__(self) -> str:
        advice = "ask again later" if self.retryable else "see the log of the responder"
        return f"the responder of {self.topic!r} failed with {self.type}: {self.text}; {advice}"


class RequestTimeout(EventBusError, TimeoutError):
    """There was no reply to a request, or no event that was waited for, in time."""


class HandlerTimeout(EventBusError, TimeoutError):
    """An attempt ran longer than its `Timeout`."""


class UnsupportedByTransport(EventBusError):
    """The transport of this bus cannot do what was asked of it."""


class StoreError(EventBusError):
    """The store failed; a publish that raises this may have been stored all the same."""


class StoreCorrupt(StoreError):
    """What was stored is damaged, or acknowledged records are missing."""


class StoreVersion(StoreError):
    """The file is not a store, or one of another version of this package."""


class PositionGone(StoreError):
    """Retention has removed the record at this position."""
