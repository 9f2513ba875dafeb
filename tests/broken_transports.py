"""Transports that do not do what they claim, each in one way: `sqlite://` with a fault.

Installed as a plugin by `tests/test_transport_contract.py`, which holds that the contract sees it.
"""

__all__ = ("Forgetting", "Losing", "Mixing", "Straying")

from collections.abc import Sequence
from itertools import count
from types import TracebackType
from typing import Any, Self

from eventbus import Clock
from eventbus.message import Delivery
from eventbus.testing.transports.protocol import Spec
from eventbus.transports.base import Ack, Outcome, Place, Source, SourceSpec
from eventbus.transports.sqlite import Settings, SqliteTransport
from eventbus.transports.sqlite.reading import LogReading


class Faulty:
    """A source that hands on all that is asked of it."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.real: Source = source

    async def __aenter__(self) -> Self:
        await self._source.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        await self._source.__aexit__(kind, error, trace)

    @property
    def reached(self) -> int | None:
        return self.real.reached

    async def fetch(self, most: int) -> Sequence[Delivery]:
        return await self.real.fetch(most)

    def wake(self) -> None:
        self.real.wake()

    async def settle(self, outcomes: Sequence[tuple[Delivery, Outcome]]) -> None:
        await self.real.settle(outcomes)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        await self.real.extend(deliveries)


class Sieve(Faulty):
    """Hands on nine deliveries of ten, and says nothing of the tenth."""

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self._numbers = count(1)

    async def fetch(self, most: int) -> Sequence[Delivery]:
        fetched = await self.real.fetch(most)
        lost = [one for one in fetched if next(self._numbers) % 10 == 0]
        await self.real.settle([(one, Ack()) for one in lost])
        return [one for one in fetched if one not in lost]


class Optimist(Faulty):
    """Notes each delivery as done when it is fetched, so that none comes again."""

    async def fetch(self, most: int) -> Sequence[Delivery]:
        fetched = await self.real.fetch(most)
        await self.real.settle([(one, Ack(is_urgent=True)) for one in fetched])
        return fetched


class Losing(SqliteTransport):
    """Loses one message in ten."""

    def __init__(self, url: str, clock: Clock) -> None:
        super().__init__(Settings.of_url(url), clock)

    def open(self, spec: SourceSpec) -> Any:
        return Sieve(super().open(spec))


class Mixing(SqliteTransport):
    """Gives each subscription what is on any topic."""

    def __init__(self, url: str, clock: Clock) -> None:
        super().__init__(Settings.of_url(url), clock)

    def open(self, spec: SourceSpec) -> Any:
        return super().open(
            Spec(name=spec.name, patterns=[">"], is_durable=spec.is_durable, start=spec.start)
        )


class Forgetting(SqliteTransport):
    """Sends nothing again that was interrupted."""

    def __init__(self, url: str, clock: Clock) -> None:
        super().__init__(Settings.of_url(url), clock)

    def open(self, spec: SourceSpec) -> Any:
        return Optimist(super().open(spec))


class Straying(SqliteTransport):
    """Reads again whatever there is, and does not say where catching up ends."""

    def __init__(self, url: str, clock: Clock) -> None:
        super().__init__(Settings.of_url(url), clock)

    def open(self, spec: SourceSpec) -> Any:
        return Faulty(super().open(spec))

    async def read(
        self,
        patterns: Sequence[str],
        since: Place | None,
        until: Place | None,
        *,
        last_per_key: bool = False,
    ) -> LogReading:
        return await super().read([">"], None, None)
