"""Publishing in the publisher's own transaction: what commits is delivered, and nothing else."""

import gc
import sqlite3
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import anyio.to_thread
import pytest
from pydantic import BaseModel

from eventbus import (
    Context,
    DeadlockError,
    EventBus,
    InvalidEvent,
    InvalidOption,
    Message,
    NoSubscribers,
    StoreError,
    Topic,
    UnsupportedByTransport,
)
from eventbus.middleware.chain import PublishNext
from eventbus.transports.sqlite import store as store_room

Connected: TypeAlias = Callable[..., sqlite3.Connection]


class Order(BaseModel):
    n: int


ORDER = Topic("orders.placed", Order)


@pytest.fixture
def bus(store: Path) -> EventBus:
    """Give a bus on the store."""
    return EventBus(f"sqlite:///{store}")


@pytest.fixture
def connected(store: Path) -> Iterator[Connected]:
    """Give what connects to the store, or to another file, until the test ends."""
    connections: list[sqlite3.Connection] = []

    def connect(path: Path | str = store, **options: Any) -> sqlite3.Connection:
        connections.append(sqlite3.connect(path, **options))
        return connections[-1]

    yield connect
    for connection in connections:
        connection.close()


def heard_by(bus: EventBus, name: str | None = None) -> list[int]:
    """Subscribe, and give the numbers that come."""
    heard: list[int] = []

    @bus.on("orders.>", name=name)
    async def hear(order: Order) -> None:
        heard.append(order.n)

    return heard


def stored(store: Path) -> list[tuple[Any, ...]]:
    """Read what is in the log."""
    connection = sqlite3.connect(store)
    try:
        return connection.execute("SELECT position, id FROM log ORDER BY position").fetchall()
    finally:
        connection.close()


# --- What is delivered ----------------------------------------------------------------------------


async def test_a_commit_delivers(bus: EventBus, store: Path, connected: Connected) -> None:
    """With what else the transaction did, to durable subscriptions and to others."""
    durable, live = heard_by(bus, name="books"), heard_by(bus)
    async with bus:
        connection = connected()
        connection.execute("CREATE TABLE orders (n INTEGER)")
        with connection:
            connection.execute("INSERT INTO orders VALUES (1)")
            receipt = await bus.publish(ORDER, Order(n=1), connection=connection)
            assert stored(store) == []
        await bus.join()
        rows = connection.execute("SELECT n FROM orders").fetchall()

    assert (receipt.matched, receipt.position, receipt.duplicate) == (None, 1, False)
    assert (durable, live, rows) == ([1], [1], [(1,)])


async def test_a_rollback_leaves_nothing(bus: EventBus, store: Path, connected: Connected) -> None:
    """The next one gets the position that was given out in vain."""
    heard = heard_by(bus, name="books")
    async with bus:
        connection = connected()
        lost = await bus.publish(ORDER, Order(n=1), connection=connection)
        connection.rollback()
        kept = await bus.publish(ORDER, Order(n=2))
        await bus.join()

    assert (lost.position, kept.position) == (1, 1)
    assert heard == [2]
    assert len(stored(store)) == 1


async def test_other_buses_see_the_commit(bus: EventBus, store: Path, connected: Connected) -> None:
    """As they see what any process publishes."""
    other = EventBus(f"sqlite:///{store}")
    async with bus, other, other.subscribe(ORDER) as events:
        await other.publish("other.topic", {})  # behind the beginning of what it subscribes to
        with connected() as connection:
            await bus.publish(ORDER, Order(n=1), connection=connection)
        with anyio.fail_after(20):
            assert await anext(aiter(events)) == Order(n=1)


@pytest.mark.parametrize("name", [None, "books"])
async def test_who_subscribed_before_hears_it(
    bus: EventBus, connected: Connected, name: str | None
) -> None:
    """Also if the subscription can be written down only when the transaction is over."""
    async with bus:
        with connected() as connection:
            await bus.publish("other.topic", {}, connection=connection)
            heard = heard_by(bus, name)
            await bus.publish(ORDER, Order(n=1), connection=connection)
        await bus.join()

    assert heard == [1]


