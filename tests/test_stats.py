"""Figures of a bus: exact, live, and still there afterwards."""

from contextlib import suppress
from dataclasses import asdict, fields
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from pydantic import BaseModel

from eventbus import BusStats, Context, EventBus, SubscriptionStats
from eventbus.middleware import CallNext, DeadLetter, Filter, Retry
from eventbus.testing import ManualClock
from tests.gate import Gate


class Order(BaseModel):
    n: int


def counts(stats: BusStats | SubscriptionStats) -> dict[str, int]:
    """Give the figures that are not zero."""
    return {
        name: value
        for name, value in asdict(stats).items()
        if isinstance(value, int) and value and name not in {"queue_size"}
    }


def numbers(count: int) -> list[dict[str, int]]:
    """Make numbered events."""
    return [{"n": number} for number in range(count)]


# --- Exact ----------------------------------------------------------------------------------------


def test_a_new_bus_has_done_nothing() -> None:
    """All figures are 0, and every subscription is listed before its first message."""
    bus = EventBus(queue_size=7)
    bus.on("numbers", name="idle")(lambda event: None)
    stats = bus.stats()

    assert counts(stats) == {}
    assert counts(stats.subscriptions["idle"]) == {}
    assert (stats.subscriptions["idle"].queue_size, stats.subscriptions["idle"].name) == (7, "idle")


@pytest.mark.parametrize("shape", ["plain", "context", "sync"])
async def test_what_succeeds_is_counted_once(shape: str) -> None:
    """Delivered and succeeded agree for every shape of handler."""

    async def plain(event: object) -> None: ...

    async def context(event: object, context: Context[object]) -> None: ...

    def sync(event: object) -> None: ...

    handlers: dict[str, Any] = {"plain": plain, "context": context, "sync": sync}
    bus = EventBus()
    bus.on("numbers")(handlers[shape])

    async with bus:
        await bus.publish_many("numbers", numbers(50))

    assert counts(bus.stats()) == {"published": 50, "delivered": 50, "succeeded": 50}


async def test_an_attempt_is_a_delivery(clock: ManualClock) -> None:
    """Retries are delivered again and failed again; the message was published once."""
    bus = EventBus(
        clock=clock, middleware=[DeadLetter(), Retry(attempts=3, initial=1, jitter=False)]
    )

    @bus.on("numbers")
    async def fails(event: object) -> None:
        raise ValueError("no")

    async with bus:
        await bus.publish("numbers", {})
        await clock.advance(10)

    assert counts(bus.stats()) == {
        "published": 1,
        "delivered": 3,
        "failed": 3,
        "retried": 2,
        "dead_lettered": 1,
    }


async def test_what_nobody_keeps_is_lost() -> None:
    """Without `DeadLetter` a delivery given up on is counted as lost."""
    bus = EventBus()

    @bus.on("numbers")
    async def fails(event: object) -> None:
        raise ValueError("no")

    async with bus:
        await bus.publish("numbers", {})

    assert counts(bus.stats()) == {"published": 1, "delivered": 1, "failed": 1, "lost": 1}


async def test_what_where_holds_back_is_filtered_and_not_delivered() -> None:
    """The handler has not run, so no attempt was started."""
    bus = EventBus()
    bus.on("numbers", where=lambda event: event["n"] % 2 == 0)(lambda event: None)

    async with bus:
        await bus.publish_many("numbers", numbers(10))

    assert counts(bus.stats()) == {"published": 10, "delivered": 5, "succeeded": 5, "filtered": 5}


async def test_what_middleware_holds_back_is_filtered_and_not_succeeded() -> None:
    """An attempt was started, but its handler did not run."""
    bus = EventBus(middleware=[Filter(lambda context: context.event["n"] % 2 == 0)])
    bus.on("numbers")(lambda event: None)

    async with bus:
        await bus.publish_many("numbers", numbers(10))

    stats = bus.stats()
    assert (stats.filtered, stats.succeeded, stats.failed) == (5, 5, 0)


