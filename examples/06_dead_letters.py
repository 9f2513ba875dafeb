"""What fails is tried again, then kept as a dead letter, to be sent again once its cause is mended.

Prints:

    attempt 1 for o-1
    attempt 2 for o-1
    billing gave up after 2 attempts: ConnectionError: the bank is closed
    attempt 1 for o-1
    billed o-1
    redriven: 1, dead letters left: 0
"""

import logging
import sys

import anyio
from pydantic import BaseModel

from eventbus import Context, EventBus, Topic
from eventbus.middleware import DeadLetter, Retry, Timeout


class Order(BaseModel):
    order_id: str


ORDER_PAID = Topic("orders.paid", Order)
bank = {"is_open": False}

# Policies of the bus hold for each handler that does not bring its own, `middleware=[Retry(5)]`.
bus = EventBus(middleware=[DeadLetter(), Retry(attempts=2, initial=0.01), Timeout(5.0)])


@bus.on(ORDER_PAID, name="billing")
async def bill(order: Order, context: Context[Order]) -> None:
    print(f"attempt {context.attempt} for {order.order_id}")
    if not bank["is_open"]:
        raise ConnectionError("the bank is closed")
    print(f"billed {order.order_id}")


async def main() -> None:
    logging.getLogger("eventbus").addHandler(logging.NullHandler())  # else failures go to stderr
    async with bus:
        await bus.publish(ORDER_PAID, Order(order_id="o-1"))
        await bus.join()  # waits for retries, too
        for dead in await bus.dead_letters():
            print(f"{dead.subscription} gave up after {dead.attempts} attempts: ", end="")
            print(f"{dead.error_type}: {dead.error}")
        bank["is_open"] = True
        redriven = await bus.redrive("billing")  # to billing alone, whoever else had it
        await bus.join()
        print(f"redriven: {redriven}, dead letters left: {len(await bus.dead_letters())}")


if __name__ == "__main__":
    anyio.run(main, backend="trio" if "--trio" in sys.argv else "asyncio")
