"""The bus itself: what it is made of, who leaves it, and what it keeps of failures."""

from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from pydantic import BaseModel

from eventbus import (
    Context,
    EventBus,
    InvalidOption,
    NoSubscribers,
    Router,
    SystemClock,
    Topic,
    handles,
)
from eventbus.middleware import DeadLetter, Retry
from eventbus.testing import ManualClock
from tests.gate import Gate


class Order(BaseModel):
    order_id: str


ORDER = Topic("orders.created", Order)


# --- Making one -----------------------------------------------------------------------------------


def test_a_bus_shows_its_name_and_state() -> None:
    """What a log shows of a bus tells which one it is, and whether it runs."""
    assert repr(EventBus(name="shop")) == "<EventBus 'shop', new>"
    assert EventBus().name == "eventbus"


async def test_a_bus_shows_whether_it_runs() -> None:
    """The state in its text follows its life."""
    async with EventBus() as bus:
        running = repr(bus)

    assert "running" in running
    assert "closed" in repr(bus)


async def test_durations_are_seconds_or_timedeltas(clock: ManualClock) -> None:
    """A `timedelta` as drain timeout is as good as a number of seconds."""
    gate = Gate()
    bus = EventBus(clock=clock, drain_timeout=timedelta(seconds=2))
    bus.on("numbers")(gate)
    left = anyio.Event()

    async def run() -> None:
        async with bus:
            await bus.publish("numbers", {})
        left.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await gate.entered.wait()
        await clock.advance(1.9)
        assert not left.is_set()
        await clock.advance(0.1)
        await left.wait()


async def test_a_bus_has_the_queue_size_and_policy_of_its_subscriptions() -> None:
    """What the bus says counts for whom says nothing; who says something, decides."""
    gate, own = Gate(), Gate()
    bus = EventBus(queue_size=1, overflow="drop_newest")
    bus.on("numbers", name="default")(gate)
    bus.on("numbers", name="own", queue_size=5, overflow="drop_oldest")(own)

    async with bus:
        await bus.publish("numbers", {"n": 0})
        await gate.entered.wait()
        for number in range(1, 4):
            await bus.publish("numbers", {"n": number})
        sizes = {name: one.queue_size for name, one in bus.stats().subscriptions.items()}
        gate.opened.set()
        own.opened.set()

    assert sizes == {"default": 1, "own": 5}
    assert gate.seen == [{"n": 0}, {"n": 1}]
    assert len(own.seen) == 4


async def test_sync_handlers_share_the_threads_of_the_bus() -> None:
    """`threads=` bounds how many of them run at once, over all subscriptions."""
    running: set[int] = set()
    most: list[int] = []
    bus = EventBus(threads=2)

    def handler(event: dict[str, int]) -> None:
        running.add(event["n"])
        most.append(len(running))
        anyio.from_thread.run(checkpoint)
        running.discard(event["n"])

    def other_handler(event: dict[str, int]) -> None:
        handler({"n": -1 - event["n"]})

    bus.on("numbers", concurrency=5)(handler)
    bus.on("numbers", concurrency=5)(other_handler)

    async with bus:
        await bus.publish_many("numbers", [{"n": n} for n in range(20)])

    assert len(most) == 40
    assert 1 <= max(most) <= 2


async def test_a_clock_of_ones_own_stamps_the_messages(clock: ManualClock) -> None:
    """The publish time is the clock's, as are the ids made of it."""
    times: list[float] = []
    bus = EventBus(clock=clock)

    @bus.on("numbers")
    async def handler(event: object, context: Context[object]) -> None:
        times.append(context.message.time.timestamp())

    async with bus:
        await bus.publish("numbers", {})
        await bus.join()
        await clock.advance(60)
        await bus.publish("numbers", {})

    assert times == [clock.now() - 60, clock.now()]


