"""The bus on a store: what is published stays, and subscriptions go on where they were."""

import logging
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import enumerate as threads
from typing import Any, TypeAlias

import anyio
import pytest
from pydantic import BaseModel, Field

from eventbus import (
    Context,
    EventBus,
    InvalidEvent,
    InvalidOption,
    NoSubscribers,
    PositionGone,
    StoreCorrupt,
    StoreError,
    StoreVersion,
    Topic,
    UnsupportedByTransport,
)
from eventbus.middleware import DeadLetter, Retry
from eventbus.testing import ManualClock
from eventbus.transports.sqlite import sessions
from eventbus.transports.sqlite.presence import this_place
from tests.waiting import until

Opened: TypeAlias = Callable[..., EventBus]


class Order(BaseModel):
    order_id: str
    placed: datetime | None = None


ORDER = Topic("orders.placed", Order)
EMPTY: list[dict[str, int]] = [{}]
ACK_WAIT = 3.0


class Notes:
    """What a handler was given."""

    def __init__(self) -> None:
        self.contexts: list[Context[Any]] = []
        self.events: list[Any] = []
        self.positions: list[int | None] = []
        self.attempts: list[int] = []
        self.failing: set[object] = set()
        self.changed = anyio.Event()
        self.pause = 0.0
        self.gate: anyio.Event | None = None

    async def __call__(self, event: Any, context: Context[Any]) -> None:
        self.events.append(event)
        self.positions.append(context.message.position)
        self.attempts.append(context.attempt)
        self.changed.set()
        self.changed = anyio.Event()
        if self.pause:
            await anyio.sleep(self.pause)
        if self.gate is not None:
            await self.gate.wait()
        if context.message.position in self.failing:
            raise ValueError("no")

    async def have(self, count: int) -> None:
        """Wait until that many were handled."""
        with anyio.fail_after(20):
            while len(self.events) < count:
                await self.changed.wait()


def note(bus: EventBus, pattern: str = "orders.>", **options: Any) -> Notes:
    """Subscribe notes."""
    notes = Notes()
    bus.on(pattern, model=object, **options)(notes)
    return notes


def is_odd(event: dict[str, int]) -> bool:
    """Tell whether the number of an event is odd."""
    return bool(event["n"] % 2)


