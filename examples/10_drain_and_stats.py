"""A bus ends gracefully, and tells what it has done.

Prints:

    queued 3, handled 0
    BusClosed: <EventBus 'press', drained> takes nothing new: publish before it drains or closes
    queued 0, handled 3
    published 4, to nobody 1, delivered 3, failed 1, lost 1
"""

import logging
import sys

import anyio

from eventbus import BusClosed, EventBus, Topic

PAGE = Topic("pages", int)
bus = EventBus(name="press", drain_timeout=10.0)  # seconds to finish what was accepted


@bus.on(PAGE, name="printer")
async def print_page(number: int) -> None:
    await anyio.sleep(0.01)
    if number == 2:
        raise RuntimeError("paper jam")  # no Retry, no DeadLetter: logged and lost


def show_printer() -> None:
    printer = bus.stats().subscriptions["printer"]
    print(f"queued {printer.queue_depth}, handled {printer.delivered}")


async def main() -> None:
    logging.getLogger("eventbus").addHandler(logging.NullHandler())  # else failures go to stderr
    async with bus:  # or `await bus.run()`: until SIGINT or SIGTERM
        await bus.publish_many(PAGE, [1, 2, 3])
        await bus.publish("adverts", {"text": "buy!"})
        show_printer()
        await bus.drain()  # leaving the block does so, too
        try:
            await bus.publish(PAGE, 4)
        except BusClosed as refusal:
            print(f"BusClosed: {refusal}")
        show_printer()
    stats = bus.stats()
    print(f"published {stats.published}, to nobody {stats.unmatched}, ", end="")
    print(f"delivered {stats.delivered}, failed {stats.failed}, lost {stats.lost}")


if __name__ == "__main__":
    anyio.run(main, backend="trio" if "--trio" in sys.argv else "asyncio")
