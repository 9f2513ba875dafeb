"""The other buses on a store, and which of them do not answer any more."""

__all__ = ("Neighbours",)

import sqlite3
from collections.abc import Iterable, Mapping
from functools import partial

from eventbus.bus_logger import BusLogger
from eventbus.clock import Clock
from eventbus.transports.sqlite import sessions
from eventbus.transports.sqlite.clerks import Change, Look
from eventbus.transports.sqlite.desk import Desk
from eventbus.transports.sqlite.presence import is_gone
from eventbus.transports.sqlite.sessions import Session
from eventbus.wording import counted

LOOK_SECONDS = 1.0
BEATS_PER_WAIT = 3


class Neighbours:
    """Gives signs of life for this session, and watches for those of others.

    A session whose process has ended is freed at once. One that gives no sign for a subscription's
    `ack_wait` loses what it has of that subscription.
    """

    def __init__(self, session: int, clock: Clock, logger: BusLogger) -> None:
        self._session = session
        self._clock = clock
        self._logger = logger
        self._seen: dict[int, tuple[int, float]] = {}  # by session: its count, and since when
        self._last_beat = self._last_look = clock.monotonic()

    async def greet(self, writer: Desk, reader: Desk, ack_waits: Mapping[int, float]) -> None:
        """Do what is due; `ack_waits` are seconds, by the numbers of our durable subscriptions."""
        now = self._clock.monotonic()
        if ack_waits and now - self._last_beat >= min(ack_waits.values()) / BEATS_PER_WAIT:
            self._warn_if_late(now - self._last_beat, min(ack_waits.values()))
            self._last_beat = now
            await writer.ask(Change(partial(sessions.beat, session=self._session)))
        if now - self._last_look >= LOOK_SECONDS:
            self._last_look = now
            others = await reader.ask(Look(partial(sessions.others, session=self._session)))
            await self._free_silent(writer, others, ack_waits)

    def _warn_if_late(self, seconds: float, ack_wait: float) -> None:
        if seconds > ack_wait:
            self._logger.warning(
                "this bus gave no sign of life for %.1f s, longer than ack_wait=%s: what it was "
                "handling may be handled by another process too; do not block the event loop",
                seconds,
                ack_wait,
            )

    async def _free_silent(
        self, writer: Desk, others: Iterable[Session], ack_waits: Mapping[int, float]
    ) -> None:
        now = self._clock.monotonic()
        seen, self._seen = self._seen, {}
        for one in others:
            count, since = seen.get(one.id, (-1, now))
            self._seen[one.id] = (one.beat, since if count == one.beat else now)
            silent = now - self._seen[one.id][1]
            overdue = [number for number, wait in ack_waits.items() if silent >= wait]
            if is_gone(one.place, one.process):
                await writer.ask(Change(partial(self._free, session=one.id)))
            elif overdue:
                await writer.ask(Change(partial(self._free, session=one.id, subscriptions=overdue)))

    def free_the_gone(self, connection: sqlite3.Connection) -> None:
        """Free what processes had that have ended; done by the writer."""
        for one in sessions.others(connection, self._session):
            if is_gone(one.place, one.process):
                self._free(connection, one.id)

    def _free(
        self,
        connection: sqlite3.Connection,
        session: int,
        subscriptions: list[int] | None = None,
    ) -> None:
        freed = sessions.free(
            connection, session, now=round(self._clock.now() * 1e6), subscriptions=subscriptions
        )
        has_ended = subscriptions is None
        whose = "had that ended without giving it back" if has_ended else "has that does not answer"
        for name, deliveries in freed.items():
            self._logger.warning(
                "%s is given again, one by one, what a process %s: %s",
                name,
                whose,
                counted(deliveries, "delivery"),
            )