def test_the_clock_is_the_machines_unless_said_otherwise() -> None:
    """Nobody has to give one."""
    assert isinstance(EventBus().clock, SystemClock)


# --- Whose context handlers run in ----------------------------------------------------------------

_tenant: ContextVar[str] = ContextVar("tenant", default="none")


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_handlers_run_in_the_context_the_bus_was_started_in(is_async: bool) -> None:
    """What a publisher sets is the publisher's own; what was set before the start is there."""
    seen: list[str] = []
    bus = EventBus()

    async def handler(event: object) -> None:
        seen.append(_tenant.get())

    def sync_handler(event: object) -> None:
        seen.append(_tenant.get())

    bus.on("numbers")(handler if is_async else sync_handler)

    _tenant.set("starter")
    async with bus:
        _tenant.set("publisher")
        await bus.publish("numbers", {})
        await bus.join()
        await bus.publish("numbers", {})

    assert seen == ["starter", "starter"]


async def test_what_a_handler_sets_no_other_delivery_sees() -> None:
    """Each delivery begins with the context of the start."""
    seen: list[str] = []
    bus = EventBus()

    @bus.on("numbers")
    async def handler(event: dict[str, str]) -> None:
        seen.append(_tenant.get())
        _tenant.set(event["tenant"])

    async with bus:
        await bus.publish_many("numbers", [{"tenant": name} for name in "abc"])

    assert seen == ["none", "none", "none"]


# --- Unsubscribing --------------------------------------------------------------------------------


async def test_unsubscribing_a_handler_ends_its_subscription() -> None:
    """What is published from then on does not reach it."""
    seen: list[object] = []
    bus = EventBus()

    @bus.on("numbers")
    async def handler(event: object) -> None:
        seen.append(event)

    async with bus:
        await bus.publish("numbers", {"n": 1})
        await bus.unsubscribe(handler)
        with pytest.raises(NoSubscribers):
            await bus.publish("numbers", {"n": 2}, require=True)

    assert seen == [{"n": 1}]


async def test_unsubscribing_by_name() -> None:
    """The name stands for the subscription, explicit or not."""
    seen: list[str] = []
    bus = EventBus()
    bus.on("numbers", name="one")(lambda event: seen.append("one"))
    bus.on("numbers", name="two")(lambda event: seen.append("two"))

    async with bus:
        await bus.unsubscribe("one")
        await bus.publish("numbers", {})

    assert seen == ["two"]


async def test_unsubscribing_all_that_a_handler_was_registered_for() -> None:
    """A function registered twice is gone twice."""
    seen: list[object] = []
    bus = EventBus()

    @bus.on("numbers")
    @bus.on("letters")
    async def handler(event: object) -> None:
        seen.append(event)

    async with bus:
        await bus.unsubscribe(handler)
        await bus.publish("numbers", {})
        await bus.publish("letters", {})

    assert seen == []
    assert bus.stats().subscriptions == {}


async def test_unsubscribing_a_bound_method() -> None:
    """Each access makes a new bound method; they stand for one handler all the same."""

    class Billing:
        def __init__(self) -> None:
            self.seen: list[object] = []

        @handles(ORDER)
        async def bill(self, event: Order) -> None:
            self.seen.append(event)

    first, second = Billing(), Billing()
    bus = EventBus()
    bus.include(first, name="first")
    bus.include(second, name="second")

    async with bus:
        await bus.unsubscribe(first.bill)
        await bus.publish(ORDER, Order(order_id="o-1"))

    assert (first.seen, second.seen) == ([], [Order(order_id="o-1")])