async def test_what_a_model_refuses_is_invalid() -> None:
    """It was matched, but never delivered."""
    bus = EventBus(middleware=[DeadLetter()])
    bus.on("numbers", model=Order)(lambda event: None)
    bus.on("numbers", model=Order, invalid="skip")(lambda event: None)

    async with bus:
        receipt = await bus.publish("numbers", {"n": "one"})

    assert receipt.matched == 2
    assert counts(bus.stats()) == {"published": 1, "invalid": 2, "dead_lettered": 1}


async def test_what_was_refused_is_not_published() -> None:
    """Only accepted messages count."""
    async with EventBus() as bus:
        with pytest.raises(ValueError, match="not a topic"):
            await bus.publish("a b", {})
        with pytest.raises(ValueError, match="kee"):
            await bus.publish("numbers", {}, kee=1)  # type: ignore[call-overload] # misspelt

    assert counts(bus.stats()) == {}


async def test_a_mixture_adds_up(clock: ManualClock) -> None:
    """Each subscription has its own figures, and the bus their sums."""
    bus = EventBus(
        clock=clock, middleware=[DeadLetter(), Retry(attempts=2, initial=1, jitter=False)]
    )

    @bus.on("numbers", name="thirds_fail")
    async def thirds_fail(event: dict[str, int]) -> None:
        if event["n"] % 3 == 0:
            raise ValueError("no")

    @bus.on("numbers", name="first_fails", model=Order)
    async def first_fails(event: Order, context: Context[Order]) -> None:
        if context.attempt == 1:
            raise ValueError("not yet")

    @bus.on("numbers", name="odd", where=lambda event: event["n"] % 2 == 1)
    async def odd(event: dict[str, int]) -> None: ...

    async with bus:
        await bus.publish_many("numbers", numbers(9))
        await bus.publish("numbers", {"n": "many", "m": 1})
        await bus.publish("nobody", {})
        await clock.advance(5)
        await bus.join()

    stats = bus.stats()
    each = {name: counts(one) for name, one in stats.subscriptions.items()}
    assert each == {
        # "many" % 3 is a TypeError: the tenth fails as well.
        "thirds_fail": {
            "delivered": 14,
            "succeeded": 6,
            "failed": 8,
            "retried": 4,
            "dead_lettered": 4,
        },
        "first_fails": {
            "delivered": 18,
            "succeeded": 9,
            "failed": 9,
            "retried": 9,
            "invalid": 1,
            "dead_lettered": 1,
        },
        "odd": {
            "delivered": 6,
            "succeeded": 4,
            "failed": 2,
            "retried": 1,
            "filtered": 5,
            "dead_lettered": 1,
        },
    }
    summed = counts(stats)
    assert (summed.pop("published"), summed.pop("unmatched")) == (11, 1)
    assert summed == {
        name: sum(one.get(name, 0) for one in each.values())
        for name in {name for one in each.values() for name in one}
    }


# --- Live -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_context", [False, True], ids=["plain", "context"])
async def test_figures_are_right_in_the_middle_of_a_burst(with_context: bool) -> None:
    """A handler that waits is in flight; those before it have succeeded, those behind wait."""
    gate = Gate()
    bus = EventBus()

    async def plain(event: dict[str, int]) -> None:
        if event["n"] == 5:
            await gate(event)

    async def careful(event: dict[str, int], context: Context[Any]) -> None:
        await plain(event)

    bus.on("numbers", name="one")(careful if with_context else plain)

    async with bus:
        await bus.publish_many("numbers", numbers(10))
        await gate.entered.wait()
        stats = bus.stats()
        gate.opened.set()

    assert counts(stats) == {"published": 10, "delivered": 6, "succeeded": 5, "in_flight": 1}
    assert stats.subscriptions["one"].queue_depth == 4


async def test_a_handler_sees_itself_in_flight() -> None:
    """Inside a burst without a single await the figures move with every message."""
    seen: list[tuple[int, int, int]] = []
    bus = EventBus()

    @bus.on("numbers")
    async def handler(event: object) -> None:
        stats = bus.stats()
        seen.append((stats.delivered, stats.succeeded, stats.in_flight))

    async with bus:
        await bus.publish_many("numbers", numbers(40))

    assert seen == [(number + 1, number, 1) for number in range(40)]


