"""SQL of handlers, run in the commit that acknowledges their deliveries."""

import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest

from eventbus import AlreadySettled, Context, EventBus, InvalidOption, QueueFull
from eventbus import UnsupportedByTransport as Unsupported
from eventbus.middleware import DeadLetter, Retry
from eventbus.transaction import TRANSACTION_SIZE, Transaction
from eventbus.transports.sqlite import durable

Event: TypeAlias = Mapping[str, int]
Recording: TypeAlias = Callable[[Context[Any]], object]
INSERT = "INSERT INTO effect (n) VALUES (?)"


@pytest.fixture
def bus(store: Path) -> EventBus:
    """Give a bus on the store, which keeps dead letters."""
    return EventBus(f"sqlite:///{store}", middleware=[DeadLetter()])


def execute(store: Path, *statements: str) -> list[tuple[Any, ...]]:
    """Execute statements by a connection of one's own; give what the last one finds."""
    rows: list[tuple[Any, ...]] = []
    with closing(sqlite3.connect(store)) as connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
        connection.commit()
    return rows


def effects(store: Path) -> list[int]:
    """Give what handlers have done, in order."""
    return [n for (n,) in execute(store, "SELECT n FROM effect ORDER BY rowid")]


def prepare(store: Path) -> None:
    """Make the table in which handlers do something; a bus has made the file."""
    execute(store, "CREATE TABLE effect (n INTEGER UNIQUE, log TEXT)")


def record(bus: EventBus, recording: Recording, **options: Any) -> None:
    """Subscribe a handler that records something."""

    async def handle(event: object, context: Context[Any]) -> None:
        result = recording(context)
        if isinstance(result, Awaitable):
            await result

    bus.on("work", model=object, name="workers", **options)(handle)


async def handle_one(bus: EventBus, store: Path) -> None:
    """Have one event handled, whatever comes of it."""
    async with bus:
        prepare(store)
        await bus.publish("work", {"n": 1})
        await bus.join()


# --- What is done ---------------------------------------------------------------------------------


async def test_effect_publish_and_acknowledgement_are_one(bus: EventBus, store: Path) -> None:
    """What the handler publishes goes out with its effect, and says what caused it."""
    heard: list[tuple[object, str | None]] = []

    @bus.on("done", name="listeners")
    async def hear(event: Event, context: Context[Event]) -> None:
        heard.append((event, context.message.causation_id))

    @bus.on("work", name="workers")
    async def work(event: Event, context: Context[Event]) -> None:
        context.transaction.execute(INSERT, (event["n"],))
        await context.publish("done", {"n": event["n"]})
        assert effects(store) == []

    async with bus:
        prepare(store)
        receipt = await bus.publish("work", {"n": 1})
        await bus.join()
        assert effects(store) == [1]
        assert heard == [({"n": 1}, receipt.id)]
        assert execute(store, "SELECT * FROM delivery WHERE position = 1") == []

    stats = bus.stats()
    assert (stats.published, stats.succeeded, stats.failed) == (2, 2, 0)


async def test_what_is_published_for_later_is_part_of_it(bus: EventBus, store: Path) -> None:
    """It is kept with the effect, and goes out when it is due; of a failed attempt, nothing is."""
    heard: list[Event] = []

    @bus.on("reminders", name="listeners")
    async def hear(event: Event) -> None:
        heard.append(event)

    async def recording(context: Context[Any]) -> None:
        context.transaction.execute(INSERT, (context.attempt,))
        await context.publish("reminders", {"n": context.attempt}, delay=0.01)
        await context.publish("reminders", {"n": 100 * context.attempt})
        if context.attempt == 1:
            context.transaction.execute("SELECT * FROM nowhere")

    record(bus, recording, middleware=[Retry(attempts=2, initial=0.001)])
    await handle_one(bus, store)

    assert (effects(store), heard) == ([2], [{"n": 200}, {"n": 2}])


async def test_parameters_are_those_of_sqlite3(bus: EventBus, store: Path) -> None:
    """Sequences and mappings, one or many, as they were when they were recorded."""

    def recording(context: Context[Any]) -> None:
        row = [1]
        context.transaction.execute(INSERT, row)
        row.append(0)
        context.transaction.execute("INSERT INTO effect (n) VALUES (:n)", {"n": 2})
        context.transaction.executemany(INSERT, ((n,) for n in (3, 4)))
        context.transaction.executemany(INSERT, [])
        context.transaction.execute("UPDATE effect SET log = 'seen'")

    record(bus, recording)
    await handle_one(bus, store)

    assert effects(store) == [1, 2, 3, 4]
    assert execute(store, "SELECT DISTINCT log FROM effect") == [("seen",)]


