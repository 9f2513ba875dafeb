"""The smallest transport there is: a list, that every subscription reads at its own pace.

A plugin would name `Toy` as its entry point in the group `eventbus.transports`; `toy://` finds it
then. It shows what the bus asks of a transport, and keeps nothing but the messages.
"""

__all__ = ("Toy",)

from collections.abc import Sequence
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl

from anyio import Event, sleep_forever

from eventbus import Clock, InvalidOption, Message, Receipt
from eventbus.message import Delivery, LaterDelivery, note_stored
from eventbus.topics import matches
from eventbus.transports.base import Capabilities, Outcome, SourceSpec


class ToySource:
    """One subscription's place in the list: it begins at the end, and hears what comes."""

    def __init__(self, transport: "Toy", spec: SourceSpec) -> None:
        self._transport = transport
        self._patterns = spec.patterns
        self._is_stale = Event()
        self.reached = len(transport.messages)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self._transport.sources.discard(self)

    async def fetch(self, most: int) -> Sequence[Delivery]:
        """Wait for what is new; come back with nothing once all of it was fetched."""
        await self._is_stale.wait()
        fresh = self._transport.messages[self.reached : self.reached + most]
        self.reached += len(fresh)
        if not fresh:
            self._is_stale = Event()
        return [LaterDelivery(one, one.payload) for one in fresh if self._wants(one)]

    def wake(self) -> None:
        """Look again."""
        self._is_stale.set()

    async def settle(self, outcomes: Sequence[tuple[Delivery, Outcome]]) -> None:
        """Do nothing: retries are the bus's, and dead letters are not kept here."""

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Do nothing: nobody else takes them over."""

    def _wants(self, message: Message) -> bool:
        return any(matches(pattern, message.topic) for pattern in self._patterns)


class Toy:
    """Carries messages in a list."""

    capabilities = Capabilities(groups=True)

    def __init__(self, url: str, clock: Clock) -> None:
        place, _, query = url.removeprefix("toy://").partition("?")
        if place:
            raise InvalidOption("toy:// takes neither host nor path: it is a list")
        for name in dict(parse_qsl(query, keep_blank_values=True)):
            raise InvalidOption(f"toy:// has no option {name!r}: leave it out")
        self.messages: list[Message] = []
        self.sources: set[ToySource] = set()

    async def __aenter__(self) -> Self:
        """Connect; there is nothing to connect to."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        """Disconnect."""

    async def publish(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Accept messages: in the list they are safe, by the measure of this transport."""
        for message in messages:
            self.messages.append(message)
            note_stored(message, len(self.messages), is_duplicate=False)
        for source in self.sources:
            source.wake()
        return messages

    async def serve(self) -> None:
        """Do nothing meanwhile."""
        await sleep_forever()

    def open(self, spec: SourceSpec) -> ToySource:
        """Give a subscription its place in the list, from this call on."""
        source = ToySource(self, spec)
        self.sources.add(source)
        return source
