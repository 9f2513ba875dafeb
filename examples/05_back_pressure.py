"""A full queue pushes back, or drops: each subscription says which, by `overflow=`.

The handler is busy with 0, and its queue holds 2, when 1 to 5 are published.

Prints:

    block        accepted 1 2 at once, handled 0 1 2 3 4 5, dropped 0
    fail         accepted 1 2 at once, handled 0 1 2, dropped 0
    drop_newest  accepted 1 2 3 4 5 at once, handled 0 1 2, dropped 3
    drop_oldest  accepted 1 2 3 4 5 at once, handled 0 4 5, dropped 3
    latest       accepted 1 2 3 4 5 at once, handled 0 5, dropped 4
"""

import sys

import anyio

from eventbus import EventBus, Overflow, QueueFull, Topic

NUMBER = Topic("numbers", int)
POLICIES: tuple[Overflow, ...] = ("block", "fail", "drop_newest", "drop_oldest", "latest")


async def show(overflow: Overflow) -> None:
    bus, may_go_on = EventBus(), anyio.Event()
    accepted, handled = list[int](), list[int]()

    @bus.on(NUMBER, queue_size=2, overflow=overflow)
    async def handle(number: int) -> None:
        await may_go_on.wait()
        handled.append(number)

    async def publish(*numbers: int) -> None:
        for number in numbers:
            try:
                await bus.publish(NUMBER, number)  # under "block" it waits for room
                accepted.append(number)
            except QueueFull:  # under "fail" it is refused
                continue

    async with bus, anyio.create_task_group() as publishers:
        await bus.publish(NUMBER, 0)
        await anyio.sleep(0.01)  # the handler takes it
        publishers.start_soon(publish, 1, 2, 3, 4, 5)
        await anyio.sleep(0.01)
        print(f"{overflow:<12} accepted", *accepted, end=" at once, ")
        may_go_on.set()
    print("handled", " ".join(map(str, handled)), end=f", dropped {bus.stats().dropped}\n")


async def main() -> None:
    for overflow in POLICIES:
        await show(overflow)


if __name__ == "__main__":
    anyio.run(main, backend="trio" if "--trio" in sys.argv else "asyncio")