def open_descriptors() -> int:
    """Count the open files of this process, where the system tells."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def contents(store: Path) -> bytes:
    """Read a file."""
    return store.read_bytes()


def rows(store: Path, query: str) -> list[tuple[Any, ...]]:
    """Look into a store."""
    with closing(sqlite3.connect(store)) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_handlers_are_registered_before_there_is_a_loop(opened: Opened, backend: str) -> None:
    """An application makes its bus, and decorates its handlers, where its module is imported."""
    bus = opened()
    notes, leaving = note(bus, name="books"), note(bus)

    async def serve() -> None:
        await bus.unsubscribe(leaving)
        async with bus:
            await bus.publish("orders.placed", {"n": 1})
            await bus.join()

    anyio.run(serve, backend=backend)
    assert (notes.events, leaving.events) == ([{"n": 1}], [])


# --- Publishing -----------------------------------------------------------------------------------


async def test_a_receipt_tells_where_a_message_is(opened: Opened) -> None:
    """Positions rise by one, over single messages and batches."""
    async with opened() as bus:
        first = await bus.publish(ORDER, Order(order_id="o-1"))
        batch = await bus.publish_many("orders.batch", [{}, {}])
        last = await bus.publish("orders.placed", {"order_id": "o-2"}, key="o-2")

    assert [one.position for one in (first, *batch, last)] == [1, 2, 3, 4]
    assert (first.matched, first.duplicate) == (None, False)


async def test_positions_go_on_after_a_restart(opened: Opened) -> None:
    """The log is one, however often the bus starts, on either loop."""
    bus = opened()
    async with bus:
        await bus.publish("orders.placed", {})
    async with bus:
        assert (await bus.publish("orders.placed", {})).position == 2


async def test_a_message_is_in_the_file_when_publish_returns(opened: Opened, store: Path) -> None:
    """Another connection sees it at once, with all that belongs to it."""
    async with opened() as bus:
        await bus.publish(ORDER, Order(order_id="o-1"), key="k", headers={"a": "b"}, id="m-1")
        (row,) = rows(
            store, "SELECT id, topic, key, traits, content_type, schema_version, payload FROM log"
        )

    assert row[:4] == ("m-1", "orders.placed", "k", '{"headers":{"a":"b"}}')
    assert row[4:6] == ("application/json", 1)
    assert row[6] == b'{"order_id":"o-1","placed":null}'


async def test_an_id_that_is_known_is_stored_once(opened: Opened, store: Path) -> None:
    """The second receipt names the first position, also after a restart and within a batch."""
    async with opened() as bus:
        first = await bus.publish("orders.placed", {}, id="same")
        second = await bus.publish("orders.placed", {}, id="same")
    async with opened() as bus:
        third = await bus.publish("orders.placed", {}, id="same")

    assert [one.position for one in (first, second, third)] == [1, 1, 1]
    assert [one.duplicate for one in (first, second, third)] == [False, True, True]
    assert rows(store, "SELECT count(*) FROM log") == [(1,)]


async def test_equal_ids_at_the_same_time_are_stored_once(opened: Opened, store: Path) -> None:
    """Also when one commit takes both."""
    async with opened() as bus, anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(lambda: bus.publish("orders.placed", {}, id="same"))

    assert rows(store, "SELECT count(*) FROM log") == [(1,)]


async def test_publishers_at_the_same_time_share_commits(opened: Opened, store: Path) -> None:
    """Each gets a position of its own, and the file has them all."""
    found: list[int | None] = []
    async with opened() as bus, anyio.create_task_group() as group:

        async def publish() -> None:
            found.append((await bus.publish("orders.placed", {})).position)

        for _ in range(100):
            group.start_soon(publish)

    assert sorted(one or 0 for one in found) == list(range(1, 101))


async def test_what_is_no_json_is_refused(opened: Opened) -> None:
    """The publisher is told, and nothing is stored."""
    async with opened() as bus:
        with pytest.raises(InvalidEvent, match=r"dict for 'orders\.placed' cannot be JSON"):
            await bus.publish("orders.placed", {"socket": object()})
        assert (await bus.publish("orders.placed", {})).position == 1


async def test_publish_nowait_is_refused(opened: Opened) -> None:
    """What has to be synced cannot be published without waiting."""
    async with opened() as bus:
        with pytest.raises(UnsupportedByTransport, match="await publish"):
            bus.publish_nowait("orders.placed", {})


async def test_require_asks_for_a_subscription_of_this_bus(opened: Opened, store: Path) -> None:
    """Nothing is stored where there is none."""
    async with opened() as bus:
        with pytest.raises(NoSubscribers):
            await bus.publish("orders.placed", {}, require=True)
        notes = note(bus)
        await bus.publish("orders.placed", {}, require=True)
        await notes.have(1)

    assert rows(store, "SELECT count(*) FROM log") == [(1,)]


async def test_a_publish_cancelled_before_it_begins_stores_nothing(
    opened: Opened, store: Path
) -> None:
    """Cancelled after that, it is stored, and the cancellation goes on."""
    async with opened() as bus:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await bus.publish("orders.placed", {})
        assert scope.cancelled_caught
        receipt = await bus.publish("orders.placed", {})

    assert rows(store, "SELECT max(position) FROM log") == [(receipt.position,)]


# --- Delivering -----------------------------------------------------------------------------------


async def test_events_arrive_as_the_model(opened: Opened) -> None:
    """What was published comes back through JSON, validated."""
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    got: list[Order] = []
    bus = opened()

    @bus.on(ORDER)
    async def handle(order: Order) -> None:
        got.append(order)

    async with bus:
        await bus.publish(ORDER, Order(order_id="o-1", placed=moment))
        await bus.publish("orders.placed", b'{"order_id": "o-2"}')
        await bus.join()

    assert got == [Order(order_id="o-1", placed=moment), Order(order_id="o-2")]


async def test_what_needs_no_model_arrives_as_json_makes_it(opened: Opened) -> None:
    """A model as a dict, bytes as the same bytes, with the envelope."""
    bus = opened()
    notes = note(bus)
    async with bus:
        await bus.publish(ORDER, Order(order_id="o-1"), key="k", headers={"a": "b"})
        await bus.publish("orders.raw", b"\xff\x00")
        await bus.join()

    assert notes.events == [{"order_id": "o-1", "placed": None}, b"\xff\x00"]


async def test_the_envelope_survives(opened: Opened) -> None:
    """Id, time, key, headers and what caused it are those of the publisher."""
    seen: list[Any] = []
    bus = opened()

    @bus.on("orders.first")
    async def answer(event: object, context: Context[object]) -> None:
        await context.publish("orders.second", {}, key="k", headers={"a": "b"})

    @bus.on("orders.second")
    async def handle(event: object, context: Context[object]) -> None:
        seen.append(context.message)

    async with bus:
        receipt = await bus.publish("orders.first", {})
        await bus.join()

    (message,) = seen
    assert (message.key, message.headers, message.topic) == ("k", {"a": "b"}, "orders.second")
    assert message.causation_id == message.correlation_id == receipt.id
    assert abs(message.time - datetime.now(UTC)) < timedelta(minutes=1)


async def test_order_is_that_of_the_log(opened: Opened) -> None:
    """A subscription gets pages of it, one after the other, through a small queue."""
    bus = opened(queue_size=3)
    notes = note(bus, name="audit")
    live = note(bus)
    async with bus:
        await bus.publish_many("orders.placed", [{"n": n} for n in range(600)])
        await bus.join()

    assert notes.positions == live.positions == list(range(1, 601))


async def test_only_matching_messages_are_delivered(opened: Opened) -> None:
    """Wildcards work as in memory; the bus's own topics are reached by none."""
    bus = opened()
    notes = note(bus, "orders.*.paid", name="audit")
    async with bus:
        for topic in ("orders.paid", "orders.eu.paid", "orders.us.placed", "orders.us.paid"):
            await bus.publish(topic, {})
        await bus.join()

    assert notes.positions == [2, 4]


