"""Reading on along the log, for one subscription."""

__all__ = ("Scan",)

import sqlite3
from collections import deque

from eventbus.bus_logger import BusLogger
from eventbus.transports.base import SourceSpec
from eventbus.transports.sqlite.clerks import Look
from eventbus.transports.sqlite.damage import OnDamage
from eventbus.transports.sqlite.desk import Desk
from eventbus.transports.sqlite.log import Page, read_page
from eventbus.transports.sqlite.pulse import Pulse
from eventbus.transports.sqlite.records import Record
from eventbus.transports.sqlite.wanting import wants

RECORDS_PER_PAGE = 256


class Scan:
    """What of the log has been seen, and which records of it are wanted and not yet taken.

    `seen` is the position up to which the log was read, `ahead` holds what is wanted up to there.
    """

    def __init__(
        self, desk: Desk, spec: SourceSpec, on_damage: OnDamage, logger: BusLogger
    ) -> None:
        self.seen = 0
        self.ahead: deque[Record] = deque()
        self._desk = desk
        self._spec = spec
        self._on_damage = on_damage
        self._logger = logger
        self._is_wanted = wants(spec.patterns)
        self._has_news = True
        self._pulse = Pulse()

    @property
    def reached(self) -> int:
        """The position up to which nothing wanted is left."""
        return self.ahead[0].position - 1 if self.ahead else self.seen

    def go_to(self, position: int) -> None:
        """Read on after a position, whatever was seen before."""
        self.seen = position
        self.ahead.clear()
        self.wake()

    def wake(self) -> None:
        """Tell that there may be more to read."""
        self._has_news = True
        self._pulse.beat()

    async def wait(self) -> None:
        """Wait until there may be something; no checkpoint if there may be already."""
        while not (self._has_news or self.ahead):
            await self._pulse.wait()

    async def read_on(self) -> bool:
        """Read the next page, unless there is something ahead; False if there was nothing.

        Raises:
            StoreCorrupt: A record is damaged or missing.
        """
        if self.ahead:
            return True
        # Before it reads: what is written meanwhile is news again.
        self._has_news = False
        try:
            page = await self._desk.ask(Look(self._read))
        except BaseException:
            self._has_news = True
            raise
        return self._note(page)

    def _read(self, connection: sqlite3.Connection) -> Page:
        return read_page(connection, self.seen, RECORDS_PER_PAGE, self._on_damage)

    def _note(self, page: Page) -> bool:
        # A durable one is told by who claims: the store knows what would have been given to it.
        if page.removed > self.seen and not self._spec.is_durable:
            self._logger.warning(
                "%s loses what it has not read of positions %d to %d, which retention has removed",
                self._spec.name,
                self.seen + 1,
                page.removed,
            )
        if page.reached == self.seen:
            self.seen = max(self.seen, page.removed)
            return False
        self.seen = page.reached
        self.ahead.extend(one for one in page.records if self._is_wanted(one.topic))
        self._has_news = True  # that nothing follows shows in a page of nothing
        return True

    def take_up_to(self, position: int) -> list[Record]:
        """Take what is ahead up to a position, and go on from there."""
        taken: list[Record] = []
        while self.ahead and self.ahead[0].position <= position:
            taken.append(self.ahead.popleft())
        if self.seen < position:
            self.go_to(position)
        return taken

    def take(self, most: int) -> list[Record]:
        """Take what is ahead, at most so many."""
        return [self.ahead.popleft() for _ in range(min(most, len(self.ahead)))]