async def test_unsubscribing_waits_for_what_is_queued() -> None:
    """It returns when the last accepted message has been handled."""
    gate = Gate()
    bus = EventBus()
    bus.on("numbers", name="gate")(gate)
    gone = anyio.Event()

    async def leave() -> None:
        await bus.unsubscribe("gate")
        gone.set()

    async with bus, anyio.create_task_group() as tasks:
        await bus.publish_many("numbers", [{"n": 1}, {"n": 2}])
        await gate.entered.wait()
        tasks.start_soon(leave)
        await anyio.wait_all_tasks_blocked()
        assert not gone.is_set()
        assert (await bus.publish("numbers", {"n": 3})).matched == 0
        gate.opened.set()
        await gone.wait()
        assert gate.done == [{"n": 1}, {"n": 2}]


async def test_unsubscribing_waits_for_retries(clock: ManualClock) -> None:
    """A delivery in its backoff still belongs to the queue."""
    attempts: list[int] = []
    bus = EventBus(clock=clock, middleware=[Retry(attempts=2, initial=10, jitter=False)])
    gone = anyio.Event()

    @bus.on("numbers", name="fails")
    async def fails_once(event: object, context: Context[object]) -> None:
        attempts.append(context.attempt)
        if context.attempt == 1:
            raise ValueError("not yet")

    async def leave() -> None:
        await bus.unsubscribe("fails")
        gone.set()

    async with bus, anyio.create_task_group() as tasks:
        await bus.publish("numbers", {})
        await clock.advance(1)
        tasks.start_soon(leave)
        await clock.advance(8)
        assert not gone.is_set()
        await clock.advance(1)
        await gone.wait()

    assert attempts == [1, 2]


async def test_a_cancelled_unsubscribe_has_been_done() -> None:
    """Who does not want to wait for the queue has left all the same."""
    gate = Gate()
    bus = EventBus()
    bus.on("numbers")(gate)

    async with bus:
        await bus.publish("numbers", {"n": 1})
        await gate.entered.wait()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await bus.unsubscribe(gate)
        assert (await bus.publish("numbers", {"n": 2})).matched == 0
        gate.opened.set()

    assert gate.done == [{"n": 1}]


async def test_a_handler_may_unsubscribe_itself() -> None:
    """From a handler it does not wait, so a subscription for one event is two lines."""
    seen: list[object] = []
    bus = EventBus()

    @bus.on("numbers")
    async def once(event: object) -> None:
        seen.append(event)
        await bus.unsubscribe(once)

    async with bus:
        await bus.publish("numbers", {"n": 1})
        await bus.join()
        assert (await bus.publish("numbers", {"n": 2})).matched == 0

    assert seen == [{"n": 1}]


async def test_a_name_is_free_after_its_subscription_ended() -> None:
    """The next one may take it, also when a handler ended it itself."""
    seen: list[str] = []
    bus = EventBus()

    @bus.on("numbers", name="one")
    async def first(event: object) -> None:
        seen.append("first")
        await bus.unsubscribe("one")

    async with bus:
        await bus.publish("numbers", {})
        await bus.join()
        await anyio.wait_all_tasks_blocked()
        bus.on("numbers", name="one")(lambda event: seen.append("second"))
        await bus.publish("numbers", {})

    assert seen == ["first", "second"]


async def test_unsubscribing_before_the_start() -> None:
    """A handler may go before the bus has ever run."""
    seen: list[object] = []
    bus = EventBus()
    bus.on("numbers", name="gone")(seen.append)

    await bus.unsubscribe("gone")
    async with bus:
        await bus.publish("numbers", {})

    assert seen == []


async def test_unsubscribing_frees_blocked_publishers() -> None:
    """Who waits for room in a subscription's queue is let go when that one ends."""
    gate = Gate()
    bus = EventBus()
    bus.on("numbers", queue_size=1)(gate)

    async with bus:
        await bus.publish("numbers", {"n": 1})
        await gate.entered.wait()
        await bus.publish("numbers", {"n": 2})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.publish, "numbers", {"n": 3})
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(bus.unsubscribe, gate)
            await anyio.wait_all_tasks_blocked()
            gate.opened.set()

    assert gate.done[:2] == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("unknown", ["nobody", print, 1], ids=str)
