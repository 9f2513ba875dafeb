"""A contract says which model a topic carries, to the type checker and to the running bus.

Prints:

    shipping o-1
    shipping o-2
    InvalidEvent: the publisher is told, no handler was
    UnknownTopic: no contract names 'orders.created'; did you mean 'orders.placed'?
"""

import sys
from typing import TypedDict

import anyio
from pydantic import BaseModel

from eventbus import EventBus, InvalidEvent, Topic, UnknownTopic


class Order(BaseModel, frozen=True):  # frozen: all subscribers share one event
    order_id: str
    cents: int


# With contracts, there are no other topics. Keys may be patterns.
Contracts = TypedDict("Contracts", {"orders.placed": Order, "orders.{step}.done": Order})
ORDER_PLACED = Topic("orders.placed", Order)

bus = EventBus(contracts=Contracts)


@bus.on(ORDER_PLACED)
async def ship(order: Order) -> None:  # any other annotation: mypy and pyright object
    print("shipping", order.order_id)


async def main() -> None:
    async with bus:
        await bus.publish(ORDER_PLACED, Order(order_id="o-1", cents=990))
        await bus.publish("orders.placed", {"order_id": "o-2", "cents": 450})
        await bus.join()  # until nothing is queued or running
        try:
            await bus.publish("orders.placed", {"order_id": "o-3"})
        except InvalidEvent:
            print("InvalidEvent: the publisher is told, no handler was")
        try:
            await bus.publish("orders.created", {"order_id": "o-4", "cents": 120})
        except UnknownTopic as error:
            print(f"UnknownTopic: {error}")


if __name__ == "__main__":
    anyio.run(main, backend="trio" if "--trio" in sys.argv else "asyncio")
