"""A subscription that lasts as long as its bus: it reads along the log, and nothing is noted."""

__all__ = ("LiveSource",)

import sqlite3
from collections.abc import Sequence
from typing import Self

from eventbus.bus_logger import BusLogger
from eventbus.errors import StoreError
from eventbus.message import Delivery, LaterDelivery
from eventbus.transports.base import Dead, Outcome, SourceSpec
from eventbus.transports.sqlite.beginning import Begin, begin_of, is_sought
from eventbus.transports.sqlite.clerks import Change
from eventbus.transports.sqlite.damage import OnDamage
from eventbus.transports.sqlite.desk import Desk
from eventbus.transports.sqlite.letters import bury
from eventbus.transports.sqlite.records import message_of
from eventbus.transports.sqlite.scan import Scan
from eventbus.transports.sqlite.searching import look_for


class LiveSource:
    """Where one such subscription is. Its dead letters are kept in the store."""

    def __init__(
        self,
        spec: SourceSpec,
        writer: Desk,
        reader: Desk,
        on_damage: OnDamage,
        logger: BusLogger,
    ) -> None:
        self.began = 0
        self._spec = spec
        self._logger = logger
        self._scan = Scan(reader, spec, on_damage, logger)
        self._writer = writer
        self._reader = reader
        self._first_new: int | None = None
        # By the writer, so that it begins before what is published after this.
        self._begin = Change(self._find_start)
        writer.submit(self._begin)

    def _find_start(self, connection: sqlite3.Connection) -> Begin:
        return begin_of(connection, self._spec.start, self._first_new)

    async def __aenter__(self) -> Self:
        begin = await self._writer.wait(self._begin)
        if is_sought(self._spec.start):
            begin = await look_for(self._reader, self._spec.start, self._spec.patterns, begin)
        self.began = begin.began
        self._scan.go_to(begin.cursor)
        return self

    async def __aexit__(self, *_: object) -> None:
        """End; nothing is held."""

    @property
    def reached(self) -> int | None:
        """The position up to which everything was fetched or passed by."""
        return self._scan.reached

    async def fetch(self, most: int) -> Sequence[Delivery]:
        """Wait for what is published; empty-handed when the end is reached."""
        while not self._scan.ahead:
            await self._scan.wait()
            if not await self._scan.read_on():
                return []
        messages = map(message_of, self._scan.take(most))
        return [LaterDelivery(message, message.event) for message in messages]

    async def settle(self, outcomes: Sequence[tuple[Delivery, Outcome]]) -> None:
        """Keep dead letters."""
        for delivery, outcome in outcomes:
            if isinstance(outcome, Dead) and outcome.keep:
                await self._keep(delivery, outcome)

    async def _keep(self, delivery: Delivery, dead: Dead) -> None:
        position = delivery.message.position
        assert position is not None  # noqa: S101 - it was read from the log
        try:
            await self._writer.ask(
                Change(lambda one: bury(one, self._logger, dead.failure, position))
            )
        except StoreError as error:  # no reason to end the bus
            self._logger.error(
                "a dead letter of %s is not kept: %s", dead.failure.subscription, error
            )

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Do nothing: nobody else could take them over."""

    def expect(self, position: int) -> None:
        """Begin no later than here, if it has not begun: this was not published by the writer."""
        if self._first_new is None:
            self._first_new = position

    def wake(self) -> None:
        """Tell that something was written."""
        self._scan.wake()

    async def close(self) -> None:
        """Do nothing: what there was to write is written."""

    def tick(self) -> None:
        """Do nothing: there is nothing to do now and then."""
