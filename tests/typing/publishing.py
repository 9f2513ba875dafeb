"""Publishing to a topic takes its model; publishing to text takes models, mappings and bytes."""

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import assert_type

from eventbus import EventBus, Receipt
from tests.typing.shop import CREATED, EITHER, Created, CreatedAbroad, Paid, Shipped, bus


async def to_topics() -> None:
    assert_type(await bus.publish(CREATED, Created(order_id="o-1")), Receipt)
    await bus.publish(CREATED, CreatedAbroad(order_id="o-1", country="pt"))
    await bus.publish(EITHER, Shipped(parcel="p-1"))
    await bus.publish(CREATED, Shipped(parcel="p-1"))  # expect-error
    await bus.publish(EITHER, Paid(cents=1))  # expect-error
    await bus.publish(CREATED, "o-1")  # expect-error
    await bus.publish(CREATED, None)  # expect-error
    await bus.publish(CREATED)  # expect-error


async def to_text() -> None:
    await bus.publish("orders.created", Created(order_id="o-1"))
    await bus.publish("orders.created", {"order_id": "o-1"})
    await bus.publish("orders.created", b'{"order_id": "o-1"}')
    await bus.publish("orders.created", "o-1")  # expect-error
    await bus.publish("orders.created", 1)  # expect-error
    await bus.publish("orders.created", ["o-1"])  # expect-error
    await bus.publish(b"orders.created", {"order_id": "o-1"})  # expect-error
    await bus.publish(Created, Created(order_id="o-1"))  # expect-error


async def with_options() -> None:
    event = Created(order_id="o-1")
    await bus.publish(CREATED, event, key="o-1", headers={"tenant": "a"}, id="m-1", require=True)
    await bus.publish("orders.created", {}, key=None, headers=None, id=None, require=False)
    await bus.publish(CREATED, event, delay=5.0, expires=timedelta(minutes=1))
    await bus.publish("orders.created", {}, delay=timedelta(hours=1), at=None, expires=5)
    await bus.publish(CREATED, event, at=datetime.now(UTC), expires=None)
    await bus.publish(CREATED, event, delay="5s")  # expect-error
    await bus.publish(CREATED, event, at=1_900_000_000.0)  # expect-error
    await bus.publish(CREATED, event, expires="soon")  # expect-error
    await bus.publish(CREATED, event, kee="o-1")  # expect-error
    await bus.publish(CREATED, event, key=1)  # expect-error
    await bus.publish(CREATED, event, headers={"tenant": 1})  # expect-error
    await bus.publish(CREATED, event, require="yes")  # expect-error
    await bus.publish("orders.created", {}, header={})  # expect-error
    await bus.publish(CREATED, event, "o-1")  # expect-error


async def within_a_transaction(connection: sqlite3.Connection) -> None:
    event = Created(order_id="o-1")
    assert_type(await bus.publish(CREATED, event, connection=connection), Receipt)
    await bus.publish("orders.created", {}, key="o-1", connection=None)
    assert_type(await bus.publish_many(CREATED, [event], connection=connection), list[Receipt])
    await bus.publish_many("orders.created", [{}], connection=None)
    await bus.publish(CREATED, event, connection="shop.db")  # expect-error
    await bus.publish_many(CREATED, [event], connection=connection.cursor())  # expect-error


def without_waiting(other: EventBus) -> None:
    assert_type(other.publish_nowait(CREATED, Created(order_id="o-1")), Receipt)
    other.publish_nowait("orders.created", {"order_id": "o-1"}, key="o-1")
    other.publish_nowait("orders.created", {"order_id": "o-1"}, delay=5.0)
    other.publish_nowait(CREATED, Shipped(parcel="p-1"))  # expect-error
    other.publish_nowait("orders.created", 1)  # expect-error
    other.publish_nowait(CREATED, Created(order_id="o-1"), urgent=True)  # expect-error


def from_threads() -> None:
    bus.publish_from_thread(CREATED, Created(order_id="o-1"), key="o-1", expires=5.0)
    bus.publish_from_thread("orders.created", {"order_id": "o-1"}, delay=5.0)
    bus.publish_from_thread(CREATED, Shipped(parcel="p-1"))  # expect-error
    bus.publish_from_thread("orders.created", 1)  # expect-error
    bus.publish_from_thread("orders.created", {}, urgent=True)  # expect-error


async def many() -> None:
    created, shipped = Created(order_id="o-1"), Shipped(parcel="p-1")
    assert_type(await bus.publish_many(CREATED, [created]), list[Receipt])
    await bus.publish_many(CREATED, (one for one in [created]))
    await bus.publish_many("orders.created", [{"order_id": "o-1"}, {"order_id": "o-2"}])
    await bus.publish_many("orders.created", [created, {"order_id": "o-2"}, b"{}"])
    await bus.publish_many(CREATED, [shipped])  # expect-error
    await bus.publish_many(CREATED, [created, shipped])  # expect-error
    await bus.publish_many(CREATED, created)  # expect-error
    await bus.publish_many("orders.created", [1])  # expect-error
    await bus.publish_many(CREATED, [created], key="o-1")  # expect-error


async def receipts() -> None:
    receipt = await bus.publish(CREATED, Created(order_id="o-1"))
    assert_type(receipt.id, str)
    assert_type(receipt.topic, str)
    assert_type(receipt.matched, int | None)
    assert_type(receipt.cancel(), bool)
    forgotten = bus.publish(CREATED, Created(order_id="o-1")).id  # expect-error