async def test_an_attached_store_will_do(bus: EventBus, store: Path, connected: Connected) -> None:
    """Under any name, beside tables that are called like its own."""
    heard = heard_by(bus, name="books")
    async with bus:
        connection = connected(store.with_name("shop.db"))
        for table in ("log", "meta", "seen"):
            connection.execute(f"CREATE TABLE {table} (n INTEGER)")
        connection.execute("""ATTACH ? AS "the ""store"" " """, (str(store),))
        with connection:
            connection.execute("INSERT INTO main.log VALUES (7)")
            await bus.publish(ORDER, Order(n=1), id="one", connection=connection)
        await bus.join()
        assert connection.execute("SELECT n FROM main.log").fetchall() == [(7,)]

    assert (heard, stored(store)) == ([1], [(1, "one")])


async def test_many_go_together(bus: EventBus, connected: Connected) -> None:
    """In their order, behind what the transaction has published before."""
    heard = heard_by(bus, name="books")
    async with bus:
        with connected() as connection:
            await bus.publish(ORDER, Order(n=0), connection=connection)
            many = [Order(n=n) for n in range(1, 400)]
            receipts = await bus.publish_many(ORDER, many, connection=connection)
            await bus.publish_many(ORDER, [], connection=connection)
        await bus.join()

    assert [one.position for one in receipts] == list(range(2, 401))
    assert heard == list(range(400))


async def test_an_id_is_stored_once(bus: EventBus, store: Path, connected: Connected) -> None:
    """Whether the first was published in the same transaction or long before."""
    async with bus:
        await bus.publish(ORDER, Order(n=0), id="before")
        with connected() as connection:
            before = await bus.publish(ORDER, Order(n=0), id="before", connection=connection)
            first = await bus.publish(ORDER, Order(n=1), id="same", connection=connection)
            second = await bus.publish(ORDER, Order(n=1), id="same", connection=connection)

    assert [one.position for one in (before, first, second)] == [1, 2, 2]
    assert [one.duplicate for one in (before, first, second)] == [True, False, True]
    assert stored(store) == [(1, "before"), (2, "same")]


async def test_the_envelope_is_that_of_any_publish(bus: EventBus, connected: Connected) -> None:
    """Key, headers and expiry travel."""
    seen: list[Message] = []

    @bus.on(ORDER, name="books")
    async def hear(order: Order, context: Context[Order]) -> None:
        seen.append(context.message)

    async with bus:
        with connected() as connection:
            await bus.publish(
                ORDER, Order(n=1), key="k", headers={"a": "b"}, expires=60, connection=connection
            )
        await bus.join()

    assert [(one.key, one.headers, one.expires_at is None) for one in seen] == [
        ("k", {"a": "b"}, False)
    ]


@pytest.mark.parametrize("is_batch", [False, True])
async def test_publish_middleware_runs(
    store: Path, connected: Connected, *, is_batch: bool
) -> None:
    """What it makes of a message is still part of the transaction."""

    async def stamp(message: Message, call_next: PublishNext) -> Any:
        return await call_next(message.replace(headers={"by": "stamp"}))

    bus = EventBus(f"sqlite:///{store}", publish_middleware=[stamp])
    heard = heard_by(bus, name="books")
    async with bus:
        connection = connected()
        if is_batch:
            await bus.publish_many(ORDER, [Order(n=1), Order(n=2)], connection=connection)
        else:
            await bus.publish(ORDER, Order(n=1), connection=connection)
        assert stored(store) == []
        connection.commit()
        await bus.join()

    assert heard == ([1, 2] if is_batch else [1])


async def test_a_factory_for_rows_is_no_hindrance(
    bus: EventBus, store: Path, connected: Connected
) -> None:
    """Nor one for text: they are the publisher's own."""
    async with bus:
        await bus.publish(ORDER, Order(n=0), id="before")
        connection = connected()
        connection.row_factory = lambda cursor, row: {"row": row}
        connection.text_factory = bytes.hex
        with connection:
            receipt = await bus.publish(ORDER, Order(n=0), id="before", connection=connection)
        assert receipt.duplicate
        assert connection.execute("PRAGMA busy_timeout").fetchone() == {"row": (5000,)}


async def test_a_transaction_begun_by_hand_will_do(bus: EventBus, connected: Connected) -> None:
    """On a connection that begins none by itself."""
    heard = heard_by(bus, name="books")
    async with bus:
        connection = connected(isolation_level=None)
        connection.execute("BEGIN")
        await bus.publish(ORDER, Order(n=1), connection=connection)
        connection.execute("COMMIT")
        await bus.join()

    assert heard == [1]


