"""`eventbus run`, and what else a command has to do with processes, signals and terminals."""

import io
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import anyio
import pytest
import typer

from eventbus.cli.children import follow_code, run_workers
from eventbus.cli.ending import concluded
from eventbus.cli.run import SafeFormatter
from eventbus.cli.show import progress
from eventbus.errors import StoreError
from tests.shell import Shell
from tests.waiting import until

ROOT = Path(__file__).parents[1]

posix = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")

APPLICATION = """
import os
import sys
from pathlib import Path

import anyio

from eventbus import EventBus

def tell(what: str) -> None:  # at once, or what several processes tell is mixed up
    sys.stdout.write(f"{what} in {os.getpid()}\\n")
    sys.stdout.flush()

class Telling(EventBus):
    async def drain(self) -> None:
        tell("draining")
        await super().drain()

bus = Telling("sqlite:///events.db")

@bus.on("work", name="work", start="first")
async def work(event: str) -> None:
    tell("working")
    await anyio.sleep(event == "long" and 600)

def make():
    return bus

class Shown(EventBus):
    async def run(self) -> None:
        print("served by", self.name)

shown = Shown(name="shown")
alone = EventBus()
nothing = None
"""


INVALID = """
from pydantic import BaseModel

class Settings(BaseModel):
    size: int

Settings(size="large")
"""

