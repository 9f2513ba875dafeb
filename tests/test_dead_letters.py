"""What subscriptions gave up on: kept, listed, listened to, sent again and forgotten."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from eventbus import (
    BusClosed,
    Context,
    EventBus,
    FailedDelivery,
    InvalidOption,
    NotStarted,
    Topic,
)
from eventbus.message import Message, write_message
from eventbus.middleware import DeadLetter, Retry
from eventbus.testing import ManualClock
from eventbus.transports import memory
from eventbus.transports.dead_letters import DEAD_LETTERS_KEPT, DeadLetters

JOBS = Topic("jobs", int)


class Order(BaseModel):
    order_id: str


class Repairable:
    """A handler that fails until it is repaired."""

    def __init__(self) -> None:
        self.is_broken = True
        self.attempts: list[tuple[int, int]] = []
        self.handled: list[int] = []

    async def __call__(self, event: int, context: Context[int]) -> None:
        self.attempts.append((event, context.attempt))
        if self.is_broken:
            raise ValueError(f"cannot do {event}")
        self.handled.append(event)


def keeping_bus(clock: ManualClock, **options: Any) -> EventBus:
    """Make a bus that keeps dead letters."""
    return EventBus(clock=clock, middleware=[DeadLetter()], **options)


async def fail_with(bus: EventBus, *events: int) -> None:
    """Publish events, one after the other, and wait until their fate is settled."""
    for event in events:
        await bus.publish(JOBS, event)
        await bus.join()


def payloads(letters: Sequence[FailedDelivery]) -> list[object]:
    """Give what was published."""
    return [letter.message.payload for letter in letters]


def failure(number: int, subscription: str = "jobs") -> FailedDelivery:
    """Make a failure by hand."""
    message: Message = write_message(("jobs", None, None, 1), 0.0, number)
    return FailedDelivery(
        id=str(number),
        message=message,
        subscription=subscription,
        error_type="ValueError",
        error="no",
        traceback="",
        attempts=1,
        failed_at=datetime.fromtimestamp(number, UTC),
    )


# --- What is kept ---------------------------------------------------------------------------------


async def test_a_dead_letter_tells_what_happened(clock: ManualClock) -> None:
    """Message, subscription, error, attempts and time; the traceback as text."""
    bus = EventBus(clock=clock, middleware=[DeadLetter(), Retry(attempts=2, jitter=False)])
    bus.on(JOBS, name="jobs")(Repairable())
    async with bus:
        receipt = await bus.publish(JOBS, 7, key="k")
        await clock.advance(1.0)
        letter = (await bus.dead_letters())[0]

    assert (letter.message.id, letter.message.payload, letter.message.key) == (receipt.id, 7, "k")
    assert (letter.subscription, letter.attempts) == ("jobs", 2)
    assert (letter.error_type, letter.error) == ("ValueError", "cannot do 7")
    assert "raise ValueError" in letter.traceback
    assert letter.failed_at == datetime.fromtimestamp(clock.now(), UTC)


async def test_showing_a_dead_letter_shows_no_payload(clock: ManualClock) -> None:
    """In logs and debuggers it is named by its ids; payload and traceback are there to be read."""
    bus = keeping_bus(clock)

    @bus.on("accounts")
    async def handle(event: object) -> None:
        raise ValueError

    async with bus:
        await bus.publish("accounts", {"password": "hunter2"})
        await bus.join()
        letter = (await bus.dead_letters())[0]

    assert letter.id in repr(letter)
    assert "hunter2" not in repr(letter)
    assert "Traceback" not in repr(letter)


async def test_without_the_policy_it_is_lost(clock: ManualClock) -> None:
    """Counted as such, and nothing is kept."""
    bus = EventBus(clock=clock)
    bus.on(JOBS)(Repairable())
    async with bus:
        await fail_with(bus, 1, 2)

        assert await bus.dead_letters() == []

    assert (bus.stats().lost, bus.stats().dead_lettered, bus.stats().failed) == (2, 0, 2)


async def test_each_subscription_has_its_own(clock: ManualClock) -> None:
    """One message may be handled by one, and be a dead letter of two others."""
    bus = keeping_bus(clock)
    good = Repairable()
    good.is_broken = False
    bus.on(JOBS, name="one")(Repairable())
    bus.on(JOBS, name="other")(Repairable())
    bus.on(JOBS, name="good")(good)
    async with bus:
        await fail_with(bus, 1)
        letters = await bus.dead_letters()

    assert sorted(letter.subscription for letter in letters) == ["one", "other"]
    assert good.handled == [1]


async def test_they_stay_readable_when_the_bus_has_closed(clock: ManualClock) -> None:
    """And are there when it is started again."""
    bus = keeping_bus(clock)
    bus.on(JOBS)(Repairable())
    async with bus:
        await fail_with(bus, 1)

    assert payloads(await bus.dead_letters()) == [1]

    async with bus:
        assert payloads(await bus.dead_letters()) == [1]


def test_the_newest_are_kept() -> None:
    """Beyond the size the oldest goes, and is reported as lost."""
    lost: list[FailedDelivery] = []
    letters = DeadLetters(lost.append, size=3)
    for number in range(5):
        letters.keep(failure(number))

    assert payloads(letters.newest(None, limit=10, before=None)) == [4, 3, 2]
    assert payloads(lost) == [0, 1]


def test_ten_thousand_are_kept_unless_said() -> None:
    """The one after them pushes the oldest out."""
    lost: list[FailedDelivery] = []
    letters = DeadLetters(lost.append)
    for number in range(10_001):
        letters.keep(failure(number))

    assert DEAD_LETTERS_KEPT == 10_000
    assert len(letters.newest(None, limit=20_000, before=None)) == 10_000
    assert payloads(lost) == [0]


async def test_what_newer_ones_push_out_counts_as_lost(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the subscription it belonged to, beside having been a dead letter."""
    monkeypatch.setattr(memory, "DeadLetters", partial(DeadLetters, size=2))
    bus = keeping_bus(clock)
    bus.on(JOBS, name="jobs")(Repairable())
    async with bus:
        await fail_with(bus, 1, 2, 3, 4, 5)

        assert payloads(await bus.dead_letters()) == [5, 4]

    stats = bus.stats().subscriptions["jobs"]
    assert (stats.dead_lettered, stats.lost) == (5, 3)


