"""Keys: order within each, parallel among them, and what a waiting retry holds up."""

import random
from contextvars import ContextVar
from operator import itemgetter
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from eventbus import Context, EventBus, Topic
from eventbus.lanes import Lanes
from eventbus.middleware import DeadLetter, Retry, Timeout
from eventbus.queue import DeliveryQueue, Overflow
from eventbus.testing import ManualClock

Keyed = tuple[str, int]
"""A key, and its how-manieth message this is."""

JOBS = Topic("jobs", tuple[str, int])
mood: ContextVar[str] = ContextVar("mood")
ONE_RETRY = Retry(attempts=2, jitter=False)


def key_of(event: Keyed) -> str:
    """Give the key of an event in these tests."""
    return event[0]


class Floor:
    """A handler that gives way at random, and notes who is on it and who shares it with whom."""

    def __init__(self) -> None:
        self.seen: list[Keyed] = []
        self.overlaps: list[tuple[Keyed, Keyed]] = []
        self._running: set[Keyed] = set()
        self._chance = random.Random(3)

    async def __call__(self, event: Keyed) -> None:
        self.overlaps += [(other, event) for other in self._running]
        self._running.add(event)
        self.seen.append(event)
        for _ in range(self._chance.randrange(4)):
            await checkpoint()
        self._running.remove(event)

    def seen_of(self, key: str) -> list[int]:
        return [count for one, count in self.seen if one == key]


class Failing:
    """A handler that fails the first attempt of some events, and notes every attempt."""

    def __init__(self, *failing: Keyed) -> None:
        self.seen: list[tuple[Keyed, int]] = []
        self._failing = failing

    async def __call__(self, event: Keyed, context: Context[Keyed]) -> None:
        self.seen.append((event, context.attempt))
        if event in self._failing and context.attempt == 1:
            raise ValueError(event)

    @property
    def events(self) -> list[Keyed]:
        return [event for event, _ in self.seen]


# --- Lanes themselves -----------------------------------------------------------------------------


async def test_a_lane_is_entered_by_one() -> None:
    """Who comes while it is taken waits behind, in a place of the queue."""
    queue: DeliveryQueue[int] = DeliveryQueue(5)
    lanes = Lanes(queue)

    assert [lanes.enter("a", 1), lanes.enter("a", 2), lanes.enter("b", 3)] == [True, False, True]
    assert (bool(lanes), queue.held) == (True, 1)


async def test_a_lane_goes_to_who_waited_first() -> None:
    """Leaving hands it on; only when nobody waits is it open again."""
    lanes = Lanes(DeliveryQueue[int](5))
    for entry in (1, 2, 3):
        lanes.enter("a", entry)

    assert [lanes.leave("a"), lanes.leave("a")] == [2, 3]
    assert lanes.leave("a") is None
    assert not lanes.taken


# --- Order within a key ---------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [2, 5, 16])
async def test_each_key_keeps_its_order(concurrency: int) -> None:
    """With many at work, no message of a key begins before the one before it has ended."""
    floor = Floor()
    bus = EventBus(queue_size=10)
    bus.on(JOBS, concurrency=concurrency, key=key_of)(floor)
    chance = random.Random(concurrency)
    keys = "abcdef"
    async with bus:
        counts = dict.fromkeys(keys, 0)
        for _ in range(300):
            key = chance.choice(keys)
            await bus.publish(JOBS, (key, counts[key]))
            counts[key] += 1

    assert [pair for pair in floor.overlaps if pair[0][0] == pair[1][0]] == []
    assert {key: floor.seen_of(key) for key in keys} == {k: list(range(counts[k])) for k in keys}
    assert floor.overlaps  # keys did run side by side, or this would show nothing


async def test_the_messages_own_key_orders_by_default() -> None:
    """Without `key=` it is the one given to `publish`."""
    floor = Floor()
    bus = EventBus()
    bus.on(JOBS, concurrency=4)(floor)
    async with bus:
        for count in range(40):
            for key in "ab":
                await bus.publish(JOBS, (key, count), key=key)

    assert floor.seen_of("a") == floor.seen_of("b") == list(range(40))
    assert {frozenset((one[0], other[0])) for one, other in floor.overlaps} == {frozenset("ab")}


