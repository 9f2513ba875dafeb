"""Applying retention, a little at a time, so that publishers have their turn."""

__all__ = ("Expiry",)

from collections.abc import Awaitable, Callable
from functools import partial

from eventbus.clock import Clock
from eventbus.transports.sqlite.clerks import Change, Look
from eventbus.transports.sqlite.desk import Desk
from eventbus.transports.sqlite.log import first_and_last
from eventbus.transports.sqlite.retention import expire, remove
from eventbus.transports.sqlite.settings import Settings
from eventbus.transports.sqlite.sweep import Sweep

PAUSE_SECONDS = 1.0
PAUSE_RATIO = 4
"""How much longer a pause is than the pass over the log before it, up to `MOST_PAUSE_SECONDS`."""
MOST_PAUSE_SECONDS = 60.0

ROUNDS_AT_ONCE = 8


class Expiry:
    """Removes what is beyond the limits of a store.

    Without limits for patterns that is a part of its begin, which is quickly found. With them, the
    log is gone over again and again, with pauses.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        writer: Desk,
        reader: Desk,
        between: Callable[[], Awaitable[object]],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._writer = writer
        self._reader = reader
        self._between = between  # done between two rounds: what is due has its turn, too
        self._sweep: Sweep | None = None
        self._began = 0.0
        self._next = 0.0

    async def go_on(self) -> None:
        """Remove some more, if it is time for that."""
        if self._settings.keeps_all or self._clock.monotonic() < self._next:
            return
        if self._settings.limits_by_pattern:
            await self._sweep_on()
        else:
            self._next = self._clock.monotonic() + PAUSE_SECONDS
            await self._remove_oldest()

    async def _sweep_on(self) -> None:
        if self._sweep is None:
            self._sweep, self._began = await self._new_sweep(), self._clock.monotonic()
        for _ in range(ROUNDS_AT_ONCE):
            if await self._round(self._sweep):
                self._sweep, now = None, self._clock.monotonic()
                pause = min(PAUSE_RATIO * (now - self._began), MOST_PAUSE_SECONDS)
                self._next = now + max(PAUSE_SECONDS, pause)
                return

    async def finish(self, tell: Callable[[int], None]) -> None:
        """Remove all there is to remove; `tell` is called with how many were looked at."""
        if self._settings.keeps_all:
            return
        if not self._settings.limits_by_pattern:
            await self._remove_oldest()
            return
        sweep = await self._new_sweep()
        while not await self._round(sweep):
            tell(sweep.looked_at)

    async def _new_sweep(self) -> Sweep:
        _, last = await self._reader.ask(Look(first_and_last))
        return Sweep(self._settings.limits, last, self._now())

    async def _round(self, sweep: Sweep) -> bool:
        """Look at some records, and remove some of them; True if these were the last."""
        await self._between()
        if positions := await self._reader.ask(Look(sweep.round)):
            removing = partial(remove, positions=positions, now=self._now())
            await self._writer.ask(Change(removing))
        return sweep.is_done

    async def _remove_oldest(self) -> None:
        removing = partial(expire, settings=self._settings, now=self._now())
        while await self._writer.ask(Change(removing)):
            await self._between()

    def _now(self) -> int:
        return round(self._clock.now() * 1e6)
