"""Where subscriptions and publishers of one bus meet: in memory, or around a transport."""

__all__ = ("Exchange",)

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from eventbus.clock import Clock
from eventbus.codec import JsonCodec
from eventbus.context import FailedDelivery
from eventbus.message import Message, Receipt
from eventbus.schema import Schema
from eventbus.subscription import Settles, Subscription
from eventbus.transports.base import (
    Capabilities,
    CarriesRequests,
    JoinsTransactions,
    KeepsMessages,
)
from eventbus.transports.route import Route


class Exchange(Protocol):
    """What the bus asks of `MemoryExchange`, and of `FedExchange` around any other transport."""

    @property
    def capabilities(self) -> Capabilities:
        """What the transport can do."""
        ...

    @property
    def codec(self) -> JsonCodec | None:
        """What replies are written with; None where they reach the caller as they are."""
        ...

    @property
    def joiner(self) -> JoinsTransactions | None:
        """What publishes within transactions of publishers; None if nothing here can."""
        ...

    @property
    def carrier(self) -> CarriesRequests | None:
        """What brings replies to other buses; None if there are no others, or nothing can."""
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> bool | None: ...

    def route(self, topic: str, contract: Schema[Any] | None) -> Route:
        """Work out where messages of a topic go; good until a subscription is opened or closed."""
        ...

    def keep_time_by(self, clock: Clock) -> None:
        """Take the time from another clock, before it is entered."""
        ...

    def check(self, topic: str, payload: object, contract: Schema[Any] | None) -> None:
        """Raise what publishing would, long before it is published."""
        ...

    async def publish(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Have checked messages accepted."""
        ...

    def look(self) -> None:
        """Count as work what publishers may have committed by themselves, until it is found."""
        ...

    def open(self, subscription: Subscription, /) -> Settles:
        """Let a subscription have its messages from now on, without waiting."""
        ...

    def close(self, subscription: Subscription, /) -> None:
        """Let a subscription have nothing more; what is in its queue stays; idempotent."""
        ...

    def set_deadline(self, deadline: float) -> None:
        """Begin to drain: nothing is to happen later than that, on the monotonic clock."""
        ...

    async def forget(self, name: str) -> bool:
        """Forget a durable subscription; False if there is none of that name."""
        ...

    def messages_kept(self) -> KeepsMessages:
        """Give what reads messages again.

        Raises:
            UnsupportedByTransport: They are not kept.
        """
        ...

    async def list_dead_letters(
        self, subscription: str | None, *, limit: int, before: str | None
    ) -> list[FailedDelivery]:
        """List dead letters, newest first."""
        ...

    async def redrive(self, subscription: str | None, ids: Sequence[str] | None) -> int:
        """Send dead letters to the subscriptions that failed; give how many went."""
        ...

    async def purge_dead_letters(self, subscription: str | None, ids: Sequence[str] | None) -> int:
        """Forget dead letters; give how many."""
        ...
