"""One task that looks after every attempt with a time limit."""

__all__ = ("Watchdog",)

import math
from dataclasses import dataclass

import anyio
from anyio import CancelScope

from eventbus.clock import Clock
from eventbus.message import Entry
from eventbus.subscription import Worker

LOOKS_PER_TIMEOUT = 10
"""A limit is overrun by two looks at most, which keeps it within 25 % of its time."""


@dataclass(slots=True)
class _Watch:
    """What was seen of one worker: since when it has been at the same entry."""

    seconds: float
    entry: Entry | None = None
    since: float = 0.0


class Watchdog:
    """Cancel the scope of a worker that is at the same entry for too long.

    It looks at what each worker is doing, ten times per limit, and sleeps while nothing is
    running: so a limit costs a message nothing, where a cancel scope of its own would cost 40
    handler calls.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watched: dict[Worker, _Watch] = {}
        self._nap: CancelScope | None = None
        self._nap_seconds = math.inf
        self._is_quiet = True

    def watch(self, worker: Worker, seconds: float) -> None:
        """Look after a worker that begins to work; cheap when it is watched already."""
        if worker not in self._watched:
            self._watched[worker] = _Watch(seconds)
        self._is_quiet = False
        if self._nap is not None and seconds < self._nap_seconds * LOOKS_PER_TIMEOUT:
            self._nap.cancel()

    def unwatch(self, worker: Worker) -> None:
        """Look after a worker no more; idempotent."""
        self._watched.pop(worker, None)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._look()
            with CancelScope() as self._nap:
                await self._sleep()

    async def _sleep(self) -> None:
        """Sleep until it is time to look again: for ever, if nobody has begun to work since.

        Not as soon as nothing is running: being woken for each burst would cost 2 A a message.
        """
        limits = () if self._is_quiet else self._watched.values()
        self._is_quiet = all(worker.current is None for worker in self._watched)
        self._nap_seconds = min((w.seconds for w in limits), default=math.inf) / LOOKS_PER_TIMEOUT
        if self._nap_seconds == math.inf:
            await anyio.sleep_forever()
        else:
            await self._clock.sleep(self._nap_seconds)

    def _look(self) -> None:
        now = self._clock.monotonic()
        for worker, watch in self._watched.items():
            # An entry is a new object for each attempt, and held here: it cannot be mistaken.
            if worker.current is not watch.entry:
                watch.entry, watch.since = worker.current, now
            elif watch.entry is not None and now - watch.since >= watch.seconds:
                _cancel(worker)


def _cancel(worker: Worker) -> None:
    if worker.scope is not None and not worker.is_interrupted:
        worker.is_interrupted = True
        worker.scope.cancel()