async def test_where_holds_back_for_good(opened: Opened) -> None:
    """What it refuses is settled, and counted as filtered."""
    bus = opened()
    notes = note(bus, name="audit", where=is_odd)
    async with bus:
        await bus.publish_many("orders.placed", [{"n": n} for n in range(4)])
        await bus.join()
        stats = bus.stats().subscriptions["audit"]
    async with bus:
        await bus.join()

    assert notes.positions == [2, 4]
    assert (stats.filtered, stats.succeeded, stats.delivered) == (2, 2, 2)


async def test_a_handler_that_publishes_is_settled_after_it_was_sent(opened: Opened) -> None:
    """What it publishes through its context is stored."""
    bus = opened()
    notes = note(bus, "orders.done", name="audit")

    @bus.on("orders.placed", name="worker")
    async def work(event: object, context: Context[object]) -> None:
        await context.publish("orders.done", {})

    async with bus:
        await bus.publish("orders.placed", {})
        await bus.join()

    assert notes.positions == [2]


# --- Durable subscriptions ------------------------------------------------------------------------


async def test_a_named_subscription_goes_on_where_it_was(opened: Opened) -> None:
    """What was published while nobody listened is delivered, and nothing twice."""
    bus = opened()
    notes = note(bus, name="audit")
    async with bus:
        await bus.publish("orders.placed", {})
        await bus.join()
    async with opened() as other:
        await other.publish("orders.placed", {})
    async with bus:
        await bus.join()

    assert notes.positions == [1, 2]


async def test_a_subscription_without_a_name_hears_what_is_new(opened: Opened) -> None:
    """It ends with its bus, as in memory; so does one that says durable=False."""
    bus = opened()
    nameless = note(bus)
    named = note(bus, name="audit", durable=False)
    async with opened() as other:
        await other.publish("orders.placed", {})
    async with bus:
        await bus.publish("orders.placed", {})
        await bus.join()

    assert nameless.positions == named.positions == [2]


async def test_a_handler_added_while_it_runs_hears_what_follows(opened: Opened) -> None:
    """No message published after `on` is missed."""
    async with opened() as bus:
        await bus.publish("orders.placed", {})
        late, durable = note(bus), note(bus, name="audit")
        await bus.publish("orders.placed", {})
        await late.have(1)
        await durable.have(1)

    assert late.positions == durable.positions == [2]


@pytest.mark.parametrize(
    ("start", "expected"), [("first", [1, 2, 3]), ("last", [3]), (2, [2, 3]), ("new", [])]
)
@pytest.mark.parametrize("name", ["audit", None])
async def test_a_new_subscription_starts_where_it_says(
    opened: Opened, start: Any, expected: list[int], name: str | None
) -> None:
    """At the first kept, the newest of its own, a position, or with what comes."""
    async with opened() as bus:
        await bus.publish_many("orders.placed", [{}, {}, {}])
        await bus.publish("else.where", {})
    bus = opened()
    notes = note(bus, name=name, start=start)
    async with bus:
        await bus.join()

    assert notes.positions == expected


async def test_a_start_can_be_a_time(opened: Opened, clock: ManualClock) -> None:
    """The first message stored at or after it."""
    async with opened(clock=clock) as bus:
        await bus.publish("orders.placed", {})
        await clock.advance(60)
        moment = datetime.fromtimestamp(clock.now(), UTC)
        await bus.publish("orders.placed", {})
    bus = opened()
    notes = note(bus, start=moment)
    async with bus:
        await bus.join()

    assert notes.positions == [2]


async def test_a_start_counts_only_once(opened: Opened) -> None:
    """A subscription that exists goes on where it was."""
    for expected in ([1], []):
        bus = opened()
        notes = note(bus, name="audit", start="first")
        async with bus:
            if expected:
                await bus.publish("orders.placed", {})
            await bus.join()
        assert notes.positions == expected


