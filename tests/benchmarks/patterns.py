"""Routing among many patterns, to topics that come again and to topics never seen before.

All patterns belong to one handler, so that routing is measured, and not how many workers wake up.
To subscribe a million of them takes longer than all the rounds: every contender subscribes once,
and they stay up, side by side on one event loop, while the rounds are taken.
"""

__all__ = (
    "LIMIT_SECONDS",
    "SIZES",
    "TOPICS",
    "Kind",
    "patterns",
    "routing",
    "topics",
    "workload",
)

import gc
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count as endless
from itertools import cycle, islice
from math import inf
from time import thread_time_ns
from typing import Literal, TypeAlias

from tests.benchmarks.contenders.contender import Contender, PublishTo
from tests.benchmarks.floors import Tally
from tests.benchmarks.measure import Backend, Round, TooSlow, expect, run, undisturbed, within
from tests.benchmarks.workloads import named

Kind: TypeAlias = Literal["repeated", "new"]

SIZES = (1, 2, 1_000, 100_000, 1_000_000)
TOPICS: Sequence[Kind] = ("repeated", "new")
REPEATED = 20
MOST_EVENTS = 4_000
SAMPLE_NS = 20_000_000
LIMIT_SECONDS = 6.0


@dataclass(slots=True)
class Router:
    """A contender with its patterns subscribed, and topics to publish to."""

    publish_to: PublishTo
    tally: Tally
    topics: Iterator[str]
    events: int

    async def sample(self) -> float:
        """Take nanoseconds per event.

        Raises:
            WrongCount: An event was not handled once.
        """
        batch, before = list(islice(self.topics, self.events)), self.tally.handled
        started = thread_time_ns()
        await self.publish_to(batch)
        spent = thread_time_ns() - started
        expect(self.tally.handled - before, self.events)
        return spent / self.events

    async def fit(self) -> None:
        """Find how many events make a sample of the right length, once all is warm."""
        await self.sample()
        self.events = 1
        while (each := await self.sample()) * self.events < SAMPLE_NS / 8:
            self.events *= 8
        self.events = min(max(1, int(SAMPLE_NS / each)), MOST_EVENTS)


def workload(count: int, kind: str) -> str:
    """Name the workload of so many patterns and topics of a kind."""
    return f"{count:,} patterns, {kind} topics"


def routing(contenders: Iterable[Contender], *, rounds: int, shrink: int = 1) -> Iterator[Round]:
    """Give rounds of all contenders that route by pattern, each event loop by itself."""
    by_backend: dict[Backend, list[Contender]] = {}
    for one in contenders:
        if one.patterns is not None:
            by_backend.setdefault(one.backend, []).append(one)
    for backend, able in by_backend.items():
        yield from run(partial(_sitting, able, rounds, shrink), backend=backend)


async def _sitting(contenders: Sequence[Contender], rounds: int, shrink: int) -> list[Round]:
    chance = random.Random(2026)
    async with AsyncExitStack() as stack:
        routers: dict[str, Router | None] = {}
        with undisturbed():
            for contender in contenders:
                for size in SIZES:
                    if size <= contender.most_patterns:
                        routers |= await _subscribed(stack, contender, size, shrink)
        with undisturbed():
            return [await _round(routers, chance) for _ in range(rounds)]


async def _subscribed(
    stack: AsyncExitStack, contender: Contender, size: int, shrink: int
) -> dict[str, Router | None]:
    """Give the router of each case, or None for each where subscribing takes too long."""
    assert contender.patterns is not None
    count, tally = max(1, size // shrink), Tally()
    cases: list[tuple[Kind, str]] = [
        (kind, named(contender.name, workload(size, kind))) for kind in TOPICS
    ]
    patience = within(LIMIT_SECONDS / shrink, patterns(count))
    try:
        publish_to = await stack.enter_async_context(contender.patterns(patience, tally))
    except TooSlow:
        return {name: None for _, name in cases}
    routers: dict[str, Router | None] = {}
    for kind, name in cases:
        router = Router(publish_to, tally, topics(count, kind), events=REPEATED)
        await router.fit()
        routers[name] = router
    return routers


async def _round(routers: Mapping[str, Router | None], chance: random.Random) -> Round:
    gc.collect()
    return {
        name: inf if router is None else await router.sample()
        for name, router in chance.sample(list(routers.items()), len(routers))
    }


def patterns(count: int) -> Iterator[str]:
    """Give patterns of two forms, so that no token alone tells the way."""
    return (f"*.shop-{n}.created" if n % 2 else f"orders.shop-{n}.*" for n in range(count))


def topics(among: int, kind: Kind) -> Iterator[str]:
    """Give topics without end; each matches one of the patterns."""
    chance = random.Random(2026)
    shops = (chance.randrange(among) for _ in endless())
    new = (
        f"{kind}{n}.shop-{shop}.created" if shop % 2 else f"orders.shop-{shop}.{kind}{n}"
        for n, shop in enumerate(shops)
    )
    return cycle(list(islice(new, REPEATED))) if kind == "repeated" else new
