"""Commands on a store that another program writes, or that nobody asked them to change."""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest

from eventbus.cli.waiting import Patience
from eventbus.transports.sqlite import WAITING, is_locked
from tests.shell import Shell

posix = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")

LOOKS = [
    ("stats",),
    ("top", "--once", "--interval", "0.05"),
    ("tail", "--from", "first", "-n", "3"),
    ("replay", ">"),
    ("export",),
    ("verify",),
    ("dlq", "list"),
]
looks = pytest.mark.parametrize("words", LOOKS, ids=" ".join)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a store with a dead letter and three events."""
    path = tmp_path / "events.db"
    Shell(f"sqlite:///{path}").give_up_on({"order_id": "o-1"}, {"order_id": "o-2"}, {})
    return path


@pytest.fixture
def shell(path: Path) -> Shell:
    """Give a shell whose commands work on the store."""
    return Shell(f"sqlite:///{path}")


@pytest.fixture
def lock(path: Path) -> Generator[sqlite3.Connection]:
    """Hold the lock that writing takes, as another program does in a long transaction."""
    with closing(
        sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    ) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


# --- what only looks ------------------------------------------------------------------------------


@looks
@pytest.mark.usefixtures("lock")
def test_who_only_looks_waits_for_nobody(shell: Shell, words: tuple[str, ...]) -> None:
    """Whoever holds the lock for however long."""
    ended = shell(*words)

    assert (ended.code, ended.complaint) == (0, "")
    assert ended.output


@looks
def test_who_only_looks_removes_nothing(path: Path, shell: Shell, words: tuple[str, ...]) -> None:
    """Limits in the URL are for those who write; the file stays as it is."""
    before = path.read_bytes()
    ended = Shell(f"{shell.url}?max_count=1")(*words)

    assert ended.code == 0
    assert path.read_bytes() == before
    assert Shell(f"{shell.url}?max_count=1")("compact").output.startswith("removed 2 records")


@pytest.mark.parametrize("verb", ["redrive", "purge"])
def test_mending_dead_letters_removes_no_events(
    shell: Shell, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where it takes long; limits are not what was asked for."""
    monkeypatch.setattr("eventbus.cli.store.Store.purge", linger)
    monkeypatch.setattr("eventbus.cli.store.Store.redrive", linger)
    Shell(f"{shell.url}?max_count=1")("dlq", verb, "--all")

    assert len(shell("export").lines) == 3


def linger(store: object, subscription: str | None, ids: object) -> int:
    """Take so long that what is beyond a limit would be removed meanwhile."""
    Event().wait(0.6)  # two ticks: that nothing happens can only be waited for
    return 0


# --- what has to write ----------------------------------------------------------------------------


def test_waiting_is_told_once(
    shell: Shell, lock: sqlite3.Connection, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it goes on by itself, as soon as it can."""
    told: list[str] = []

    def unlock(sentence: str) -> None:
        told.append(sentence)
        lock.execute("ROLLBACK")

    monkeypatch.setattr("eventbus.cli.waiting.TELL_SECONDS", 0.01)
    monkeypatch.setattr("eventbus.cli.waiting.complain", unlock)

    assert shell("publish", "n", "1").output.endswith(" is stored at position 4\n")
    assert told == [f"waiting for another program that writes {path}: Ctrl-C gives up"]


def test_what_takes_long_by_itself_is_not_blamed_on_others(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is looked again and again whether the file is locked."""
    looks, has_looked = iter([False, False, True]), Event()

    def look(store: Path) -> bool:
        is_found = next(looks)
        assert capsys.readouterr().err == ""
        if is_found:
            has_looked.set()
        return is_found

    monkeypatch.setattr("eventbus.cli.waiting.TELL_SECONDS", 0.001)
    monkeypatch.setattr("eventbus.cli.waiting.is_locked", look)
    with Patience(path).told():
        assert has_looked.wait(30)


@pytest.mark.usefixtures("lock")
def test_what_the_store_says_of_it_is_not_said_again(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the command has; all else that is logged is."""
    told, logger = Event(), logging.getLogger("eventbus")

    def note(sentence: str) -> None:
        told.set()

    monkeypatch.setattr("eventbus.cli.waiting.TELL_SECONDS", 0.001)
    monkeypatch.setattr("eventbus.cli.waiting.complain", note)
    with Patience(path) as patience:
        logger.warning("%s: %s", path, WAITING)
        with patience.told():
            assert told.wait(30)
        logger.warning("%s: %s", path, WAITING)
        logger.warning("%s: %s", path, "something else")
        logger.warning("no arguments")
    logger.warning("%s: %s", path, WAITING)

    of_waiting = f"{path}: {WAITING}"
    assert caplog.messages == [of_waiting, f"{path}: something else", "no arguments", of_waiting]


@posix
@pytest.mark.usefixtures("lock")
@pytest.mark.parametrize("words", [["publish", "n", "1"], ["compact"], ["dlq", "purge", "--all"]])
def test_an_interrupt_ends_what_waits(shell: Shell, words: list[str]) -> None:
    """The first one, with the code of shells, while another program still holds the lock."""
    with subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "eventbus", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "EVENTBUS_URL": shell.url},
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("eventbus: waiting for another program")
        process.send_signal(signal.SIGINT)
        code, complaint = process.wait(20), process.stderr.read()

    assert (code, complaint) == (130, "")


# --- the lock -------------------------------------------------------------------------------------


def test_a_lock_is_seen(path: Path, lock: sqlite3.Connection) -> None:
    """As long as somebody holds it."""
    assert is_locked(path)
    lock.execute("ROLLBACK")
    assert not is_locked(path)


@pytest.mark.parametrize("content", [None, b"no database, though long enough" * 100])
def test_what_cannot_be_locked_is_not(tmp_path: Path, content: bytes | None) -> None:
    """What else is wrong is told by who works with it; nothing is made."""
    path = tmp_path / "other.db"
    if content is not None:
        path.write_bytes(content)

    assert not is_locked(path)
    assert path.exists() is (content is not None)