async def test_a_name_keeps_its_patterns(opened: Opened) -> None:
    """Another pattern under a known name is refused when the bus starts, which ends cleanly."""
    bus = opened()
    note(bus, name="audit")
    async with bus:
        pass
    other = opened()
    note(other, "invoices.*", name="audit")

    with pytest.raises(InvalidOption, match=r"'audit'.*orders\.>.*invoices\.\*.*bus\.forget"):
        async with other:
            pass


async def test_a_forgotten_subscription_is_new_again(opened: Opened) -> None:
    """Its name is free for other patterns, and what it had not read is not delivered."""
    bus = opened()
    note(bus, name="audit")
    async with bus:
        pass
    async with opened() as other:
        await other.publish("orders.placed", {})
        await other.forget("audit")
        with pytest.raises(InvalidOption, match="'audit' is no durable"):
            await other.forget("audit")
    again = opened()
    notes = note(again, ">", name="audit")
    async with again:
        with pytest.raises(InvalidOption, match="unsubscribe"):
            await again.forget("audit")
        await again.join()

    assert notes.positions == []


async def test_unsubscribing_leaves_it_in_the_store(opened: Opened) -> None:
    """It collects what it will be given when it comes back."""
    bus = opened()
    notes = note(bus, name="audit")
    async with bus:
        await bus.publish("orders.placed", {})
        await notes.have(1)
        await bus.unsubscribe("audit")
        await bus.publish("orders.placed", {})
        again = note(bus, name="audit")
        await again.have(1)

    assert (notes.positions, again.positions) == ([1], [2])


async def test_draining_gives_back_what_has_not_begun(opened: Opened) -> None:
    """The handler that runs ends; the rest is delivered at the next start, as attempt 1."""
    bus = opened()
    gate, begun = anyio.Event(), anyio.Event()
    handled: list[int | None] = []

    @bus.on("orders.*", name="audit")
    async def handle(event: object, context: Context[object]) -> None:
        begun.set()
        await gate.wait()
        assert context.attempt == 1
        handled.append(context.message.position)

    async with bus, anyio.create_task_group() as group:
        await bus.publish_many("orders.placed", EMPTY * 3)
        await begun.wait()
        group.start_soon(bus.drain)
        await anyio.wait_all_tasks_blocked()
        gate.set()
    assert handled == [1]
    assert bus.stats().abandoned == 0
    async with bus:
        await bus.join()

    assert handled == [1, 2, 3]


async def test_stopping_gives_back_what_runs(opened: Opened) -> None:
    """Interrupted is neither handled nor failed: it comes again as the same attempt."""
    bus = opened()
    notes = Notes()
    begun = anyio.Event()

    @bus.on("orders.*", name="audit")
    async def handle(event: object, context: Context[object]) -> None:
        await notes(event, context)
        if not begun.is_set():
            begun.set()
            await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        async with bus:
            await bus.publish_many("orders.placed", [{}, {}])
            await begun.wait()
            scope.cancel()
    async with bus:
        await bus.join()

    assert notes.positions == [1, 1, 2]
    assert notes.attempts == [1, 1, 1]


# --- Failures -------------------------------------------------------------------------------------


async def test_a_retry_is_the_next_attempt(opened: Opened) -> None:
    """As in memory, and settled in the end."""
    bus = opened(middleware=[Retry(attempts=3, initial=0.001)])
    notes = note(bus, name="audit")
    notes.failing.add(1)
    async with bus:
        await bus.publish("orders.placed", {})
        await bus.join()
    async with bus:
        await bus.join()

    assert notes.attempts == [1, 2, 3]


async def test_a_retry_survives_a_restart(opened: Opened, clock: ManualClock) -> None:
    """It comes when it is due, as the attempt it was to be."""
    bus = opened(middleware=[Retry(initial=60, jitter=False)], clock=clock)
    notes = note(bus, name="audit")
    notes.failing.add(1)
    async with bus:
        await bus.publish("orders.placed", {})
        await notes.have(1)
        while not bus.stats().retried:
            await anyio.lowlevel.checkpoint()
    notes.failing.clear()
    async with bus:
        await bus.publish("orders.placed", {})
        await notes.have(2)
        while len(notes.events) < 3:
            await clock.advance(1)

    assert (notes.positions, notes.attempts) == ([1, 2, 1], [1, 1, 2])
    assert clock.monotonic() >= 1060


async def test_dead_letters_survive_a_restart(opened: Opened) -> None:
    """They are listed with all that was known, newest first, page by page."""
    bus = opened(middleware=[DeadLetter()])
    notes = note(bus, name="audit")
    notes.failing.update({1, 2})
    async with bus:
        await bus.publish("orders.placed", {"n": 1}, key="k")
        await bus.publish("orders.placed", {"n": 2})
        await bus.join()
    async with opened() as other:
        newest, oldest = await other.dead_letters("audit")
        (page,) = await other.dead_letters(before=newest.id)
        assert await other.dead_letters("else") == []
        with pytest.raises(InvalidOption, match="'gone'"):
            await other.dead_letters(before="gone")

    assert page.id == oldest.id
    assert (oldest.message.payload, oldest.message.key) == ({"n": 1}, "k")
    assert (oldest.error_type, oldest.error, oldest.attempts) == ("ValueError", "no", 1)
    assert "raise ValueError" in oldest.traceback


