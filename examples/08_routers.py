"""Routers group handlers under a prefix; `@handles` marks the methods of an object.

Prints:

    o-1 created
    stock of tea: 7
    stock of tea: 5
    subscriptions: orders, stock.take
"""

import sys

import anyio
from pydantic import BaseModel

from eventbus import EventBus, Router, handles
from eventbus.middleware import Timeout


class Order(BaseModel):
    order_id: str
    item: str
    amount: int


orders = Router("orders", middleware=[Timeout(5.0)])  # in a module of its own, say


@orders.on("created", model=Order, name="orders")  # the topic is shop.orders.created, see below
async def confirm(order: Order) -> None:
    print(order.order_id, "created")


class Stock:
    def __init__(self, amount: int) -> None:
        self.amount = amount

    @handles("orders.paid", "orders.packed", model=Order, name="take")
    async def take(self, order: Order) -> None:
        self.amount -= order.amount
        print(f"stock of {order.item}: {self.amount}")


bus = EventBus()
bus.include(orders, prefix="shop")
bus.include(Stock(10), prefix="shop", name="stock")


async def main() -> None:
    async with bus:
        await bus.publish("shop.orders.created", Order(order_id="o-1", item="tea", amount=3))
        await bus.join()
        await bus.publish("shop.orders.paid", Order(order_id="o-1", item="tea", amount=3))
        await bus.publish("shop.orders.packed", Order(order_id="o-2", item="tea", amount=2))
    print("subscriptions:", ", ".join(bus.stats().subscriptions))


if __name__ == "__main__":
    anyio.run(main, backend="trio" if "--trio" in sys.argv else "asyncio")
