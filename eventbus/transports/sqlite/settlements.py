"""How the deliveries of one durable subscription ended, until that is written."""

__all__ = ("Settlements",)

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TypeAlias

from eventbus.bus_logger import BusLogger
from eventbus.transports.base import Outcome
from eventbus.transports.sqlite.clerks import Change
from eventbus.transports.sqlite.desk import Desk
from eventbus.transports.sqlite.pulse import Pulse
from eventbus.transports.sqlite.sequence import Behind
from eventbus.wording import counted

Ending: TypeAlias = tuple[int, int, Outcome, Behind | None]
"""The position of a delivery, the attempts begun, how it ended, and what is to wait for it then."""

Write: TypeAlias = Callable[[sqlite3.Connection, Sequence[Ending]], None]


class Settlements:
    """Gathers endings, and writes all there are as soon as the writer gets to it.

    What could not be written is tried again with `flush`: nothing is forgotten.
    """

    def __init__(self, writer: Desk, write: Write, subscription: str, logger: BusLogger) -> None:
        self._writer = writer
        self._write = write
        self._subscription = subscription
        self._logger = logger
        self._gathered: deque[Ending] = deque()
        self._batch: list[Ending] = []
        self._job: Change[None] | None = None
        self._noted = 0
        self._written = 0
        self._progress = Pulse()
        self._is_closed = False

    def add(self, ending: Ending) -> int:
        """Note an ending, to be written soon; give the number it has among them."""
        self._noted += 1
        self._gathered.append(ending)
        if self._job is None:
            self.flush()
        return self._noted

    def has_written(self, number: int) -> bool:
        """Tell whether an ending is written, as far as that is known in the loop."""
        return self._written >= number

    def flush(self) -> None:
        """Have the writer write what there is, unless it is about to."""
        if self._gathered and self._job is None and not self._is_closed:
            self._job = Change(self._write_all, self._end)
            self._writer.submit(self._job)

    def unwritten(self) -> list[int]:
        """Name the positions that ended, or are to wait, and are not written as such.

        Called in the writer's thread.
        """
        endings = (*self._batch, *self._gathered.copy())
        waiting = [behind.positions for *_, behind in endings if behind is not None]
        return [*(position for position, *_ in endings), *chain.from_iterable(waiting)]

    async def wait(self) -> None:
        """Wait until all that was noted so far is written; cancelled, it still will be.

        Once it is closed nothing is: the store gives the deliveries to who comes next.
        """
        noted = self._noted
        while self._written < noted and not self._is_closed:
            await self._progress.wait()

    async def close(self) -> None:
        """Write what is left, or give it up where it cannot be written.

        Cancelled, what the writer has got is still written as soon as it can be.
        """
        self.flush()
        try:
            while self._job is not None:
                await self._progress.wait()
        finally:
            self._is_closed = True
            self._progress.beat()

    def _write_all(self, connection: sqlite3.Connection) -> None:
        """Write what there is by now, in the writer's thread; again, where that has failed."""
        # Race: meanwhile the loop adds more. Both ends of a deque may be used at once.
        self._batch += [self._gathered.popleft() for _ in range(len(self._gathered))]
        self._write(connection, self._batch)

    def _end(self) -> None:
        job, self._job = self._job, None
        batch, self._batch = self._batch, []
        if job is not None and job.error is not None:
            self._logger.error(
                "%s: how %s ended waits to be written: %s",
                self._subscription,
                counted(len(batch), "delivery"),
                job.error,
            )
            self._gathered.extendleft(reversed(batch))
        else:
            self._written += len(batch)
            self.flush()
        self._progress.beat()
