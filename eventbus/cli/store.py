"""A store, for code that is not async.

The store's own event loop runs in a thread of its own. So commands can read and write files in the
plainest way, and a signal ends them wherever they wait.
"""

__all__ = ("Pages", "Purpose", "Reread", "Store", "Url", "opened")

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from anyio import sleep
from anyio.from_thread import BlockingPortal, start_blocking_portal

from eventbus.cli.waiting import Patience, impatient
from eventbus.clock import SystemClock
from eventbus.context import FailedDelivery
from eventbus.errors import InvalidOption, UnsupportedByTransport
from eventbus.message import Message, Receipt
from eventbus.plugins import transport
from eventbus.replaying import ReplayOptions
from eventbus.topics import check_pattern
from eventbus.transports.base import (
    KeepsDeadLetters,
    KeepsMessages,
    KeepsSubscriptions,
    Reading,
    Source,
    SourceSpec,
    Start,
    Transport,
)
from eventbus.transports.figures import KeepsFigures, StoreFigures
from eventbus.transports.sqlite import Settings, SqliteTransport, StoreView, may_write
from eventbus.transports.upkeep import KeepsHouse, NoticesDamage

Url: TypeAlias = Annotated[
    str, typer.Option(envvar="EVENTBUS_URL", help="The store, as sqlite:///events.db.")
]

PER_PAGE = 256
LETTERS_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class _Reading:
    """What is asked of the transport: to read along, and leave no trace."""

    patterns: Sequence[str]
    start: Start
    name: str = "eventbus-cli"
    is_durable: bool = False
    is_sequenced: bool = False
    ack_wait: float = 30.0
    max_deliveries: int = 1

    def order_of(self, message: Message) -> str | None:
        """Tell nothing: what is only read needs no order of keys."""
        return None

    def note_lost(self, messages: int) -> None:
        """Do nothing: nobody asks."""


class Pages:
    """Messages of a store, page by page."""

    def __init__(self, portal: BlockingPortal, source: Source) -> None:
        self._portal = portal
        self._source = source

    def next(self) -> Sequence[Message]:
        """Wait for messages and take a page of them; now and then there are none in it."""
        deliveries = self._portal.call(self._source.fetch, PER_PAGE)
        return [one.message for one in deliveries]

    @property
    def reached(self) -> int:
        """The position up to which everything has been read."""
        return self._source.reached or 0


class Reread:
    """Messages of a store, read again page by page."""

    def __init__(self, portal: BlockingPortal, reading: Reading) -> None:
        self._portal = portal
        self._reading = reading

    @property
    def total(self) -> int:
        """How many positions there are to be read."""
        return max(0, self._reading.end - self._reading.first + 1)

    @property
    def done(self) -> int:
        """How many of them have been read."""
        return self._reading.reached - self._reading.first + 1

    def next(self) -> Sequence[Message]:
        """Take a page of messages; now and then there are none in it."""
        return self._portal.call(self._reading.read_on)

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        self._portal.call(sleep, seconds)