# --- What is refused ------------------------------------------------------------------------------


async def test_a_connection_to_another_file_is_refused(
    bus: EventBus, store: Path, connected: Connected
) -> None:
    """The message names the file."""
    async with bus:
        for path in (":memory:", "", store.with_name("shop.db")):
            with pytest.raises(InvalidOption, match=r"another file: connect to .*events\.db"):
                await bus.publish(ORDER, Order(n=1), connection=connected(path))
            with pytest.raises(InvalidOption, match="another file"):
                await bus.publish_many(ORDER, [Order(n=1)], connection=connected(path))


async def test_a_connection_without_a_transaction_is_refused(
    bus: EventBus, connected: Connected
) -> None:
    """It would commit at once."""
    async with bus:
        with pytest.raises(InvalidOption, match=r"no open transaction.*BEGIN"):
            await bus.publish(ORDER, Order(n=1), connection=connected(isolation_level=None))


async def test_a_closed_connection_is_refused(bus: EventBus, connected: Connected) -> None:
    """SQLite's own words say why."""
    connection = connected()
    connection.close()
    async with bus:
        with pytest.raises(InvalidOption, match="closed database"):
            await bus.publish(ORDER, Order(n=1), connection=connection)


async def test_a_connection_of_another_thread_is_refused(bus: EventBus, store: Path) -> None:
    """SQLite's own words say why."""
    async with bus:
        connection = await anyio.to_thread.run_sync(lambda: made_and_closed(store))
        with pytest.raises(InvalidOption, match=r"created in a thread.*the event loop"):
            await bus.publish(ORDER, Order(n=1), connection=connection)


def made_and_closed(path: Path) -> sqlite3.Connection:
    """Make a connection that only this thread may use, and so close."""
    connection = sqlite3.connect(path)
    connection.close()
    return connection


async def test_what_is_no_connection_is_refused(bus: EventBus) -> None:
    """Connections of other libraries among it."""
    async with bus:
        with pytest.raises(InvalidOption, match=r"connection='c': give a sqlite3\.Connection"):
            await bus.publish(ORDER, Order(n=1), connection="c")  # type: ignore[call-overload]  # what is tested


@pytest.mark.parametrize("word", ["delay", "at"])
async def test_a_publish_for_later_is_refused(
    bus: EventBus, connected: Connected, word: str
) -> None:
    """What a transaction commits goes out when it does."""
    value: Any = {"delay": 5, "at": datetime(2099, 1, 1, tzinfo=UTC)}[word]
    async with bus:
        with pytest.raises(InvalidOption, match=f"connection= and {word}="):
            await bus.publish(
                ORDER,
                Order(n=1),
                connection=connected(),
                **{word: value},
            )


async def test_a_bus_in_memory_refuses_connections(connected: Connected) -> None:
    """It has no file that could be the same."""
    async with EventBus() as bus:
        with pytest.raises(UnsupportedByTransport, match="connection=: this transport"):
            await bus.publish(ORDER, Order(n=1), connection=connected(":memory:"))
        with pytest.raises(UnsupportedByTransport, match="connection=: this transport"):
            await bus.publish_many(ORDER, [Order(n=1)], connection=connected(":memory:"))


async def test_threads_and_contexts_refuse_connections(connected: Connected) -> None:
    """Both send when the transaction is over."""
    bus = EventBus()
    refused: list[str] = []
    connection = connected(":memory:")

    @bus.on(ORDER)
    async def hear(order: Order, context: Context[Order]) -> None:
        with pytest.raises(InvalidOption, match=r"use bus\.publish") as of_context:
            await context.publish(ORDER, order, connection=connection)
        refused.append(str(of_context.value))

    def publish() -> None:
        with pytest.raises(InvalidOption, match="belongs to its thread") as of_thread:
            bus.publish_from_thread(ORDER, Order(n=1), connection=connection)
        refused.append(str(of_thread.value))

    async with bus:
        await bus.publish(ORDER, Order(n=1))
        await bus.join()
        await anyio.to_thread.run_sync(publish)

    assert len(refused) == 2


