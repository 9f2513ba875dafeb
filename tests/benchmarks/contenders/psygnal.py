"""How an event goes through psygnal: a signal calls its slots, which are plain functions."""

__all__ = ("CONTENDERS",)

from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from tests.benchmarks.contenders.contender import Contender, Publish
from tests.benchmarks.floors import Tally, counting_at_once
from tests.benchmarks.order import TOPIC, Event


@asynccontextmanager
async def functions(topics: Iterable[str], tally: Tally) -> AsyncGenerator[Publish]:
    signals = _connected(topics, tally)
    signal = signals[TOPIC]

    async def publish(events: Iterable[Event]) -> None:
        for event in events:
            signal.emit(event)

    yield publish


@asynccontextmanager
async def unchecked(topics: Iterable[str], tally: Tally) -> AsyncGenerator[Publish]:
    signals = _connected(topics, tally)
    signal = signals[TOPIC]

    async def publish(events: Iterable[Event]) -> None:
        for event in events:
            signal.emit_fast(event)

    yield publish


def _connected(topics: Iterable[str], tally: Tally) -> Mapping[str, Any]:
    instance = import_module("psygnal").SignalInstance
    signals = defaultdict[str, Any](lambda: instance((object,)))
    for topic in topics:
        signals[topic].connect(counting_at_once(tally))
    return signals


CONTENDERS = (
    Contender(name="psygnal, function", module="psygnal", wire=functions),
    Contender(
        name="psygnal, emit_fast",
        module="psygnal",
        wire=unchecked,
        note="without its locks and checks, and without knowing the sender",
    ),
)
