"""What the tests of requests share: topics, responders, and a way to ask beside a block."""

__all__ = (
    "APPLE",
    "OFFERS",
    "QUOTE",
    "Question",
    "Quote",
    "asking",
    "fail",
    "is_pear",
    "never",
    "three",
)

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
from pydantic import BaseModel

from eventbus import (
    RequestTopic,
)


class Question(BaseModel):
    """What is asked."""

    sku: str


class Quote(BaseModel):
    """What is answered."""

    cents: int


QUOTE = RequestTopic("pricing.quote", Question, Quote)
OFFERS = RequestTopic("pricing.offers", Question, Quote, many=True)
APPLE = Question(sku="apple")


async def three(question: Question) -> Quote:
    """Answer."""
    return Quote(cents=3)


async def never(question: Question) -> Quote:
    """Never answer."""
    await anyio.sleep_forever()
    raise AssertionError("unreachable")


async def fail(question: Question) -> Quote:
    """Fail."""
    raise ValueError(f"no {question.sku} today")


def is_pear(question: Question) -> bool:
    """Ask for the one thing some responders have."""
    return question.sku == "pear"


@asynccontextmanager
async def asking(*calls: Callable[[], Awaitable[object]]) -> AsyncGenerator[list[object]]:
    """Ask beside the block, and end it when all have their result: a reply or an error."""
    results: list[object] = []

    async def note(call: Callable[[], Awaitable[object]]) -> None:
        try:
            results.append(await call())
        except Exception as error:  # noqa: BLE001 - what it is, the test looks at
            results.append(error)

    async with anyio.create_task_group() as tasks:
        for call in calls:
            tasks.start_soon(note, call)
        yield results