class Store:
    """What a transport can do for a command."""

    def __init__(
        self, portal: BlockingPortal, carrier: Transport[SourceSpec], patience: Patience
    ) -> None:
        self._portal = portal
        self._transport = carrier
        self._patience = patience

    def publish(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Have messages accepted."""
        with self._patience.told():
            return self._portal.call(self._transport.publish, messages)

    @contextmanager
    def reading(self, patterns: Sequence[str], start: Start) -> Generator[Pages]:
        """Read what matches, from there on.

        Raises:
            InvalidPattern: One of the patterns is none.
        """
        for pattern in patterns:
            check_pattern(pattern)
        source = self._transport.open(_Reading(patterns, start))
        with self._portal.wrap_async_context_manager(source) as opened_source:
            yield Pages(self._portal, opened_source)

    def reread(self, patterns: Sequence[str], options: ReplayOptions) -> Reread:
        """Begin to read again what is stored by now.

        Raises:
            InvalidPattern: One of the patterns is none.
            UnsupportedByTransport: It does not give again what it carried.
        """
        for pattern in patterns:
            check_pattern(pattern)
        if not isinstance(self._transport, KeepsMessages):
            raise UnsupportedByTransport("the transport of this URL gives nothing again")
        read = partial(
            self._transport.read,
            patterns,
            options.get("since"),
            options.get("until"),
            last_per_key=options.get("last_per_key", False),
        )
        return Reread(self._portal, self._portal.call(read))

    def figures(self) -> StoreFigures:
        """Read what it holds; this bus, which only looks, is none of those that have it open.

        Raises:
            UnsupportedByTransport: It does not tell.
        """
        if not isinstance(self._transport, KeepsFigures):
            raise UnsupportedByTransport("the transport of this URL tells no figures of its store")
        figures = self._portal.call(self._transport.figures)
        return replace(figures, buses=figures.buses - 1)

    def read_on_behind_damage(self, tell: Callable[[str], None]) -> None:
        """Have told what is damaged from now on, and what is behind it given; where it can be."""
        if isinstance(self._transport, NoticesDamage):
            self._transport.on_damage = tell

    def remove_now(self, tell: Callable[[int], None]) -> None:
        """Remove what is beyond the limits of the URL."""
        self._portal.call(self._house().remove_now, tell)

    def shrink(self) -> int:
        """Give some room back to the disk; give how many pages there are left to give back."""
        return self._portal.call(self._house().shrink)

    def _house(self) -> KeepsHouse:
        if not isinstance(self._transport, KeepsHouse):
            raise UnsupportedByTransport("the transport of this URL has no store to make smaller")
        return self._transport

    def dead_letters(
        self, subscription: str | None, limit: int, before: str | None = None
    ) -> list[FailedDelivery]:
        """List dead letters, newest first."""
        keeper = self._keeper()
        return self._portal.call(
            lambda: keeper.dead_letters(subscription, limit=limit, before=before)
        )

    def all_dead_letters(self) -> Iterator[FailedDelivery]:
        """Read all dead letters, newest first."""
        before: str | None = None
        while True:
            letters = self.dead_letters(None, LETTERS_AT_ONCE, before)
            yield from letters
            if len(letters) < LETTERS_AT_ONCE:
                return
            before = letters[-1].id

    def redrive(self, subscription: str | None, ids: Sequence[str] | None) -> int:
        """Deliver dead letters again."""
        with self._patience.told():
            return self._portal.call(self._keeper().redrive, subscription, ids)

    def purge(self, subscription: str | None, ids: Sequence[str] | None) -> int:
        """Forget dead letters."""
        with self._patience.told():
            return self._portal.call(self._keeper().purge, subscription, ids)

    def forget(self, name: str) -> None:
        """Forget a durable subscription, unless somebody has by now."""
        if not isinstance(self._transport, KeepsSubscriptions):
            raise UnsupportedByTransport("the transport of this URL keeps no subscriptions")
        with self._patience.told():
            self._portal.call(self._transport.forget, name)

    def _keeper(self) -> KeepsDeadLetters:
        if not isinstance(self._transport, KeepsDeadLetters):
            raise UnsupportedByTransport("the transport of this URL keeps no dead letters")
        return self._transport


class Purpose(Enum):
    """What a store is opened for, from which follows what it needs, and what is removed from it."""

    LOOKING = "nothing is changed"
    MENDING = "what is beyond the limits of the URL stays"
    FEEDING = "it is made where there is none"
    KEEPING = "what is beyond the limits of the URL is removed"


@contextmanager
def opened(url: str, purpose: Purpose) -> Generator[Store]:
    """Open the store of a URL for the length of a block, which an interrupt ends at once.

    Who only looks waits for nobody who writes it, and may do so where it cannot be written.

    Raises:
        InvalidOption: The URL has no store, or none yet.
        UnknownTransport: No installed transport serves it.
        StoreError: It cannot be opened, or not trusted.
    """
    settings = _settings_of(url, purpose)
    carrier = _transport_of(url, settings, purpose)
    path = None if settings is None else settings.path
    with (
        impatient(),
        Patience(path) as patience,
        start_blocking_portal() as portal,
        ExitStack() as stack,
    ):
        with patience.told():
            stack.enter_context(portal.wrap_async_context_manager(carrier))
        stack.callback(portal.start_task_soon(carrier.serve).cancel)
        yield Store(portal, carrier, patience)


def _settings_of(url: str, purpose: Purpose) -> Settings | None:
    """Read the URL of a file, and see that it is there; None of another store."""
    scheme = url.partition(":")[0].lower()
    if scheme == "memory":
        raise InvalidOption(
            "memory:// is within one process: give the URL of a store, as sqlite:///events.db"
        )
    if scheme != "sqlite":
        return None
    settings = Settings.of_url(url)
    if purpose is not Purpose.FEEDING:
        _check_there(settings.path)
    return settings


def _check_there(store: Path) -> None:
    if not store.exists():
        raise InvalidOption(f"there is no store {store}: look at how it is spelt")
    if not store.stat().st_size:
        raise InvalidOption(f"{store} is an empty file, and no store yet: publish to it first")


def _transport_of(url: str, settings: Settings | None, purpose: Purpose) -> Transport[SourceSpec]:
    made: Callable[..., Transport[SourceSpec]] = transport
    if settings is None:
        return made(url, SystemClock())
    if purpose is Purpose.LOOKING:
        return StoreView(settings, SystemClock(), is_beside=may_write(settings.path))
    if purpose is Purpose.MENDING:
        settings = settings.without_limits()
    mending: Callable[..., Transport[SourceSpec]] = SqliteTransport
    return mending(settings, SystemClock())
