"""Every error this package raises, under one root.

    EventBusError
    ├── InvalidTopic, InvalidPattern (also ValueError)   text that is no topic, no pattern
    ├── InvalidOption (also ValueError)                  an option, name, key, header or id
    ├── InvalidHandler (also TypeError)                  a function that cannot be a handler
    ├── InvalidEvent                                     a payload its contract refuses
    ├── UnknownTopic                                     a topic that no contract names
    ├── ContractError                                    two statements about one topic disagree
    ├── DuplicateSubscription                            an explicit name taken twice
    ├── UnknownTransport                                 a URL scheme nobody serves
    ├── NotStarted, BusClosed                            used outside `async with bus:`
    ├── QueueFull                                        no room, and the caller must not wait
    ├── DeadlockError                                    waiting for what only the waiter can end
    ├── NoSubscribers                                    `require=True` and nobody listens
    ├── AlreadySettled                                   a second verdict on one delivery
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
    "NoSubscribers",
    "NotStarted",
    "QueueFull",
    "UnknownTopic",
    "UnknownTransport",
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
    """The payload is not what the contract of its topic says; nothing was delivered."""


class UnknownTopic(EventBusError):
    """The bus has declared contracts and none of them names this topic."""


class ContractError(EventBusError):
    """Two statements about what a topic carries contradict each other."""


class DuplicateSubscription(EventBusError):
    """Two subscriptions were given the same explicit name."""


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


class HandlerTimeout(EventBusError, TimeoutError):
    """An attempt ran longer than its `Timeout`."""
