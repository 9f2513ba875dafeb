"""For tests of programs that use eventbus: a bus that remembers, time that jumps, seeded chance.

With pytest, the fixtures `event_bus` and `event_clock` and the mark `virtual_time` come with it.
"""

__all__ = (
    "BusOptions",
    "Failure",
    "ManualClock",
    "Recorder",
    "Simulation",
    "TestBus",
    "VirtualClock",
    "VirtualLoop",
    "simulate",
    "virtual_backend",
)

from eventbus.testing.bus import BusOptions, TestBus
from eventbus.testing.clock import ManualClock, VirtualClock
from eventbus.testing.loop import VirtualLoop, virtual_backend
from eventbus.testing.recorder import Failure, Recorder
from eventbus.testing.simulation import Simulation, simulate
