"""Looking at a store that cannot be written: it is read, and nothing is changed beside it."""

import os
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import pytest
from anyio import to_thread

from eventbus import EventBus, StoreError
from eventbus.clock import SystemClock
from eventbus.testing.transports.protocol import Spec
from eventbus.transports.sqlite import Settings, StoreView, may_write
from eventbus.transports.sqlite.mark import Mark
from tests.gate import Gate
from tests.shell import Shell

Opened: TypeAlias = Callable[..., EventBus]

LOOKS = [
    ("stats", "--json"),
    ("verify",),
    ("export",),
    ("export", "--from", "last"),
    ("replay", "orders.*", "--since", "2", "--last-per-key", "--json"),
    ("dlq", "list", "--json"),
]


@pytest.fixture
def is_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no store be writable, also for who may write everywhere."""

    def refuse(store: Path) -> bool:
        return False

    monkeypatch.setattr("eventbus.cli.store.may_write", refuse)


@pytest.fixture
def shell(store: Path) -> Shell:
    """Give a shell whose commands work on the store."""
    return Shell(f"sqlite:///{store}")


def view_of(store: Path) -> StoreView:
    """Give what looks at a store."""
    return StoreView(Settings(path=store), SystemClock())


def files_of(folder: Path) -> Mapping[str, bytes]:
    """Read all there is."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(store: Path, statement: str) -> None:
    """Write into the file, as another program would, and leave nothing beside it."""
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute(statement)


# --- what nobody has open -------------------------------------------------------------------------


@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
def test_a_look_shows_the_same_and_changes_nothing(
    shell: Shell, store: Path, words: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    """As a command that may write; and beside the file there is nothing new."""
    shell.give_up_on({"order_id": "o-1"}, {"order_id": "o-2"})
    expected = shell(*words)
    before = files_of(store.parent)
    request.getfixturevalue("is_read_only")

    ended = shell(*words)

    assert (ended.code, ended.output, ended.complaint) == (0, expected.output, "")
    assert expected.output
    assert files_of(store.parent) == before


@pytest.mark.usefixtures("is_read_only")
def test_one_dead_letter_is_shown(shell: Shell) -> None:
    """With all that is known of it."""
    shell.give_up_on({"order_id": "o-1"})
    (letter,) = shell("dlq", "list", "--json").json

    assert "cannot ship o-1" in shell("dlq", "show", letter["id"]).output


@pytest.mark.usefixtures("is_read_only")
def test_damage_is_named(shell: Shell, store: Path) -> None:
    """A copy is verified before it is needed."""
    shell.give_up_on({"order_id": "o-1"}, {"order_id": "o-2"})
    write(store, "UPDATE log SET payload = '{}' WHERE position = 1")

    ended = shell("verify")

    assert ended.code == 1
    assert ended.lines[0] == "the record at position 1 is damaged"


@pytest.mark.usefixtures("is_read_only")
def test_missing_records_are_noticed(shell: Shell, store: Path) -> None:
    """Where the mark stands beside the file, it is held against it; without one it is believed."""
    shell.give_up_on({"order_id": "o-1"})
    mark = Mark(store)
    mark.write(7)
    mark.close()

    ended = shell("stats")
    assert ended.code == 1
    assert "the log ends at position 1, but records up to 7 were acknowledged" in ended.complaint
    mark.path.unlink()
    assert shell("stats").code == 0
    assert not mark.path.exists()


@pytest.mark.usefixtures("is_read_only")
@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("PRAGMA user_version=2", "of version 2, which is read once it has been led to version"),
        ("PRAGMA user_version=99", "upgrade eventbus"),
    ],
)
def test_another_version_says_what_to_do(
    shell: Shell, store: Path, statement: str, sentence: str
) -> None:
    """What is older cannot be led to this version where nothing can be written."""
    shell.give_up_on({"order_id": "o-1"})
    write(store, statement)

    ended = shell("stats")

    assert ended.code == 1
    assert sentence in ended.complaint
    assert ended.complaint.count("\n") == 1


