"""Loops over a store: what they have done is done, and all else comes again."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest

from eventbus import EventBus, InvalidOption, RequestTimeout, Topic, UnsupportedByTransport
from eventbus.middleware import DeadLetter, Retry
from eventbus.testing import ManualClock

Opened: TypeAlias = Callable[..., EventBus]

BELL = Topic("bells", int)


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """Give what makes a bus on a store."""

    def open_bus(**options: Any) -> EventBus:
        return EventBus(f"sqlite:///{tmp_path}/events.db", **options)

    return open_bus


async def take(bus: EventBus, count: int, **options: Any) -> list[int]:
    """Take so many bells in a block that then ends."""
    taken: list[int] = []
    with anyio.fail_after(20):
        async with bus.subscribe(BELL, name="loop", **options) as events:
            async for event in events:
                taken.append(event)
                if len(taken) == count:
                    break
    return taken


async def test_a_block_goes_on_where_the_one_before_has_ended(opened: Opened) -> None:
    """In the same bus, and in the next; what was fetched ahead is not lost with a block."""
    async with opened() as bus:
        await bus.publish_many(BELL, range(6))
        taken = [await take(bus, 2, start="first"), await take(bus, 1)]
    async with opened() as bus:
        taken.append(await take(bus, 3))

    assert taken == [[0, 1], [2], [3, 4, 5]]
    assert bus.stats().abandoned == 0


async def test_a_block_hears_what_is_published_after_it_was_entered(opened: Opened) -> None:
    """Though it ends before anything comes: the next block gets it."""
    async with opened() as bus:
        async with bus.subscribe(BELL, name="loop"):
            pass
        await bus.publish(BELL, 1)
        assert await take(bus, 1) == [1]


async def test_what_is_in_hand_comes_again_after_an_error(opened: Opened) -> None:
    """As the same attempt, to the next block; it is not counted as abandoned."""
    async with opened() as bus:
        await bus.publish_many(BELL, [1, 2])
        with suppress(ZeroDivisionError):
            async with bus.subscribe(BELL, name="loop", start="first") as events:
                async for _ in events:
                    raise ZeroDivisionError
        async with bus.subscribe(BELL, name="loop") as events:
            context = await anext(events.contexts())
            found = context.event, context.attempt
        stats = bus.stats()

    assert (found, stats.abandoned, stats.in_flight) == ((1, 1), 0, 0)


async def test_two_loops_of_one_name_share_what_comes(opened: Opened) -> None:
    """In two buses; each event goes to one of them."""
    taken: list[int] = []
    async with opened() as first, opened() as second:
        await take_nothing(first)
        await first.publish_many(BELL, range(40))
        async with anyio.create_task_group() as group:

            async def read(bus: EventBus) -> None:
                async with bus.subscribe(BELL, name="loop", queue_size=2) as events:
                    async for event in events:
                        taken.append(event)
                        if len(taken) == 40:
                            group.cancel_scope.cancel()

            for bus in (first, second):
                group.start_soon(read, bus)
            group.cancel_scope.deadline = anyio.current_time() + 20

    assert sorted(taken) == list(range(40))


async def take_nothing(bus: EventBus) -> None:
    """Let there be such a subscription."""
    async with bus.subscribe(BELL, name="loop"):
        pass


async def test_verdicts_count_and_survive(opened: Opened, clock: ManualClock) -> None:
    """A retry comes to the next block, when it is due; what is rejected is a dead letter."""
    options: dict[str, Any] = {"middleware": [DeadLetter(), Retry(attempts=3)], "clock": clock}
    async with opened(**options) as bus:
        await bus.publish_many(BELL, [1, 2, 3])
        async with bus.subscribe(BELL, name="loop", start="first") as events:
            contexts = events.contexts()
            await (await anext(contexts)).retry(60)
            await (await anext(contexts)).reject("no")
            assert (await anext(contexts)).event == 3
    async with opened(**options) as bus:
        (letter,) = await bus.dead_letters("loop")
        found: list[tuple[int, int]] = []
        async with bus.subscribe(BELL, name="loop") as events, anyio.create_task_group() as group:

            async def read() -> None:
                context = await anext(events.contexts())
                found.append((context.event, context.attempt))

            group.start_soon(read)
            while not found:
                await clock.advance(1)

    assert (letter.message.payload, found, clock.monotonic() >= 1060) == (2, [(1, 2)], True)


async def test_what_is_held_back_or_late_is_done(opened: Opened, clock: ManualClock) -> None:
    """It does not come again, to whatever block."""
    async with opened(clock=clock) as bus:
        await bus.publish(BELL, 1)
        await bus.publish(BELL, 2, expires=5)
        await bus.publish(BELL, 3)
        await clock.advance(6)
        taken = await take(bus, 1, start="first", where=is_three)
        await bus.publish(BELL, 4)
        taken += await take(bus, 1)
        expired = bus.stats().expired

    assert (taken, expired) == ([3, 4], 1)


def is_three(number: int) -> bool:
    """Tell whether a number is 3."""
    return number == 3


async def test_nobody_waits_for_a_loop(opened: Opened) -> None:
    """Neither join nor drain, whatever there is for it."""
    with anyio.fail_after(20):
        async with opened() as bus, bus.subscribe(BELL, name="loop") as events:
            await bus.publish_many(BELL, [1, 2])
            assert await anext(events) == 1
            await bus.join()
            await bus.drain()
            assert [event async for event in events] == []
        async with opened() as bus:
            assert await take(bus, 1) == [2]


async def test_a_loop_that_outlives_the_bus_ends(opened: Opened) -> None:
    """What it has in hand then comes again; its block can be left, and nothing hangs."""
    with anyio.fail_after(20):
        bus = opened(middleware=[Retry(attempts=2)])
        await bus.__aenter__()
        await bus.publish_many(BELL, [1, 2])
        async with bus.subscribe(BELL, name="loop", start="first") as events:
            context = await anext(events.contexts())
            await context.retry()
            await bus.__aexit__(None, None, None)
        async with opened() as again:
            assert await take(again, 1) == [1]


async def test_a_name_of_other_patterns_is_refused_in_the_block(opened: Opened) -> None:
    """The bus goes on."""
    async with opened() as bus:
        await take_nothing(bus)
        with pytest.raises(InvalidOption, match="knows 'loop' as a subscription to bells"):
            async with bus.subscribe("balls", name="loop"):
                pass
        with pytest.raises(UnsupportedByTransport, match="overflow='drop_oldest'"):
            async with bus.subscribe(BELL, name="other", overflow="drop_oldest"):
                pass
        await bus.publish(BELL, 1)

        assert await take(bus, 1) == [1]


async def test_a_name_need_not_be_durable(opened: Opened) -> None:
    """Then a block hears what is published while it lasts."""
    async with opened() as bus:
        async with bus.subscribe(BELL, name="loop", durable=False) as events:
            await bus.publish(BELL, 1)
            assert await anext(events) == 1
        await bus.publish(BELL, 2)
        async with bus.subscribe(BELL, name="loop", durable=False) as events:
            await bus.publish(BELL, 3)
            assert await anext(events) == 3


async def test_the_next_event_can_be_waited_for(opened: Opened) -> None:
    """Whichever bus has published it; nothing is left behind of that."""
    found: list[int] = []
    async with opened() as bus, opened() as other, anyio.create_task_group() as group:
        await bus.publish(BELL, 1)

        async def wait() -> None:
            found.append(await bus.wait_for(BELL, where=is_three, timeout=20))

        group.start_soon(wait)
        while not found:  # what another publishes before it is there, it does not hear
            await other.publish_many(BELL, [2, 3])
            await anyio.sleep(0.01)
    async with opened() as bus:
        with pytest.raises(RequestTimeout):
            await bus.wait_for(BELL, timeout=0.01)

    assert found == [3]
    assert not bus.stats().subscriptions
