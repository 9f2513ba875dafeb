"""Replies from other buses: read as they come while anybody waits, and removed a while later.

A bus that asks nothing looks for nothing.
"""

__all__ = ("Postbox",)

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial

from eventbus.bus_logger import BusLogger
from eventbus.clock import Clock
from eventbus.message import Message, ReplyTo
from eventbus.transports.sqlite import requests
from eventbus.transports.sqlite.clerks import Change, Look
from eventbus.transports.sqlite.desk import Desk
from eventbus.transports.sqlite.requests import Reply


class Postbox:
    """What a session asks others, and what it answers them.

    `deliver` is given the number of a request and the reply to it.
    """

    def __init__(
        self,
        session: int,
        writer: Desk,
        reader: Desk,
        clock: Clock,
        deliver: Callable[[int, str], None],
        logger: BusLogger,
    ) -> None:
        self.address = f"$reply.{session}"
        self._session = session
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._deliver = deliver
        self._logger = logger
        self._has_asked = False
        self._waits_until = 0.0
        self._read = self._removed = 0
        self._look: Look[list[Reply]] | None = None
        self._is_stale = False
        self._is_closed = False

    # --- asking -----------------------------------------------------------------------------

    def expect(self, messages: Sequence[Message]) -> None:
        """Look for replies until the time of these requests is up."""
        for message in messages:
            traits = message.head[2]
            if traits is not None and traits.reply_to is not None:
                self._has_asked = True
                self._waits_until = max(self._waits_until, traits.expires_at or 0.0)

    def hear(self) -> None:
        """Look, as somebody has written something, if anybody waits."""
        if self._has_asked and self._clock.now() <= self._waits_until:
            self._look_now()

    def tick(self) -> None:
        """Look for what came late, and remove what was read."""
        if self._has_asked:
            self._look_now()
        if self._removed < self._read:
            self._removed = self._read
            remove = partial(requests.remove_replies, session=self._session, up_to=self._removed)
            self._writer.submit(Change(remove))

    def close(self) -> None:
        """Look no more."""
        self._is_closed = True

    def _look_now(self) -> None:
        if self._look is not None or self._is_closed:
            self._is_stale = True
            return
        self._is_stale = False
        self._look = Look(self._read_replies)
        self._look.then = self._hand_out
        self._reader.submit(self._look)

    def _read_replies(self, connection: sqlite3.Connection) -> list[Reply]:
        return requests.read_replies(connection, self._session, self._read)

    def _hand_out(self) -> None:
        look, self._look = self._look, None
        for reply in (look and look.result) or ():
            self._read = reply.number
            self._deliver(reply.request, reply.text)
        if self._is_stale:
            self._look_now()

    # --- answering --------------------------------------------------------------------------

    def announce(self, name: str, patterns: Sequence[str], *, is_shared: bool) -> None:
        """Tell others that requests are answered here."""
        self._tell(
            partial(
                requests.announce,
                session=self._session,
                name=name,
                patterns=patterns,
                is_shared=is_shared,
            )
        )

    def withdraw(self, name: str) -> None:
        """Tell others that they are no more."""
        self._tell(partial(requests.withdraw, session=self._session, name=name))

    def send(self, reply_to: ReplyTo, text: str) -> None:
        """Send a reply, unless who asked has gone."""
        inbox, number = reply_to
        session = int(inbox.rpartition(".")[2])
        self._tell(partial(requests.keep_reply, session=session, request=number, text=text))

    def _tell(self, work: Callable[[sqlite3.Connection], object]) -> None:
        def note() -> None:
            if job.error is not None:
                self._logger.error("what other buses were to be told is lost: %s", job.error)

        job = Change(work, note)
        if not self._is_closed:
            self._writer.submit(job)