# --- Refused payloads -----------------------------------------------------------------------------


async def test_a_refused_payload_is_a_dead_letter_at_once(clock: ManualClock) -> None:
    """No attempt, no retry, nothing raised to the publisher; who can take it does."""
    handled: list[object] = []
    bus = EventBus(clock=clock, middleware=[DeadLetter(), Retry()])

    @bus.on("orders.created", name="strict")
    async def strict(event: Order) -> None:
        handled.append(event)

    @bus.on("orders.created")
    async def raw(event: dict[str, object]) -> None:
        handled.append(event)

    async with bus:
        receipt = await bus.publish("orders.created", {"order": 1})
        await bus.join()
        letters = await bus.dead_letters()
        stats = bus.stats().subscriptions["strict"]

    assert (receipt.matched, handled) == (2, [{"order": 1}])
    assert [(one.subscription, one.attempts) for one in letters] == [("strict", 0)]
    assert (letters[0].error_type, "order_id" in letters[0].error) == ("ValidationError", True)
    assert (stats.invalid, stats.dead_lettered, stats.failed, stats.delivered) == (1, 1, 0, 0)


async def test_a_refused_payload_may_be_passed_over(clock: ManualClock) -> None:
    """With `invalid="skip"` it is counted and forgotten."""
    bus = keeping_bus(clock)

    @bus.on("orders.created", invalid="skip")
    async def handle(event: Order) -> None: ...

    async with bus:
        await bus.publish("orders.created", {"order": 1})
        await bus.join()

        assert await bus.dead_letters() == []

    stats = bus.stats()
    assert (stats.invalid, stats.dead_lettered, stats.lost, stats.delivered) == (1, 0, 0, 0)