async def test_handlers_in_threads_record_too(bus: EventBus, store: Path) -> None:
    """The writer runs it, wherever it was recorded."""

    @bus.on("work", name="workers")
    def work(event: Event, context: Context[Event]) -> None:
        context.transaction.execute(INSERT, (event["n"],))

    await handle_one(bus, store)

    assert effects(store) == [1]


async def test_a_failed_attempt_drops_what_it_recorded(bus: EventBus, store: Path) -> None:
    """Of three attempts the last has an effect."""

    def recording(context: Context[Any]) -> None:
        context.transaction.execute(INSERT, (context.attempt,))
        if context.attempt < 3:
            raise ConnectionError("not yet")

    record(bus, recording, middleware=[Retry(attempts=3, initial=0.001)])
    await handle_one(bus, store)

    assert effects(store) == [3]


async def test_what_is_acknowledged_by_hand_is_done_then(bus: EventBus, store: Path) -> None:
    """A retry, or no word at all, drops what was recorded."""

    async def recording(context: Context[Any]) -> None:
        context.transaction.execute(INSERT, (context.attempt,))
        if context.attempt == 1:
            await context.retry()
        elif context.attempt == 3:
            await context.ack()

    record(bus, recording, ack="manual", middleware=[Retry(attempts=9, initial=0.001)])
    await handle_one(bus, store)

    assert effects(store) == [3]


async def test_a_letter_sent_again_is_gone_with_the_effect(bus: EventBus, store: Path) -> None:
    """A dead letter is acknowledged like anything else."""
    failing = [True]

    def recording(context: Context[Any]) -> None:
        context.transaction.execute(INSERT, (1,))
        if failing:
            raise ConnectionError(failing.pop())

    record(bus, recording)
    await handle_one(bus, store)
    async with bus:
        assert effects(store) == []
        assert await bus.redrive() == 1
        await bus.join()
        assert (effects(store), await bus.dead_letters()) == ([1], [])


