"""A group shares messages out among its handlers; a key keeps what belongs together in order.

Prints:

    parcels packed: 0 1 2 3 4 5
    anna: opened, paid in, paid out, closed
    ben: opened, paid in, paid out, closed
"""

import sys
from collections import defaultdict

import anyio
from pydantic import BaseModel

from eventbus import EventBus, Topic


class Entry(BaseModel):
    account: str
    what: str


PARCEL = Topic("parcels.ready", int)
ENTRY = Topic("accounts.entry", Entry)
bus = EventBus()
packed: list[int] = []
accounts: defaultdict[str, list[str]] = defaultdict(list)


@bus.on(PARCEL, group="packers")  # each parcel goes to one of the group
async def pack_left(number: int) -> None:
    packed.append(number)


@bus.on(PARCEL, group="packers")
async def pack_right(number: int) -> None:
    packed.append(number)


@bus.on(ENTRY, concurrency=8, key=lambda entry: entry.account)  # side by side, but one per account
async def book(entry: Entry) -> None:
    await anyio.sleep(0.001)  # others run meanwhile
    accounts[entry.account].append(entry.what)


async def main() -> None:
    async with bus:
        await bus.publish_many(PARCEL, range(6))
        for what in ("opened", "paid in", "paid out", "closed"):
            await bus.publish(ENTRY, Entry(account="anna", what=what))
            await bus.publish(ENTRY, Entry(account="ben", what=what))
    print("parcels packed:", *sorted(packed))
    for account, entries in sorted(accounts.items()):
        print(f"{account}: {', '.join(entries)}")


if __name__ == "__main__":
    anyio.run(main, backend="trio" if "--trio" in sys.argv else "asyncio")
