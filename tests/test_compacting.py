"""`eventbus compact` makes a store as small as it can be, and harms nobody who uses it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from anyio.to_thread import run_sync

from eventbus import Context, EventBus
from tests.faults.older_stores import make_first
from tests.shell import Shell

RECORDS = 400
LARGE = {"text": "x" * 10_000}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a store that is not there yet."""
    return tmp_path / "events.db"


@pytest.fixture
def filled(path: Path) -> Path:
    """Give a store of large records."""

    async def fill() -> None:
        async with EventBus(f"sqlite:///{path}") as bus:
            await bus.publish_many("a", [LARGE] * RECORDS)

    anyio.run(fill)
    return path


def compact(path: Path, query: str = "") -> str:
    """Run the command, and give what it says."""
    return Shell(f"sqlite:///{path}{query}")("compact").output


@pytest.mark.parametrize("query", ["?max_count=10", "?max_count.a=10"])
def test_what_is_beyond_the_limits_goes_and_its_room_with_it(filled: Path, query: str) -> None:
    """At once; what is left is sound."""
    before = filled.stat().st_size
    said = compact(filled, query)

    assert said.startswith("removed 390 records and freed ")
    assert said.endswith(" kB are left\n")
    assert filled.stat().st_size < before / 10
    assert Shell(f"sqlite:///{filled}")("verify").output.startswith("10 records ")


def test_programs_are_told_too(filled: Path) -> None:
    """In records, and in bytes."""
    (told,) = Shell(f"sqlite:///{filled}?max_count=10")("compact", "--json").json

    assert told["removed"] == 390
    assert told["freed"] > told["size"] == filled.stat().st_size


def test_without_limits_nothing_is_removed(filled: Path) -> None:
    """Only room that was free already is given back."""
    assert compact(filled).startswith("removed 0 records and freed 0 B: ")


def test_a_file_that_was_made_before_shrinks_too(path: Path) -> None:
    """It is written anew, once."""
    make_first(path)

    async def fill() -> None:
        async with EventBus(f"sqlite:///{path}") as bus:
            await bus.publish_many("a", [LARGE] * RECORDS)

    anyio.run(fill)
    said = compact(path, "?max_count=2")

    assert said.startswith(f"removed {RECORDS + 2} records and freed ")
    assert path.stat().st_size < 500_000
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_others_may_use_it_meanwhile(filled: Path) -> None:
    """They publish and handle on: nothing is lost, and nothing handled twice."""
    bus, handled, said = EventBus(f"sqlite:///{filled}"), list[int | None](), ""

    @bus.on("b", name="reader")
    async def read(event: object, context: Context[object]) -> None:
        handled.append(context.message.position)

    async def publish() -> None:
        for _ in range(100):
            await bus.publish("b", LARGE)

    async with bus:
        async with anyio.create_task_group() as group:
            group.start_soon(publish)
            said = await run_sync(compact, filled, "?max_count.a=10")
        await bus.join()

    assert said.startswith("removed 39")
    assert handled == list(range(RECORDS + 1, RECORDS + 101))
