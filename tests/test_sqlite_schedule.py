"""Messages for later in a store: they are on disk, and go out once, whoever is there."""

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event as ThreadEvent
from typing import Any, TypeAlias

import anyio
import pytest

from eventbus import Context, EventBus, QueueFull, Receipt, StoreCorrupt, StoreError
from eventbus.plugins import transport
from eventbus.testing import ManualClock
from eventbus.transports.figures import KeepsFigures
from eventbus.transports.sqlite import scheduled
from eventbus.transports.sqlite import store as store_module
from eventbus.transports.sqlite.damage import OnDamage
from tests.waiting import until

Opened: TypeAlias = Callable[..., EventBus]

HOUR = 3600.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a store that is not there yet."""
    return tmp_path / "events.db"


@pytest.fixture
def opened(path: Path) -> Opened:
    """Give what makes a bus on the store."""

    def open_bus(query: str = "", **options: Any) -> EventBus:
        return EventBus(f"sqlite:///{path}{query}", **options)

    return open_bus


class Ear:
    """A handler that notes what it hears."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.messages: list[Any] = []

    async def __call__(self, event: object, context: Context[object]) -> None:
        self.events.append(event)
        self.messages.append(context.message)

    async def have(self, count: int) -> None:
        """Wait until that many were heard."""
        await until(lambda: len(self.events) >= count)


def ear_of(bus: EventBus, name: str | None = "ear") -> Ear:
    """Let an ear listen to bells."""
    ear = Ear()
    bus.on("bells", model=object, name=name)(ear)
    return ear


async def advance_until(clock: ManualClock, is_so: Callable[[], bool]) -> None:
    """Turn the hands, a little at a time, as the store's threads have a time of their own."""
    with anyio.fail_after(30):
        while not is_so():
            await clock.advance(1.0)
            await anyio.sleep(0.01)


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Look into a store."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def kept(path: Path) -> int:
    """Count what is scheduled, by the rows and by what the store says."""
    ((found, counted),) = rows(path, "SELECT (SELECT count(*) FROM scheduled), kept FROM schedule")
    assert found == counted
    return int(counted)


# --- On disk --------------------------------------------------------------------------------------


async def test_it_is_in_the_file_when_publish_returns(opened: Opened, path: Path) -> None:
    """Beside the log, where it has no position yet; nobody counts it as unmatched."""
    async with opened() as bus:
        receipt = await bus.publish("bells", {"n": 1}, delay=HOUR)
        stored = kept(path), rows(path, "SELECT count(*) FROM log")
        stats = bus.stats()

    assert stored == (1, [(0,)])
    assert (receipt.position, receipt.matched, receipt.duplicate) == (None, None, False)
    assert (stats.published, stats.unmatched) == (1, 0)


async def test_a_bus_that_comes_later_lets_it_out(
    opened: Opened, path: Path, clock: ManualClock
) -> None:
    """What was due meanwhile goes out at once, in its order, and once."""
    async with opened(clock=clock) as gone:
        for n, seconds in enumerate([30, 20, 10]):
            await gone.publish("bells", {"n": n}, delay=seconds)
    await clock.advance(60)
    bus = opened(clock=clock)
    ear = ear_of(bus)
    async with bus:
        await advance_until(clock, lambda: len(ear.events) == 3)
        await bus.join()

    assert ear.events == [{"n": 2}, {"n": 1}, {"n": 0}]
    assert kept(path) == 0


async def test_a_message_says_when_it_was_published(opened: Opened) -> None:
    """And how old it is counts from when it was due."""
    bus = opened()
    ear = ear_of(bus)
    async with bus:
        receipt = await bus.publish("bells", {}, delay=0.1)
        await ear.have(1)

    (message,) = ear.messages
    assert abs(message.time.timestamp() - message.head[2].scheduled.at + 0.1) < 0.01
    assert (message.id, message.cancel()) == (receipt.id, False)


