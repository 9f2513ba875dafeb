"""A context knows its event, and publishes as the bus does."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import assert_type

from pydantic import BaseModel

from eventbus import Context, FailedDelivery, Message, Receipt
from tests.typing.shop import CREATED, SHIPPED, Created, CreatedAbroad, Shipped


async def publishes(context: Context[Created]) -> None:
    assert_type(await context.publish(SHIPPED, Shipped(parcel="p-1")), Receipt)
    await context.publish("orders.shipped", {"parcel": "p-1"}, key="p-1", headers={"a": "b"})
    assert_type(context.publish_nowait(SHIPPED, Shipped(parcel="p-1")), Receipt)
    context.publish_nowait("orders.shipped", b"{}")
    await context.publish(SHIPPED, Created(order_id="o-1"))  # expect-error
    await context.publish("orders.shipped", "p-1")  # expect-error
    await context.publish(SHIPPED, Shipped(parcel="p-1"), kee="p-1")  # expect-error
    context.publish_nowait(SHIPPED, Created(order_id="o-1"))  # expect-error
    context.publish_nowait("orders.shipped", 1)  # expect-error


async def settles(context: Context[Created]) -> None:
    await context.ack()
    await context.retry()
    await context.retry(timedelta(minutes=1))
    await context.reject("no such order")
    context.ack_nowait()
    context.retry_nowait(delay=1.5)
    context.reject_nowait(reason="no such order")
    context.ack()  # expect-error
    await context.retry("soon")  # expect-error
    await context.reject()  # expect-error
    await context.reject(ValueError())  # expect-error


def knows(context: Context[Created]) -> None:
    assert_type(context.event, Created)
    assert_type(context.message, Message)
    assert_type(context.message.payload, object)
    assert_type(context.message.headers, Mapping[str, str])
    assert_type(context.message.time, datetime)
    assert_type(context.attempt, int)
    assert_type(context.last_attempt, bool)
    assert_type(context.subscription, str)
    assert_type(context.captures, Mapping[str, str])
    assert_type(context.lagged, int)
    assert_type(context.failure, FailedDelivery | None)
    parcel = context.event.parcel  # expect-error
    context.attempt = 2  # expect-error
    context.event = Created(order_id="o-2")  # expect-error
    context.message.topic = "orders.other"  # expect-error


def is_covariant(created: Context[Created], abroad: Context[CreatedAbroad]) -> None:
    base: Context[BaseModel] = created
    wider: Context[Created] = abroad
    narrower: Context[CreatedAbroad] = created  # expect-error
    other: Context[Shipped] = created  # expect-error


def replaces(message: Message) -> None:
    assert_type(message.replace(topic="orders.other", headers={"a": "b"}), Message)
    message.replace(topik="orders.other")  # expect-error
    message.replace(topic=CREATED)  # expect-error
