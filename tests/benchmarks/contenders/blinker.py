"""How an event goes through blinker: a named signal, its receivers called one after the other."""

__all__ = ("CONTENDERS",)

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib import import_module

from tests.benchmarks.contenders.contender import Contender, Publish
from tests.benchmarks.floors import Tally
from tests.benchmarks.order import EVENT, NESTED, TOPIC, NestedOrder

SENDER = "shop"


@asynccontextmanager
async def plain(topics: Iterable[str], tally: Tally) -> AsyncIterator[Publish]:
    signals = import_module("blinker").Namespace()
    for topic in topics:

        async def receive(sender: object, event: object) -> None:
            tally.handled += 1

        signals.signal(topic).connect(receive, weak=False)
    signal = signals.signal(TOPIC)

    async def publish(events: int) -> None:
        for _ in range(events):
            await signal.send_async(SENDER, event=EVENT)

    yield publish


@asynccontextmanager
async def orders(tally: Tally) -> AsyncIterator[Publish]:
    signal = import_module("blinker").Signal()

    async def receive(sender: object, order: NestedOrder) -> None:
        tally.handled += 1

    signal.connect(receive)

    async def publish(events: int) -> None:
        for _ in range(events):
            await signal.send_async(SENDER, order=NestedOrder.model_validate(NESTED))

    yield publish


@asynccontextmanager
async def plain_functions(topics: Iterable[str], tally: Tally) -> AsyncIterator[Publish]:
    signals = import_module("blinker").Namespace()
    for topic in topics:

        def receive(sender: object, event: object) -> None:
            tally.handled += 1

        signals.signal(topic).connect(receive, weak=False)
    signal = signals.signal(TOPIC)

    async def publish(events: int) -> None:
        for _ in range(events):
            signal.send(SENDER, event=EVENT)

    yield publish


@asynccontextmanager
async def orders_to_functions(tally: Tally) -> AsyncIterator[Publish]:
    signal = import_module("blinker").Signal()

    def receive(sender: object, order: NestedOrder) -> None:
        tally.handled += 1

    signal.connect(receive)

    async def publish(events: int) -> None:
        for _ in range(events):
            signal.send(SENDER, order=NestedOrder.model_validate(NESTED))

    yield publish


CONTENDERS = (
    Contender(name="blinker", module="blinker", plain=plain, orders=orders),
    Contender(
        name="blinker, function",
        module="blinker",
        plain=plain_functions,
        orders=orders_to_functions,
    ),
)