async def test_an_id_is_stored_once_in_the_log_and_the_schedule(opened: Opened, path: Path) -> None:
    """Whichever of them has it, in whatever order, and after a restart."""
    async with opened() as bus:
        later = await bus.publish("bells", {}, id="later", delay=HOUR)
        now = await bus.publish("bells", {}, id="now")
    async with opened() as bus:
        again = [
            await bus.publish("bells", {}, id=id, delay=delay)
            for id in ("later", "now")
            for delay in (None, HOUR)
        ]

    assert (later.duplicate, now.duplicate, now.position) == (False, False, 1)
    assert [one.duplicate for one in again] == [True] * 4
    assert [one.position for one in again] == [None, None, 1, 1]
    assert (kept(path), rows(path, "SELECT id FROM log")) == (1, [("now",)])


async def test_an_id_is_stored_once_though_a_handler_publishes_it_twice(
    opened: Opened, path: Path
) -> None:
    """What a handler publishes is stored together, whatever of it is for later."""
    receipts: list[Receipt] = []
    bus = opened()

    @bus.on("bells")
    async def answer(event: object, context: Context[object]) -> None:
        for id, delay in (("a", HOUR), ("b", None), ("a", HOUR), ("b", HOUR), ("c", None)):
            receipts.append(await context.publish("chimes", {}, id=id, delay=delay))

    async with bus:
        await bus.publish("bells", {})
        await until(lambda: len(rows(path, "SELECT id FROM log")) == 3)
        await bus.drain()

    assert [one.duplicate for one in receipts] == [False, False, True, True, False]
    assert [one.position for one in receipts] == [None, 2, None, 2, 3]
    assert kept(path) == 1


async def test_so_many_can_be_scheduled(opened: Opened, path: Path) -> None:
    """Those of other buses count; what is too much is refused, and nothing of it stored."""
    async with opened() as other, opened(schedule_size=2) as bus:
        await other.publish("bells", {}, delay=HOUR)
        second = await bus.publish("bells", {}, delay=HOUR, id="second")
        with pytest.raises(QueueFull, match="2 messages are scheduled in the store"):
            await bus.publish("bells", {}, delay=HOUR)
        await bus.publish("bells", {}, delay=HOUR, id="second")
        second.cancel()
        await bus.publish("bells", {}, delay=HOUR)

    assert kept(path) == 2


async def test_figures_tell_how_many_are_scheduled(opened: Opened, path: Path) -> None:
    """Of all buses together."""
    async with opened() as bus:
        await bus.publish("bells", {}, delay=HOUR)
        async with transport(f"sqlite:///{path}", bus.clock) as asked:
            assert isinstance(asked, KeepsFigures)
            assert (await asked.figures()).scheduled == 1


async def test_retention_counts_from_when_it_is_due(opened: Opened, clock: ManualClock) -> None:
    """What was published long ago is new when it goes out."""
    bus = opened("?max_age=1m", clock=clock)
    ear = ear_of(bus)
    async with bus:
        await bus.publish("bells", {}, delay=120)
        await advance_until(clock, lambda: clock.monotonic() > 1119)
        bus.on("bells", start="first", name="late", model=object)(late := Ear())
        await advance_until(clock, lambda: bool(ear.events and late.events))


async def test_a_damaged_one_ends_the_bus_and_is_named(
    opened: Opened, clock: ManualClock, path: Path
) -> None:
    """It never goes out."""
    async with opened(clock=clock) as bus:
        await bus.publish("bells", {}, id="hurt", delay=1)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE scheduled SET topic = 'balls'")
    with pytest.raises(StoreCorrupt, match="the scheduled message 'hurt' is damaged"):
        async with opened(clock=clock):
            await advance_until(clock, lambda: False)

    assert kept(path) == 1


# --- When -----------------------------------------------------------------------------------------


