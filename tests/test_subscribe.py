"""Events taken by iteration, for the length of a block."""

from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from pydantic import BaseModel

from eventbus import Context, EventBus, Events, InvalidOption, Topic
from eventbus.middleware import DeadLetter


class Order(BaseModel):
    order_id: str


class Parcel(BaseModel):
    weight: int


ORDER = Topic("orders.created", Order)
PARCEL = Topic("parcels.sent", Parcel)


async def take(events: Events[Any], count: int) -> list[Any]:
    """Take that many events."""
    return [await anext(events) for _ in range(count)]


def numbers(*each: int) -> list[dict[str, int]]:
    """Make events with numbers."""
    return [{"n": number} for number in each]


# --- Taking ---------------------------------------------------------------------------------------


async def test_events_come_by_iteration() -> None:
    """What is published inside the block is what iteration gives, in order."""
    async with EventBus() as bus, bus.subscribe("numbers") as events:
        await bus.publish_many("numbers", numbers(1, 2, 3))
        assert await take(events, 3) == numbers(1, 2, 3)


async def test_events_are_of_the_model() -> None:
    """A Topic, or `model=`, says what the payload becomes."""
    async with (
        EventBus() as bus,
        bus.subscribe(ORDER) as of_topic,
        bus.subscribe("orders.*", model=Order) as of_text,
        bus.subscribe("orders.*") as raw,
    ):
        await bus.publish("orders.created", {"order_id": "o-1"})
        assert await anext(of_topic) == Order(order_id="o-1")
        assert await anext(of_text) == Order(order_id="o-1")
        assert await anext(raw) == {"order_id": "o-1"}


async def test_events_of_several_topics_come_in_one_stream() -> None:
    """Each is an instance of its own topic's model."""
    async with EventBus() as bus, bus.subscribe(ORDER, PARCEL) as events:
        await bus.publish(ORDER, Order(order_id="o-1"))
        await bus.publish(PARCEL, Parcel(weight=1))
        assert await take(events, 2) == [Order(order_id="o-1"), Parcel(weight=1)]


async def test_only_what_is_published_inside_the_block_is_heard() -> None:
    """Before and after it nobody listens."""
    async with EventBus() as bus:
        assert (await bus.publish("numbers", {"n": 1})).matched == 0
        async with bus.subscribe("numbers") as events:
            assert (await bus.publish("numbers", {"n": 2})).matched == 1
            assert await anext(events) == {"n": 2}
        assert (await bus.publish("numbers", {"n": 3})).matched == 0

    assert bus.stats().unmatched == 2


async def test_contexts_tell_all_about_a_delivery() -> None:
    """`contexts()` gives the same deliveries with message, captures and name."""
    async with EventBus() as bus, bus.subscribe("orders.{kind}", name="feed") as events:
        receipt = await bus.publish("orders.created", {"n": 1}, key="k")
        context = await anext(events.contexts())

    assert isinstance(context, Context)
    assert context.event == {"n": 1}
    assert (context.message.id, context.message.key) == (receipt.id, "k")
    assert (context.subscription, context.attempt) == ("feed", 1)
    assert context.captures == {"kind": "created"}


async def test_contexts_come_in_a_loop() -> None:
    """`contexts()` is iterated over like the events themselves, to the same end."""
    async with EventBus() as bus, bus.subscribe("numbers") as events:
        await bus.publish_many("numbers", numbers(1, 2))
        await bus.drain()
        seen = [context.event async for context in events.contexts()]

    assert seen == numbers(1, 2)


async def test_events_and_contexts_are_one_stream() -> None:
    """What one of them took, the other does not give again."""
    async with EventBus() as bus, bus.subscribe("numbers") as events:
        await bus.publish_many("numbers", numbers(1, 2, 3))
        contexts = events.contexts()
        assert await anext(events) == {"n": 1}
        assert (await anext(contexts)).event == {"n": 2}
        assert await anext(events) == {"n": 3}


