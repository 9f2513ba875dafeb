"""All that is measured side by side: this bus, the same work without a bus, other libraries.

A file shows how a library does the workloads, from subscribing to the loop that publishes. Handlers
are coroutines wherever the library awaits them; "function" is the same library with plain functions.
"""

__all__ = ("BUS", "CONTENDERS", "PEERS", "Contender")

from collections.abc import Sequence

from tests.benchmarks.contenders import (
    abxbus,
    aiopubsub,
    blinker,
    bubus,
    faststream,
    larzbus,
    psygnal,
    pyee,
    pymitter,
    this_bus,
    without_a_bus,
)
from tests.benchmarks.contenders.contender import Contender

BUS = this_bus.ON_ASYNCIO

PEERS: Sequence[Contender] = (
    *blinker.CONTENDERS,
    *psygnal.CONTENDERS,
    *pyee.CONTENDERS,
    *pymitter.CONTENDERS,
    *aiopubsub.CONTENDERS,
    *larzbus.CONTENDERS,
    *faststream.CONTENDERS,
    *abxbus.CONTENDERS,
    *bubus.CONTENDERS,
)

CONTENDERS: Sequence[Contender] = (*this_bus.CONTENDERS, *without_a_bus.CONTENDERS, *PEERS)
