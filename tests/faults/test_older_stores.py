"""Stores of older versions are opened, and go on; what happens meanwhile does not harm them."""

import logging
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventbus import Context, EventBus
from eventbus.middleware import Retry
from eventbus.transports.sqlite.schema import VERSION, set_up
from tests.faults.mortals import run_trial
from tests.faults.older_stores import PROCESSES, make_first

pytestmark = pytest.mark.timeout(180)  # seconds: processes start slowly on a busy machine


@pytest.fixture
def found(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Run the trial that a test names, and give what it found."""
    return run_trial("tests.faults.older_stores", request.param, str(tmp_path), seconds=180)


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """Give a store of version 1."""
    return make_first(tmp_path / "events.db")


async def test_a_store_of_version_1_goes_on(first: Path) -> None:
    """What waits is delivered, and then what is new; what was handled stays so."""
    bus = EventBus(f"sqlite:///{first}", middleware=[Retry(attempts=5)])
    handled: list[tuple[str, int]] = []

    @bus.on("orders.*", name="billing")
    async def bill(event: object, context: Context[object]) -> None:
        handled.append((context.message.id, context.attempt))

    async with bus:
        receipt = await bus.publish("orders.created", {"n": 4}, id="o-4")
        await bus.join()

    assert sorted(handled) == [("o-2", 2), ("o-3", 1), ("o-4", 1)]
    assert receipt.position == 5


async def test_its_dead_letters_can_be_sent_again(first: Path) -> None:
    """With all their envelope said."""
    bus = EventBus(f"sqlite:///{first}")
    handled: list[tuple[str, object, str | None, Mapping[str, str]]] = []

    @bus.on("orders.*", name="billing", where=lambda event: event == {"n": 1})
    async def bill(event: object, context: Context[object]) -> None:
        message = context.message
        handled.append((message.id, event, message.key, message.headers))

    async with bus:
        (letter,) = await bus.dead_letters()
        assert (letter.error, letter.message.id) == ("no", "o-1")
        assert await bus.redrive() == 1
        await bus.join()

    assert handled == [("o-1", {"n": 1}, "k", {"by": "hand"})]


def test_it_becomes_what_a_new_one_is(first: Path, tmp_path: Path) -> None:
    """The same tables with the same columns, and the same indices."""
    new = tmp_path / "new.db"
    set_up(first, "full")
    set_up(new, "full")

    assert columns_of(first) == columns_of(new)
    with closing(sqlite3.connect(first)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)


async def test_that_it_was_migrated_is_logged(
    first: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, by the bus that has done it."""
    caplog.set_level(logging.INFO, "eventbus")
    for _ in range(2):
        async with EventBus(f"sqlite:///{first}", name="shop"):
            pass

    assert caplog.messages == [f"shop: {first} was of version 1, and is of version {VERSION} now"]


def test_a_store_of_version_2_becomes_one_too(tmp_path: Path) -> None:
    """From where it is."""
    second, new = tmp_path / "events.db", tmp_path / "new.db"
    set_up(new, "full")
    set_up(second, "full")
    with closing(sqlite3.connect(second)) as connection:
        connection.executescript("DROP TABLE loss; PRAGMA user_version=2")
    assert columns_of(second) != columns_of(new)
    set_up(second, "full")

    assert columns_of(second) == columns_of(new)


def columns_of(store: Path) -> list[tuple[object, ...]]:
    """List the columns of all tables and indices, without their place among the others."""
    with closing(sqlite3.connect(store)) as connection:
        return sorted(
            connection.execute(
                "SELECT s.type, s.name, s.tbl_name, c.name, c.type, c.[notnull], "
                "ifnull(c.dflt_value, ''), c.pk "
                "FROM sqlite_schema AS s LEFT JOIN pragma_table_info(s.name) AS c"
            ),
            key=str,
        )


def test_nothing_is_written_where_there_is_nothing_to_do(first: Path) -> None:
    """A store that is as it should be is opened without a change."""
    set_up(first, "full")
    with closing(sqlite3.connect(first)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        before = first.read_bytes()
        set_up(first, "full")
        wal = first.with_name("events.db-wal")
        assert (first.read_bytes(), wal.stat().st_size) == (before, 0)


@pytest.mark.parametrize("found", ["killed"], indirect=True)
def test_a_kill_while_it_migrates_does_no_harm(found: dict[str, Any]) -> None:
    """Before whatever statement it comes: the store is as before or as after, and opens."""
    assert found["kills"] > 3
    assert (found["halfway"], found["unopened"]) == (0, 0)


@pytest.mark.parametrize("found", ["killed_halfway"], indirect=True)
def test_that_half_a_step_would_be_seen(found: dict[str, Any]) -> None:
    """Control: without a transaction, there are stores that are neither, and do not open."""
    assert found["halfway"] > 0
    assert found["unopened"] > 0


@pytest.mark.parametrize("found", ["crowd"], indirect=True)
def test_several_processes_may_find_it_at_once(found: dict[str, Any]) -> None:
    """One leads it on, the others see that it was."""
    assert found == {"opened": PROCESSES, "readable": True}


@pytest.mark.parametrize("found", ["careless_crowd"], indirect=True)
def test_that_a_step_taken_twice_would_be_seen(found: dict[str, Any]) -> None:
    """Control: those that do not look again under the lock fail at what is there already."""
    assert found["opened"] < PROCESSES
