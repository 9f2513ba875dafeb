"""For tests of programs that use eventbus: a bus that remembers, time that jumps, seeded chance.

With pytest, the fixtures `event_bus` and `event_clock` and the mark `virtual_time` come with it,
and `TransportContract`, the tests that every transport has to pass.
"""

__all__ = (
    "BusOptions",
    "Failure",
    "ManualClock",
    "Recorder",
    "Simulation",
    "TestBus",
    "TransportContract",
    "VirtualClock",
    "VirtualLoop",
    "simulate",
    "virtual_backend",
)

from typing import TYPE_CHECKING

from eventbus.testing.bus import BusOptions, TestBus
from eventbus.testing.clock import ManualClock, VirtualClock
from eventbus.testing.loop import VirtualLoop, virtual_backend
from eventbus.testing.recorder import Failure, Recorder
from eventbus.testing.simulation import Simulation, simulate

if TYPE_CHECKING:
    from eventbus.testing.transports.contract import TransportContract


def __getattr__(name: str) -> object:
    """Import what needs pytest when it is asked for: all else does without."""
    if name == "TransportContract":
        from eventbus.testing.transports.contract import TransportContract

        return TransportContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