async def test_a_refused_payload_is_lost_without_the_policy(clock: ManualClock) -> None:
    """As whatever else is given up on."""
    bus = EventBus(clock=clock)

    @bus.on("orders.created")
    async def handle(event: Order) -> None: ...

    async with bus:
        await bus.publish("orders.created", {"order": 1})

    assert (bus.stats().invalid, bus.stats().lost, bus.stats().dead_lettered) == (1, 1, 0)


async def test_a_refused_payload_is_not_logged(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what was wrong, and not what was in it, also when it is refused again."""
    bus = keeping_bus(clock)

    @bus.on("orders.created", name="strict")
    async def handle(event: Order) -> None: ...

    async with bus:
        await bus.publish("orders.created", {"order_id": ["hunter2"]})
        await bus.redrive()

    assert "strict refuses" in caplog.text
    assert "strict still refuses" in caplog.text
    assert "hunter2" not in caplog.text


async def test_a_model_that_raises_anything_else_refuses_too(clock: ManualClock) -> None:
    """An error out of a validator is that subscription's, not the publisher's."""
    bus = keeping_bus(clock)

    class Fragile(BaseModel):
        number: int

        def model_post_init(self, context: object, /) -> None:
            raise RuntimeError("fragile")

    @bus.on("orders.created", model=Fragile)
    async def handle(event: Fragile) -> None: ...

    async with bus:
        await bus.publish("orders.created", {"number": 1})
        await bus.join()
        letters = await bus.dead_letters()

    assert [(letter.error_type, letter.attempts) for letter in letters] == [("RuntimeError", 0)]


# --- Listing --------------------------------------------------------------------------------------


async def test_they_are_listed_newest_first(clock: ManualClock) -> None:
    """As many as asked for, and 100 unless said."""
    bus = keeping_bus(clock)
    bus.on(JOBS)(Repairable())
    async with bus:
        await fail_with(bus, *range(120))

        assert payloads(await bus.dead_letters()) == list(range(119, 19, -1))
        assert payloads(await bus.dead_letters(limit=2)) == [119, 118]


async def test_they_are_listed_page_by_page(clock: ManualClock) -> None:
    """`before=` the last one of a page gives the next, until there are no more."""
    bus = keeping_bus(clock)
    bus.on(JOBS)(Repairable())
    pages: list[list[object]] = []
    async with bus:
        await fail_with(bus, *range(5))
        page = await bus.dead_letters(limit=2)
        while page:
            pages.append(payloads(page))
            page = await bus.dead_letters(limit=2, before=page[-1].id)

    assert pages == [[4, 3], [2, 1], [0]]


async def test_they_are_listed_by_subscription(clock: ManualClock) -> None:
    """Pages too; a name that nobody has, has none."""
    bus = keeping_bus(clock)
    bus.on(JOBS, name="one")(Repairable())
    bus.on(JOBS, name="other")(Repairable())
    async with bus:
        await fail_with(bus, 1, 2, 3)
        page = await bus.dead_letters("one", limit=2)
        rest = await bus.dead_letters("one", before=page[-1].id)

        assert (payloads(page), payloads(rest)) == ([3, 2], [1])
        assert {letter.subscription for letter in page + rest} == {"one"}


async def test_a_page_after_one_that_is_gone_is_refused(clock: ManualClock) -> None:
    """Rather than beginning again from the newest."""
    async with keeping_bus(clock) as bus:
        with pytest.raises(InvalidOption, match="before='gone': no dead letter with this id"):
            await bus.dead_letters(before="gone")


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_page_of_nothing_is_refused(clock: ManualClock, limit: int) -> None:
    """A limit is 1 or more."""
    async with keeping_bus(clock) as bus:
        with pytest.raises(InvalidOption, match=f"limit={limit}: give 1 or more"):
            await bus.dead_letters(limit=limit)


# --- Listening ------------------------------------------------------------------------------------


async def test_a_handler_may_listen(clock: ManualClock) -> None:
    """It gets the payload as published, and `context.failure` with the reason."""
    heard: list[tuple[int, str, str, FailedDelivery | None]] = []
    bus = keeping_bus(clock)
    bus.on(JOBS, name="jobs")(Repairable())

    @bus.on("$dlq.jobs", model=int)
    async def look(event: int, context: Context[int]) -> None:
        heard.append((event, context.message.topic, context.subscription, context.failure))

    async with bus:
        await fail_with(bus, 7)
        letters = await bus.dead_letters()

    assert heard == [
        (7, "jobs", "tests.test_dead_letters.test_a_handler_may_listen.look", letters[0])
    ]


@pytest.mark.parametrize(
    ("pattern", "hears"),
    [("$dlq.jobs", True), ("$dlq.*", True), ("$dlq.>", True), ("$dlq.other", False), (">", False)],
)
async def test_listening_follows_patterns(clock: ManualClock, pattern: str, hears: bool) -> None:
    """Dead letters come under `$dlq.<subscription>`, which a leading wildcard never matches."""
    heard: list[FailedDelivery] = []
    bus = keeping_bus(clock)
    bus.on(JOBS, name="jobs")(Repairable())

    @bus.on(pattern)
    async def look(event: object, context: Context[object]) -> None:
        heard.extend([context.failure] if context.failure else [])

    async with bus:
        await fail_with(bus, 7)

        assert heard == (await bus.dead_letters() if hears else [])


async def test_refused_payloads_are_heard_too(clock: ManualClock) -> None:
    """A listener that takes payloads as they are sees what the model did not want."""
    heard: list[object] = []
    bus = keeping_bus(clock)

    @bus.on("orders.created", name="strict")
    async def handle(event: Order) -> None: ...

    @bus.on("$dlq.strict")
    async def look(event: object, context: Context[object]) -> None:
        assert context.failure
        heard.append((event, context.failure.attempts))

    async with bus:
        await bus.publish("orders.created", {"order": 1})
        await bus.join()

    assert heard == [({"order": 1}, 0)]


async def test_a_failing_listener_makes_no_dead_letters(clock: ManualClock) -> None:
    """However its policies read: what it fails with is lost, so that there is no circle."""
    bus = EventBus(clock=clock, middleware=[DeadLetter(), Retry(attempts=2, jitter=False)])
    attempts: list[tuple[int, bool]] = []
    bus.on(JOBS, name="jobs", middleware=[Retry(attempts=1)])(Repairable())

    @bus.on("$dlq.>", name="looker")
    async def look(event: object, context: Context[object]) -> None:
        attempts.append((context.attempt, context.failure is not None))
        raise OSError

    async with bus:
        await bus.publish(JOBS, 7)
        await clock.advance(10.0)
        letters = await bus.dead_letters()

    assert [letter.subscription for letter in letters] == ["jobs"]
    assert attempts == [(1, True), (2, True)]
    stats = bus.stats().subscriptions["looker"]
    assert (stats.lost, stats.dead_lettered, stats.failed) == (1, 0, 2)


async def test_a_listener_whose_model_refuses_makes_none_either(clock: ManualClock) -> None:
    """What it cannot take is counted as invalid."""
    bus = keeping_bus(clock)
    bus.on(JOBS, name="jobs")(Repairable())

    @bus.on("$dlq.jobs", name="looker")
    async def look(event: Order) -> None: ...

    async with bus:
        await fail_with(bus, 7)
        letters = await bus.dead_letters()

    assert [letter.subscription for letter in letters] == ["jobs"]
    assert bus.stats().subscriptions["looker"].invalid == 1


@pytest.mark.parametrize("overflow", ["block", "fail", "drop_newest", "drop_oldest"])
async def test_a_slow_listener_holds_up_nobody(clock: ManualClock, overflow: Any) -> None:
    """Where its queue is full the copy is dropped and counted; the dead letters are all kept."""
    opened = anyio.Event()
    heard: list[object] = []
    bus = keeping_bus(clock)
    bus.on(JOBS, name="jobs")(Repairable())

    @bus.on("$dlq.jobs", queue_size=1, overflow=overflow, name="slow")
    async def look(event: object) -> None:
        heard.append(event)
        await opened.wait()

    async with bus:
        for event in range(6):
            await bus.publish(JOBS, event)
            await clock.settle()

        assert len(await bus.dead_letters("jobs")) == 6

        opened.set()

    assert heard == [0, 5 if overflow == "drop_oldest" else 1]
    assert bus.stats().subscriptions["slow"].dropped == 4


# --- Sending again --------------------------------------------------------------------------------


async def test_redriving_sends_again_to_that_subscription_alone(clock: ManualClock) -> None:
    """As attempt 1, oldest first; what went is no dead letter any more."""
    broken, other = Repairable(), Repairable()
    other.is_broken = False
    bus = keeping_bus(clock)
    bus.on(JOBS, name="jobs")(broken)
    bus.on(JOBS)(other)
    async with bus:
        await fail_with(bus, 1, 2, 3)
        broken.is_broken = False
        sent = await bus.redrive()
        await bus.join()

        assert (sent, await bus.dead_letters()) == (3, [])

    assert (broken.handled, other.handled) == ([1, 2, 3], [1, 2, 3])
    assert broken.attempts[3:] == [(1, 1), (2, 1), (3, 1)]


async def test_what_fails_again_is_a_new_dead_letter(clock: ManualClock) -> None:
    """With its own id and the attempts of this round."""
    bus = EventBus(clock=clock, middleware=[DeadLetter(), Retry(attempts=2, jitter=False)])
    bus.on(JOBS)(Repairable())
    async with bus:
        await bus.publish(JOBS, 1)
        await clock.advance(10.0)
        before = await bus.dead_letters()
        await bus.redrive()
        await clock.advance(10.0)
        after = await bus.dead_letters()

    assert [letter.attempts for letter in before + after] == [2, 2]
    assert before[0].id != after[0].id
    assert before[0].message.id == after[0].message.id


async def test_redriving_is_chosen_by_subscription_and_ids(clock: ManualClock) -> None:
    """Only those of both; an id that is not kept, or of another, is passed over."""
    bus = keeping_bus(clock)
    bus.on(JOBS, name="one")(Repairable())
    bus.on(JOBS, name="other")(Repairable())
    async with bus:
        await fail_with(bus, 1, 2)
        ids = {
            (letter.subscription, letter.message.payload): letter.id
            for letter in await bus.dead_letters()
        }
        by_both = await bus.redrive("one", ids=[ids["one", 1], ids["other", 1], "gone"])
        by_ids = await bus.redrive(ids=[ids["other", 2], ids["other", 2]])
        by_nothing = await bus.redrive(ids=[])

    assert (by_both, by_ids, by_nothing) == (1, 1, 0)


async def test_what_is_refused_again_stays(clock: ManualClock) -> None:
    """A payload the model still does not want does not move."""
    bus = keeping_bus(clock)

    @bus.on("orders.created", name="strict")
    async def handle(event: Order) -> None: ...

    async with bus:
        await bus.publish("orders.created", {"order": 1})
        before = await bus.dead_letters()

        assert await bus.redrive() == 0
        assert await bus.dead_letters() == before

    assert bus.stats().dead_lettered == 1


async def test_what_a_better_model_takes_is_handled(clock: ManualClock) -> None:
    """Redriven to a subscription of the same name that has learned to read it."""
    handled: list[object] = []
    bus = keeping_bus(clock)

    @bus.on("orders.created", name="orders")
    async def strict(event: Order) -> None: ...

    async with bus:
        await bus.publish("orders.created", {"order": 1})
        await bus.unsubscribe("orders")

        @bus.on("orders.created", name="orders")
        async def lenient(event: dict[str, object]) -> None:
            handled.append(event)

        assert await bus.redrive() == 1

    assert handled == [{"order": 1}]


async def test_what_nobody_subscribes_to_any_more_stays(clock: ManualClock) -> None:
    """Until somebody of that name comes back, or it is purged."""
    bus = keeping_bus(clock)
    bus.on(JOBS, name="jobs")(Repairable())
    async with bus:
        await fail_with(bus, 1)
        await bus.unsubscribe("jobs")

        assert await bus.redrive() == 0
        assert payloads(await bus.dead_letters()) == [1]


async def test_redriving_waits_for_room(clock: ManualClock) -> None:
    """Whatever the subscription's policy, nothing redriven is dropped."""
    handler = Repairable()
    opened = anyio.Event()
    bus = keeping_bus(clock)

    @bus.on(JOBS, queue_size=1, overflow="drop_newest", name="jobs")
    async def handle(event: int, context: Context[int]) -> None:
        await handler(event, context)
        await opened.wait()

    async with bus, anyio.create_task_group() as tasks:
        await fail_with(bus, 1, 2, 3, 4)
        handler.is_broken = False
        tasks.start_soon(bus.redrive)
        await clock.settle()

        assert handler.handled == [1]

        opened.set()

    assert handler.handled == [1, 2, 3, 4]
    assert bus.stats().dropped == 0


async def test_a_cancelled_redrive_leaves_the_rest(clock: ManualClock) -> None:
    """What found no room is still a dead letter, in its old place among the others."""
    handler = Repairable()
    opened = anyio.Event()
    bus = keeping_bus(clock)

    @bus.on(JOBS, queue_size=1, name="jobs")
    async def handle(event: int, context: Context[int]) -> None:
        await handler(event, context)
        await opened.wait()

    async with bus:
        await fail_with(bus, 1, 2, 3, 4)
        handler.is_broken = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.redrive)
            await clock.settle()
            tasks.cancel_scope.cancel()
        opened.set()
        await bus.join()

        assert payloads(await bus.dead_letters()) == [4, 3]

    assert handler.handled == [1, 2]


