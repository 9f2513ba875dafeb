"""Middleware of your own wraps handlers, and publishing: plain functions that call the next.

Prints:

    begin greetings.sent from kiosk-3
    hello, world
    end
    begin greetings.sent from kiosk-3
    failed: ValueError('no name')
"""

import logging
import sys
from typing import Any

import anyio

from eventbus import Context, EventBus, Message, Receipt
from eventbus.middleware import CallNext, PublishNext


async def narrate(context: Context[Any], call_next: CallNext) -> object:
    print("begin", context.message.topic, "from", context.message.headers["device"])
    try:
        result = await call_next(context)
    except Exception as error:
        print(f"failed: {error!r}")
        raise  # what is swallowed here would count as a success
    print("end")
    return result


async def add_device(message: Message, call_next: PublishNext) -> Receipt:
    return await call_next(message.replace(headers={"device": "kiosk-3"}))


# A Router and on() take middleware=[...] too: the bus's is outermost.
bus = EventBus(middleware=[narrate], publish_middleware=[add_device])


@bus.on("greetings.sent")
async def greet(greeting: dict[str, str]) -> None:
    if not greeting["name"]:
        raise ValueError("no name")
    print("hello,", greeting["name"])


async def main() -> None:
    logging.getLogger("eventbus").addHandler(logging.NullHandler())  # else failures go to stderr
    async with bus:
        await bus.publish("greetings.sent", {"name": "world"})
        await bus.publish("greetings.sent", {"name": ""})


if __name__ == "__main__":
    anyio.run(main, backend="trio" if "--trio" in sys.argv else "asyncio")