async def test_figures_move_over_a_failure_in_a_burst() -> None:
    """A failed attempt is counted before the next one starts."""
    seen: list[tuple[int, int, int, int]] = []
    bus = EventBus()

    @bus.on("numbers")
    async def handler(event: dict[str, int]) -> None:
        stats = bus.stats()
        seen.append((stats.delivered, stats.succeeded, stats.failed, stats.in_flight))
        if event["n"] == 1:
            raise ValueError("no")

    async with bus:
        await bus.publish_many("numbers", numbers(4))

    assert seen == [(1, 0, 0, 1), (2, 1, 0, 1), (3, 1, 1, 1), (4, 2, 1, 1)]


async def test_as_many_are_in_flight_as_run_at_once() -> None:
    """With `concurrency=` each running handler counts."""
    gate = Gate()
    bus = EventBus()
    bus.on("numbers", concurrency=3)(gate)

    async with bus:
        await bus.publish_many("numbers", numbers(5))
        await anyio.wait_all_tasks_blocked()
        stats = bus.stats()
        gate.opened.set()

    assert (stats.in_flight, stats.delivered, stats.succeeded) == (3, 3, 0)


async def test_a_waiting_retry_is_neither_in_flight_nor_done(clock: ManualClock) -> None:
    """It keeps its place in the queue meanwhile."""
    bus = EventBus(clock=clock, middleware=[Retry(attempts=2, initial=10, jitter=False)])

    @bus.on("numbers", name="fails")
    async def fails(event: object, context: Context[object]) -> None:
        if context.attempt == 1:
            raise ValueError("not yet")

    async with bus:
        await bus.publish("numbers", {})
        await clock.advance(1)
        waiting = bus.stats().subscriptions["fails"]
        await clock.advance(9)
        await bus.join()
        done = bus.stats().subscriptions["fails"]

    assert (waiting.in_flight, waiting.queue_depth, waiting.lag) == (0, 1, 1)
    assert (waiting.delivered, waiting.failed, waiting.retried) == (1, 1, 1)
    assert (done.queue_depth, done.delivered, done.succeeded) == (0, 2, 1)


# --- Queues ---------------------------------------------------------------------------------------


async def test_the_oldest_age_is_of_what_waits_longest(clock: ManualClock) -> None:
    """In seconds since it was published; what is running does not wait."""
    gate = Gate()
    bus = EventBus(clock=clock)
    bus.on("numbers", name="one")(gate)

    async with bus:
        await bus.publish("numbers", {})
        await gate.entered.wait()
        alone = bus.stats().subscriptions["one"].oldest_age
        await clock.advance(5)
        await bus.publish("numbers", {})
        await clock.advance(10)
        await bus.publish("numbers", {})
        await clock.advance(20)
        waiting = bus.stats().subscriptions["one"].oldest_age
        gate.opened.set()

    assert (alone, waiting) == (0.0, 30.0)
    assert bus.stats().subscriptions["one"].oldest_age == 0.0


async def test_lag_counts_what_blocked_publishers_hold() -> None:
    """What is queued and what wants to be is how far a subscription is behind."""
    gate = Gate()
    bus = EventBus()
    bus.on("numbers", name="one", queue_size=2)(gate)

    async with bus, anyio.create_task_group() as tasks:
        await bus.publish("numbers", {})
        await gate.entered.wait()
        await bus.publish_many("numbers", numbers(2))
        for _ in range(3):
            tasks.start_soon(bus.publish, "numbers", {"n": 9})
        await anyio.wait_all_tasks_blocked()
        stats = bus.stats().subscriptions["one"]
        assert (stats.queue_depth, stats.lag, stats.in_flight) == (2, 5, 1)
        gate.opened.set()


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest", "latest"])
async def test_drops_are_counted(overflow: Any) -> None:
    """Each message that had to go, by whichever policy, counts once."""
    gate = Gate()
    bus = EventBus()
    bus.on("numbers", queue_size=1, overflow=overflow)(gate)

    async with bus:
        await bus.publish("numbers", {})
        await gate.entered.wait()
        for _ in range(4):
            await bus.publish("numbers", {})
        live = bus.stats().dropped
        gate.opened.set()

    assert (live, bus.stats().dropped) == (3, 3)
    assert (bus.stats().published, bus.stats().delivered) == (5, 2)


