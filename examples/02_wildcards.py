"""Patterns choose by topic, `where=` by content.

`*` is one token, `>` all that follow, `{room}` one token that the handler gets to know.

Prints:

    any kind in the hall: hall.lamp, hall.temperature
    everything: cellar.boiler.temperature, hall.lamp, hall.temperature, kitchen.temperature
    hot: kitchen
    rooms: hall, kitchen
"""

import sys
from collections import defaultdict
from typing import Any

import anyio

from eventbus import Context, EventBus

bus = EventBus()
heard: defaultdict[str, list[str]] = defaultdict(list)


@bus.on("home.hall.*")
async def hall(reading: dict[str, Any], context: Context[dict[str, Any]]) -> None:
    heard["any kind in the hall"].append(context.message.topic.removeprefix("home."))


@bus.on("home.>")
async def everything(reading: dict[str, Any], context: Context[dict[str, Any]]) -> None:
    heard["everything"].append(context.message.topic.removeprefix("home."))


@bus.on("home.{room}.temperature")
async def rooms(reading: dict[str, Any], context: Context[dict[str, Any]]) -> None:
    heard["rooms"].append(context.captures["room"])


@bus.on("home.{room}.temperature", where=lambda reading: reading["celsius"] > 25)
async def hot(reading: dict[str, Any], context: Context[dict[str, Any]]) -> None:
    heard["hot"].append(context.captures["room"])


async def main() -> None:
    async with bus:
        await bus.publish("home.hall.temperature", {"celsius": 19})
        await bus.publish("home.hall.lamp", {"is_on": True})
        await bus.publish("home.kitchen.temperature", {"celsius": 31})
        await bus.publish("home.cellar.boiler.temperature", {"celsius": 58})
    for what, topics in sorted(heard.items()):
        print(f"{what}: {', '.join(sorted(topics))}")


if __name__ == "__main__":
    anyio.run(main, backend="trio" if "--trio" in sys.argv else "asyncio")