async def test_a_bus_learns_what_another_has_scheduled(opened: Opened) -> None:
    """Though it waits for something later itself, and the other has gone."""
    bus = opened()
    ear = ear_of(bus)
    async with bus:
        await bus.publish("bells", {}, delay=HOUR)
        async with opened() as other:
            at = datetime.now(UTC) + timedelta(seconds=0.2)
            await other.publish("bells", {"n": 1}, at=at)
        await ear.have(1)

    assert ear.events == [{"n": 1}]


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_a_clock_that_jumps_loses_and_doubles_nothing(
    opened: Opened, clock: ManualClock, path: Path, jump: float
) -> None:
    """It goes out when the wall clock says so; set back again, it does not come again."""
    bus = opened(clock=clock)
    ear = ear_of(bus)
    async with bus:
        start = clock.now()
        for n in range(10):
            await bus.publish("bells", {"n": n}, delay=60.0 + n)
        clock.set_wall(jump)
        await advance_until(clock, lambda: bool(ear.events) or clock.monotonic() > 1070)
        clock.set_wall(-jump)
        await advance_until(clock, lambda: clock.now() > start + 80 and len(ear.events) == 10)
        await anyio.sleep(0.05)

    assert ear.events == [{"n": n} for n in range(10)]
    assert (kept(path), rows(path, "SELECT count(*) FROM log")) == (0, [(10,)])