async def test_a_cancelled_handler_is_abandoned_and_neither_success_nor_failure() -> None:
    """Stopped by us: counted as that alone, with all that was queued behind it."""
    gate = Gate()
    bus = EventBus(middleware=[DeadLetter(), Retry()])
    bus.on("numbers")(gate)

    with suppress(LookupError):
        async with bus:
            await bus.publish_many("numbers", numbers(3))
            await gate.entered.wait()
            raise LookupError

    assert counts(bus.stats()) == {"published": 3, "delivered": 1, "abandoned": 3}


# --- Kept -----------------------------------------------------------------------------------------


async def test_ended_subscriptions_stay_in_the_sums() -> None:
    """Who has left is no longer listed, but what it did was done."""
    bus = EventBus()
    bus.on("numbers", name="gone")(lambda event: None)

    async with bus:
        async with bus.subscribe("numbers") as events:
            await bus.publish("numbers", {})
            await anext(events)
        await bus.unsubscribe("gone")
        await bus.publish("numbers", {})

    stats = bus.stats()
    assert stats.subscriptions == {}
    assert counts(stats) == {"published": 2, "unmatched": 1, "delivered": 2, "succeeded": 2}


async def test_drops_of_ended_subscriptions_stay_in_the_sums() -> None:
    """Those the queue counted go with it no more than the others."""
    async with EventBus() as bus:
        async with bus.subscribe("numbers", queue_size=1, overflow="drop_oldest"):
            await bus.publish_many("numbers", numbers(4))
        assert bus.stats().dropped == 3


async def test_figures_add_up_over_runs() -> None:
    """A restarted bus counts on."""
    gate = Gate()
    gate.opened.set()
    bus = EventBus()
    bus.on("numbers", queue_size=1, overflow="drop_newest", name="one")(gate)

    for _ in range(2):
        async with bus:
            await bus.publish_many("numbers", numbers(3))

    assert counts(bus.stats()) == {
        "published": 6,
        "delivered": 2,
        "succeeded": 2,
        "dropped": 4,
    }
    assert bus.stats().subscriptions["one"].dropped == 4


def test_figures_are_a_picture_of_their_moment() -> None:
    """What was read does not change any more, neither by the bus nor by its reader."""
    stats = EventBus().stats()

    with pytest.raises(AttributeError):
        stats.published = 1  # type: ignore[misc] # is frozen


def test_a_bus_sums_what_its_subscriptions_count() -> None:
    """Every figure of the bus but its own three is one of each subscription."""
    own = {"published", "unmatched", "late_replies", "subscriptions"}
    of_bus = {field.name for field in fields(BusStats)} - own
    of_subscription = {field.name for field in fields(SubscriptionStats)}

    assert of_subscription - of_bus == {"name", "queue_depth", "queue_size", "oldest_age", "lag"}
    assert of_bus <= of_subscription


async def test_middleware_that_answers_itself_is_counted_as_filtered() -> None:
    """Not calling on means that the handler did not run, whatever was returned."""

    async def answering(context: Context[Any], call_next: CallNext) -> object:
        await checkpoint()
        return "no"

    bus = EventBus(middleware=[answering])
    bus.on("numbers")(lambda event: None)

    async with bus:
        await bus.publish("numbers", {})

    assert (bus.stats().filtered, bus.stats().succeeded) == (1, 0)


async def test_figures_print_as_a_table() -> None:
    """The bus's own in one line, then each subscription's, without what is 0 as it should be."""
    bus = EventBus()
    bus.on("numbers", model=Order, name="fine")(lambda order: None)

    @bus.on("numbers", model=Order, name="fails", middleware=[DeadLetter()])
    async def fail(order: Order) -> None:
        raise ValueError

    async with bus:
        await bus.publish_many("numbers", numbers(2))
        await bus.publish("letters", {})

    assert str(bus.stats()).splitlines() == [
        "published 3, unmatched 1",
        "subscription  delivered  succeeded  failed  dead lettered  queue depth",
        "fine                  2          2       0              0            0",
        "fails                 2          0       2              2            0",
    ]
    assert repr(bus.stats()).startswith("BusStats(published=3, unmatched=1, delivered=4")


def test_a_bus_without_subscriptions_prints_too() -> None:
    """There is one line, and no empty table."""
    assert str(EventBus().stats()) == "published 0, unmatched 0"