async def test_dead_letters_can_be_read_while_the_bus_is_closed(opened: Opened) -> None:
    """Before its start, too, and purged; no thread stays for it."""
    assert await opened().dead_letters() == []
    bus = opened(middleware=[DeadLetter()])
    notes = note(bus, name="audit")
    notes.failing.add(1)
    async with bus:
        await bus.publish("orders.placed", {})
        await bus.join()

    assert len(await bus.dead_letters()) == 1
    assert await opened().purge_dead_letters() == 1
    assert [one for one in threads() if one.name.startswith("eventbus-")] == []


async def test_a_dead_letter_is_sent_again_to_the_one_that_failed(opened: Opened) -> None:
    """As attempt 1 with the same id, to that subscription alone, and then it is no dead letter."""
    bus = opened(middleware=[DeadLetter()])
    notes, other = note(bus, name="audit"), note(bus, name="other")
    notes.failing.add(1)
    async with bus:
        await bus.publish("orders.placed", {})
        await bus.join()
        assert await bus.redrive("audit", ids=["unknown"]) == 0
        assert await bus.redrive("audit") == 1
        await bus.join()
        assert len(await bus.dead_letters()) == 1
        notes.failing.clear()
        assert await bus.redrive() == 1
        await bus.join()
        assert await bus.dead_letters() == []

    assert (notes.positions, notes.attempts, other.positions) == ([1, 1, 1], [1, 1, 1], [1])


async def test_dead_letters_can_be_purged(opened: Opened) -> None:
    """By id, by subscription, or all; what is gone is not sent again."""
    bus = opened(middleware=[DeadLetter()])
    notes = note(bus, name="audit")
    notes.failing.update({1, 2, 3})
    async with bus:
        await bus.publish_many("orders.placed", EMPTY * 3)
        await bus.join()
        newest, *_ = await bus.dead_letters()
        assert await bus.purge_dead_letters(ids=[newest.id, "unknown"]) == 1
        assert await bus.purge_dead_letters("other") == 0
        assert await bus.purge_dead_letters() == 2
        assert await bus.redrive() == 0


async def test_what_the_model_refuses_is_a_dead_letter_at_once(opened: Opened) -> None:
    """No attempt, no retry; the next message comes."""
    got: list[str] = []
    bus = opened(middleware=[DeadLetter(), Retry()])

    @bus.on("orders.*", name="audit")
    async def handle(order: Order) -> None:
        got.append(order.order_id)

    async with bus:
        await bus.publish("orders.placed", {"number": 1})
        await bus.publish("orders.placed", b"{no json")
        await bus.publish("orders.placed", {"order_id": "o-1"})
        await bus.join()
        letters = await bus.dead_letters()
    async with bus:
        await bus.join()

    assert got == ["o-1"]
    assert [letter.attempts for letter in letters] == [0, 0]
    assert bus.stats().subscriptions["audit"].invalid == 2


async def test_a_live_subscription_leaves_dead_letters_too(opened: Opened) -> None:
    """They are in the store, though the subscription is not."""
    bus = opened(middleware=[DeadLetter()])
    notes = note(bus)
    notes.failing.add(1)
    async with bus:
        await bus.publish("orders.placed", {})
        await bus.join()
        (letter,) = await bus.dead_letters()

    assert letter.message.position == 1


async def test_who_listens_for_dead_letters_is_shown_them(opened: Opened) -> None:
    """With the reason, as in memory."""
    seen: list[Any] = []
    bus = opened(middleware=[DeadLetter()])
    notes = note(bus, name="audit")
    notes.failing.add(1)

    @bus.on("$dlq.audit")
    async def watch(event: object, context: Context[object]) -> None:
        seen.append((event, context.failure and context.failure.error))

    async with bus:
        await bus.publish("orders.placed", {"n": 1})
        await bus.join()

    assert seen == [({"n": 1}, "no")]


# --- Several buses on one file --------------------------------------------------------------------


async def test_buses_on_one_file_hear_each_other(opened: Opened) -> None:
    """An event of one reaches the subscriptions of the other, soon."""
    first, second = opened(), opened()
    live, durable = note(second), note(second, name="audit")
    async with first, second:
        await first.publish("orders.placed", {})
        await live.have(1)
        await durable.have(1)

    assert live.positions == durable.positions == [1]


