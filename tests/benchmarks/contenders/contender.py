"""What a contender is: one way of getting events to handlers, used as its own pages tell."""

__all__ = ("Contender", "Kind", "OrderWire", "PatternWire", "Publish", "PublishTo", "Wire")

from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any, Literal, TypeAlias

from tests.benchmarks.floors import Tally
from tests.benchmarks.measure import Backend
from tests.benchmarks.order import Event

Kind: TypeAlias = Literal["bus", "floor", "peer"]

Publish: TypeAlias = Callable[[Iterable[Event]], Coroutine[Any, Any, None]]
"""Publishes events one by one; returns when all of them are handled."""

PublishTo: TypeAlias = Callable[[Iterable[str]], Coroutine[Any, Any, None]]
"""Publishes an event to one topic after the other; returns when all of them are handled."""

Wire: TypeAlias = Callable[[Iterable[str], Tally], AbstractAsyncContextManager[Publish]]
"""Subscribes a handler to each of the topics, and publishes to `TOPIC`."""

OrderWire: TypeAlias = Callable[[Tally], AbstractAsyncContextManager[Publish]]
"""Subscribes a handler of `NestedOrder`s, and publishes dicts, which the library validates."""

PatternWire: TypeAlias = Callable[[Iterable[str], Tally], AbstractAsyncContextManager[PublishTo]]
"""Subscribes one handler to all of the patterns, in which `*` is one token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A way of getting events to handlers, and how it does the workloads.

    Without `orders` it validates nothing, so that its publisher has to. Without `patterns` it does
    not route by pattern. `module` is what must be installed. `events` is how many one sample
    publishes: few where each takes long.
    """

    name: str
    wire: Wire
    orders: OrderWire | None = None
    patterns: PatternWire | None = None
    most_patterns: int = 100_000
    kind: Kind = "peer"
    module: str = "anyio"
    backend: Backend = "asyncio"
    events: int = 4_000
    note: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether its library can be imported, which it is."""
        try:
            import_module(self.module)
        except ImportError:
            return False
        return True

    @property
    def library(self) -> str:
        """The name and version of what was installed for it."""
        distribution = self.module.partition(".")[0]
        return f"{distribution} {version(distribution)}"
