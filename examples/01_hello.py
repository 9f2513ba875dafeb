"""A handler, an event, a bus.

Prints:

    hello, world
    hello, moon
"""

import sys

import anyio
from pydantic import BaseModel

from eventbus import EventBus


class Greeting(BaseModel):
    name: str


bus = EventBus()


@bus.on("greetings.sent")
async def greet(greeting: Greeting) -> None:
    print(f"hello, {greeting.name}")


async def main() -> None:
    async with bus:  # leaving the block waits until everything is handled
        await bus.publish("greetings.sent", Greeting(name="world"))
        await bus.publish("greetings.sent", {"name": "moon"})  # made a Greeting on its way


if __name__ == "__main__":
    anyio.run(main, backend="trio" if "--trio" in sys.argv else "asyncio")
