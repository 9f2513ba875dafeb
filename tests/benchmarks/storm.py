"""What a storm of retries costs a processor, and what a quiet topic of the same store feels of it.

`python -m tests.benchmarks.storm [EVENTS [SECONDS]]` prints both.
"""

__all__ = ()

import logging
import sys
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any, NamedTuple

import anyio

from eventbus import Context, EventBus
from eventbus.middleware import Retry

PAUSE_SECONDS = 0.02


class Spell(NamedTuple):
    """What was measured for a while: cores that were busy, and seconds until a message came."""

    cores: float
    median: float
    p99: float
    attempts: int


class Weather:
    """A bus with a topic whose handler always fails, and a quiet one."""

    def __init__(self, store: Path, events: int) -> None:
        self._attempts = 0
        self._came: list[float] = []
        self.bus = EventBus(f"sqlite:///{store}")
        retry = Retry(attempts=1_000_000)
        self.bus.on("storm", name="storm", queue_size=events, concurrency=4, middleware=[retry])(
            self._fail
        )
        self.bus.on("calm", name="calm")(self._come)

    async def _fail(self, event: object, context: Context[Any]) -> None:
        self._attempts += 1
        raise ConnectionError

    async def _come(self, event: dict[str, float]) -> None:
        self._came.append(perf_counter() - event["sent"])

    async def observe(self, seconds: float) -> Spell:
        """Publish to the quiet topic for some seconds, and measure."""
        self._came, self._attempts = [], 0
        began, spent = perf_counter(), process_time()
        while perf_counter() < began + seconds:
            await self.bus.publish("calm", {"sent": perf_counter()})
            await anyio.sleep(PAUSE_SECONDS)
        cores = (process_time() - spent) / (perf_counter() - began)
        cuts = quantiles(self._came, n=100)
        return Spell(cores, cuts[49], cuts[98], self._attempts)


async def measure(events: int, seconds: float) -> None:
    """Measure while it is quiet, and then amid the storm."""
    with TemporaryDirectory() as folder:
        weather = Weather(Path(folder, "events.db"), events)
        with anyio.CancelScope() as scope:
            async with weather.bus:
                quiet = await weather.observe(seconds / 4)
                await weather.bus.publish_many("storm", [{"n": n} for n in range(events)])
                tell(quiet, await weather.observe(seconds))
                scope.cancel()  # what waits to be tried again stays in the store


def tell(quiet: Spell, storm: Spell) -> None:
    """Print both, and what the one is beside the other."""
    for name, spell in {"quiet": quiet, "storm": storm}.items():
        print(
            f"{name:6} {spell.cores:6.2f} cores, {1e3 * spell.median:7.2f} ms in the median, "
            f"{1e3 * spell.p99:7.2f} ms at p99, {spell.attempts:,} attempts"
        )
    print(f"p99 amid the storm is {storm.p99 / quiet.p99:.2f} of that when it is quiet")


def main(events: str = "10000", seconds: str = "60") -> None:
    """Let so many events fail, for so long."""
    logging.disable()  # every failure would be told of
    anyio.run(measure, int(events), float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
