"""How an event goes through abxbus: a pydantic event, queued, its results kept in a history."""

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


@asynccontextmanager
async def wire(topics: Iterable[str], tally: Tally) -> AsyncGenerator[Publish]:
    bus, created = _bus(), _event()
    for topic in topics:
        bus.on(_event_type(topic), counting(tally))

    async def publish(events: Iterable[Event]) -> None:
        for _ in events:
            bus.emit(created())
        await bus.wait_until_idle()

    yield publish
    await bus.destroy()


@asynccontextmanager
async def orders(tally: Tally) -> AsyncGenerator[Publish]:
    bus, created = _bus(), _order_event()
    bus.on(created, counting(tally))

    async def publish(events: Iterable[Event]) -> None:
        for event in events:
            bus.emit(created(order=event))
        await bus.wait_until_idle()

    yield publish
    await bus.destroy()


def _bus() -> Any:
    return import_module("abxbus").EventBus(
        max_history_size=None, warn_on_duplicate_handler_names=False
    )


@cache
def _event() -> Any:
    return create_model(_event_type(TOPIC), __base__=import_module("abxbus").BaseEvent)


@cache
def _order_event() -> Any:
    base = import_module("abxbus").BaseEvent
    return create_model("NestedOrderCreated", __base__=base, order=(NestedOrder, ...))


def _event_type(topic: str) -> str:
    return topic.replace(".", "_")


CONTENDERS = (
    Contender(
        name="abxbus",
        module="abxbus",
        wire=wire,
        orders=orders,
        events=100,
        note="with a history without limit, which is its fastest; events of no fields, as each has "
        "to be made",
    ),
)
