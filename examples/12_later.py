"""Events for later, events for a while, and events from other threads.

Prints:

    08:00 planned, 1 cancelled: True
    the kettle: on
    the kettle: whistles
    tea at last, attempt 2
    expired 1, from the thread 2
"""

import sys
from threading import Thread

import anyio

from eventbus import Context, EventBus, Topic
from eventbus.middleware import Retry

KITCHEN = Topic("kitchen", str)
TEA = Topic("tea", str)
bus = EventBus(schedule_size=1_000)  # how many may wait; a million, if nothing is said


@bus.on(KITCHEN, name="kitchen")
async def hear(what: str) -> None:
    print(f"the kettle: {what}")


@bus.on(TEA, name="table", middleware=[Retry(attempts=3, initial=0.05, jitter=False)])
async def drink(tea: str, context: Context[str]) -> None:
    if context.attempt == 1:
        raise RuntimeError("too hot")
    print(f"{tea} at last, attempt {context.attempt}")


def kettle() -> None:
    """Run in a thread: what it publishes goes through a bounded inbox, in order."""
    bus.publish_from_thread(KITCHEN, "on")
    bus.publish_from_thread(KITCHEN, "whistles")


async def main() -> None:
    async with bus:
        party = await bus.publish(KITCHEN, "party", delay=8 * 3_600)
        print(f"08:00 planned, 1 cancelled: {party.cancel()}")
        thread = Thread(target=kettle)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        await bus.publish(TEA, "tea", delay=0.01)
        await bus.publish(TEA, "cold tea", expires=0.01)  # its second attempt would be too late
        await bus.join()
        stats = bus.stats().subscriptions
    print(f"expired {stats['table'].expired}, from the thread {stats['kitchen'].succeeded}")


if __name__ == "__main__":
    anyio.run(main, backend="trio" if "--trio" in sys.argv else "asyncio")
