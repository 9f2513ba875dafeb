"""How an event goes through aiopubsub: a hub, to functions at once or to a task per listener."""

__all__ = ("CONTENDERS",)

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from tests.benchmarks.contenders.contender import Contender, Publish, PublishTo
from tests.benchmarks.floors import Tally
from tests.benchmarks.order import EVENT, TOPIC, Event


@asynccontextmanager
async def coroutines(topics: Iterable[str], tally: Tally) -> AsyncGenerator[Publish]:
    publisher, subscriber = _hub()
    listeners, sent = 0, 0
    for topic in topics:

        async def listen(key: object, event: object) -> None:
            tally.handled += 1

        subscriber.add_async_listener(_key(topic), listen)
        listeners += 1
    key = _key(TOPIC)

    async def publish(events: Iterable[Event]) -> None:
        nonlocal sent
        for event in events:
            sent += listeners
            publisher.publish(key, event)
        while tally.handled < sent:  # noqa: ASYNC110 - an event would cost more than it tells
            await asyncio.sleep(0)

    # A listener can be stopped once it has started.
    await asyncio.sleep(0)
    yield publish
    await subscriber.remove_all_listeners()


@asynccontextmanager
async def functions(topics: Iterable[str], tally: Tally) -> AsyncGenerator[Publish]:
    publisher, subscriber = _hub()
    for topic in topics:

        def listen(key: object, event: object) -> None:
            tally.handled += 1

        subscriber.add_sync_listener(_key(topic), listen)
    key = _key(TOPIC)

    async def publish(events: Iterable[Event]) -> None:
        for event in events:
            publisher.publish(key, event)

    yield publish


@asynccontextmanager
async def patterns(patterns: Iterable[str], tally: Tally) -> AsyncGenerator[PublishTo]:
    publisher, subscriber = _hub()

    def listen(key: object, event: object) -> None:
        tally.handled += 1

    for pattern in patterns:
        subscriber.add_sync_listener(_key(pattern), listen)

    async def publish_to(topics: Iterable[str]) -> None:
        for topic in topics:
            publisher.publish(_key(topic), EVENT)

    yield publish_to


def _hub() -> tuple[Any, Any]:
    library = import_module("aiopubsub")
    hub = library.Hub()
    return library.Publisher(hub, prefix=library.Key()), library.Subscriber(hub, "benchmark")


def _key(topic: str) -> Any:
    return import_module("aiopubsub").Key(*topic.split("."))


CONTENDERS = (
    Contender(name="aiopubsub", module="aiopubsub", wire=coroutines, events=1_000),
    Contender(name="aiopubsub, function", module="aiopubsub", wire=functions, patterns=patterns),
)