async def test_iteration_waits_for_the_next_event() -> None:
    """A parked taker is woken by the next publish."""
    seen: list[object] = []
    async with EventBus() as bus, bus.subscribe("numbers") as events:

        async def take_two() -> None:
            seen.extend(await take(events, 2))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take_two)
            await anyio.wait_all_tasks_blocked()
            await bus.publish("numbers", {"n": 1})
            await anyio.wait_all_tasks_blocked()
            assert seen == []
            await bus.publish("numbers", {"n": 2})

    assert seen == numbers(1, 2)


async def test_several_takers_share_the_events() -> None:
    """Each event goes to one of them, and none is left out."""
    seen: list[list[int]] = [[], [], []]
    model = dict[str, int]
    async with EventBus() as bus, bus.subscribe("numbers", model=model) as events:

        async def take_all(into: list[int]) -> None:
            async for event in events:
                into.append(event["n"])
                await checkpoint()

        async with anyio.create_task_group() as tasks:
            for into in seen:
                tasks.start_soon(take_all, into)
            await bus.publish_many("numbers", numbers(*range(30)))
            await bus.drain()

    assert sorted(number for into in seen for number in into) == list(range(30))
    assert all(seen)


async def test_a_cancelled_taker_loses_nothing() -> None:
    """What is published after a taker gave up is the next one's."""
    async with EventBus() as bus, bus.subscribe("numbers") as events:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anext, events)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await bus.publish("numbers", {"n": 1})
        assert await anext(events) == {"n": 1}


async def test_a_taker_cancelled_when_woken_loses_nothing() -> None:
    """Of two parked takers the one that was woken is cancelled: either it or the other has it."""
    seen: list[object] = []
    async with EventBus() as bus, bus.subscribe("numbers") as events:

        async def take_one(scope: anyio.CancelScope) -> None:
            with scope:
                seen.append(await anext(events))

        async with anyio.create_task_group() as tasks:
            scopes = anyio.CancelScope(), anyio.CancelScope()
            for scope in scopes:
                tasks.start_soon(take_one, scope)
                await anyio.wait_all_tasks_blocked()
            bus.publish_nowait("numbers", {"n": 1})
            scopes[0].cancel()
            await anyio.wait_all_tasks_blocked()
            assert seen == [{"n": 1}]
            scopes[1].cancel()


async def test_a_taker_that_never_waits_gives_way() -> None:
    """A long queue does not keep everybody else from running."""
    taken = 0
    async with EventBus() as bus, bus.subscribe("numbers", queue_size=5_000) as events:
        await bus.publish_many("numbers", numbers(*range(5_000)))
        with anyio.CancelScope() as scope:
            scope.cancel()
            async for _ in events:
                taken += 1

    assert taken <= 128


# --- Choosing -------------------------------------------------------------------------------------


def is_large(event: Any) -> bool:
    """Want large numbers alone; what has none raises."""
    return bool(event["n"] > 1)


async def test_where_holds_events_back() -> None:
    """Only what the function wants comes; the rest is counted as filtered."""
    async with EventBus() as bus, bus.subscribe(ORDER, where=lambda o: o.order_id > "b") as events:
        for number in "acbd":
            await bus.publish(ORDER, Order(order_id=number))
        assert [order.order_id for order in await take(events, 2)] == ["c", "d"]
        assert (bus.stats().delivered, bus.stats().filtered) == (2, 2)


async def test_a_raising_where_is_that_delivery_s_failure() -> None:
    """It is a dead letter, and iteration goes on with the next event."""
    async with (
        EventBus(middleware=[DeadLetter()]) as bus,
        bus.subscribe("numbers", where=is_large, name="feed") as events,
    ):
        await bus.publish("numbers", {})
        await bus.publish("numbers", {"n": 2})
        assert await anext(events) == {"n": 2}

        (letter,) = await bus.dead_letters("feed")
        assert (letter.error_type, bus.stats().failed) == ("KeyError", 1)


