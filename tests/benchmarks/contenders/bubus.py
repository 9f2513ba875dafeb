"""How an event goes through bubus: a pydantic event, queued, its results kept in a history."""

__all__ = ("CONTENDERS",)

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from functools import cache
from importlib import import_module
from typing import Any

from pydantic import create_model

from tests.benchmarks.contenders.contender import Contender, Publish
from tests.benchmarks.floors import Tally, counting
from tests.benchmarks.order import TOPIC, Event, NestedOrder

BURST = 40  # it refuses more than 100 at once, and queues 50


@asynccontextmanager
async def wire(topics: Iterable[str], tally: Tally) -> AsyncGenerator[Publish]:
    library, created = import_module("bubus"), _event()
    bus = library.EventBus()
    for topic in topics:
        bus.on(_event_type(topic), counting(tally))

    async def publish(events: Iterable[Event]) -> None:
        for number, _ in enumerate(events, start=1):
            bus.dispatch(created())
            if not number % BURST:
                await bus.wait_until_idle()
        await bus.wait_until_idle()

    yield publish
    await bus.stop(clear=True)


@asynccontextmanager
async def orders(tally: Tally) -> AsyncGenerator[Publish]:
    library, created = import_module("bubus"), _order_event()
    bus = library.EventBus()
    bus.on(created, counting(tally))

    async def publish(events: Iterable[Event]) -> None:
        for number, event in enumerate(events, start=1):
            bus.dispatch(created(order=event))
            if not number % BURST:
                await bus.wait_until_idle()
        await bus.wait_until_idle()

    yield publish
    await bus.stop(clear=True)


@cache
def _event() -> Any:
    return create_model(_event_type(TOPIC), __base__=import_module("bubus").BaseEvent)


@cache
def _order_event() -> Any:
    base = import_module("bubus").BaseEvent
    return create_model("NestedOrderCreated", __base__=base, order=(NestedOrder, ...))


def _event_type(topic: str) -> str:
    return topic.replace(".", "_")


CONTENDERS = (
    Contender(
        name="bubus",
        module="bubus",
        wire=wire,
        orders=orders,
        events=100,
        note=f"{BURST} events at a time, as its queue holds 50; of no fields, as each has to be "
        "made",
    ),
)
