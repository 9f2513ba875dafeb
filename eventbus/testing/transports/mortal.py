"""A program that dies at work: it publishes, begins to handle that, and ends amid it.

Run it with a URL and a number of messages. It tells which it has `sent`, and which are `done`.
"""

__all__ = ("DEATH", "live")

import os
import sys

import anyio

from eventbus.bus import EventBus
from eventbus.context import Context

DEATH = 77
"""The code it ends with, so that no other end is taken for it."""


async def live(url: str, messages: int) -> None:
    """Publish so many, handle half of them, and end at once, with nothing closed."""
    bus = EventBus(url)
    everything_is_out = anyio.Event()
    handled: list[str] = []

    async def work(event: object, context: Context[object]) -> None:
        await everything_is_out.wait()
        if len(handled) == messages // 2:
            os._exit(DEATH)
        handled.append(context.message.id)
        _say(f"done {context.message.id}")

    bus.on("jobs.new", model=object, name="audit")(work)
    async with bus:
        for n in range(messages):
            receipt = await bus.publish("jobs.new", {"n": n})
            _say(f"sent {receipt.id}")
        everything_is_out.set()
        await anyio.sleep_forever()


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(live, sys.argv[1], int(sys.argv[2]))
