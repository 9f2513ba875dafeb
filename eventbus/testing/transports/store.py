"""What a transport is tried with: a fresh store, buses on it, and who listens."""

__all__ = (
    "EMPTY",
    "JOBS",
    "Heard",
    "Listener",
    "News",
    "Sizes",
    "Store",
    "Work",
    "all_have",
    "fails",
    "needs",
)

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias, cast

import anyio
import pytest
from anyio.lowlevel import checkpoint
from typing_extensions import Unpack

from eventbus.activity import Activity
from eventbus.bus import EventBus
from eventbus.bus_logger import BusLogger
from eventbus.clock import SystemClock
from eventbus.context import Context
from eventbus.contracts import Topic
from eventbus.message import Message
from eventbus.middleware import Middleware, Policy
from eventbus.plugins import exchange_for
from eventbus.registration import HandlerOptions
from eventbus.timers import Timers
from eventbus.transports.base import Capabilities, Transport
from eventbus.transports.exchange import Exchange
from eventbus.transports.fed_exchange import FedExchange

Work: TypeAlias = Callable[[Context[object]], Awaitable[object]]
"""What a listener does with a delivery, before it counts as heard."""


class Sizes:
    """How large the behaviours are; a subclass may say otherwise."""

    messages: int = 100
    """Of a behaviour that says nothing else."""
    many: int = 1000
    """Messages of one that is about their number."""
    subscribers: int = 10
    """Who listen to the same."""
    topics: int = 20
    """At once."""
    keys: int = 16
    """That order messages."""
    cycles: int = 5
    """Rounds of one in which something ends again and again."""
    deaths: int = 1
    """Processes that die at work."""
    copies: int = 10
    """Of everything, at once, in the last test."""
    patience: float = 20.0
    """Seconds to wait for what has to come."""


def needs(*abilities: str) -> pytest.MarkDecorator:
    """Try this only with transports that can: fields of `Capabilities`, or `sources`."""
    return pytest.mark.transport_needs(*abilities)


# --- who listens ----------------------------------------------------------------------------------


class Heard(NamedTuple):
    """What a listener was given."""

    message: Message
    event: object
    attempt: int
    captures: Mapping[str, str]


class News:
    """Tells who waits that somebody was given something."""

    def __init__(self) -> None:
        self._next: anyio.Event | None = None

    def tell(self) -> None:
        """Let who waits look."""
        if self._next is not None:
            self._next.set()
            self._next = None

    async def wait(self) -> None:
        """Wait for the next news."""
        self._next = self._next or anyio.Event()
        await self._next.wait()


class Listener:
    """A handler that remembers what it was given, and what of that it has done."""

    def __init__(self, news: News, patience: float, work: Work | None = None) -> None:
        self.begun: list[Heard] = []
        self.heard: list[Heard] = []
        self._news = news
        self._patience = patience
        self._work = work or _nothing

    async def __call__(self, event: object, context: Context[object]) -> None:
        """Handle an event."""
        one = Heard(context.message, event, context.attempt, context.captures)
        self.begun.append(one)
        self._news.tell()
        await self._work(context)
        self.heard.append(one)
        self._news.tell()

    @property
    def ids(self) -> list[str]:
        """The ids of what was heard, in that order."""
        return [one.message.id for one in self.heard]

    @property
    def events(self) -> list[object]:
        """The events that were heard, in that order."""
        return [one.event for one in self.heard]

    async def have(self, count: int) -> None:
        """Wait until that many were heard."""
        await self.until(lambda: len(self.heard) >= count, f"{count} messages")

    async def begin(self, count: int) -> None:
        """Wait until that many deliveries were begun."""
        await self.until(lambda: len(self.begun) >= count, f"{count} deliveries")

    async def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait for a state that deliveries, to it or to others, bring about.

        Raises:
            AssertionError: It did not come about in time.
        """
        with anyio.move_on_after(self._patience):
            while not is_so():
                await self._news.wait()
        assert is_so(), (
            f"no {what} within {self._patience} s, but {len(self.begun)} deliveries begun and "
            f"{len(self.heard)} done"
        )


async def all_have(listeners: Sequence[Listener], count: int) -> None:
    """Wait until listeners that share messages have heard so many together."""
    await listeners[0].until(
        lambda: sum(len(one.heard) for one in listeners) >= count, f"{count} messages in all"
    )


async def _nothing(context: Context[object]) -> None:
    """Be done at once."""


def fails(attempts: int) -> Work:
    """Fail the first attempts at each delivery."""

    async def work(context: Context[object]) -> None:
        await checkpoint()
        if context.attempt <= attempts:
            raise ConnectionError(f"attempt {context.attempt}")

    return work


# --- where messages are ---------------------------------------------------------------------------


JOBS: Topic[object] = Topic("jobs.new", object)
"""Where most behaviours publish."""

EMPTY: list[dict[str, int]] = [{}]
"""A batch of one payload that says nothing."""


@dataclass(frozen=True)
class Store:
    """A place for messages that is fresh, and is found again under its URL."""

    url: str
    patience: float = Sizes.patience
    news: News = field(default_factory=News)

    @cached_property
    def capabilities(self) -> Capabilities:
        """What its transport can do."""
        return self._exchange().capabilities

    def lacks(self, abilities: Sequence[str]) -> list[str]:
        """Name what of this its transport cannot do."""
        return [one for one in abilities if not self._has(one)]

    def bus(self, *middleware: Middleware | Policy) -> EventBus[Any]:
        """Make a bus on it; the second one finds what the first has left."""
        return EventBus(self.url, middleware=middleware, drain_timeout=self.patience)

    def listen(
        self,
        bus: EventBus[Any],
        *patterns: str,
        work: Work | None = None,
        model: Any = object,
        **options: Unpack[HandlerOptions[Any]],
    ) -> Listener:
        """Let a listener subscribe."""
        listener = Listener(self.news, self.patience, work)
        bus.on(*patterns, model=model, **options)(listener)
        return listener

    async def join(self, bus: EventBus[Any]) -> None:
        """Wait until a bus has nothing to do.

        Raises:
            TimeoutError: It does not come to an end.
        """
        with anyio.fail_after(self.patience):
            await bus.join()

    @asynccontextmanager
    async def transport(self) -> AsyncGenerator[Transport[Any]]:
        """Open the transport itself, with no bus around it."""
        exchange = self._exchange()
        assert isinstance(exchange, FedExchange), "a transport that feeds has no sources"
        transport = cast("Transport[Any]", exchange.transport)
        async with transport, anyio.create_task_group() as group:
            group.start_soon(transport.serve)
            with anyio.fail_after(self.patience):
                yield transport
            group.cancel_scope.cancel()

    def _has(self, ability: str) -> bool:
        if ability == "sources":
            return not self.capabilities.feeds
        has: bool = getattr(self.capabilities, ability)
        return has

    def _exchange(self) -> Exchange:
        clock = SystemClock()
        return exchange_for(self.url, clock, Timers(clock), Activity(), BusLogger())