async def test_what_is_not_subscribed_cannot_leave(unknown: Any) -> None:
    """The error says who is."""
    bus = EventBus()
    bus.on("numbers", name="somebody")(lambda event: None)

    with pytest.raises(InvalidOption, match="somebody"):
        await bus.unsubscribe(unknown)


# --- Dead letters ---------------------------------------------------------------------------------


async def failing_bus(*names: str) -> EventBus:
    """Run a bus whose subscriptions each fail three messages, one after the other."""
    bus = EventBus(middleware=[DeadLetter()])

    async def fails(event: dict[str, int]) -> None:
        raise ValueError(f"number {event['n']}")

    for name in names:
        bus.on("numbers", name=name)(fails)
    async with bus:
        for number in range(3):
            await bus.publish("numbers", {"n": number})
            await bus.join()
    return bus


async def test_dead_letters_are_listed_newest_first() -> None:
    """The last failure is what one wants to see."""
    bus = await failing_bus("one")

    assert [letter.error for letter in await bus.dead_letters()] == [
        "number 2",
        "number 1",
        "number 0",
    ]


async def test_dead_letters_are_listed_by_subscription() -> None:
    """One subscription's failures do not hide another's."""
    bus = await failing_bus("one", "two")

    letters = await bus.dead_letters("two")

    assert {letter.subscription for letter in letters} == {"two"}
    assert len(letters) == 3
    assert len(await bus.dead_letters()) == 6


@pytest.mark.parametrize("verb", ["dead_letters", "redrive", "purge_dead_letters"])
async def test_a_misspelt_subscription_has_no_dead_letters(verb: str) -> None:
    """Rather than none found, it is an error that names the one that was meant."""
    bus = EventBus()
    bus.on("numbers", name="two")(lambda event: None)
    async with bus:
        with pytest.raises(InvalidOption, match=r"'tow' is no subscription .*did you mean 'two'\?"):
            await getattr(bus, verb)("tow")


async def test_what_has_ended_keeps_its_dead_letters() -> None:
    """The name of a subscription that is gone is good as long as it has some."""
    bus = await failing_bus("one")
    async with bus:
        await bus.unsubscribe("one")
        assert len(await bus.dead_letters("one")) == 3
        assert await bus.redrive("one") == 0
        assert await bus.purge_dead_letters("one") == 3
        with pytest.raises(InvalidOption):
            await bus.dead_letters("one")


async def test_dead_letters_come_in_pages() -> None:
    """`before=` the last id of a page is the next one."""
    bus = await failing_bus("one")

    first = await bus.dead_letters(limit=2)
    second = await bus.dead_letters(limit=2, before=first[-1].id)

    assert [letter.error for letter in first + second] == ["number 2", "number 1", "number 0"]


async def test_dead_letters_tell_what_happened() -> None:
    """Message, error, traceback and time are enough to understand a failure."""
    bus = await failing_bus("one")

    letter = (await bus.dead_letters())[-1]

    assert letter.message.payload == {"n": 0}
    assert (letter.error_type, letter.error, letter.attempts) == ("ValueError", "number 0", 1)
    assert "fails" in letter.traceback
    assert letter.failed_at >= letter.message.time


async def test_dead_letters_can_be_forgotten() -> None:
    """By id, by subscription, or all; each is forgotten once."""
    bus = await failing_bus("one", "two")
    (newest, *_) = await bus.dead_letters("one")

    assert await bus.purge_dead_letters(ids=[newest.id, "unknown"]) == 1
    assert await bus.purge_dead_letters(ids=[newest.id]) == 0
    assert await bus.purge_dead_letters("one") == 2
    assert await bus.purge_dead_letters() == 3
    assert await bus.dead_letters() == []


