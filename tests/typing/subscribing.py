"""Iterating over a subscription gives events of its model."""

from typing import assert_type

from eventbus import Context, Events
from tests.typing.shop import CREATED, SHIPPED, Created, Shipped, bus


async def of_a_topic() -> None:
    async with bus.subscribe(CREATED, where=lambda event: event.order_id != "") as events:
        assert_type(events, Events[Created])
        async for event in events:
            assert_type(event, Created)
            parcel = event.parcel  # expect-error
        async for context in events.contexts():
            assert_type(context, Context[Created])


async def of_patterns() -> None:
    async with bus.subscribe("orders.*", "payments.*", model=Created | Shipped) as events:
        async for event in events:
            assert_type(event, Created | Shipped)
    async with bus.subscribe("orders.*") as raw:
        async for payload in raw:
            assert_type(payload, object)
            name = payload["order_id"]  # expect-error


async def of_several_topics() -> None:
    async with bus.subscribe(CREATED, SHIPPED) as events:
        async for event in events:
            assert_type(event, Created | Shipped)


async def is_covariant() -> None:
    async with bus.subscribe(CREATED) as events:
        wider: Events[object] = events
        other: Events[Shipped] = events  # expect-error


def is_large(event: Shipped) -> bool:
    return event.parcel == "large"


def options() -> None:
    bus.subscribe(CREATED, queue_size=5, overflow="drop_oldest", name="feed", invalid="skip")
    bus.subscribe(CREATED, queue_size=None, overflow=None, where=None)
    bus.subscribe(CREATED, where=is_large)  # expect-error
    bus.subscribe("orders.*", model=Created, where=is_large)  # expect-error
    bus.subscribe(CREATED, overflow="drop")  # expect-error
    bus.subscribe(CREATED, concurrency=2)  # expect-error
    bus.subscribe(CREATED, group="billing")  # expect-error
    bus.subscribe(CREATED, "orders.*")  # expect-error
    bus.subscribe()  # expect-error


async def without_with() -> None:
    async for event in bus.subscribe(CREATED):  # expect-error
        pass
    with bus.subscribe(CREATED) as events:  # expect-error
        pass
