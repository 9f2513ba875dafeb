"""How far long work is: shown where somebody looks, and never among what a program reads."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest

from tests.shell import Shell

pytestmark = pytest.mark.skipif(not hasattr(os, "openpty"), reason="it takes a terminal")

EVENTS = 3
WORK: dict[str, tuple[list[str], str]] = {
    "publish": (["publish", "orders.placed"], "publishing"),
    "replay": (["replay", ">"], "replaying"),
    "replay as JSON": (["replay", ">", "--json"], "replaying"),
    "export": (["export"], "reading"),
    "import": (["import"], "publishing"),
    "verify": (["verify"], "reading"),
    "compact": (["compact"], "removing"),
}
each = pytest.mark.parametrize(("words", "work"), WORK.values(), ids=WORK.keys())


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Give the commands on a store with some events."""
    shell = Shell(f"sqlite:///{tmp_path}/events.db")
    shell("publish", "orders.placed", typed="{}\n" * EVENTS)
    return shell


def typed_for(shell: Shell, words: list[str]) -> str:
    """Give what a command is to read, if it reads."""
    return shell("export").output if words[0] == "import" else '{"n": 1}\n' * EVENTS


class Terminal:
    """A terminal on which a command's stderr appears, and its stdout too if that is shown."""

    def __init__(self, shell: Shell, words: list[str], typed: str, *, shows_all: bool = False):
        self._master, slave = os.openpty()
        self._seen = bytearray()
        reading = Thread(target=self._read)
        reading.start()
        ended = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "eventbus", *words],
            input=typed.encode(),
            stdout=slave if shows_all else subprocess.PIPE,
            stderr=slave,
            env={**os.environ, "EVENTBUS_URL": shell.url, "TERM": "xterm", "COLUMNS": "120"},
            timeout=50,
            check=True,
        )
        os.close(slave)
        reading.join()
        os.close(self._master)
        self.output = (ended.stdout or b"").decode()
        self.screen = self._seen.decode()

    def _read(self) -> None:
        with suppress(OSError):  # as Linux says that nobody has it open any more
            while part := os.read(self._master, 4096):
                self._seen += part


@each
def test_a_bar_is_drawn_beside_the_output(shell: Shell, words: list[str], work: str) -> None:
    """On the terminal of stderr; what goes to stdout is what it would be without."""
    typed = typed_for(shell, words)
    terminal = Terminal(shell, words, typed)

    assert work in terminal.screen
    assert work not in terminal.output
    assert "\x1b" not in terminal.output
    if words[0] == "export" or "--json" in words:
        assert [json.loads(line)["position"] for line in terminal.output.splitlines()] == [1, 2, 3]


def test_a_bar_tells_how_much_is_done(shell: Shell) -> None:
    """Of what there is to do."""
    terminal = Terminal(shell, ["replay", ">", "--since", "2"], "")

    assert "2/2" in terminal.screen


@pytest.mark.parametrize("words", [["replay", ">"], ["export"]], ids=["replay", "export"])
def test_what_is_shown_itself_needs_no_bar(shell: Shell, words: list[str]) -> None:
    """It would be drawn across it."""
    terminal = Terminal(shell, words, "", shows_all=True)

    assert len(terminal.screen.splitlines()) == EVENTS
    assert "\x1b" not in terminal.screen


def test_who_types_is_told_how_that_ends(shell: Shell) -> None:
    """In one line, where a bar would be in the way; what is typed so far is published."""
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "eventbus", "publish", "orders.placed"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "EVENTBUS_URL": shell.url},
        text=True,
    ) as process:
        os.write(ours, b'{"n": 1}\n\x04')
        output, complaint = process.communicate(timeout=50)
    os.close(ours)
    os.close(theirs)

    assert output == "published 1 event to orders.placed\n"
    assert complaint == "eventbus: each line of JSON that you type is published, until Ctrl-D\n"


@each
def test_nothing_is_drawn_where_nobody_looks(shell: Shell, words: list[str], work: str) -> None:
    """In a pipe, or a file: neither on stdout nor on stderr."""
    ended = shell(*words, typed=typed_for(shell, words))

    assert (ended.code, ended.complaint) == (0, "")
    assert work not in ended.output
