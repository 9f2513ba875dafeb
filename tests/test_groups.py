"""Queue groups: several handlers that share the messages of one subscription."""

from collections import Counter
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from pydantic import BaseModel

from eventbus import Context, DuplicateSubscription, EventBus, InvalidOption, Topic
from eventbus.middleware import DeadLetter, Retry
from eventbus.testing import ManualClock


class Order(BaseModel):
    order_id: str


class Parcel(BaseModel):
    weight: int


ORDER = Topic("orders.created", Order)


class Member:
    """A handler that notes what it got."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    async def __call__(self, event: dict[str, int]) -> None:
        """Handle one event without ever waiting."""
        self.seen.append(event["n"])


class Gate:
    """Handlers that begin, and go on when they are let; it counts those inside."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.opened = anyio.Event()

    async def __call__(self, event: object) -> None:
        """Handle one event."""
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.opened.wait()
        self.inside -= 1


# --- Sharing --------------------------------------------------------------------------------------


async def test_each_message_goes_to_one_member() -> None:
    """A group is one subscription: nothing twice, nothing left out."""
    members = [Member() for _ in range(3)]
    bus = EventBus()
    for member in members:
        bus.on("numbers", group="workers")(member)

    async with bus:
        for number in range(300):
            receipt = await bus.publish("numbers", {"n": number})
            assert receipt.matched == 1

    seen = [number for member in members for number in member.seen]
    assert sorted(seen) == list(range(300))
    assert list(bus.stats().subscriptions) == ["workers"]


async def test_members_that_never_wait_share_all_the_same() -> None:
    """Nobody takes the whole queue because the others did not get a turn."""
    members = [Member() for _ in range(3)]
    bus = EventBus()
    for member in members:
        bus.on("numbers", group="workers")(member)

    async with bus:
        await bus.publish_many("numbers", [{"n": number} for number in range(600)])

    assert min(len(member.seen) for member in members) > 60


async def test_groups_and_others_are_independent() -> None:
    """Each group, and each subscription without one, gets every message."""
    first, second, third = Member(), Member(), Member()
    bus = EventBus()
    bus.on("numbers", group="one")(first)
    bus.on("numbers", group="two")(second)
    bus.on("numbers")(third)

    async with bus:
        receipt = await bus.publish("numbers", {"n": 1})

    assert receipt.matched == 3
    assert first.seen == second.seen == third.seen == [1]


async def test_a_busy_member_does_not_hold_up_the_others() -> None:
    """Who is free takes the next message."""
    gate, member = Gate(), Member()
    bus = EventBus()
    bus.on("numbers", group="workers")(gate)
    bus.on("numbers", group="workers")(member)

    async with bus:
        await bus.publish_many("numbers", [{"n": number} for number in range(20)])
        await anyio.wait_all_tasks_blocked()
        assert gate.inside == 1
        assert len(member.seen) == 19
        gate.opened.set()


@pytest.mark.parametrize("concurrencies", [(1, 1), (2, 3), (1, 4)], ids=str)
async def test_the_concurrency_of_members_adds_up(concurrencies: tuple[int, int]) -> None:
    """As many handlers run at once as all members together allow, each within its own bound."""
    gates = [Gate() for _ in concurrencies]
    bus = EventBus()
    for gate, concurrency in zip(gates, concurrencies, strict=True):
        bus.on("numbers", group="workers", concurrency=concurrency)(gate)

    async with bus:
        await bus.publish_many("numbers", [{"n": number} for number in range(20)])
        await anyio.wait_all_tasks_blocked()
        assert tuple(gate.inside for gate in gates) == concurrencies
        for gate in gates:
            gate.opened.set()

    assert tuple(gate.most for gate in gates) == concurrencies