async def test_a_group_shares_its_messages_across_buses(opened: Opened) -> None:
    """Each message goes to one member, in whichever bus."""
    first, second = opened(), opened()
    one, other = (note(bus, name="workers", queue_size=2) for bus in (first, second))
    one.pause = other.pause = 0.001
    async with first, second:
        await first.publish_many("orders.placed", EMPTY * 100)
        await until(lambda: len(one.positions) + len(other.positions) == 100)

    assert sorted([*one.positions, *other.positions], key=lambda p: p or 0) == list(range(1, 101))
    assert one.positions
    assert other.positions


async def test_a_key_is_handled_by_one_bus_at_a_time(opened: Opened) -> None:
    """Its messages stay in order across buses, and do not overlap."""
    running: set[str | None] = set()
    handled: dict[str | None, list[int]] = {}
    buses = [opened(), opened()]

    async def handle(event: object, context: Context[object]) -> None:
        key = context.message.key
        assert key not in running
        running.add(key)
        await anyio.sleep(0.001)
        running.discard(key)
        handled.setdefault(key, []).append(context.message.position or 0)

    for bus in buses:
        bus.on("orders.*", name="workers", queue_size=2, concurrency=4)(handle)
    async with buses[0], buses[1]:
        for n in range(60):
            await buses[n % 2].publish("orders.placed", {}, key=f"k-{n % 5}")
        await until(lambda: sum(map(len, handled.values())) == 60)

    assert all(positions == sorted(positions) for positions in handled.values())