async def test_what_the_model_refuses_does_not_come() -> None:
    """It is a dead letter, or passed over where that was asked."""
    async with (
        EventBus(middleware=[DeadLetter()]) as bus,
        bus.subscribe("orders.*", model=Order, name="strict") as strict,
        bus.subscribe("orders.*", model=Order, name="easy", invalid="skip") as easy,
    ):
        await bus.publish("orders.created", {"oops": 1})
        await bus.publish("orders.created", {"order_id": "o-1"})
        assert await anext(strict) == await anext(easy) == Order(order_id="o-1")

        letters = await bus.dead_letters()
        assert [letter.subscription for letter in letters] == ["strict"]


# --- Full queues ----------------------------------------------------------------------------------


async def test_what_was_dropped_shows_as_lagged() -> None:
    """A context tells how many were lost since the one before it."""
    async with (
        EventBus() as bus,
        bus.subscribe("numbers", queue_size=2, overflow="drop_oldest") as events,
    ):
        contexts = events.contexts()
        await bus.publish_many("numbers", numbers(*range(5)))
        first, second = await anext(contexts), await anext(contexts)
        await bus.publish_many("numbers", numbers(*range(5, 8)))
        third = await anext(contexts)

    assert [(one.event, one.lagged) for one in (first, second, third)] == [
        ({"n": 3}, 3),
        ({"n": 4}, 0),
        ({"n": 6}, 1),
    ]


async def test_a_slow_taker_holds_the_publisher() -> None:
    """With `block`, the default, a publish waits until an event has been taken."""
    published = anyio.Event()
    async with EventBus() as bus, bus.subscribe("numbers", queue_size=1) as events:
        await bus.publish("numbers", {"n": 1})

        async def publish() -> None:
            await bus.publish("numbers", {"n": 2})
            published.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            await anyio.wait_all_tasks_blocked()
            assert not published.is_set()
            assert await anext(events) == {"n": 1}
            await published.wait()
        assert await anext(events) == {"n": 2}


async def test_what_nobody_took_when_the_block_ends_is_counted() -> None:
    """Queued, and then nobody's: abandoned, in the figures of the bus."""
    async with EventBus() as bus:
        async with bus.subscribe("numbers.*") as events:
            for number in range(3):
                await bus.publish("numbers.even", {"number": number})
            await anext(events)

        assert (bus.stats().abandoned, bus.stats().in_flight) == (2, 0)


async def test_leaving_the_block_frees_blocked_publishers() -> None:
    """Nobody waits for room in the queue of somebody who has gone."""
    async with (
        EventBus() as bus,
        anyio.create_task_group() as tasks,
        bus.subscribe("numbers", queue_size=1),
    ):
        for number in range(3):
            tasks.start_soon(bus.publish, "numbers", {"n": number})
        await anyio.wait_all_tasks_blocked()


async def test_leaving_the_block_by_an_error_frees_blocked_publishers() -> None:
    """However it is left."""
    async with EventBus() as bus, anyio.create_task_group() as tasks:
        with suppress(LookupError):
            async with bus.subscribe("numbers", queue_size=1):
                await bus.publish("numbers", {"n": 1})
                tasks.start_soon(bus.publish, "numbers", {"n": 2})
                await anyio.wait_all_tasks_blocked()
                raise LookupError


# --- The end --------------------------------------------------------------------------------------


async def test_iteration_ends_when_the_bus_drains_after_what_is_queued() -> None:
    """All that was accepted still comes, then the loop ends."""
    seen: list[object] = []
    async with EventBus() as bus, bus.subscribe("numbers") as events:
        await bus.publish_many("numbers", numbers(1, 2, 3))
        await bus.drain()
        seen = [event async for event in events]

    assert seen == numbers(1, 2, 3)