async def test_what_is_refused_is_not_in_the_transaction(
    bus: EventBus, store: Path, connected: Connected
) -> None:
    """A payload its contract refuses, or that nobody wants: the rest of the transaction stands."""
    bus.on(ORDER, name="books")(lambda order: None)
    async with bus:
        with connected() as connection:
            with pytest.raises(InvalidEvent):
                await bus.publish("orders.placed", {"n": "x"}, connection=connection)
            with pytest.raises(InvalidEvent):
                await bus.publish_many(
                    "orders.placed", [{"n": 1}, {"n": "x"}], connection=connection
                )
            with pytest.raises(NoSubscribers):
                await bus.publish("till", {}, require=True, connection=connection)
            await bus.publish(ORDER, Order(n=1), id="one", connection=connection)

    assert stored(store) == [(1, "one")]


async def test_a_batch_that_fails_leaves_nothing_in_the_transaction(
    bus: EventBus, store: Path, connected: Connected
) -> None:
    """Whoever goes on and commits, commits none of it."""
    async with bus:
        connection = connected()
        connection.execute(
            "CREATE TRIGGER no BEFORE INSERT ON log WHEN NEW.position = 4 "
            "BEGIN SELECT RAISE(ABORT, 'not the fourth'); END"
        )
        with connection:
            await bus.publish(ORDER, Order(n=0), id="zero", connection=connection)
            many = [Order(n=n) for n in range(3)]
            with pytest.raises(StoreError, match="not the fourth"):
                await bus.publish_many(ORDER, many, connection=connection)

    assert stored(store) == [(1, "zero")]


# --- Waiting --------------------------------------------------------------------------------------


async def test_waiting_for_ones_own_transaction_is_refused(
    bus: EventBus, connected: Connected
) -> None:
    """The error says what waits for what; when the transaction is over, nothing is refused."""
    heard = heard_by(bus, name="books")
    async with bus:
        with connected() as connection:
            await bus.publish(ORDER, Order(n=1), connection=connection)
            with pytest.raises(DeadlockError, match="would wait for the transaction"):
                await bus.publish(ORDER, Order(n=2))
        await bus.publish(ORDER, Order(n=3))
        closed = connected()
        await bus.publish(ORDER, Order(n=4), connection=closed)
        closed.close()
        await bus.publish(ORDER, Order(n=5))
        await bus.join()

    assert heard == [1, 3, 5]