FAILING = """
def groups(error: Exception) -> None:
    raise ExceptionGroup("both", [error])

def make() -> None:
    try:
        import app.nothing
    except ImportError as error:
        return groups(error)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with an application, and forget what is imported from it."""
    (tmp_path / "app.py").write_text(APPLICATION, "utf-8")
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found", "utf-8")
    (tmp_path / "refused.py").write_text(
        "from eventbus import EventBus\nbus = EventBus(queue_size=0)", "utf-8"
    )
    (tmp_path / "misspelt.py").write_text("x = 1\ndef f(:\n", "utf-8")
    (tmp_path / "invalid.py").write_text(INVALID, "utf-8")
    (tmp_path / "failing.py").write_text(FAILING, "utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("app", "broken", "refused", "misspelt", "invalid", "failing", "binary"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.fixture
def shell(folder: Path) -> Shell:
    """Give a shell whose commands work on the store of the application."""
    return Shell(f"sqlite:///{folder}/events.db")


class Program:
    """A command in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.signal = process.send_signal

    def line(self) -> str:
        """Wait for the next line of its output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def rest(self) -> tuple[int, str]:
        """Wait for its end; give its code, and what it complained of."""
        _, complaint = self.process.communicate()
        return self.process.returncode, complaint


@contextmanager
def running(folder: Path, *words: str, **environment: str) -> Generator[Program]:
    """Run a command until the block ends."""
    process = subprocess.Popen(  # noqa: S603 - the commands are written below
        [sys.executable, "-m", "eventbus", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    try:
        yield Program(process)
    finally:
        process.kill()
        process.communicate()


# --- finding the bus ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["app:shown", "--app-dir", "."], {}),
        (["app:shown", "--backend", "trio"], {"EVENTBUS_APP_DIR": "."}),
        ([], {"EVENTBUS_APP": "app:shown", "EVENTBUS_BACKEND": "trio"}),
    ],
)
def test_run_serves_the_bus_of_a_module(
    shell: Shell,
    folder: Path,
    words: list[str],
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is named by arguments or by the environment."""
    monkeypatch.chdir(folder)

    assert shell("run", *words, **environment).output == "served by shown\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["app"], "'app' names no bus: write module:attribute, as app:bus"),
        (["app:"], "'app:' names no bus"),
        (["nowhere:bus"], "there is no module 'nowhere' in"),
        (["app.inner:bus"], "there is no module 'app.inner' in"),
        (["app:bos"], "app has no attribute 'bos'; did you mean 'bus'?"),
        (["app:nothing"], "app:nothing gives NoneType, no EventBus"),
        (["app:make"], "app:make gives function, no EventBus: is it a --factory?"),
        (["app:bus", "--factory"], "app:bus is no function: leave out --factory"),
        (["app:bus", "--reload", "-w", "2"], "--reload follows the code with one process"),
    ],
)
def test_run_says_what_is_no_bus(
    shell: Shell, folder: Path, words: list[str], sentence: str
) -> None:
    """Each mistake in naming it is one sentence: code 2."""
    ended = shell("run", *words, "--app-dir", str(folder))

    assert (ended.code, ended.output) == (2, "")
    assert ended.complaint.startswith(f"eventbus: {sentence}")


@pytest.mark.parametrize(
    ("place", "what", "why", "sentence"),
    [
        (
            "broken:bus",
            "import nowhere_to_be_found\n",
            "ModuleNotFoundError: No module named 'nowhere_to_be_found'",
            "broken cannot be imported: ModuleNotFoundError in {folder}/broken.py, line 1",
        ),
        (
            "refused:bus",
            "bus = EventBus(queue_size=0)\n",
            "eventbus.errors.InvalidOption: queue_size=0: ",
            "refused cannot be imported: InvalidOption in {folder}/refused.py, line 2",
        ),
        (
            "misspelt:bus",
            'File "{folder}/misspelt.py", line 2\n    def f(:',
            "SyntaxError: ",
            "misspelt cannot be imported: SyntaxError in {folder}/misspelt.py, line 2",
        ),
        (
            "invalid:bus",
            "validate_python(",  # of those who are called, it is shown, and not blamed
            "Input should be a valid integer",
            "invalid cannot be imported: ValidationError in {folder}/invalid.py, line 7",
        ),
        (
            "failing:make",
            "return groups(error)\n",
            "ExceptionGroup: both (1 sub-exception)",
            "failing:make makes no bus: ExceptionGroup in {folder}/failing.py, line 3",
        ),
    ],
)
def test_an_application_that_fails_shows_where(
    shell: Shell, folder: Path, place: str, what: str, why: str, sentence: str
) -> None:
    """By the traceback of its own code, then a sentence with file and line: code 2."""
    is_factory = "--factory" if place.endswith(":make") else "--no-factory"
    ended = shell("run", place, is_factory, "--app-dir", str(folder))
    frames = re.findall('File "(.*?)"', ended.complaint)

    assert (ended.code, ended.output) == (2, "")
    assert what.format(folder=folder) in ended.complaint
    assert why in ended.complaint
    *_, last = ended.complaint.splitlines()
    assert last == f"eventbus: {sentence.format(folder=folder)}, as shown above"
    assert [one for one in frames if one.startswith((str(ROOT / "eventbus"), "<frozen"))] == []


def test_a_text_that_is_no_code_has_no_line(shell: Shell, folder: Path) -> None:
    """What is known of it is said."""
    (folder / "binary.py").write_bytes(b"x = '\0'")
    ended = shell("run", "binary:bus", "--app-dir", str(folder))

    assert ended.code == 2
    assert "null bytes" in ended.complaint
    assert "eventbus: binary cannot be imported: " in ended.complaint


@posix
def test_an_application_that_failed_is_followed(folder: Path) -> None:
    """With --reload it is started anew once it has been mended."""
    with running(folder, "run", "misspelt:bus", "--reload") as program:
        assert program.process.stderr is not None
        for line in program.process.stderr:
            if line.startswith("eventbus: misspelt cannot be imported"):
                break
        (folder / "misspelt.py").write_text("from app import shown as bus", "utf-8")

        assert program.line() == "served by shown\n"
        program.signal(signal.SIGINT)
        assert program.rest()[0] == 0


@pytest.mark.parametrize(
    ("package", "words"), [("watchfiles", ["--reload"]), ("trio", ["--backend", "trio"])]
)
def test_what_an_option_needs_is_named(
    shell: Shell, package: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has not installed it is told how to."""

    def find_nothing(name: str) -> None: ...

    monkeypatch.setattr("eventbus.cli.run.find_spec", find_nothing)
    ended = shell("run", "app:bus", *words)

    assert ended.code == 2
    assert package in ended.complaint
    assert "pip install" in ended.complaint


def test_what_is_logged_drives_no_terminal() -> None:
    """The text of an error may hold what an event held."""
    record = logging.LogRecord("eventbus", logging.ERROR, "", 0, "a %s\nb", ("\x1b[31m",), None)
    assert SafeFormatter("%(message)s").format(record) == "a \\u001b[31m\nb"


# --- signals --------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("words", [[], ["--workers", "2"], ["--reload"]], ids=str)
def test_the_first_signal_drains(
    folder: Path, shell: Shell, backend: str, words: list[str]
) -> None:
    """What was published is handled, and then a signal ends it with code 0."""
    shell("publish", "work", '"short"')
    with running(folder, "run", "app:bus", *words, EVENTBUS_BACKEND=backend) as program:
        assert program.line().startswith("working in ")
        program.signal(signal.SIGINT)

        code, complaint = program.rest()
        assert code == 0
        assert "Traceback" not in complaint


@posix
@pytest.mark.parametrize("words", [[], ["--workers", "2"], ["--reload"]], ids=str)
def test_the_second_signal_stops(folder: Path, shell: Shell, words: list[str]) -> None:
    """Who asks twice does not want to wait for a handler: code 1."""
    shell("publish", "work", '"long"')
    with running(folder, "run", "app:make", "--factory", *words) as program:
        working, _, pid = program.line().partition(" in ")
        assert working == "working"
        program.signal(signal.SIGTERM)
        while program.line() != f"draining in {pid}":
            pass
        program.signal(signal.SIGTERM)

        code, complaint = program.rest()
        assert code == 1
        assert "Traceback" not in complaint


@posix
@pytest.mark.parametrize(("place", "times"), [("app:alone", 1), ("app:bus", 0)])
def test_workers_that_share_nothing_are_warned_of_once(
    folder: Path, place: str, times: int
) -> None:
    """In memory, what one publishes reaches no other: one of them says so, and all serve."""
    told: list[str] = []
    with running(folder, "run", place, "--workers", "3") as program:
        assert program.process.stderr is not None
        while sum("serving the subscriptions of app:" in line for line in told) < 3:
            told.append(program.process.stderr.readline())
        program.signal(signal.SIGTERM)
        code, _ = program.rest()

    assert code == 0
    assert sum("each of the 3 workers has a bus of its own" in line for line in told) == times


@posix
def test_an_interrupt_ends_tail(folder: Path, shell: Shell) -> None:
    """What is published while it looks is shown; an interrupt is how it ends, with code 0."""
    shell("publish", "n", "1")
    with running(folder, "tail", "--from", "first", EVENTBUS_URL=shell.url) as program:
        assert program.line().endswith("n  1\n")
        shell("publish", "n", "2")
        assert program.line().endswith("n  2\n")
        program.signal(signal.SIGINT)

        assert program.rest() == (0, "")


@posix
def test_an_interrupt_ends_a_publish_that_waits(folder: Path, shell: Shell) -> None:
    """It is no success, but no traceback either."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EVENTBUS_URL": shell.url}
    with subprocess.Popen(
        [sys.executable, "-m", "eventbus", "publish", "n", "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"1\n")
        process.stdin.flush()
        assert b'"position":1' in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate()

    assert (process.returncode, complaint) == (130, b"")


@posix
@pytest.mark.parametrize("words", [["export"], ["replay", ">"], ["tail", "--from=first"]], ids=str)
def test_a_reader_that_has_enough_ends_the_command(
    folder: Path, shell: Shell, words: list[str]
) -> None:
    """As with `| head -1`: all that was wanted was shown, and nothing is said."""
    shell("publish", "n", typed="\n".join('"' + "x" * 100 + '"' for _ in range(2000)))
    with running(folder, *words, EVENTBUS_URL=shell.url) as program:
        assert program.line()
        assert program.process.stdout is not None
        program.process.stdout.close()
        assert program.process.stderr is not None

        assert program.process.stderr.read() == ""
        assert program.process.wait() == 0


@posix
def test_top_draws_on_a_terminal(folder: Path, shell: Shell) -> None:
    """It draws until it is interrupted."""
    import pty

    shell.give_up_on({"order_id": "o-1"})
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EVENTBUS_URL": shell.url}
    with subprocess.Popen(
        [sys.executable, "-m", "eventbus", "top", "--interval", "0.05"],
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**environment, "TERM": "xterm", "COLUMNS": "150"},
    ) as process:
        os.close(theirs)
        seen = b""
        while b"books" not in seen:
            seen += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # as Linux has it, once nobody is at the other end
            while os.read(ours, 4096):
                pass
        assert process.stderr is not None
        assert (process.wait(), process.stderr.read()) == (0, b"")
    os.close(ours)


@posix
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_damaged_store_is_one_sentence(folder: Path, shell: Shell, backend: str) -> None:
    """What the store refuses while an application runs has no traceback either: code 1."""
    shell("publish", "work", '"short"')
    with closing(sqlite3.connect(folder / "events.db")) as connection, connection:
        connection.execute("UPDATE log SET payload = '1'")
    words = ["run", "app:bus", "--log-level", "error", "--backend", backend]
    with running(folder, *words) as program:
        code, complaint = program.rest()

    assert code == 1
    assert complaint.startswith("eventbus: the record at position 1 is damaged")
    assert complaint.count("\n") == 1


def test_a_fault_beside_it_keeps_its_traceback() -> None:
    """Of several errors none is hidden by another that has a sentence."""

    def fail_twice() -> None:
        raise ExceptionGroup("both", [StoreError("full"), ZeroDivisionError()])

    with pytest.raises(ExceptionGroup):
        concluded(fail_twice)()


@pytest.mark.parametrize(("only_shows", "code"), [(True, 0), (False, 1)])
def test_work_that_ends_unheard_has_failed(
    only_shows: bool, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads receipts, and stops, has stopped what is published, too."""

    def tell() -> None:
        raise BrokenPipeError

    monkeypatch.setattr("eventbus.cli.ending._leave_stdout", lambda: None)
    with pytest.raises(typer.Exit) as ended:
        concluded(tell, only_shows=only_shows)()

    assert ended.value.exit_code == code


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.mark.parametrize(("stream", "is_shown"), [(Terminal, True), (io.StringIO, False)])
def test_progress_is_for_terminals(
    stream: type[io.StringIO], is_shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How far long work is shows to people, not in files of logs."""
    monkeypatch.setattr(sys, "stderr", stderr := stream())
    with progress("reading", 10) as tell:
        tell(5)

    assert ("5/10" in stderr.getvalue()) is is_shown


def test_progress_leaves_a_terminal_to_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar between the lines of an export would be in the way, and says no more."""
    monkeypatch.setattr(sys, "stderr", stderr := Terminal())
    monkeypatch.setattr(sys, "stdout", Terminal())
    with progress("reading", 10, prints=True) as tell:
        tell(5)

    assert stderr.getvalue() == ""


# --- children -------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys, time
from pathlib import Path

folder = Path(sys.argv[1])
signals = []
signal.signal(signal.SIGTERM, lambda *_: signals.append(1))
(folder / f"begun-{os.getpid()}").touch()
needed = int(sys.argv[2])
end = time.monotonic() + 60  # it outlives no test that was killed
while len(signals) < needed and not (folder / "crash").exists() and time.monotonic() < end:
    time.sleep(0.01)
(folder / f"ended-{os.getpid()}").touch()
raise SystemExit(needed - 1 if signals else 3)
"""


def child(folder: Path, signals: int = 1) -> Sequence[str]:
    """Write the command of a child that ends at its first or second signal, with code 0 or 1."""
    return [sys.executable, "-c", CHILD, str(folder), str(signals)]


def count(folder: Path, what: str) -> int:
    """Count the children that have begun, or ended."""
    return len(list(folder.glob(f"{what}-*")))


@posix
async def test_workers_get_the_signals_of_their_parent(tmp_path: Path) -> None:
    """One signal ends all of them, each once; all well is code 0."""
    codes: list[int] = []

    async def serve() -> None:
        codes.append(await run_workers([child(tmp_path)] * 2))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        await until(lambda: count(tmp_path, "begun") == 2)
        os.kill(os.getpid(), signal.SIGINT)

    assert (codes, count(tmp_path, "ended")) == ([0], 2)


@posix
async def test_workers_get_the_second_signal_too(tmp_path: Path) -> None:
    """A child that had to be stopped makes it code 1."""
    codes: list[int] = []

    async def serve() -> None:
        codes.append(await run_workers([child(tmp_path, 2)] * 2))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        await until(lambda: count(tmp_path, "begun") == 2)
        while not codes:
            os.kill(os.getpid(), signal.SIGTERM)
            await anyio.sleep(0.05)
            if count(tmp_path, "ended") == 2:
                break

    assert codes == [1]


@posix
async def test_a_worker_that_ends_takes_the_others_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever watches the parent sees that something is wrong: code 1."""
    (tmp_path / "crash").touch()
    with anyio.fail_after(30):
        assert await run_workers([child(tmp_path)] * 2) == 1

    assert "ended by itself, with code 3" in capsys.readouterr().err


@posix
async def test_changed_code_starts_anew(tmp_path: Path) -> None:
    """The old process ends before the new one begins; a signal ends that one too."""
    code = tmp_path / "code"
    code.mkdir()
    codes: list[int] = []

    async def serve() -> None:
        codes.append(await follow_code(child(tmp_path), [code]))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        await until(lambda: count(tmp_path, "begun") == 1)
        (code / "app.py").write_text("n = 1")
        await until(lambda: count(tmp_path, "begun") == 2)
        assert count(tmp_path, "ended") == 1
        os.kill(os.getpid(), signal.SIGINT)

    assert (codes, count(tmp_path, "ended")) == ([0], 2)