async def test_a_function_of_the_event_wins_over_the_messages_key(clock: ManualClock) -> None:
    """A subscription that says `key=` orders by that alone."""
    floor = Floor()
    bus = EventBus(clock=clock)
    bus.on(JOBS, concurrency=4, key=lambda _: "all")(floor)
    async with bus:
        for count in range(40):
            await bus.publish(JOBS, ("a", count), key=str(count))

    assert (floor.overlaps, floor.seen_of("a")) == ([], list(range(40)))


async def test_keys_run_side_by_side(clock: ManualClock) -> None:
    """As many as `concurrency` says, and a key that stands still holds up no other."""
    running: list[str] = []
    opened = anyio.Event()
    bus = EventBus(clock=clock)

    @bus.on(JOBS, concurrency=3, key=key_of)
    async def handle(event: Keyed) -> None:
        running.append(event[0])
        await opened.wait()

    async with bus:
        for key in "aabcd":
            await bus.publish(JOBS, (key, 0))
        await clock.settle()

        assert sorted(running) == ["a", "b", "c"]

        opened.set()


async def test_messages_without_a_key_hold_up_nobody(clock: ManualClock) -> None:
    """They share no lane: each worker takes one."""
    running: list[int] = []
    opened = anyio.Event()
    bus = EventBus(clock=clock)

    @bus.on(JOBS, concurrency=4)
    async def handle(event: Keyed) -> None:
        running.append(event[1])
        await opened.wait()

    async with bus:
        for count in range(6):
            await bus.publish(JOBS, ("", count))
        await clock.settle()

        assert sorted(running) == [0, 1, 2, 3]

        opened.set()


async def test_what_waits_behind_its_key_keeps_its_place(clock: ManualClock) -> None:
    """Set aside or not, it counts in the queue's size, so that its publishers wait."""
    opened = anyio.Event()
    bus = EventBus(clock=clock)

    @bus.on(JOBS, concurrency=2, key=key_of, queue_size=2, name="jobs")
    async def handle(event: Keyed) -> None:
        await opened.wait()

    async with bus, anyio.create_task_group() as tasks:
        for count in range(5):
            tasks.start_soon(bus.publish, JOBS, ("a", count))
            await clock.settle()
        stats = bus.stats().subscriptions["jobs"]

        assert (stats.in_flight, stats.queue_depth, stats.lag) == (1, 2, 4)

        opened.set()