async def test_a_member_that_comes_while_the_bus_runs_shares_at_once() -> None:
    """The queue that was building up has one taker more."""
    gate, member = Gate(), Member()
    bus = EventBus()
    bus.on("numbers", group="workers")(gate)

    async with bus:
        await bus.publish_many("numbers", [{"n": number} for number in range(5)])
        await anyio.wait_all_tasks_blocked()
        bus.on("numbers", group="workers")(member)
        await anyio.wait_all_tasks_blocked()
        assert member.seen == [1, 2, 3, 4]
        gate.opened.set()


async def test_members_of_a_group_keep_the_order_of_a_key() -> None:
    """One of a key at a time, whichever member runs it."""
    running: Counter[str] = Counter()
    seen: dict[str, list[int]] = {"a": [], "b": []}
    bus = EventBus()

    async def handler(event: dict[str, Any], context: Context[Any]) -> None:
        key = event["key"]
        running[key] += 1
        assert running[key] == 1
        await checkpoint()
        seen[key].append(event["n"])
        running[key] -= 1

    register = bus.on("numbers", group="workers", concurrency=2, key=lambda event: event["key"])
    for _ in range(3):
        register(handler)

    async with bus:
        await bus.publish_many(
            "numbers", [{"key": "ab"[number % 2], "n": number} for number in range(100)]
        )

    assert seen == {"a": list(range(0, 100, 2)), "b": list(range(1, 100, 2))}
    assert bus.stats().failed == 0


async def test_a_retry_may_go_to_any_member(clock: ManualClock) -> None:
    """The delivery belongs to the group."""
    attempts: list[int] = []
    bus = EventBus(clock=clock, middleware=[Retry(attempts=3, initial=1, jitter=False)])

    async def fails(event: object, context: Context[object]) -> None:
        attempts.append(context.attempt)
        if not context.last_attempt:
            raise ValueError("not yet")

    for _ in range(2):
        bus.on("numbers", group="workers")(fails)

    async with bus:
        await bus.publish("numbers", {})
        await clock.advance(5)

    assert attempts == [1, 2, 3]


async def test_members_may_take_contexts_or_not() -> None:
    """A group mixes handlers of all shapes."""
    seen: list[str] = []
    bus = EventBus()

    @bus.on("numbers", group="workers")
    async def plain(event: object) -> None:
        seen.append("plain")
        await checkpoint()

    @bus.on("numbers", group="workers")
    async def careful(event: object, context: Context[object]) -> None:
        seen.append("careful")
        await checkpoint()

    @bus.on("numbers", group="workers")
    def sync(event: object) -> None:
        seen.append("sync")

    async with bus:
        await bus.publish_many("numbers", [{"n": number} for number in range(60)])

    assert set(seen) == {"plain", "careful", "sync"}
    assert len(seen) == 60


# --- Agreeing -------------------------------------------------------------------------------------


def test_later_members_may_leave_options_unset() -> None:
    """What the first said counts for all."""
    bus = EventBus()
    bus.on(ORDER, group="billing", queue_size=5, overflow="drop_oldest")(lambda event: None)
    bus.on(ORDER, group="billing")(lambda event: None)

    assert bus.stats().subscriptions["billing"].queue_size == 5


def test_later_members_may_repeat_what_was_said() -> None:
    """Saying the same is no contradiction."""
    bus = EventBus()
    for _ in range(2):
        bus.on(ORDER, group="billing", queue_size=5, overflow="fail")(lambda event: None)

    assert list(bus.stats().subscriptions) == ["billing"]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("queue_size", 6),
        ("overflow", "fail"),
        ("invalid", "skip"),
        ("where", bool),
        ("key", str),
        ("max_deliveries", 3),
        ("middleware", [Retry()]),
    ],
)
def test_later_members_must_not_contradict(word: str, value: Any) -> None:
    """The error names the group and what differs."""
    bus = EventBus()
    bus.on(ORDER, group="billing", queue_size=5)(lambda event: None)

    with pytest.raises(InvalidOption, match=rf"'billing'.*{word}"):
        bus.on(ORDER, group="billing", **{word: value})(lambda event: None)


