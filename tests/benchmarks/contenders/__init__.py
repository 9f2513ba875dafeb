"""All that is measured side by side: this bus, the same work without a bus, other libraries.

A file shows how a library does the workloads, from subscribing to the loop that publishes. Its
handlers are coroutines wherever it awaits them; "function" is the same library with functions.
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

_LIBRARIES = (
    blinker,
    psygnal,
    pyee,
    pymitter,
    aiopubsub,
    larzbus,
    faststream,
    abxbus,
    bubus,
)

BUS = this_bus.ON_ASYNCIO

PEERS: Sequence[Contender] = [library.CONTENDERS[0] for library in _LIBRARIES]
"""Each library as it is used with coroutines, or with functions if it knows nothing else."""

CONTENDERS: Sequence[Contender] = (
    *this_bus.CONTENDERS,
    *without_a_bus.CONTENDERS,
    *[contender for library in _LIBRARIES for contender in library.CONTENDERS],
)