async def test_nothing_recorded_is_an_ordinary_acknowledgement(
    bus: EventBus, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To have looked at the transaction costs nothing."""
    monkeypatch.setattr(durable, "carry_out", None)
    record(bus, lambda context: context.transaction)
    await handle_one(bus, store)

    assert bus.stats().succeeded == 1


# --- What goes wrong ------------------------------------------------------------------------------


async def test_an_error_of_sqlite_fails_the_attempt(bus: EventBus, store: Path) -> None:
    """Nothing of it remains, neither before the error nor what was published."""

    async def recording(context: Context[Any]) -> None:
        context.transaction.execute(INSERT, (1,))
        context.transaction.execute(INSERT, (1,))
        await context.publish("work.done", {})

    record(bus, recording, middleware=[Retry(attempts=2, initial=0.001)])
    async with bus:
        prepare(store)
        await bus.publish("work", {})
        await bus.join()
        (letter,) = await bus.dead_letters()

    assert (letter.error_type, letter.attempts) == ("IntegrityError", 2)
    assert "UNIQUE constraint failed: effect.n" in letter.error
    assert effects(store) == []
    assert execute(store, "SELECT topic FROM log") == [("work",)]


@pytest.mark.parametrize("conflict", ["ABORT", "FAIL", "ROLLBACK"])
async def test_others_are_not_affected(bus: EventBus, store: Path, conflict: str) -> None:
    """What is committed together with it stays, and is acknowledged, whatever it undoes."""

    @bus.on("work", name="workers", concurrency=10)
    async def work(event: Event, context: Context[Event]) -> None:
        context.transaction.execute(INSERT, (event["n"],))
        if event["n"] % 3 == 0:
            context.transaction.execute(f"INSERT OR {conflict} INTO effect (n) VALUES (100)")
        await context.publish("done", {})

    @bus.on("beside", name="beside")
    async def beside(event: Event) -> None: ...

    async with bus:
        prepare(store)
        execute(store, "INSERT INTO effect VALUES (100, 'first')")
        await bus.publish_many("work", [{"n": n} for n in range(30)])
        await bus.publish_many("beside", [{"n": n} for n in range(30)])
        await bus.join()
        letters = await bus.dead_letters()

    assert execute(store, "SELECT count(*) FROM delivery") == [(0,)]
    assert sorted(effects(store)) == [n for n in range(30) if n % 3] + [100]
    assert len(letters) == 10
    assert execute(store, "SELECT count(*) FROM log WHERE topic = 'done'") == [(20,)]


async def test_what_sqlite3_cannot_adapt_fails_the_attempt(bus: EventBus, store: Path) -> None:
    """Whatever Python's module raises for it, and the bus goes on."""
    odd: list[Any] = [object(), 2**70, "\udc80"]

    def recording(context: Context[Any]) -> None:
        context.transaction.execute(INSERT, (context.message.payload["n"],))  # type: ignore[index]  # an object
        if odd:
            context.transaction.execute(INSERT, (odd.pop(),))

    record(bus, recording)
    async with bus:
        prepare(store)
        await bus.publish_many("work", [{"n": n} for n in range(4)])
        await bus.join()
        assert len(await bus.dead_letters()) == 3

    assert effects(store) == [3]


async def test_what_cannot_be_published_fails_the_attempt(bus: EventBus, store: Path) -> None:
    """The effect is not there either."""

    async def recording(context: Context[Any]) -> None:
        context.transaction.execute(INSERT, (1,))
        await context.publish("done", {"socket": object()})

    record(bus, recording)
    async with bus:
        prepare(store)
        await bus.publish("work", {})
        await bus.join()
        (letter,) = await bus.dead_letters()

    assert (letter.error_type, effects(store)) == ("InvalidEvent", [])


@pytest.mark.parametrize(
    "taking_over",
    ["UPDATE delivery SET owner = 77", "DELETE FROM delivery", "DELETE FROM subscription"],
)
async def test_what_another_has_taken_over_is_left_alone(
    bus: EventBus, store: Path, caplog: pytest.LogCaptureFixture, taking_over: str
) -> None:
    """Nothing is run, published or tried again; the log tells, and it counts as failed."""

    async def recording(context: Context[Any]) -> None:
        context.transaction.execute(INSERT, (1,))
        await context.publish("done", {})
        execute(store, taking_over)
        if "subscription" in taking_over:
            execute(store, "DELETE FROM delivery")

    record(bus, recording, middleware=[Retry(attempts=5, initial=0.001)])
    with caplog.at_level(logging.WARNING):
        await handle_one(bus, store)
    async with bus:
        assert await bus.dead_letters() == []

    assert effects(store) == []
    assert execute(store, "SELECT topic FROM log") == [("work",)]
    stats = bus.stats()
    assert (stats.delivered, stats.failed, stats.retried, stats.succeeded) == (1, 1, 0, 0)
    assert "1 delivery settled too late" in caplog.text


async def test_a_cancelled_attempt_drops_what_it_recorded(bus: EventBus, store: Path) -> None:
    """The bus is stopped; when it starts again, the effect happens once."""
    has_begun = anyio.Event()
    gate: list[anyio.Event] = [anyio.Event()]

    async def recording(context: Context[Any]) -> None:
        context.transaction.execute(INSERT, (1,))
        has_begun.set()
        if gate:
            await gate[0].wait()

    record(bus, recording)
    with anyio.CancelScope() as scope:
        async with bus:
            prepare(store)
            await bus.publish("work", {})
            await has_begun.wait()
            scope.cancel()
            await anyio.sleep_forever()
    assert effects(store) == []
    gate.clear()
    async with bus:
        await bus.join()

    assert effects(store) == [1]


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "BEGIN IMMEDIATE",
        "COMMIT",
        "ROLLBACK",
        "END",
        "SAVEPOINT delivery",
        "RELEASE delivery",
        "ROLLBACK TO delivery",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA foreign_keys = ON",
        "CREATE TEMP TABLE log (n INTEGER)",
        "/* nothing to see */ cOmMiT",
    ],
)
async def test_what_is_the_bus_s_to_do_is_refused(bus: EventBus, store: Path, sql: str) -> None:
    """By what it would do, not by how it is written; nothing of the attempt remains."""

    def recording(context: Context[Any]) -> None:
        context.transaction.execute(INSERT, (1,))
        context.transaction.execute(sql)

    await expect_refusal(bus, store, recording)


@pytest.mark.parametrize("table", ["log", "delivery"])
@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM {}",
        "delete from MAIN.[{}]",
        "DROP TABLE {}",
        "ALTER TABLE {} ADD COLUMN more TEXT",
        "CREATE INDEX slow ON {} (rowid)",
        "CREATE TRIGGER sly AFTER INSERT ON {} BEGIN SELECT 1; END",
        "INSERT INTO {} DEFAULT VALUES",
        "INSERT INTO sly VALUES ('through a trigger')",
    ],
)
async def test_tables_of_the_store_are_out_of_reach(store: Path, sql: str, table: str) -> None:
    """Also through a trigger of one's own."""
    bus = EventBus(f"sqlite:///{store}", middleware=[DeadLetter()])
    async with bus:
        execute(
            store,
            "CREATE TABLE sly (text TEXT)",
            f"CREATE TRIGGER slyly AFTER INSERT ON sly BEGIN DELETE FROM {table}; END",
        )

    def recording(context: Context[Any]) -> None:
        context.transaction.execute(INSERT, (1,))
        context.transaction.execute(sql.format(table))

    await expect_refusal(bus, store, recording)


