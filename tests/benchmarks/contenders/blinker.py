"""How an event goes through blinker: a signal calls its receivers, one after the other."""

__all__ = ("CONTENDERS",)

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from importlib import import_module

from tests.benchmarks.contenders.contender import Contender, Publish
from tests.benchmarks.floors import Tally
from tests.benchmarks.order import TOPIC, Event

SENDER = "shop"


@asynccontextmanager
async def coroutines(topics: Iterable[str], tally: Tally) -> AsyncGenerator[Publish]:
    signals = import_module("blinker").Namespace()
    for topic in topics:

        async def receive(sender: object, event: object) -> None:
            tally.handled += 1

        signals.signal(topic).connect(receive, weak=False)
    signal = signals.signal(TOPIC)

    async def publish(events: Iterable[Event]) -> None:
        for event in events:
            await signal.send_async(SENDER, event=event)

    yield publish


@asynccontextmanager
async def functions(topics: Iterable[str], tally: Tally) -> AsyncGenerator[Publish]:
    signals = import_module("blinker").Namespace()
    for topic in topics:

        def receive(sender: object, event: object) -> None:
            tally.handled += 1

        signals.signal(topic).connect(receive, weak=False)
    signal = signals.signal(TOPIC)

    async def publish(events: Iterable[Event]) -> None:
        for event in events:
            signal.send(SENDER, event=event)

    yield publish


CONTENDERS = (
    Contender(name="blinker", module="blinker", wire=coroutines),
    Contender(name="blinker, function", module="blinker", wire=functions),
)
