"""Ask somebody, and wait for the answer.

Prints:

    an apple: 30 cents
    a pear: sold out until August
    a plum: KeyError where it was asked for
    a melon: no answer in time
"""

import logging
import sys

import anyio
from pydantic import BaseModel

from eventbus import EventBus, RemoteError, RequestTimeout, RequestTopic


class SoldOut(Exception): ...


class Quote(BaseModel):
    cents: int


QUOTE = RequestTopic("pricing.quote", str, Quote, raises=[SoldOut])
bus = EventBus()


@bus.on(QUOTE)
async def price(sku: str) -> Quote:
    if sku == "pear":
        raise SoldOut("sold out until August")
    await anyio.sleep(0.2 if sku == "melon" else 0)
    return Quote(cents={"apple": 30, "melon": 250}[sku])


async def ask(sku: str) -> str:
    try:
        quote = await bus.request(QUOTE, sku, timeout=0.1)
    except SoldOut as error:  # one of the topic's own
        return str(error)
    except RemoteError as error:  # any other, as text
        return f"{error.type} where it was asked for"
    except RequestTimeout:
        return "no answer in time"
    return f"{quote.cents} cents"


async def main() -> None:
    logging.getLogger("eventbus").addHandler(logging.NullHandler())  # else failures go to stderr
    async with bus:
        for sku in ("an apple", "a pear", "a plum", "a melon"):
            print(f"{sku}: {await ask(sku.split()[1])}")


if __name__ == "__main__":
    anyio.run(main, backend="trio" if "--trio" in sys.argv else "asyncio")
