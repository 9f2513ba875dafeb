"""When what is scheduled goes out.

The time of the next is known, so that nobody looks in vain: from what this bus schedules, from what
the reader sees that others have, and from the writer, whose answers come in their order.
"""

__all__ = ("Departures",)

import sqlite3

from anyio import CancelScope

from eventbus._loop import Bell
from eventbus.clock import Clock
from eventbus.transports.sqlite.scheduled import NEVER, first_due

LEAST_NAP_SECONDS = 0.005
"""What is due within that goes out together."""


class Departures:
    """The next departure, in microseconds since the epoch; made in the event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next = 0  # not known yet, which the first look changes
        self._leaving = NEVER
        self._found = NEVER
        self._awaited = 0
        self._nap: CancelScope | None = None
        self._bell = Bell(lambda: self.expect(self._found))

    @property
    def now(self) -> int:
        """The wall time."""
        return round(self._clock.now() * 1e6)

    @property
    def is_due(self) -> bool:
        """Whether something is to go out now."""
        return self._next <= self.now

    @property
    def has_awaited(self) -> bool:
        """Whether something is left that is due no later than what this bus has scheduled."""
        return min(self._next, self._leaving) <= self._awaited

    def begin(self) -> None:
        """Begin a departure: what is due when it has the lock goes out."""
        self._leaving, self._next = self._next, NEVER

    def end(self, due: int) -> None:
        """End a departure; the next is due then, unless one was found meanwhile."""
        self._leaving = NEVER
        self.expect(due)

    def look_again(self) -> None:
        """Have the writer tell when the next is due: it may be later than was known."""
        self.expect(0)

    def expect(self, due: int, *, is_own: bool = False) -> None:
        """Note that one is due then, which may be earlier than what was known."""
        if is_own:
            self._awaited = max(self._awaited, due)
        if due < self._next:
            self._next = due
            if self._nap is not None:
                self._nap.cancel()

    def look(self, connection: sqlite3.Connection) -> None:
        """Look whether another bus has scheduled something earlier, in the reader's thread."""
        self._found = first_due(connection)
        if self._found < self._next:
            self._bell.ring()

    async def nap(self, most: float) -> None:
        """Sleep until something is due, or for so many seconds."""
        seconds = (self._next - self.now) / 1e6
        with CancelScope() as self._nap:
            await self._clock.sleep(max(LEAST_NAP_SECONDS, min(most, seconds)))
        self._nap = None
