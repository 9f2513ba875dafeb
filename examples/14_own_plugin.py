"""A plugin of your own: middleware that an installed distribution brings, found by its name.

Prints:

    PARCELS.READY?
    packed p-1
    no installed plugin has a middleware 'shuot': install the one that does, as \
`pip install eventbus-shuot`; did you mean 'shout'?
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from eventbus import EventBus, InvalidOption, plugins

PLUGIN = {  # what `pip install` leaves behind of a distribution whose pyproject.toml says the same
    "shop_shout.py": """
class Shout:
    def __init__(self, mark: str = "!") -> None:
        self.mark = mark

    async def __call__(self, context, call_next):
        print(context.message.topic.upper() + self.mark)
        return await call_next(context)
""",
    "shop_shout-1.0.dist-info/entry_points.txt": """
[eventbus.middleware]
shout = shop_shout:Shout
""",
    "shop_shout-1.0.dist-info/METADATA": "Name: shop-shout\nRequires-Dist: eventbus>=0.1\n",
}


async def main() -> None:
    bus = EventBus(middleware=[plugins.middleware("shout", mark="?")])

    @bus.on("parcels.ready")
    async def pack(parcel: dict[str, str]) -> None:
        print("packed", parcel["id"])

    async with bus:
        await bus.publish("parcels.ready", {"id": "p-1"})
    try:
        plugins.middleware("shuot")
    except InvalidOption as error:
        print(error)


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        for name, text in PLUGIN.items():
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_text(text, "utf-8")
        sys.path.append(folder)
        anyio.run(main, backend="trio" if "--trio" in sys.argv else "asyncio")
        sys.path.remove(folder)