async def test_redriving_sends_to_the_subscription_that_failed_alone() -> None:
    """What succeeded elsewhere is not repeated, and the attempt counts from 1 again."""
    seen: list[str] = []
    healed = False
    bus = EventBus(middleware=[DeadLetter(), Retry(attempts=2, initial=0)])

    @bus.on("numbers", name="fails")
    async def fails(event: object, context: Context[object]) -> None:
        if not healed:
            raise ValueError("no")
        seen.append(f"healed {context.attempt}")

    bus.on("numbers", name="works")(lambda event: seen.append("works"))

    async with bus:
        await bus.publish("numbers", {})
        await bus.join()
        healed = True
        assert await bus.redrive() == 1

    assert seen == ["works", "healed 1"]
    assert await bus.dead_letters() == []


async def test_redriving_some() -> None:
    """By id, or by subscription; what is not chosen stays."""
    bus = await failing_bus("one", "two")
    (newest, *_) = await bus.dead_letters("one")

    async with bus:
        assert await bus.redrive(ids=[newest.id, "unknown"]) == 1
        await bus.join()
        assert await bus.redrive("two") == 3
        await bus.join()

    assert len(await bus.dead_letters()) == 6


async def test_what_fails_again_is_a_dead_letter_again() -> None:
    """A redriven delivery that fails is kept as a new failure."""
    bus = await failing_bus("one")
    before = {letter.id for letter in await bus.dead_letters()}

    async with bus:
        assert await bus.redrive() == 3

    after = {letter.id for letter in await bus.dead_letters()}
    assert len(after) == 3
    assert not before & after


async def test_a_dead_letter_whose_subscription_is_gone_stays() -> None:
    """It cannot be sent anywhere, and is not lost by trying."""
    bus = await failing_bus("one")

    async with bus:
        await bus.unsubscribe("one")
        assert await bus.redrive() == 0

    assert len(await bus.dead_letters()) == 3


async def test_a_redriven_payload_that_is_refused_again_stays() -> None:
    """What the model still refuses remains the dead letter it was."""
    bus = EventBus(middleware=[DeadLetter()])
    bus.on("orders.*", model=Order, name="strict")(lambda event: None)

    async with bus:
        await bus.publish("orders.created", {"oops": 1})
        (before,) = await bus.dead_letters()
        assert await bus.redrive() == 0

    assert await bus.dead_letters() == [before]


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": -1}, {"before": "unknown"}], ids=str)
async def test_a_page_that_cannot_be_is_refused(options: Any) -> None:
    """A limit below 1 or an id that is not kept is no empty page."""
    with pytest.raises(InvalidOption, match=str(next(iter(options.values())))):
        await EventBus().dead_letters(**options)


async def test_failures_can_be_handled_as_they_happen() -> None:
    """A handler on `$dlq.<subscription>` gets the original payload and the failure."""
    seen: list[tuple[object, str]] = []
    bus = EventBus(middleware=[DeadLetter()])

    @bus.on("numbers", name="fails")
    async def fails(event: object) -> None:
        raise ValueError("no")

    @bus.on("$dlq.*", "$dlq.>")
    async def watch(event: object, context: Context[object]) -> None:
        assert context.failure is not None
        seen.append((event, context.failure.error))

    async with bus:
        await bus.publish("numbers", {"n": 1})

    assert seen == [({"n": 1}, "no")]


# --- Including ------------------------------------------------------------------------------------


async def test_a_router_is_included_under_a_prefix() -> None:
    """The bus may put a prefix before all that a router says."""
    seen: list[object] = []
    bus = EventBus()
    router = Router("orders")
    router.on("created")(seen.append)
    bus.include(router, prefix="eu")

    async with bus:
        await bus.publish("orders.created", {"n": 1})
        await bus.publish("eu.orders.created", {"n": 2})

    assert seen == [{"n": 2}]


def test_a_router_takes_no_name() -> None:
    """Its handlers name themselves."""
    with pytest.raises(InvalidOption, match="'shop'"):
        EventBus().include(Router(), name="shop")