async def test_a_redrive_that_waits_longer_than_draining_leaves_the_rest(
    clock: ManualClock,
) -> None:
    """What found no room before the bus closed is still a dead letter."""
    handler = Repairable()
    bus = keeping_bus(clock, drain_timeout=30.0)

    @bus.on(JOBS, queue_size=1)
    async def handle(event: int, context: Context[int]) -> None:
        await handler(event, context)
        await anyio.sleep_forever()

    async def redrive() -> None:
        with pytest.raises(BusClosed):
            await bus.redrive()

    async with anyio.create_task_group() as tasks, bus:
        await fail_with(bus, 1, 2, 3, 4)
        handler.is_broken = False
        tasks.start_soon(redrive)
        await clock.settle()
        tasks.start_soon(clock.advance, 30.0)

    assert payloads(await bus.dead_letters()) == [4, 3]


async def test_redriving_needs_a_running_bus(clock: ManualClock) -> None:
    """Before it starts and after it has closed there is nobody to send to."""
    bus = keeping_bus(clock)
    with pytest.raises(NotStarted):
        await bus.redrive()
    async with bus:
        pass
    with pytest.raises(BusClosed):
        await bus.redrive()


# --- Forgetting -----------------------------------------------------------------------------------


async def test_purging_forgets(clock: ManualClock) -> None:
    """All, those of a subscription, or those with given ids; it tells how many."""
    bus = keeping_bus(clock)
    bus.on(JOBS, name="one")(Repairable())
    bus.on(JOBS, name="other")(Repairable())
    async with bus:
        await fail_with(bus, 1, 2, 3)
        newest = (await bus.dead_letters("one", limit=1))[0].id

        assert await bus.purge_dead_letters(ids=[newest, newest, "gone"]) == 1
        assert await bus.purge_dead_letters("other", ids=[newest]) == 0
        assert payloads(await bus.dead_letters("one")) == [2, 1]
        assert await bus.purge_dead_letters("other") == 3
        assert await bus.purge_dead_letters() == 2
        assert await bus.dead_letters() == []


async def test_what_is_purged_is_not_lost(clock: ManualClock) -> None:
    """It was looked at and let go."""
    bus = keeping_bus(clock)
    bus.on(JOBS)(Repairable())
    async with bus:
        await fail_with(bus, 1)
        await bus.purge_dead_letters()

    assert (bus.stats().lost, bus.stats().dead_lettered) == (0, 1)