async def test_the_workers_of_a_group_share_its_lanes() -> None:
    """Handlers that joined one group keep the order of a key among them."""
    floor = Floor()
    bus = EventBus()

    @bus.on(JOBS, group="workers", key=key_of)
    async def one(event: Keyed) -> None:
        await floor(event)

    @bus.on(JOBS, group="workers")
    async def other(event: Keyed) -> None:
        await floor(event)

    async with bus:
        for count in range(60):
            await bus.publish(JOBS, ("abc"[count % 3], count // 3))

    assert [floor.seen_of(key) for key in "abc"] == [list(range(20))] * 3
    assert [pair for pair in floor.overlaps if pair[0][0] == pair[1][0]] == []


async def test_a_handler_that_joins_a_group_at_work_keeps_its_keys(clock: ManualClock) -> None:
    """What the first handler is busy with holds its key against the newcomer as well."""
    began: list[Keyed] = []
    opened = anyio.Event()
    bus = EventBus(clock=clock)

    async def handle(event: Keyed) -> None:
        began.append(event)
        await opened.wait()

    bus.on(JOBS, group="workers", key=key_of)(handle)
    async with bus:
        await bus.publish_many(JOBS, [("a", count) for count in range(3)])
        await clock.settle()
        bus.on(JOBS, group="workers")(handle)
        await bus.publish(JOBS, ("b", 0))
        await clock.settle()

        assert began == [("a", 0), ("b", 0)]

        opened.set()

    assert [count for key, count in began if key == "a"] == [0, 1, 2]


# --- Keys and policies that drop ------------------------------------------------------------------


class Stalling:
    """A handler that stands still at some events until it is opened, and notes where it began."""

    def __init__(self, *stalling: Keyed) -> None:
        self.began: list[tuple[Keyed, int]] = []
        self._stalling = stalling
        self._opened = anyio.Event()

    async def __call__(self, event: Keyed, context: Context[Keyed]) -> None:
        self.began.append((event, context.attempt))
        if event in self._stalling:
            await self._opened.wait()
        elif event == ("a", 0) and context.attempt == 1:
            raise ValueError

    def open(self) -> None:
        """Let all pass from now on."""
        self._opened.set()


async def test_a_key_goes_on_after_what_waited_behind_it_was_replaced(clock: ManualClock) -> None:
    """Under `latest`, a newer message may be queued when its turn comes: that one is handled."""
    handler = Stalling(("a", 0), ("b", 0))
    bus = EventBus(clock=clock)
    bus.on(JOBS, concurrency=2, key=key_of, overflow="latest")(handler)
    async with bus:
        for event in (("a", 0), ("a", 1), ("b", 0), ("a", 2)):
            await bus.publish(JOBS, event)
            await clock.settle()
        handler.open()
        await clock.settle()

        assert handler.began[-1] == (("a", 2), 1)


async def test_a_key_goes_on_after_its_retry_was_replaced(clock: ManualClock) -> None:
    """Under `latest`, a retry that comes back to a newer message of its key makes way for it."""
    handler = Stalling(("b", 0))
    bus = EventBus(clock=clock, middleware=[ONE_RETRY])
    bus.on(JOBS, key=key_of, overflow="latest")(handler)
    async with bus:
        for event in (("a", 0), ("b", 0), ("a", 1)):
            await bus.publish(JOBS, event)
            await clock.settle()
        await clock.advance(1.0)
        handler.open()
        await clock.settle()

        assert handler.began[-1] == (("a", 1), 1)


async def test_a_key_goes_on_after_its_retry_was_dropped(clock: ManualClock) -> None:
    """Under `drop_oldest`, a retry that is due may be the oldest in the queue."""
    handler = Stalling(("b", 0))
    bus = EventBus(clock=clock, middleware=[ONE_RETRY])
    bus.on(JOBS, key=key_of, overflow="drop_oldest", queue_size=2)(handler)
    async with bus:
        for event in (("a", 0), ("b", 0)):
            await bus.publish(JOBS, event)
            await clock.settle()
        await clock.advance(1.0)
        await bus.publish_many(JOBS, [("c", 0), ("d", 0)])
        handler.open()
        await clock.settle()
        await bus.publish(JOBS, ("a", 1))
        await clock.settle()

        assert [event for event, _ in handler.began] == [
            ("a", 0), ("b", 0), ("c", 0), ("d", 0), ("a", 1)
        ]  # fmt: skip


class Mishaps:
    """A handler that, at random, gives way, fails, gets stuck or sets a context variable.

    It notes who shared a key with whom.
    """

    def __init__(self, chance: random.Random) -> None:
        self.overlaps: list[Keyed] = []
        self._running: set[str] = set()
        self._chance = chance

    async def __call__(self, event: Keyed) -> None:
        if event[0] in self._running:
            self.overlaps.append(event)
        self._running.add(event[0])
        try:
            for _ in range(self._chance.randrange(3)):
                await checkpoint()
            mishap = self._chance.random()
            if mishap < 0.2:
                raise ValueError(event)
            if mishap < 0.3:
                await anyio.sleep_forever()
            if mishap < 0.4:
                mood.set("moved")
        finally:
            self._running.discard(event[0])


@pytest.mark.parametrize("overflow", ["block", "drop_newest", "drop_oldest", "latest"])
@pytest.mark.parametrize("hold", [False, True])
async def test_whatever_happens_no_key_stays_closed_and_nothing_vanishes(
    clock: ManualClock, overflow: Overflow, hold: bool
) -> None:
    """Each message ends as handled, lost or dropped, and no two of a key ever run together."""
    for seed in range(4):
        chance = random.Random(seed)
        handler = Mishaps(chance)
        bus = EventBus(clock=clock, middleware=[Retry(attempts=3, hold=hold), Timeout(5.0)])
        bus.on(
            JOBS,
            concurrency=1 + seed % 3,
            key=key_of,
            overflow=overflow,
            queue_size=chance.randint(1, 6),
        )(handler)
        async with bus, anyio.create_task_group() as tasks:
            for count in range(30):
                tasks.start_soon(bus.publish, JOBS, (chance.choice("abc"), count))
                if chance.random() < 0.4:
                    await clock.advance(chance.random())
            await clock.advance(600.0)
            stats = bus.stats()

            assert stats.succeeded + stats.lost + stats.dropped == stats.published == 30
            assert [one.queue_depth for one in stats.subscriptions.values()] == [0]

        assert handler.overlaps == []


# --- Keys that fail -------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [2, 5])
async def test_a_failing_key_function_fails_the_delivery(concurrency: int) -> None:
    """That message is a dead letter; the others are handled."""
    handled: list[str] = []
    bus = EventBus(middleware=[DeadLetter()])

    def demanding(event: Keyed) -> str:
        if not event[0]:
            raise LookupError("no key")
        return event[0]

    @bus.on(JOBS, concurrency=concurrency, key=demanding)
    async def handle(event: Keyed) -> None:
        handled.append(event[0])

    async with bus:
        await bus.publish_many(JOBS, [("a", 0), ("", 0), ("b", 0)])
        await bus.join()
        letters = await bus.dead_letters()
        stats = bus.stats()

    assert sorted(handled) == ["a", "b"]
    assert [(one.error_type, one.error) for one in letters] == [("LookupError", "no key")]
    assert (stats.failed, stats.succeeded, stats.dead_lettered) == (1, 2, 1)


async def test_a_key_that_is_no_text_fails_the_delivery() -> None:
    """The error names the subscription and what the function gave."""
    bus = EventBus(middleware=[DeadLetter()])
    number_of: Any = itemgetter(1)  # a checker would refuse the wrong type

    @bus.on(JOBS, concurrency=2, key=number_of, name="jobs")
    async def handle(event: Keyed) -> None: ...

    async with bus:
        await bus.publish(JOBS, ("a", 17))
        await bus.join()
        letter = (await bus.dead_letters())[0]

    assert letter.error_type == "InvalidOption"
    assert letter.error.startswith(
        "key= of subscription 'jobs' gave 17, of type int: let it return a str"
    )


# --- Keys and retries -----------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_waiting_retry_is_not_overtaken_by_its_key(
    clock: ManualClock, concurrency: int
) -> None:
    """What has its key waits behind it; all others pass."""
    handler = Failing(("a", 0))
    bus = EventBus(clock=clock, middleware=[ONE_RETRY])
    bus.on(JOBS, concurrency=concurrency, key=key_of)(handler)
    async with bus:
        for event in (("a", 0), ("a", 1), ("b", 0), ("a", 2), ("c", 0)):
            await bus.publish(JOBS, event)
        await clock.settle()
        meanwhile = list(handler.events)
        await clock.advance(1.0)

    assert sorted(meanwhile) == [("a", 0), ("b", 0), ("c", 0)]
    assert handler.seen[3:] == [(("a", 0), 2), (("a", 1), 1), (("a", 2), 1)]


async def test_the_messages_own_key_holds_its_followers_back_too(clock: ManualClock) -> None:
    """Also with one worker and no `key=`, where nothing looks at keys until something fails."""
    handler = Failing(("a", 0))
    bus = EventBus(clock=clock, middleware=[ONE_RETRY])
    bus.on(JOBS)(handler)
    async with bus:
        for event in (("a", 0), ("a", 1), ("b", 0)):
            await bus.publish(JOBS, event, key=event[0])
        await clock.advance(1.0)

    assert handler.events == [("a", 0), ("b", 0), ("a", 0), ("a", 1)]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_retry_without_a_key_is_overtaken_by_all(
    clock: ManualClock, concurrency: int
) -> None:
    """Nothing has to wait for it."""
    handler = Failing(("", 0))
    bus = EventBus(clock=clock, middleware=[ONE_RETRY])
    bus.on(JOBS, concurrency=concurrency)(handler)
    async with bus:
        for count in range(4):
            await bus.publish(JOBS, ("", count))
        await clock.advance(1.0)

    assert handler.seen[-1] == (("", 0), 2)
    assert sorted(handler.events[:4]) == [("", count) for count in range(4)]


async def test_a_key_is_free_once_its_retries_have_failed(clock: ManualClock) -> None:
    """Giving up opens the lane for the next."""
    handled: list[Keyed] = []
    bus = EventBus(clock=clock, middleware=[ONE_RETRY])

    @bus.on(JOBS, concurrency=2, key=key_of)
    async def handle(event: Keyed) -> None:
        handled.append(event)
        if event[1] < 2:
            raise ValueError(event)

    async with bus:
        await bus.publish_many(JOBS, [("a", count) for count in range(4)])
        await clock.advance(10.0)

    assert [count for _, count in handled] == [0, 0, 1, 1, 2, 3]


async def test_retries_and_what_waits_behind_them_fill_the_queue(clock: ManualClock) -> None:
    """They keep their places, so that a publisher waits until one of them is through."""
    handler = Failing(("a", 0))
    bus = EventBus(clock=clock, middleware=[ONE_RETRY])
    bus.on(JOBS, key=key_of, queue_size=2)(handler)
    async with bus, anyio.create_task_group() as tasks:
        for event in (("a", 0), ("a", 1), ("b", 0)):
            tasks.start_soon(bus.publish, JOBS, event)
            await clock.settle()

        assert handler.events == [("a", 0)]

        await clock.advance(1.0)

    assert sorted(handler.events[1:]) == [("a", 0), ("a", 1), ("b", 0)]


async def test_random_failures_invert_no_key(clock: ManualClock) -> None:
    """Where a twentieth of all attempts fail, each key is still handled in its order, once."""
    floor, chance = Floor(), random.Random(5)
    bus = EventBus(clock=clock, middleware=[Retry(attempts=20, initial=0.1, maximum=1.0)])

    @bus.on(JOBS, concurrency=4, key=key_of)
    async def handle(event: Keyed) -> None:
        if chance.random() < 0.05:
            await checkpoint()
            raise ValueError(event)
        await floor(event)

    async with bus:
        for count in range(20):
            for key in "abcdefgh":
                await bus.publish(JOBS, (key, count))
        while bus.stats().succeeded < 160:
            await clock.advance(1.0)

    assert [floor.seen_of(key) for key in "abcdefgh"] == [list(range(20))] * 8
    assert bus.stats().retried > 0


# --- hold=True ------------------------------------------------------------------------------------


async def test_a_held_lane_lets_nobody_pass(clock: ManualClock) -> None:
    """With `hold=True` everything behind the retry waits, whatever its key."""
    handler = Failing(("a", 0))
    bus = EventBus(clock=clock, middleware=[Retry(attempts=2, jitter=False, hold=True)])
    bus.on(JOBS, key=key_of)(handler)
    async with bus:
        for event in (("a", 0), ("b", 0), ("c", 0)):
            await bus.publish(JOBS, event)
        await clock.advance(0.9)

        assert handler.events == [("a", 0)]

        await clock.advance(0.1)

    assert handler.events == [("a", 0), ("a", 0), ("b", 0), ("c", 0)]


async def test_a_held_lane_keeps_order_through_many_failures(clock: ManualClock) -> None:
    """Each message is done with, in order, before the next begins."""
    attempts: list[tuple[int, int]] = []
    bus = EventBus(clock=clock, middleware=[Retry(attempts=3, jitter=False, hold=True)])

    @bus.on(JOBS)
    async def handle(event: Keyed, context: Context[Keyed]) -> None:
        attempts.append((event[1], context.attempt))
        if event[1] % 2 == 0:
            raise ValueError(event)

    async with bus:
        await bus.publish_many(JOBS, [("", count) for count in range(4)])
        await clock.advance(20.0)

    assert attempts == [(0, 1), (0, 2), (0, 3), (1, 1), (2, 1), (2, 2), (2, 3), (3, 1)]


async def test_other_lanes_go_on_while_one_is_held(clock: ManualClock) -> None:
    """Of several workers, the one whose message failed waits; the others work."""
    handler = Failing(("a", 0))
    bus = EventBus(clock=clock, middleware=[Retry(attempts=2, jitter=False, hold=True)])
    bus.on(JOBS, concurrency=2, key=key_of)(handler)
    async with bus:
        for event in (("a", 0), ("b", 0), ("a", 1), ("c", 0)):
            await bus.publish(JOBS, event)
        await clock.settle()

        assert sorted(handler.events) == [("a", 0), ("b", 0), ("c", 0)]

        await clock.advance(1.0)

    assert handler.events[3:] == [("a", 0), ("a", 1)]


async def test_a_held_retry_keeps_its_place(clock: ManualClock) -> None:
    """While it waits it is queued, not running, and nothing else may take its place."""
    bus = EventBus(clock=clock, middleware=[Retry(attempts=2, jitter=False, hold=True)])
    bus.on(JOBS, name="jobs")(Failing(("a", 0)))
    async with bus:
        await bus.publish(JOBS, ("a", 0))
        await clock.settle()
        stats = bus.stats().subscriptions["jobs"]

        assert (stats.in_flight, stats.queue_depth, stats.retried) == (0, 1, 1)

        await clock.advance(1.0)

    assert bus.stats().succeeded == 1