def test_members_listen_to_the_same_patterns() -> None:
    """Else nobody could say what the group's messages are."""
    bus = EventBus()
    bus.on("orders.*", "parcels.*", group="all")(lambda event: None)
    bus.on("parcels.*", "orders.*", group="all")(lambda event: None)

    with pytest.raises(InvalidOption, match=r"'all'.*patterns"):
        bus.on("orders.*", group="all")(lambda event: None)


def test_members_take_the_same_model() -> None:
    """A message is validated once, for whichever member gets it."""
    bus = EventBus()
    bus.on("orders.*", model=Order, group="all")(lambda event: None)

    with pytest.raises(InvalidOption, match=r"'all'.*model"):
        bus.on("orders.*", model=Parcel, group="all")(lambda event: None)


def test_a_refused_member_leaves_the_group_as_it_was() -> None:
    """Nothing of it counts."""
    bus = EventBus()
    bus.on(ORDER, group="billing")(lambda event: None)
    with pytest.raises(InvalidOption):
        bus.on("orders.*", model=Order, group="billing", queue_size=9)(lambda event: None)

    assert bus.stats().subscriptions["billing"].queue_size == 1024


# --- Leaving --------------------------------------------------------------------------------------


async def test_one_member_leaves_the_group_to_the_others() -> None:
    """After it went, the rest get everything."""
    first, second = Member(), Member()
    bus = EventBus()
    bus.on("numbers", group="workers")(first)
    bus.on("numbers", group="workers")(second)

    async with bus:
        await bus.unsubscribe(first)
        await bus.publish_many("numbers", [{"n": number} for number in range(20)])

    assert first.seen == []
    assert second.seen == list(range(20))


async def test_a_busy_member_finishes_what_it_does_and_takes_no_more() -> None:
    """Leaving interrupts nothing, and what is queued is the others'."""
    gate, member = Gate(), Member()
    bus = EventBus()
    bus.on("numbers", group="workers")(gate)

    async with bus:
        await bus.publish_many("numbers", [{"n": number} for number in range(5)])
        await anyio.wait_all_tasks_blocked()
        bus.on("numbers", group="workers")(member)
        await bus.unsubscribe(gate)
        gate.opened.set()

    assert gate.most == 1
    assert member.seen == [1, 2, 3, 4]
    assert bus.stats().succeeded == 5


async def test_a_member_that_leaves_takes_no_more_of_its_share() -> None:
    """Also in the midst of several that it would have handled one after the other."""
    leaving, staying = Gate(), Gate()
    bus = EventBus()
    bus.on("numbers", group="workers")(leaving)
    bus.on("numbers", group="workers")(staying)

    async with bus:
        await bus.publish_many("numbers", [{"n": number} for number in range(12)])
        await anyio.wait_all_tasks_blocked()
        await bus.unsubscribe(leaving)
        leaving.opened.set()
        await anyio.wait_all_tasks_blocked()
        handled = bus.stats().succeeded
        staying.opened.set()

    assert handled == 1
    assert bus.stats().succeeded == 12


async def test_a_member_that_never_began_leaves_no_gap() -> None:
    """What comes while the others are at work waits for them, and troubles no publisher."""
    gate, member = Gate(), Member()
    bus = EventBus()
    bus.on("numbers", group="workers")(gate)
    bus.on("numbers", group="workers", concurrency=2)(member)

    async with bus:
        await bus.publish("numbers", {"n": 0})
        await bus.unsubscribe(member)
        await bus.publish_many("numbers", [{"n": 1}, {"n": 2}])
        gate.opened.set()

    assert (member.seen, bus.stats().succeeded) == ([], 3)


