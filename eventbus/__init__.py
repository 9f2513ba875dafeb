"""A typed event bus: decorated handlers, checked contracts, back pressure, on asyncio and trio."""

__all__ = (
    "Ack",
    "AlreadySettled",
    "BusClosed",
    "BusStats",
    "Clock",
    "Context",
    "ContractError",
    "DeadlockError",
    "DuplicateSubscription",
    "EventBus",
    "EventBusError",
    "Events",
    "FailedDelivery",
    "HandlerTimeout",
    "InvalidEvent",
    "InvalidHandler",
    "InvalidOption",
    "InvalidPattern",
    "InvalidTopic",
    "Message",
    "NoResponders",
    "NoSubscribers",
    "NotStarted",
    "Overflow",
    "Payload",
    "PositionGone",
    "QueueFull",
    "Receipt",
    "RemoteError",
    "Replay",
    "ReplayProgress",
    "RequestTimeout",
    "RequestTopic",
    "Router",
    "StoreCorrupt",
    "StoreError",
    "StoreVersion",
    "SubscriptionStats",
    "SystemClock",
    "Topic",
    "UnknownTopic",
    "UnknownTransport",
    "UnsupportedByTransport",
    "handles",
)

from eventbus.bus import EventBus
from eventbus.clock import Clock, SystemClock
from eventbus.context import Context, FailedDelivery, Payload
from eventbus.contracts import RequestTopic, Topic
from eventbus.errors import (
    AlreadySettled,
    BusClosed,
    ContractError,
    DeadlockError,
    DuplicateSubscription,
    EventBusError,
    HandlerTimeout,
    InvalidEvent,
    InvalidHandler,
    InvalidOption,
    InvalidPattern,
    InvalidTopic,
    NoResponders,
    NoSubscribers,
    NotStarted,
    PositionGone,
    QueueFull,
    RemoteError,
    RequestTimeout,
    StoreCorrupt,
    StoreError,
    StoreVersion,
    UnknownTopic,
    UnknownTransport,
    UnsupportedByTransport,
)
from eventbus.events import Events
from eventbus.message import Message, Receipt
from eventbus.queue import Overflow
from eventbus.replay import Replay, ReplayProgress
from eventbus.router import Router, handles
from eventbus.settling import Ack
from eventbus.stats import BusStats, SubscriptionStats
