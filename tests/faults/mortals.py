"""Processes that can be killed: forked from one that has all imported, they tell what they do.

Run as a program, with the name of one of `TRIALS` and what it takes; it prints one line of JSON.
"""

__all__ = (
    "Mortal",
    "Say",
    "live_for",
    "live_to_say",
    "run_trial",
    "stop_between_writes",
    "words_of_all",
)

import atexit
import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

Say: TypeAlias = Callable[[str], None]
"""Tells the parent a word; whatever was told before the kill is heard."""


class Mortal:
    """A forked process that does something, and what it says."""

    def __init__(self, live: Callable[[Say], None]) -> None:
        self.ear, mouth = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            os.close(self.ear)
            self._live(live, mouth)
        os.close(mouth)
        # A trial that fails leaves none behind: one that stands still would keep its output open.
        atexit.register(self.kill)
        self._heard = b""

    def _live(self, live: Callable[[Say], None], mouth: int) -> None:
        code = 1
        try:
            live(lambda word: _write(mouth, word))
            code = 0
        except BaseException:  # noqa: BLE001 - it goes no further: the process ends here
            traceback.print_exc()
        finally:
            os._exit(code)

    def listen(self) -> str:
        """Wait for the next words; empty when the process has ended."""
        heard = os.read(self.ear, 65_536)
        self._heard += heard
        return heard.decode()

    def overhear(self) -> None:
        """Take in what it has said by now: a pipe that is full would hold it up."""
        while select.select([self.ear], [], [], 0)[0] and self.listen():
            pass

    def kill(self) -> None:
        """Kill it, as a power cut would a process."""
        os.kill(self.process, signal.SIGKILL)

    def stop(self) -> None:
        """Keep it from doing anything, as a laptop's lid would, until it is to go on."""
        os.kill(self.process, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on where it was."""
        os.kill(self.process, signal.SIGCONT)

    def hear(self, word: str) -> None:
        """Wait until it has said something."""
        while word not in self._heard.decode().split("\n")[:-1]:
            assert self.listen(), f"it ended without having said {word!r}"

    def words(self) -> list[str]:
        """Wait for its end; give all it has said, without a word that was cut off."""
        while self.listen():
            pass
        os.waitpid(self.process, 0)
        atexit.unregister(self.kill)
        os.close(self.ear)
        return self._heard.decode().split("\n")[:-1]


def stop_between_writes(mortal: Mortal, store: Path) -> None:
    """Stop it where it has no lock on a store: with one it would hold up all others, too."""
    for _ in range(1000):
        mortal.stop()
        os.waitpid(mortal.process, os.WUNTRACED)
        with closing(sqlite3.connect(store, timeout=0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                mortal.go_on()
                time.sleep(0.001)
            else:
                return
    raise AssertionError(f"it writes to {store} whenever it is stopped")


def _write(mouth: int, word: str) -> None:
    os.write(mouth, f"{word}\n".encode())


def words_of_all(mortals: Sequence[Mortal]) -> list[list[str]]:
    """Wait for their ends, and hear whoever speaks: a pipe that is full would hold one up."""
    speaking = {mortal.ear: mortal for mortal in mortals}
    while speaking:
        for ear in select.select(list(speaking), [], [])[0]:
            if not speaking[ear].listen():
                del speaking[ear]
    return [mortal.words() for mortal in mortals]


def live_for(mortal: Mortal, seconds: float) -> list[str]:
    """Let it live for a while after its first words, then kill it; give all it has said."""
    mortal.listen()
    time.sleep(seconds)
    mortal.kill()
    return mortal.words()


def live_to_say(mortal: Mortal, many: int) -> list[str]:
    """Let it live until it has said so many words, or has ended, then kill it; give all of them."""
    said = 0
    while said < many and (heard := mortal.listen()):
        said += heard.count("\n")
    mortal.kill()
    return mortal.words()


def run_trial(
    module: str, *arguments: str, seconds: float = 600, within: Sequence[str] = ()
) -> Any:
    """Run a module that forks such processes, in a process of its own; give what it found.

    `within` is a command that runs another.
    """
    command = [*within, sys.executable, "-m", module, *arguments]
    done = subprocess.run(  # noqa: S603 - the command is written above
        command, capture_output=True, text=True, check=False, timeout=seconds
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