@pytest.mark.parametrize("has_worked", [False, True])
async def test_what_a_leaving_member_was_woken_for_goes_to_another(has_worked: bool) -> None:
    """It leaves before it has run, and a member that has not worked yet begins in its place."""
    first, second = Member(), Member()
    bus = EventBus()
    bus.on("numbers", group="workers")(first)
    bus.on("numbers", group="workers")(second)

    async with bus:
        if has_worked:
            await bus.publish("numbers", {"n": 0})
            await bus.join()
        bus.publish_nowait("numbers", {"n": 1})
        await bus.unsubscribe(first)
        await bus.join()

        assert second.seen == [1]


async def test_a_group_leaves_by_its_name() -> None:
    """All members at once."""
    members = [Member(), Member()]
    bus = EventBus()
    for member in members:
        bus.on("numbers", group="workers")(member)

    async with bus:
        await bus.unsubscribe("workers")
        receipt = await bus.publish("numbers", {"n": 1})

    assert receipt.matched == 0
    assert [member.seen for member in members] == [[], []]


async def test_the_last_member_takes_the_group_with_it() -> None:
    """A group without members is no subscription."""
    first, second = Member(), Member()
    bus = EventBus()
    bus.on("numbers", group="workers")(first)
    bus.on("numbers", group="workers")(second)

    async with bus:
        await bus.unsubscribe(first)
        await bus.unsubscribe(second)
        receipt = await bus.publish("numbers", {"n": 1})

    assert receipt.matched == 0
    assert "workers" not in bus.stats().subscriptions


async def test_a_member_may_leave_from_inside() -> None:
    """A handler that has enough goes, and the rest of the queue is the others'."""
    seen: list[int] = []
    other = Member()
    bus = EventBus()

    @bus.on("numbers", group="workers")
    async def once(event: dict[str, int]) -> None:
        seen.append(event["n"])
        await bus.unsubscribe(once)

    async with bus:
        await bus.publish("numbers", {"n": 0})
        await anyio.wait_all_tasks_blocked()
        bus.on("numbers", group="workers")(other)
        await bus.publish_many("numbers", [{"n": number} for number in range(1, 20)])

    assert seen == [0]
    assert other.seen == list(range(1, 20))


async def test_a_group_that_is_ending_takes_no_members() -> None:
    """Who came too late is told, and does not wait for messages that never come."""
    gate = Gate()
    bus = EventBus()
    bus.on("numbers", group="workers")(gate)

    async with bus, anyio.create_task_group() as tasks:
        await bus.publish("numbers", {"n": 1})
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(bus.unsubscribe, "workers")
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(DuplicateSubscription, match="'workers'"):
            bus.on("numbers", group="workers")(Member())
        gate.opened.set()


async def test_a_member_registered_twice_leaves_twice() -> None:
    """Unsubscribing a handler ends all that it was registered for."""
    member = Member()
    bus = EventBus()
    for _ in range(2):
        bus.on("numbers", group="workers")(member)

    async with bus:
        await bus.unsubscribe(member)
        receipt = await bus.publish("numbers", {"n": 1})

    assert receipt.matched == 0
    assert member.seen == []


async def test_the_failures_of_a_group_are_under_its_name() -> None:
    """Dead letters are the group's, and go back to it."""
    bus = EventBus(middleware=[DeadLetter()])

    async def fails(event: object) -> None:
        raise ValueError("no")

    for _ in range(2):
        bus.on("numbers", group="workers")(fails)

    async with bus:
        await bus.publish("numbers", {})
        await bus.join()
        assert await bus.redrive("workers") == 1

    assert [letter.subscription for letter in await bus.dead_letters()] == ["workers"]


def test_a_group_with_two_functions_says_what_the_same_is() -> None:
    """Two lambdas of one text are two functions: the error says how to share one."""
    bus = EventBus()
    bus.on("jobs", group="workers", key=lambda job: job["id"])(print)

    with pytest.raises(InvalidOption, match=r"differs in key: .* the same function object, leave"):
        bus.on("jobs", group="workers", key=lambda job: job["id"])(print)