async def test_a_parked_taker_is_woken_by_the_end() -> None:
    """A loop that waits for the next event ends when there will be none."""
    ended = anyio.Event()
    async with EventBus() as bus, bus.subscribe("numbers") as events:

        async def take_all() -> None:
            async for _ in events:
                pass
            ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take_all)
            await anyio.wait_all_tasks_blocked()
            await bus.drain()
            await ended.wait()


async def test_a_taker_in_a_task_of_its_own_ends_with_the_bus() -> None:
    """A loop that outlives the `async with bus` block ends, it does not hang."""
    seen: list[object] = []
    bus = EventBus()
    ready = anyio.Event()

    async def take_all() -> None:
        async with bus.subscribe("numbers") as events:
            ready.set()
            async for event in events:
                seen.append(event)

    async with anyio.create_task_group() as tasks, bus:
        tasks.start_soon(take_all)
        await ready.wait()
        await bus.publish("numbers", {"n": 1})

    assert seen == [{"n": 1}]


async def test_a_taker_ends_when_the_bus_is_stopped() -> None:
    """Leaving the bus by an error ends loops in other tasks too."""
    bus = EventBus()
    ready = anyio.Event()

    async def take_all() -> None:
        async with bus.subscribe("numbers") as events:
            ready.set()
            async for _ in events:
                pass

    async with anyio.create_task_group() as tasks:
        with suppress(LookupError):
            async with bus:
                tasks.start_soon(take_all)
                await ready.wait()
                await anyio.wait_all_tasks_blocked()
                raise LookupError


async def test_an_ended_iteration_stays_ended() -> None:
    """Asking again gives the end again."""
    async with EventBus() as bus, bus.subscribe("numbers") as events:
        await bus.drain()
        for _ in range(2):
            with pytest.raises(StopAsyncIteration):
                await anext(events)


@pytest.mark.parametrize("verb", ["join", "drain"])
async def test_nobody_waits_for_iterators(verb: str) -> None:
    """What an iterator has not taken yet keeps neither `join` nor `drain` waiting."""
    async with EventBus() as bus, bus.subscribe("numbers") as events:
        await bus.publish("numbers", {"n": 1})
        await getattr(bus, verb)()
        assert await anext(events) == {"n": 1}


async def test_a_handler_may_subscribe() -> None:
    """An iterator inside a handler is a subscription like any other."""
    seen: list[object] = []
    bus = EventBus()

    @bus.on("begin")
    async def handler(event: object) -> None:
        async with bus.subscribe("numbers") as events:
            await bus.publish("numbers", {"n": 1})
            seen.append(await anext(events))

    async with bus:
        await bus.publish("begin", {})

    assert seen == [{"n": 1}]


async def test_the_loop_may_be_left_early() -> None:
    """`break` leaves the rest in the queue, and the block ends the subscription."""
    async with EventBus() as bus:
        async with bus.subscribe("numbers") as events:
            await bus.publish_many("numbers", numbers(1, 2, 3))
            async for event in events:
                assert event == {"n": 1}
                break
            assert await anext(events) == {"n": 2}
        assert bus.stats().subscriptions == {}


async def test_a_subscription_is_used_once() -> None:
    """The object `subscribe` gives is for one block."""
    async with EventBus() as bus:
        subscription = bus.subscribe("numbers")
        async with subscription:
            pass
        with pytest.raises((RuntimeError, AttributeError)):
            await subscription.__aenter__()


@pytest.mark.parametrize(
    ("options", "flaw"),
    [
        ({"queue_size": 0}, "queue_size=0"),
        ({"overflow": "drop"}, "overflow='drop'"),
        ({"where": 1}, "where=1"),
        ({"concurrency": 2}, "'concurrency'"),
        ({"group": "g"}, "'group'"),
        ({"nam": "n"}, "did you mean 'name'"),
    ],
    ids=str,
)
def test_options_are_checked_when_subscribe_is_called(options: Any, flaw: str) -> None:
    """Not only when the block is entered."""
    with pytest.raises(InvalidOption, match=flaw):
        EventBus().subscribe("numbers", **options)
