"""What a transport promises to the bus.

A transport accepts messages and hands each subscription its own, in order, through a `Source`. How
the bus uses it:

- `publish` returns when the messages are accepted: in the queues, on disk, acknowledged by a
  server.
- `open` gives one source per subscription. The bus asks it for what the subscription's queue can
  hold, and tells it how each delivery ended. A transport whose capabilities say `feeds` puts
  messages into the queues itself as they are published; its sources are never asked.
- Whatever the transport, messages go through the same queues to the same workers.
"""

__all__ = (
    "Ack",
    "Capabilities",
    "Dead",
    "Outcome",
    "Released",
    "RetryLater",
    "Source",
    "SourceSpec",
    "Transport",
)

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypeAlias, TypeVar

from eventbus.context import FailedDelivery
from eventbus.message import Delivery, Message, Receipt

Spec_contra = TypeVar("Spec_contra", bound="SourceSpec", contravariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a transport can do; the bus refuses at its start what a subscription asks beyond it."""

    feeds: bool = False
    """Puts published messages into the queues itself."""
    durable: bool = False
    """What was accepted survives the process."""
    cross_process: bool = False
    """Reaches subscriptions of other processes."""
    backends: frozenset[str] = frozenset({"asyncio", "trio"})
    """The event loops it runs on."""


@dataclass(frozen=True, slots=True)
class Ack:
    """The delivery is done."""


@dataclass(frozen=True, slots=True)
class RetryLater:
    """The delivery is to come again, `delay` seconds from now, as the attempt after its own.

    `then` is called once it has, or once it is certain that it never will.
    """

    delay: float
    then: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Dead:
    """The subscription gave up; keep the failure if it wants dead letters."""

    failure: FailedDelivery
    keep: bool


@dataclass(frozen=True, slots=True)
class Released:
    """The delivery was never begun, or was interrupted by the bus: as if it had not been taken."""


Outcome: TypeAlias = Ack | RetryLater | Dead | Released


class SourceSpec(Protocol):
    """What a subscription asks for."""

    @property
    def name(self) -> str:
        """What it is called: a durable subscription goes on under its name."""
        ...

    @property
    def patterns(self) -> Sequence[str]:
        """What it listens to."""
        ...


class Source(Protocol):
    """One subscription's view of the transport."""

    async def fetch(self, most: int) -> Sequence[Delivery]:
        """Wait for at least one delivery and take at most that many; cancelled, it takes none."""
        ...

    async def settle(self, outcomes: Sequence[tuple[Delivery, Outcome]]) -> None:
        """Note how deliveries ended; each is settled once."""
        ...

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Tell that these are still being worked on; idempotent."""
        ...


class Transport(Protocol[Spec_contra]):
    """Carries messages; an async context manager that owns its connections and files."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> bool | None: ...

    async def publish(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Accept messages, in order; returns when they are safe by the transport's own measure.

        Cancelled or failing, an unknown part of them may have been accepted.
        """
        ...

    def open(self, spec: Spec_contra) -> AbstractAsyncContextManager[Source]:
        """Give a subscription its source, for as long as the context lasts."""
        ...