async def expect_refusal(bus: EventBus, store: Path, recording: Recording) -> None:
    """Have an event handled of which nothing remains but a dead letter that says why."""
    record(bus, recording)
    async with bus:
        prepare(store)
        await bus.publish("work", {})
        await bus.join()
        (letter,) = await bus.dead_letters()
        assert effects(store) == []
        await bus.publish("work", {})
        await bus.join()

    assert (letter.error_type, bus.stats().dead_lettered) == ("UnsupportedByTransport", 2)
    assert "context.transaction does not run" in letter.error


async def test_tables_of_the_store_can_be_read(bus: EventBus, store: Path) -> None:
    """And one's own may have columns that are called like them, and counters."""

    def recording(context: Context[Any]) -> None:
        run = context.transaction.execute
        run("CREATE TABLE own (log INTEGER PRIMARY KEY AUTOINCREMENT, delivery TEXT)")
        run("CREATE INDEX own_delivery ON own (delivery)")
        run("INSERT INTO own (delivery) SELECT topic FROM log")
        run("UPDATE own SET delivery = delivery || '!'")
        run("INSERT INTO effect SELECT log, delivery FROM own")
        run("SELECT * FROM log")
        run("DROP TABLE own")

    record(bus, recording)
    await handle_one(bus, store)

    assert execute(store, "SELECT * FROM effect") == [(1, "work!")]


@pytest.mark.parametrize("options", [{"name": "books"}, {}])
async def test_without_a_file_there_is_no_transaction(options: dict[str, Any]) -> None:
    """The error names what to do."""
    refused = await refusal_of(EventBus(), **options)

    assert isinstance(refused, Unsupported)
    assert "EventBus('sqlite:///events.db'), say, and give the subscription a name=" in str(refused)


@pytest.mark.parametrize("options", [{}, {"name": "books", "durable": False}])
async def test_what_is_not_durable_has_no_transaction(
    bus: EventBus, options: dict[str, Any]
) -> None:
    """Nothing is acknowledged there."""
    assert isinstance(await refusal_of(bus, **options), Unsupported)


async def test_what_is_settled_first_has_no_transaction(bus: EventBus) -> None:
    """Its acknowledgement is written already."""
    refused = await refusal_of(bus, name="books", ack="first")

    assert isinstance(refused, AlreadySettled)
    assert "ack='first' has settled the delivery before" in str(refused)


async def test_who_listens_to_dead_letters_has_no_transaction(bus: EventBus) -> None:
    """What is shown there is not acknowledged."""
    refused: list[Exception] = []

    @bus.on("$dlq.workers", name="mourners")
    async def mourn(event: object, context: Context[Any]) -> None:
        with pytest.raises(Unsupported, match="a dead letter is shown here") as raised:
            _ = context.transaction
        refused.append(raised.value)

    @bus.on("work", name="workers")
    async def work(event: object) -> None:
        raise ConnectionError

    async with bus:
        await bus.publish("work", {})
        await bus.join()

    assert len(refused) == 1


async def test_what_is_replayed_has_no_transaction(bus: EventBus) -> None:
    """Nobody acknowledges it."""
    async with bus:
        await bus.publish("work", {})
        async for context in bus.replay("work"):
            with pytest.raises(Unsupported, match="what is replayed is not acknowledged"):
                _ = context.transaction


async def refusal_of(bus: EventBus, **options: Any) -> Exception:
    """Give what a handler is told that asks for a transaction."""
    refused: list[Exception] = []

    async def work(event: object, context: Context[Any]) -> None:
        try:
            _ = context.transaction
        except Exception as error:  # noqa: BLE001 - what is looked for
            refused.append(error)

    bus.on("work", model=object, **options)(work)
    async with bus:
        await bus.publish("work", {})
        await bus.join()
    (error,) = refused
    return error


def test_a_transaction_is_bounded() -> None:
    """Each row counts; what is refused is not recorded."""
    transaction = Transaction("workers")
    transaction.executemany(INSERT, [(n,) for n in range(TRANSACTION_SIZE - 1)])
    with pytest.raises(QueueFull, match=r"'workers' records more than 1000"):
        transaction.executemany(INSERT, [(1,), (2,)])
    transaction.execute(INSERT, (1,))
    with pytest.raises(QueueFull):
        transaction.execute(INSERT, (1,))

    assert transaction.recorded == TRANSACTION_SIZE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((b"SELECT 1",), "no statement of SQL"), ((INSERT, "1"), "of str"), ((INSERT, 1), "of int")],
)
def test_what_is_no_sql_is_refused_at_once(arguments: Any, message: str) -> None:
    """The handler that does it sees it in its traceback."""
    with pytest.raises(InvalidOption, match=message):
        Transaction("workers").execute(*arguments)
