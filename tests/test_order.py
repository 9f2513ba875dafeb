"""One at a time: each publisher's messages reach a handler in the order they were published."""

import random
from contextvars import ContextVar
from itertools import islice

import anyio
import pytest
from anyio.lowlevel import checkpoint

from eventbus import Context, EventBus, Topic
from eventbus.middleware import Retry, Timeout
from eventbus.testing import ManualClock

Numbered = tuple[int, int]
"""A publisher, and its how-manieth message this is."""

JOBS = Topic("jobs", tuple[int, int])
PUBLISHERS = 5
EACH = 40

number: ContextVar[int] = ContextVar("number")


class Scribe:
    """A handler that notes what it handled, and now and then gives way meanwhile."""

    def __init__(self) -> None:
        self.seen: list[Numbered] = []
        self._chance = random.Random(7)

    async def __call__(self, event: Numbered) -> None:
        for _ in range(self._chance.choice((0, 0, 0, 1, 3))):
            await checkpoint()
        self.seen.append(event)

    def seen_of(self, publisher: int) -> list[int]:
        return [count for who, count in self.seen if who == publisher]


async def publish_in_turn(bus: EventBus, publisher: int) -> None:
    """Publish numbered messages in every way there is, giving way between some of them."""
    chance = random.Random(publisher)
    counts = iter(range(EACH))
    for count in counts:
        match chance.randrange(5):
            case 0:
                await checkpoint()
                await bus.publish(JOBS, (publisher, count))
            case 1:
                await bus.publish(JOBS, (publisher, count), key=str(publisher))
            case 2:
                batch = [count, *islice(counts, 3)]
                await bus.publish_many(JOBS, [(publisher, one) for one in batch])
            case _:
                await bus.publish(JOBS, (publisher, count))


@pytest.mark.parametrize("queue_size", [1, 3, 1024])
async def test_messages_keep_the_order_of_their_publisher(queue_size: int) -> None:
    """Whether publishers wait for room or not, alone or in batches, with keys or without."""
    scribe = Scribe()
    bus = EventBus(queue_size=queue_size)
    bus.on(JOBS)(scribe)
    async with bus, anyio.create_task_group() as tasks:
        for publisher in range(PUBLISHERS):
            tasks.start_soon(publish_in_turn, bus, publisher)

    for publisher in range(PUBLISHERS):
        assert scribe.seen_of(publisher) == list(range(EACH))


async def test_every_subscription_sees_that_order() -> None:
    """However fast or slow the others are."""
    scribes = [Scribe() for _ in range(3)]
    bus = EventBus()
    for queue_size, scribe in enumerate(scribes, start=1):
        bus.on(JOBS, queue_size=queue_size)(scribe)
    async with bus, anyio.create_task_group() as tasks:
        for publisher in range(2):
            tasks.start_soon(publish_in_turn, bus, publisher)

    for scribe in scribes:
        assert [scribe.seen_of(0), scribe.seen_of(1)] == [list(range(EACH))] * 2


async def test_one_at_a_time_means_one_at_a_time() -> None:
    """The next message begins when the handler has ended with the one before."""
    steps: list[tuple[str, int]] = []
    bus = EventBus()

    @bus.on(JOBS)
    async def handle(event: Numbered) -> None:
        steps.append(("begin", event[1]))
        await checkpoint()
        steps.append(("end", event[1]))

    async with bus:
        await bus.publish_many(JOBS, [(0, count) for count in range(20)])

    assert steps == [(word, count) for count in range(20) for word in ("begin", "end")]


async def test_sync_handlers_keep_order_too() -> None:
    """Worker threads are taken one after the other."""
    seen: list[int] = []
    bus = EventBus()

    @bus.on(JOBS)
    def handle(event: Numbered) -> None:
        seen.append(event[1])

    async with bus:
        await bus.publish_many(JOBS, [(0, count) for count in range(20)])

    assert seen == list(range(20))


async def test_order_survives_a_worker_that_changes_its_task() -> None:
    """Handlers that set context variables, whose worker goes on in a new task, see it kept."""
    scribe = Scribe()
    bus = EventBus()

    @bus.on(JOBS)
    async def handle(event: Numbered) -> None:
        number.set(event[1])
        await scribe(event)

    async with bus:
        await publish_in_turn(bus, 0)

    assert scribe.seen_of(0) == list(range(EACH))


async def test_order_survives_failures() -> None:
    """What is given up on does not make those behind it trade places."""
    scribe = Scribe()
    bus = EventBus()

    @bus.on(JOBS)
    async def handle(event: Numbered) -> None:
        await scribe(event)
        if event[1] % 3 == 0:
            raise ValueError(event)

    async with bus:
        await publish_in_turn(bus, 0)

    assert scribe.seen_of(0) == list(range(EACH))


async def test_order_survives_timeouts(clock: ManualClock) -> None:
    """A worker that has to leave its cancelled scope goes on with the next message."""
    seen: list[int] = []
    bus = EventBus(clock=clock, middleware=[Timeout(1.0)])

    @bus.on(JOBS)
    async def handle(event: Numbered) -> None:
        seen.append(event[1])
        if event[1] % 3 == 0:
            await anyio.sleep_forever()

    async with bus:
        await bus.publish_many(JOBS, [(0, count) for count in range(9)])
        await clock.advance(5.0)

    assert seen == list(range(9))


async def test_a_retry_alone_may_come_later(clock: ManualClock) -> None:
    """Only second attempts are out of order: the first of each keep theirs."""
    seen: dict[int, list[int]] = {1: [], 2: []}
    bus = EventBus(clock=clock, middleware=[Retry(attempts=2, jitter=False)])

    @bus.on(JOBS)
    async def handle(event: Numbered, context: Context[Numbered]) -> None:
        seen[context.attempt].append(event[1])
        if event[1] % 4 == 0:
            raise ValueError(event)

    async with bus:
        await bus.publish_many(JOBS, [(0, count) for count in range(10)])
        await clock.advance(1.0)

    assert seen[1] == list(range(10))
    assert sorted(seen[2]) == [0, 4, 8]
