"""A subscriber a hundred times slower than the publisher, under each policy of its queue.

Time is counted in turns: in one, each task that can run does so once.
"""

import gc
import sys
from array import array
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from anyio import CancelScope
from anyio.lowlevel import checkpoint

from eventbus import Context, EventBus, QueueFull, Topic
from eventbus.queue import Overflow
from tests.faults.scale import full

TURNS = full(600_000, small=4_000)
PLACES = 16
KEYS = 8
SLOWNESS = 100
FEW_BLOCKS = 500  # of memory; an event takes four
OVERFLOWS: Sequence[Overflow] = ("block", "fail", "drop_newest", "drop_oldest", "latest")

LOAD = Topic("load", int)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Give both loops, asyncio without its debug mode: with it a turn takes ten times as long."""
    name: str = request.param
    return name


class Load:
    """Publishes numbers for some turns, to a quick subscriber and to a slow one."""

    # What is noted goes into arrays: it must not look like memory that the bus holds.

    def __init__(self, overflow: Overflow, *, places: int = PLACES) -> None:
        self.published_at = array("q")  # the turn of each number
        self.refused = 0
        self.quick: array[int] = array("q")
        self.delays: array[int] = array("q")  # of the quick one, in turns
        self.slow: array[int] = array("q")
        self.lagged = 0
        self.grown = 0  # blocks of memory, in the second half
        self._turn = 0
        self._overflow: Overflow = overflow
        self._places = places
        self.bus = EventBus()

    def register_quick(self, **options: Any) -> None:
        """Let the quick handler listen."""

        async def note(number: int) -> None:
            self.quick.append(number)
            self.delays.append(self._turn - self.published_at[number])

        self.bus.on(LOAD, **options)(note)

    def register_slow(self, **options: Any) -> None:
        """Let the slow handler listen."""

        async def dawdle(number: int, context: Context[int]) -> None:
            self.slow.append(number)
            self.lagged += context.lagged
            for _ in range(SLOWNESS):
                await checkpoint()

        self.bus.on(
            LOAD,
            overflow=self._overflow,
            queue_size=self._places,
            key=lambda number: str(number % KEYS),
            **options,
        )(dawdle)

    async def run(self, *, to_the_end: bool = True) -> None:
        """Publish in each turn that lets it, then wait until all is handled."""
        with CancelScope() as scope:
            async with self.bus:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._count_turns)
                    tasks.start_soon(self._publish)
                if not to_the_end:
                    scope.cancel()

    @property
    def dropped(self) -> int:
        """How many events were dropped, as the bus has counted."""
        return self.bus.stats().dropped

    async def _count_turns(self) -> None:
        before = 0
        while self._turn < TURNS:
            await checkpoint()
            self._turn += 1
            if self._turn == TURNS // 2:
                before = _blocks()
        self.grown = _blocks() - before

    async def _publish(self) -> None:
        while self._turn < TURNS:
            self.published_at.append(self._turn)
            try:
                await self.bus.publish(LOAD, len(self.published_at) - 1)
            except QueueFull:
                self.refused += 1
            await checkpoint()


def _blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()


def p99(load: Load) -> int:
    """Give the delay that one in a hundred exceeds, once the subscribers have begun."""
    delays = sorted(load.delays[PLACES:])
    return delays[len(delays) * 99 // 100]


async def run(overflow: Overflow) -> Load:
    """Run both subscribers to the end."""
    load = Load(overflow)
    load.register_slow()
    load.register_quick()
    await load.run()
    return load


async def alone() -> Load:
    """Run the quick subscriber without the slow one."""
    load = Load("block")
    load.register_quick()
    await load.run()
    return load


@pytest.mark.parametrize("overflow", OVERFLOWS)
async def test_a_slow_subscriber_holds_up_no_other_and_no_memory(overflow: Overflow) -> None:
    """The others hear as fast as without it, and what it cannot keep up with is not kept."""
    load = await run(overflow)

    assert load.grown < FEW_BLOCKS
    assert p99(load) <= 2 * max(1, p99(await alone()))


async def test_control_a_queue_without_a_bound_grows() -> None:
    """With room for everything, memory grows with every event."""
    load = Load("block", places=1_000_000)
    load.register_slow()
    await load.run(to_the_end=False)

    assert load.grown > FEW_BLOCKS


async def test_control_who_shares_a_queue_with_the_slow_is_held_up() -> None:
    """In one group with it, and in its order, the quick one waits for the slow one."""
    load = Load("block")
    load.register_slow(group="both")
    load.register_quick(group="both")
    await load.run()

    assert p99(load) > 2 * max(1, p99(await alone()))


async def test_block_keeps_all_and_slows_the_publisher() -> None:
    """Each number published is handled, in order."""
    load = await run("block")

    assert load.slow.tolist() == load.quick.tolist() == list(range(len(load.published_at)))
    assert len(load.published_at) <= TURNS // SLOWNESS + PLACES + 2
    assert load.dropped == load.lagged == 0


async def test_fail_refuses_for_everybody() -> None:
    """What was refused has reached nobody; what was accepted, both."""
    load = await run("fail")

    assert load.slow.tolist() == load.quick.tolist()
    assert len(load.slow) + load.refused == len(load.published_at)
    assert load.refused > 10 * len(load.slow)
    assert load.dropped == load.lagged == 0


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest", "latest"])
async def test_drops_are_counted_to_the_last(overflow: Overflow) -> None:
    """Each number is handled or counted as dropped, and `lagged` tells the handler of each."""
    load = await run(overflow)
    published = len(load.published_at)

    assert load.quick.tolist() == list(range(published))
    assert len(load.slow) + load.dropped == published
    assert load.lagged == load.dropped > 10 * len(load.slow)


async def test_drop_newest_keeps_what_came_first() -> None:
    """As many numbers as there is room for are handled before any was dropped."""
    load = await run("drop_newest")

    assert load.slow.tolist()[: PLACES + 1] == list(range(PLACES + 1))


async def test_drop_oldest_keeps_what_came_last() -> None:
    """The end is what was published last, as much of it as there is room for."""
    load = await run("drop_oldest")
    published = len(load.published_at)

    assert load.slow.tolist()[-PLACES:] == list(range(published - PLACES, published))


async def test_latest_keeps_the_newest_of_each_key() -> None:
    """The end is the last number of each key."""
    load = await run("latest")
    published = len(load.published_at)

    assert sorted(load.slow.tolist()[-KEYS:]) == list(range(published - KEYS, published))