async def test_many_that_are_due_at_once_go_out(
    opened: Opened, path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round by round, in the order they were published."""
    monkeypatch.setattr(scheduled, "PER_ROUND", 7)
    bus = opened(clock=clock)
    ear = ear_of(bus)
    async with bus:
        for n in range(50):
            await bus.publish("bells", n.to_bytes(), delay=60)
        await advance_until(clock, lambda: len(ear.events) == 50)

    assert ear.events == [n.to_bytes() for n in range(50)]
    assert kept(path) == 0


async def test_a_departure_that_failed_is_tried_again(
    opened: Opened,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A store may be better in a moment, and nothing is lost meanwhile."""
    flaws = iter([True])
    depart = scheduled.depart

    def fail_once(
        connection: sqlite3.Connection, tell_time: Callable[[], int], on_damage: OnDamage
    ) -> int:
        if next(flaws, False):
            raise sqlite3.OperationalError("no")
        return depart(connection, tell_time, on_damage)

    bus = opened(clock=clock)
    ear = ear_of(bus)
    async with bus:
        await bus.publish("bells", {}, delay=10)
        monkeypatch.setattr(scheduled, "depart", fail_once)  # not before: one commit has both
        await advance_until(clock, lambda: len(ear.events) == 1)
        await bus.join()

    assert "cannot be looked after" in caplog.text


async def test_what_has_become_due_while_others_write_goes_out_too(
    opened: Opened, path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A departure that has to wait takes all that is due when its turn has come."""
    next_due: list[int] = []
    depart = scheduled.depart

    def note(
        connection: sqlite3.Connection, tell_time: Callable[[], int], on_damage: OnDamage
    ) -> int:
        next_due.append(depart(connection, tell_time, on_damage))
        return next_due[-1]

    bus = opened(clock=clock)
    ear = ear_of(bus)
    async with bus:
        for n in range(2):
            await bus.publish("bells", n.to_bytes(), delay=10 + n)
        monkeypatch.setattr(scheduled, "depart", note)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await clock.advance(10)
            await clock.advance(1)
        await ear.have(2)

    assert next_due[0] == scheduled.NEVER


# --- Cancelling -----------------------------------------------------------------------------------


async def test_it_can_be_cancelled_by_any_receipt_of_its_id(opened: Opened, path: Path) -> None:
    """Once, also by a bus that was not there when it was published."""
    async with opened() as bus:
        await bus.publish("bells", {}, id="bell", delay=HOUR)
    async with opened() as bus:
        receipt = await bus.publish("bells", {}, id="bell", delay=HOUR)
        told = [receipt.cancel(), receipt.cancel()]
        again = await bus.publish("bells", {}, id="bell", delay=HOUR)

    assert (receipt.duplicate, told, again.duplicate) == (True, [True, False], False)
    assert (again.cancel(), kept(path)) == (True, 0)


async def test_it_can_be_cancelled_while_the_bus_is_closed(opened: Opened, path: Path) -> None:
    """It is in the file, and not in the bus."""
    async with opened() as bus:
        receipt = await bus.publish("bells", {}, delay=HOUR)

    assert (receipt.cancel(), receipt.cancel(), kept(path)) == (True, False, 0)


async def test_what_another_has_let_out_cannot_be_cancelled(opened: Opened) -> None:
    """The receipt says no, though its own bus did nothing."""
    other = opened()
    ear = ear_of(other)
    async with opened() as bus, other:
        receipt = await bus.publish("bells", {}, delay=0.05)
        await ear.have(1)

        assert receipt.cancel() is False


async def test_what_a_handler_takes_back_is_never_stored(opened: Opened, path: Path) -> None:
    """It was not sent yet; what else the handler published is."""
    told: list[bool] = []
    bus = opened()

    @bus.on("bells")
    async def answer(event: object, context: Context[object]) -> None:
        receipt = await context.publish("chimes", {}, delay=HOUR)
        told.extend([receipt.cancel(), receipt.cancel()])
        await context.publish("chimes", {})

    async with bus:
        await bus.publish("bells", {})
        await bus.join()

    assert told == [True, False]
    assert (kept(path), rows(path, "SELECT topic FROM log")) == (0, [("bells",), ("chimes",)])


async def test_a_store_that_does_not_answer_is_an_error_of_cancel(
    opened: Opened, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop stands still for so long, and no longer; what waits for others is not done then."""
    monkeypatch.setattr(store_module, "CANCEL_SECONDS", 0.05)
    async with opened() as bus:
        receipt = await bus.publish("bells", {}, delay=HOUR)
        with closing(sqlite3.connect(path, isolation_level=None)) as hog:
            hog.execute("BEGIN IMMEDIATE")
            for _ in range(2):
                with pytest.raises(StoreError, match=r"within 0\.05 s: ask again"):
                    receipt.cancel()
            hog.execute("ROLLBACK")

        assert receipt.cancel() is True


async def test_what_has_begun_may_still_be_done(
    opened: Opened, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asked to cancel is told so, and asks again."""
    monkeypatch.setattr(store_module, "CANCEL_SECONDS", 0.05)
    release, cancel = ThreadEvent(), scheduled.cancel

    def cancel_slowly(connection: sqlite3.Connection, id: str) -> bool:
        release.wait(20)
        return cancel(connection, id)

    async with opened() as bus:
        receipt = await bus.publish("bells", {}, delay=HOUR)
        monkeypatch.setattr(scheduled, "cancel", cancel_slowly)
        with pytest.raises(StoreError, match=r"within 0\.05 s, but may still do it: ask again"):
            receipt.cancel()
        release.set()
        await until(lambda: kept(path) == 0)

        assert receipt.cancel() is False


# --- Waiting --------------------------------------------------------------------------------------


async def test_join_waits_for_what_the_bus_has_scheduled(opened: Opened) -> None:
    """Until it has been handled; not for what others have scheduled later, or was cancelled."""
    bus = opened()
    ear = ear_of(bus)
    async with opened() as other, bus:
        await other.publish("bells", {}, delay=HOUR)
        (await bus.publish("bells", {}, delay=HOUR / 2)).cancel()
        await bus.publish("bells", {"n": 1}, delay=0.1)
        with anyio.fail_after(10):
            await bus.join()

    assert ear.events == [{"n": 1}]


async def test_draining_leaves_it_to_the_store(
    opened: Opened, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits for nothing that is not due, counts nothing as abandoned, and says nothing."""
    with caplog.at_level(logging.INFO, "eventbus"), anyio.fail_after(10):
        async with opened() as bus:
            await bus.publish("bells", {}, delay=20)

    assert (bus.stats().abandoned, caplog.text, kept(path)) == (0, "", 1)