async def test_who_opens_and_changes_it_meanwhile_is_noticed(
    opened: Opened, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read by then is given up; who looks again sees what there is."""
    monkeypatch.setattr("eventbus.transports.sqlite.view.LOOK_SECONDS", 60)  # else it looks before
    async with opened() as bus:
        await bus.publish("orders", {})
    async with view_of(store) as view:
        assert (await view.figures()).last == 1
        async with opened() as bus:
            await bus.publish("orders", {})
        with pytest.raises(StoreError, match=r"was changed, .* look again"):
            await view.figures()
        assert (await view.figures()).last == 2


@pytest.mark.parametrize("is_beside", [True, False], ids=["beside", "as it is"])
async def test_who_follows_hears_what_others_publish(
    opened: Opened, store: Path, is_beside: bool
) -> None:
    """Whoever opens the file meanwhile, and whether or not it could be written."""
    async with opened() as bus:
        await bus.publish("orders", {"n": 1})
    async with (
        StoreView(Settings(path=store), SystemClock(), is_beside=is_beside) as view,
        view.open(Spec(start="first")) as source,
    ):
        payloads = [one.message.payload for one in await source.fetch(1)]
        async with opened() as bus:
            await bus.publish("orders", {"n": 2})
            while len(payloads) < 2:
                payloads += [one.message.payload for one in await source.fetch(1)]

    assert payloads == [{"n": 1}, {"n": 2}]


# --- what somebody has open -----------------------------------------------------------------------


@pytest.mark.usefixtures("is_read_only")
async def test_a_store_at_work_is_seen_as_it_is(opened: Opened, store: Path, shell: Shell) -> None:
    """What its log alone holds, too."""
    gate = Gate()
    bus = opened()
    bus.on("orders", name="books")(gate)
    async with bus:
        await bus.publish("orders", {"n": 1})
        await gate.entered.wait()
        names = set(files_of(store.parent))
        ended = await to_thread.run_sync(shell, "stats", "--json")
        assert set(files_of(store.parent)) == names
        gate.opened.set()

    (figures,) = ended.json
    assert (figures["last"], figures["buses"]) == (1, 1)
    assert figures["subscriptions"][0]["in_flight"] == 1


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """Give a folder for copies."""
    (folder := tmp_path / "copies").mkdir()
    return folder


async def copied_at_work(opened: Opened, store: Path, to: Path, *ends: str) -> Path:
    """Copy a store while it is at work, and some of the files beside it."""
    async with opened() as bus:
        await bus.publish("orders", {"n": 1})
        for end in ("", *ends):
            shutil.copy(f"{store}{end}", to)
    return to / store.name


async def test_what_a_process_left_when_it_died_is_read(
    opened: Opened, store: Path, copies: Path
) -> None:
    """With both files of SQLite there, and with nobody who has them open."""
    copy = await copied_at_work(opened, store, copies, "-wal", "-shm")
    before = files_of(copy.parent)

    async with view_of(copy) as view:
        assert (await view.figures()).last == 1

    assert files_of(copy.parent) == before


async def test_a_log_that_cannot_be_read_there_says_so(
    opened: Opened, store: Path, copies: Path
) -> None:
    """Rather than leave out what it holds; nothing is made beside it."""
    copy = await copied_at_work(opened, store, copies, "-wal")
    before = files_of(copy.parent)

    with pytest.raises(StoreError, match=r"events\.db-wal beside it .* copy both"):
        async with view_of(copy):
            pass

    assert files_of(copy.parent) == before


# --- refusing -------------------------------------------------------------------------------------

CHANGES: Mapping[str, Callable[[StoreView], Awaitable[object]]] = {
    "publish": lambda view: view.publish([]),
    "redrive": lambda view: view.redrive(None, None),
    "purge": lambda view: view.purge(None, None),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_view_changes_nothing(opened: Opened, store: Path, change: str) -> None:
    """Whatever it is asked."""
    async with opened():
        pass
    async with view_of(store) as view:
        with pytest.raises(StoreError, match="only looked at"):
            await CHANGES[change](view)


@pytest.mark.usefixtures("is_read_only")
def test_what_is_no_store_is_refused(store: Path, shell: Shell) -> None:
    """As by those who write."""
    store.write_bytes(b"no database, though long enough to be one" * 100)

    assert "events.db is no database" in shell("stats").complaint


@pytest.mark.parametrize("refused", ["file", "folder"])
def test_who_may_not_write_only_looks(
    store: Path, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the right to change the file, and to make others in its folder."""
    store.touch()
    assert may_write(store)
    forbidden = store if refused == "file" else store.parent

    def is_permitted(path: Path, mode: int) -> bool:
        return path != forbidden

    monkeypatch.setattr(os, "access", is_permitted)

    assert not may_write(store)