@pytest.mark.parametrize(("start", "expected"), [("new", [1, 2]), ("first", [1, 1, 2])])
async def test_a_subscription_that_another_bus_forgets_begins_anew(
    opened: Opened, start: Any, expected: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """With the next message, where a new one would begin; after a restart it goes on from there."""
    bus = opened()
    notes = note(bus, name="audit", start=start)
    async with bus:
        await bus.publish("orders.placed", {})
        await bus.join()
        async with opened() as other:
            await other.forget("audit")
        await bus.publish("orders.placed", {})
        await notes.have(len(expected))
        await bus.join()
    async with bus:
        await bus.join()

    assert notes.positions == expected
    assert "audit was forgotten, by another process, and begins anew" in caplog.text


async def test_a_handler_may_take_longer_than_ack_wait(opened: Opened, clock: ManualClock) -> None:
    """Its bus gives signs of life meanwhile, so that no other takes the message over."""
    async with long_work(opened, clock) as (first, other):
        await live_for(clock, 4 * ACK_WAIT)
        assert (first.positions, other.positions) == ([1], [])


async def test_that_signs_of_life_keep_others_away(
    opened: Opened, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: without them another takes over what is still worked on."""
    monkeypatch.setattr(sessions, "beat", give_no_sign)
    async with long_work(opened, clock) as (first, other):
        await live_for(clock, 4 * ACK_WAIT)
        await other.have(1)
        assert (first.positions, other.positions) == ([1], [1])


def give_no_sign(connection: sqlite3.Connection, session: int) -> None:
    """Do nothing where a session is to give a sign of life."""


@asynccontextmanager
async def long_work(opened: Opened, clock: ManualClock) -> AsyncGenerator[tuple[Notes, Notes]]:
    """Let one of two buses handle a message for as long as the block lasts."""
    first, second = opened(clock=clock), opened(clock=clock)
    busy = note(first, name="workers", ack_wait=ACK_WAIT)
    busy.gate = anyio.Event()
    other = note(second, name="workers", ack_wait=ACK_WAIT)
    async with first:
        await first.publish("orders.placed", {})
        await busy.have(1)
        async with second:
            yield busy, other
            busy.gate.set()


async def live_for(clock: ManualClock, seconds: float) -> None:
    """Let time pass, slowly enough for each bus to look around meanwhile."""
    await clock.settle()
    buses = clock.sleeping
    for _ in range(round(seconds)):
        await clock.advance(1)
        await until(lambda: clock.sleeping == buses)


# --- Life -----------------------------------------------------------------------------------------


async def test_nothing_is_left_when_the_bus_has_closed(opened: Opened, store: Path) -> None:
    """No thread, no descriptor, no session, and one file beside its mark."""
    descriptors = open_descriptors()
    bus = opened()
    note(bus, name="audit")
    async with bus:
        await bus.publish("orders.placed", {})

    assert [one for one in threads() if one.name.startswith("eventbus-")] == []
    assert sorted(os.listdir(store.parent)) == ["events.db", "events.db-mark"]
    assert rows(store, "SELECT count(*) FROM session") == [(0,)]
    assert open_descriptors() == descriptors


async def test_a_bus_that_cannot_start_can_be_started_later(opened: Opened, store: Path) -> None:
    """A store that could not be opened leaves nothing behind."""
    os.mkdir(store)
    bus = opened()
    with pytest.raises(StoreError):
        async with bus:
            pass
    os.rmdir(store)
    async with bus:
        assert (await bus.publish("orders.placed", {})).position == 1


async def test_a_store_of_a_later_version_is_refused(opened: Opened, store: Path) -> None:
    """And left as it is."""
    async with opened():
        pass
    with closing(sqlite3.connect(store)) as connection:
        connection.execute("PRAGMA user_version=99")
    before = contents(store)

    with pytest.raises(StoreVersion, match=r"version 99.*upgrade"):
        async with opened():
            pass
    assert contents(store) == before


async def test_a_strange_database_is_refused(opened: Opened, store: Path) -> None:
    """A file that belongs to another program is not touched."""
    with closing(sqlite3.connect(store)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StoreVersion, match=r"no store of eventbus: name a new file.*ATTACH"):
        async with opened():
            pass


async def test_a_store_without_a_log_of_sqlite_gets_it_back(opened: Opened, store: Path) -> None:
    """Else who reads would keep others from writing."""
    async with opened():
        pass
    with closing(sqlite3.connect(store)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE").fetchall()

    async with opened():
        pass
    with closing(sqlite3.connect(store)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_a_damaged_record_stops_the_bus_and_is_named(opened: Opened, store: Path) -> None:
    """It is never delivered; what was before it is."""
    async with opened() as bus:
        await bus.publish_many("orders.placed", [{"n": n} for n in range(3)])
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        connection.execute("UPDATE log SET payload = '{\"n\": 7}' WHERE position = 2")
    bus = opened()
    notes = note(bus, name="audit", start="first")

    with pytest.raises(StoreCorrupt, match="position 2 is damaged"):
        async with bus:
            await anyio.sleep(20)
    assert notes.positions == [1]


async def test_retention_removes_the_oldest(
    opened: Opened, store: Path, clock: ManualClock
) -> None:
    """By count; an id that was removed just now is still known."""
    async with opened("?max_count=2", clock=clock) as bus:
        await bus.publish("orders.placed", {}, id="first")
        await bus.publish_many("orders.placed", EMPTY * 4)
        while rows(store, "SELECT min(position) FROM log") != [(4,)]:
            await clock.advance(1)
        again = await bus.publish("orders.placed", {}, id="first")

    assert (again.position, again.duplicate) == (1, True)


async def test_retention_removes_what_is_old(
    opened: Opened, store: Path, clock: ManualClock
) -> None:
    """By age, counted from when it was published; positions are never used again."""
    async with opened("?max_age=1h", clock=clock) as bus:
        await bus.publish("orders.placed", {})
        await clock.advance(3500)
        await bus.publish("orders.placed", {})
        while rows(store, "SELECT min(position) FROM log") != [(2,)]:
            await clock.advance(10)
        await clock.advance(3600)
        while rows(store, "SELECT count(*) FROM log") != [(0,)]:
            await clock.advance(10)
        assert (await bus.publish("orders.placed", {})).position == 3


async def test_retention_keeps_a_store_small(
    opened: Opened, store: Path, clock: ManualClock
) -> None:
    """By size: the oldest go, the newest stay, and about as much is kept as was said."""
    most = 1_000_000
    async with opened(f"?max_bytes={most // 1000}kB", clock=clock) as bus:
        await bus.publish_many("orders.placed", [{"text": "x" * 10_000}] * 200)
        while used_bytes(store) > most:
            await clock.advance(1)
        await clock.advance(10)
        ((first, last),) = rows(store, "SELECT min(position), max(position) FROM log")

    assert last == 200
    assert 0.6 * most < (last - first) * 10_000 < most


def used_bytes(store: Path) -> int:
    """Tell how much of a store is in use."""
    ((used,),) = rows(
        store,
        "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, "
        "pragma_freelist_count, pragma_page_size",
    )
    return int(used)


async def test_a_subscription_goes_on_behind_what_retention_removed(
    opened: Opened, store: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """With the oldest that is kept; the log tells what it has lost."""
    first = opened()
    note(first, name="audit")
    async with first:
        pass
    async with opened("?max_count=2", clock=clock) as other:
        await other.publish_many("orders.placed", EMPTY * 5)
        while rows(store, "SELECT min(position) FROM log") != [(4,)]:
            await clock.advance(1)
    again = opened()
    notes = note(again, name="audit")
    async with again:
        await again.join()

    assert notes.positions == [4, 5]
    assert "audit has lost 3 messages of positions 1 to 3" in caplog.text


@pytest.mark.parametrize("name", ["audit", None])
async def test_a_subscription_cannot_begin_with_what_retention_removed(
    opened: Opened, store: Path, clock: ManualClock, name: str | None
) -> None:
    """The bus does not start, and says where it could begin."""
    async with opened("?max_count=2", clock=clock) as other:
        await other.publish_many("orders.placed", EMPTY * 5)
        while rows(store, "SELECT min(position) FROM log") != [(4,)]:
            await clock.advance(1)
    bus = opened()
    note(bus, name=name, start=3)
    with pytest.raises(PositionGone, match="position 3: begin at 4 or later"):
        async with bus:
            pass


@pytest.mark.parametrize(
    ("url", "flaw"),
    [
        ("sqlite://", "names no file"),
        ("sqlite://events.db", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///e.db?durable=yes", r"'durable'.*did you mean 'durability'"),
        ("sqlite:///e.db?durability=ful", r"durability='ful'.*did you mean 'full'"),
        ("sqlite:///e.db?max_age=7", "max_age='7'.*7d"),
        ("sqlite:///e.db?max_count=0", "max_count='0'"),
        ("sqlite:///e.db?max_bytes=1TB", "max_bytes='1TB'.*500MB"),
        ("sqlite:///e.db?durability=full&durability=normal", "'durability' twice, .*leave one out"),
        ("sqlite:///e.db?max_age.a=1h&max_age.b=1h&max_age.a=2h", r"'max_age\.a' twice"),
    ],
)
def test_a_url_that_cannot_be_is_refused(url: str, flaw: str) -> None:
    """With what would do."""
    with pytest.raises(InvalidOption, match=flaw):
        EventBus(url)


@pytest.mark.parametrize(
    ("options", "flaw"),
    [
        ({"overflow": "fail"}, "'fail'.*publishers do not see"),
        ({"overflow": "latest", "name": "audit"}, "'latest'.*overflow='block'"),
    ],
)
async def test_what_a_store_cannot_do_is_refused_at_the_start(
    opened: Opened, options: Any, flaw: str
) -> None:
    """In one sentence, and later at once."""
    bus = opened()
    note(bus, **options)
    with pytest.raises(UnsupportedByTransport, match=flaw):
        async with bus:
            pass
    async with opened() as running:
        with pytest.raises(UnsupportedByTransport, match=flaw):
            note(running, **options)


async def test_a_store_that_cannot_be_written_is_left_as_it_is(
    opened: Opened, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bus is refused, and SQLite puts nothing beside it that would be in the way later."""
    async with opened() as bus:
        await bus.publish("orders", {})
    names = [one.name for one in store.parent.iterdir()]

    def may(path: Path, mode: int) -> bool:
        return path != store

    monkeypatch.setattr(os, "access", may)
    with pytest.raises(StoreError, match="cannot be written: see that this process may write"):
        async with opened():
            pass

    assert [one.name for one in store.parent.iterdir()] == names


async def test_normal_durability_is_faster_and_says_so(opened: Opened, store: Path) -> None:
    """Commits are not synced one by one; all else is the same."""
    bus = opened("?durability=normal")
    notes = note(bus, name="audit")
    async with bus:
        await bus.publish("orders.placed", {})
        await bus.join()

    assert notes.positions == [1]


async def test_handlers_are_told_that_a_silent_process_lost_its_messages(
    opened: Opened, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a dead process had is delivered again, one by one, and the log says so."""
    bus = opened()
    note(bus, name="audit")
    async with bus:
        pass
    async with opened() as other:
        await other.publish_many("orders.placed", EMPTY * 3)
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        leave_dead_session(connection)
    caplog.set_level(logging.WARNING)
    again = opened()
    notes = note(again, name="audit")
    async with again:
        await again.join()

    assert notes.positions == [1, 2, 3]
    assert "audit is given again, one by one, what a process had that ended" in caplog.text
    assert "without giving it back: 3 deliveries" in caplog.text


def leave_dead_session(connection: sqlite3.Connection) -> None:
    """Write what a process leaves that was killed after it had claimed all there is."""
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    connection.execute(
        "INSERT INTO session (id, place, process, beat) VALUES (99, ?, ?, 0)", (this_place(), gone)
    )
    connection.execute(
        "INSERT INTO delivery (subscription, position, owner) SELECT 1, position, 99 FROM log"
    )
    connection.execute("UPDATE subscription SET cursor = (SELECT max(position) FROM log)")


class Aliased(BaseModel):
    number: int = Field(alias="no")


async def test_a_model_with_aliases_comes_back(opened: Opened) -> None:
    """It is written so that its own validation reads it."""
    got: list[Aliased] = []
    bus = opened()

    @bus.on(Topic("aliased", Aliased))
    async def handle(event: Aliased) -> None:
        got.append(event)

    async with bus:
        await bus.publish(Topic("aliased", Aliased), Aliased(no=5))
        await bus.join()

    assert got == [Aliased(no=5)]
