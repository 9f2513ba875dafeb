"""Take events in a loop, where you are, instead of by a handler.

Prints:

    cpu 20 %
    cpu 45 %
    cpu 93 %: too hot
    from host a: 50 %
    from host b: 60 %
"""

import sys

import anyio
from pydantic import BaseModel

from eventbus import EventBus, Topic


class Load(BaseModel):
    percent: int


CPU = Topic("load.cpu", Load)
bus = EventBus()


async def measure() -> None:
    for percent in (20, 45, 93, 30):
        await bus.publish(CPU, Load(percent=percent))


async def main() -> None:
    async with bus, anyio.create_task_group() as tasks:
        async with bus.subscribe(CPU) as loads:  # hears what is published from here on
            tasks.start_soon(measure)
            async for load in loads:
                if load.percent > 90:
                    print(f"cpu {load.percent} %: too hot")
                    break
                print(f"cpu {load.percent} %")

        async with bus.subscribe("hosts.{host}.load", model=Load) as loads:
            await bus.publish("hosts.a.load", Load(percent=50))
            await bus.publish("hosts.b.load", Load(percent=60))
            await bus.drain()  # ends the iteration when all is taken
            async for context in loads.contexts():
                print(f"from host {context.captures['host']}: {context.event.percent} %")


if __name__ == "__main__":
    anyio.run(main, backend="trio" if "--trio" in sys.argv else "asyncio")