WRITES: dict[str, Callable[[EventBus], Awaitable[object]]] = {
    "redrive": lambda bus: bus.redrive(),
    "purge": lambda bus: bus.purge_dead_letters(),
    "forget": lambda bus: bus.forget("books"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
async def test_nor_does_anything_else_that_writes(
    bus: EventBus, connected: Connected, write: Callable[[EventBus], Awaitable[object]]
) -> None:
    """It says so at once, and can be done when the transaction is over."""
    heard_by(bus, name="books")
    async with bus:
        await bus.unsubscribe("books")
        with connected() as connection, anyio.fail_after(20):
            await bus.publish(ORDER, Order(n=1), connection=connection)
            with pytest.raises(DeadlockError, match="would wait for the transaction"):
                await write(bus)
            assert await bus.dead_letters() == []  # what only reads does not wait
        await write(bus)


async def test_nor_does_a_closed_bus(bus: EventBus, connected: Connected) -> None:
    """Its dead letters can be purged, but not meanwhile."""
    async with bus:
        connection = connected()
        await bus.publish(ORDER, Order(n=1), connection=connection)
    with anyio.fail_after(20), pytest.raises(DeadlockError):
        await bus.purge_dead_letters()
    connection.commit()

    assert await bus.purge_dead_letters() == 0


async def test_another_task_waits_its_turn(bus: EventBus, connected: Connected) -> None:
    """With and without a transaction of its own, and the event loop goes on meanwhile."""
    heard = heard_by(bus, name="books")

    async def publish_alone() -> None:
        await bus.publish(ORDER, Order(n=2))

    async def publish_within() -> None:
        with connected() as own:
            await bus.publish(ORDER, Order(n=3), connection=own)

    async with bus:
        with connected() as connection:
            await bus.publish(ORDER, Order(n=1), connection=connection)
            async with anyio.create_task_group() as group:
                group.start_soon(publish_alone)
                group.start_soon(publish_within)
                await anyio.sleep(0.05)  # a while in which both wait
                connection.commit()
        await bus.join()

    assert (heard[0], sorted(heard)) == (1, [1, 2, 3])


async def test_a_cancelled_wait_leaves_no_transaction(bus: EventBus, connected: Connected) -> None:
    """None that Python has begun for the publish."""
    async with bus:
        other = connected(isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = connected()
        with anyio.move_on_after(0.05) as scope:
            await bus.publish(ORDER, Order(n=1), connection=waiting)
        other.execute("ROLLBACK")

    assert (scope.cancelled_caught, waiting.in_transaction) == (True, False)


async def test_a_transaction_that_read_too_early_is_told_so(
    bus: EventBus, connected: Connected
) -> None:
    """SQLite lets it write no more, however long it waits."""
    async with bus:
        connection = connected(isolation_level=None)
        connection.execute("BEGIN")
        connection.execute("SELECT * FROM log").fetchall()
        await bus.publish(ORDER, Order(n=1))
        with pytest.raises(StoreError, match="begin with BEGIN IMMEDIATE"):
            await bus.publish(ORDER, Order(n=2), connection=connection)


class Left(sqlite3.Connection):
    """A connection that can be watched."""


async def test_a_connection_left_behind_is_not_kept(bus: EventBus, store: Path) -> None:
    """Its task has ended: it is collected, and so its lock is given up."""
    watched: list[weakref.ref[Left]] = []

    async def leave() -> None:
        connection = sqlite3.connect(store, factory=Left)
        watched.append(weakref.ref(connection))
        receipts.append(await bus.publish(ORDER, Order(n=1), connection=connection))

    receipts: list[object] = []
    async with bus:
        async with anyio.create_task_group() as group:
            group.start_soon(leave)
        with warnings.catch_warnings(action="ignore"):  # from Python 3.13 on, that it is not closed
            gc.collect()
        with anyio.fail_after(20):
            await bus.publish(ORDER, Order(n=2))

    assert watched[0]() is None


# --- Closing --------------------------------------------------------------------------------------


async def all_have_ended() -> None:
    """Wait until no thread of a store is left."""
    for thread in threading.enumerate():
        if thread.name.startswith("eventbus-sqlite"):
            await anyio.to_thread.run_sync(thread.join)


@pytest.mark.parametrize(
    ("is_ours", "cause"),
    [
        (
            True,
            "a transaction is open in which this program has published with connection=: commit",
        ),
        (
            False,
            "it is locked, most likely, by a transaction of another program, or of a connection",
        ),
    ],
)
async def test_what_keeps_a_store_from_closing_is_named(
    bus: EventBus,
    connected: Connected,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    is_ours: bool,
    cause: str,
) -> None:
    """Nobody can write while a transaction is open; the bus ends nevertheless."""
    monkeypatch.setattr(store_room, "CLOSE_SECONDS", 0.05)
    connection = connected()
    async with bus:
        if is_ours:
            await bus.publish(ORDER, Order(n=1), connection=connection)
        else:
            connection.execute("BEGIN IMMEDIATE")
    connection.rollback()
    await all_have_ended()

    (line,) = caplog.messages
    assert line.startswith("the store did not close within 0.05 s, and its thread waits for 60 s")
    assert cause in line


async def test_a_store_that_was_locked_is_closed_later(
    bus: EventBus, store: Path, connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as the transaction ends: what was handled is noted, the rest given back."""
    monkeypatch.setattr(store_room, "CLOSE_SECONDS", 0.05)
    connection = connected()
    has_begun, may_end = anyio.Event(), anyio.Event()

    @bus.on(ORDER, name="audit")
    async def audit(order: Order) -> None:
        has_begun.set()
        await may_end.wait()

    async with bus:
        await bus.publish_many(ORDER, [Order(n=1), Order(n=2)])
        await has_begun.wait()
        connection.execute("BEGIN IMMEDIATE")
        may_end.set()
    with closing(sqlite3.connect(store)) as other:
        assert other.execute("SELECT count(*) FROM session").fetchone() == (1,)
    connection.commit()
    await all_have_ended()

    assert connection.execute("SELECT count(*) FROM session").fetchone() == (0,)
    assert connection.execute("SELECT position, owner FROM delivery").fetchall() == [(2, None)]
