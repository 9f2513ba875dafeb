"""An order and its event in one transaction; an invoice and the acknowledgement in another.

Prints:

    orders: ('o-1',) ('o-2',) as the card of o-3 is refused
    writing the invoice of o-1, attempt 1
    writing the invoice of o-1, attempt 2
    writing the invoice of o-2, attempt 1
    invoices: ('o-1',) ('o-2',)
"""

import logging
import sqlite3
import sys
import tempfile
from pathlib import Path

import anyio

from eventbus import Context, EventBus, Topic
from eventbus.middleware import Retry

ORDERED = Topic("orders.placed", str)


async def main(path: Path) -> None:
    bus = EventBus(f"sqlite:///{path}", middleware=[Retry(attempts=3, initial=0.01, hold=True)])

    @bus.on(ORDERED, name="invoices")
    async def write_invoice(order_id: str, context: Context[str]) -> None:
        print(f"writing the invoice of {order_id}, attempt {context.attempt}")
        context.transaction.execute("INSERT INTO invoices VALUES (?)", (order_id,))
        if order_id == "o-1" and context.attempt == 1:
            raise ConnectionError("so what was recorded is dropped")

    async with bus:
        connection = sqlite3.connect(path)
        connection.executescript("CREATE TABLE orders (id); CREATE TABLE invoices (order_id)")
        try:
            with connection:  # one transaction for two orders and their events
                for order_id in ("o-1", "o-2"):
                    connection.execute("INSERT INTO orders VALUES (?)", (order_id,))
                    await bus.publish(ORDERED, order_id, connection=connection)
            with connection:
                connection.execute("INSERT INTO orders VALUES ('o-3')")
                await bus.publish(ORDERED, "o-3", connection=connection)
                raise ValueError("the card of o-3 is refused")  # and all of this has never been
        except ValueError as error:
            print("orders:", *connection.execute("SELECT id FROM orders"), f"as {error}")
        await bus.join()
        print("invoices:", *connection.execute("SELECT order_id FROM invoices"))
        connection.close()


if __name__ == "__main__":
    logging.getLogger("eventbus").addHandler(logging.NullHandler())  # else failures go to stderr
    with tempfile.TemporaryDirectory() as folder:
        backend = "trio" if "--trio" in sys.argv else "asyncio"
        anyio.run(main, Path(folder) / "shop.db", backend=backend)
