"""What a program writes and syncs, recorded by strace, and what a power cut would leave of it.

What was synced is there. What was not is kept or dropped by chance: whole writes or sectors of
them, changes of a length, and the entries of a folder, which only a sync of the folder makes safe.
What a sync was to make safe that failed, no later sync does: the system may take it for clean.
"""

__all__ = (
    "FOLDER",
    "RECORDER",
    "Close",
    "Entry",
    "Failure",
    "Recording",
    "Sync",
    "Tear",
    "Write",
    "record",
)

import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple, TypeAlias

RECORDER = shutil.which("strace")
FOLDER = 0
"""The number of the folder; files have others."""

_CALLS = (
    "openat,close,creat,pwrite64,pwritev,pwritev2,write,writev,fdatasync,fsync,sync_file_range,"
    "ftruncate,truncate,fallocate,copy_file_range,sendfile,unlink,unlinkat,rename,renameat,"
    "renameat2,link"
)
_LINE = re.compile(
    rb"\d+ +(?P<resumed><\.\.\. )?(?P<name>\w+)(?:\(| resumed>)"
    rb"(?P<arguments>.*?)(?P<unfinished> <unfinished \.\.\.>|\) += (?P<result>-?\d+).*)"
)
_FILE = re.compile(rb"\d+<((?:\\x[0-9a-f]{2})*)>")
_TEXT = re.compile(rb'"((?:\\x[0-9a-f]{2})*)"')
_SECTOR = 512
_SYNCS = frozenset({"fsync", "fdatasync"})


class Write(NamedTuple):
    """Data written to a place in a file."""

    at: int
    file: int
    offset: int
    data: bytes


class Resize(NamedTuple):
    """A length given to a file."""

    at: int
    file: int
    size: int


class Entry(NamedTuple):
    """A name in the folder that stands for another file now, or for none."""

    at: int
    file: int | None
    name: str


class Sync(NamedTuple):
    """A file, or the folder, made safe as it was when the call began."""

    at: int
    file: int
    began: int


class Failure(NamedTuple):
    """A call on a file that was made to fail: nothing was written, or nothing is safe."""

    at: int
    file: int
    began: int
    call: str


class Close(NamedTuple):
    """A file that one of its users has closed."""

    at: int
    file: int


class Word(NamedTuple):
    """Something that the program has said by then."""

    at: int
    text: str


Step: TypeAlias = Write | Resize | Entry | Sync | Failure | Close | Word
Tear: TypeAlias = Literal["writes", "sectors"]


class Recording(NamedTuple):
    """What one run of a program did to the files of a folder, step by step."""

    steps: Sequence[Step]

    def words_until(self, moment: int, verb: str) -> set[str]:
        """Give the ids that were said with a verb before a moment."""
        told = [step.text.split() for step in self.steps[:moment] if isinstance(step, Word)]
        return {id for kind, *ids in told if kind == verb for id in ids}

    def image(self, moment: int, rate: float, tear: Tear, chance: Random) -> dict[str, bytes]:
        """Give the files as the power going away at a moment leaves them, by name.

        Of what was not synced, so much is dropped as `rate` says.
        """
        past = self.steps[:moment]
        unsafe = _unsafe(past)
        contents: dict[int, bytearray] = {}
        for step in past:
            if isinstance(step, Write | Resize):
                kept = _by_chance(step, rate, tear, chance) if step.at in unsafe else step
                _apply(contents.setdefault(step.file, bytearray()), kept)
        synced = [step.began for step in past if isinstance(step, Sync) and step.file == FOLDER]
        names = _names(past, max(synced, default=0), rate, chance)
        return {name: bytes(contents.get(file, b"")) for name, file in names.items()}


def _unsafe(past: Sequence[Step]) -> set[int]:
    """Tell which changes of files, by when they were made, no sync has made safe."""
    waiting: defaultdict[int, set[int]] = defaultdict(set)
    in_vain: set[int] = set()
    for step in past:
        if isinstance(step, Write | Resize):
            waiting[step.file].add(step.at)
        elif isinstance(step, Sync) or (isinstance(step, Failure) and step.call in _SYNCS):
            reached = {at for at in waiting[step.file] if at < step.began}
            waiting[step.file] -= reached
            in_vain |= reached if isinstance(step, Failure) else set()
    return in_vain.union(*waiting.values())


def _by_chance(step: Write | Resize, rate: float, tear: Tear, chance: Random) -> list[Step]:
    if isinstance(step, Resize) or tear == "writes":
        return [] if chance.random() < rate else [step]
    return [one for one in _sectors(step) if chance.random() >= rate]


def _sectors(write: Write) -> Iterator[Write]:
    start, end = write.offset, write.offset + len(write.data)
    while start < end:
        stop = min(end, (start // _SECTOR + 1) * _SECTOR)
        data = write.data[start - write.offset : stop - write.offset]
        yield Write(write.at, write.file, start, data)
        start = stop


def _apply(content: bytearray, kept: Step | list[Step]) -> None:
    for step in kept if isinstance(kept, list) else [kept]:
        if isinstance(step, Write):
            content.extend(bytes(max(0, step.offset - len(content))))
            content[step.offset : step.offset + len(step.data)] = step.data
        elif isinstance(step, Resize):
            content.extend(bytes(max(0, step.size - len(content))))
            del content[step.size :]


def _names(past: Sequence[Step], synced: int, rate: float, chance: Random) -> dict[str, int]:
    """Give the entries of the folder: of each name, those that were synced, and perhaps more."""
    names: dict[str, int] = {}
    stopped: set[str] = set()
    for step in past:
        if not isinstance(step, Entry):
            continue
        if step.at >= synced and chance.random() < rate:
            stopped.add(step.name)
        if step.name in stopped:
            continue
        names.pop(step.name, None)
        if step.file is not None:
            names[step.name] = step.file
    return names


# --- recording ------------------------------------------------------------------------------------


def record(
    command: Sequence[str], store: Path, words: Path, trace: Path, *, fault: str = ""
) -> Recording:
    """Run a program that uses a store and writes its words into a file; tell what it did.

    `fault` is what strace is to inject.
    """
    assert RECORDER is not None
    options = ["-f", "--seccomp-bpf", "-y", "-xx", "-s", "100000000", "-o", str(trace)]
    options += ["-e", f"trace={_CALLS}", *(["-e", f"inject={fault}"] if fault else [])]
    done = subprocess.run(  # noqa: S603 - the command is the caller's
        [RECORDER, *options, *command], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    with trace.open("rb") as lines:
        return Recording(tuple(_Reading(store, words).steps(lines)))


class _Call(NamedTuple):
    name: str
    arguments: bytes
    began: int
    ended: int
    was_made_to_fail: bool

    @property
    def at(self) -> int:
        """When it counts: a write as soon as it begins, all else when it has ended."""
        return self.began if self.name in {"pwrite64", "write", "ftruncate"} else self.ended


class _Reading:
    """Understands a trace."""

    def __init__(self, store: Path, words: Path) -> None:
        self._store = store
        self._words = str(words)
        self._files: dict[str, int] = {}
        self._made = 0

    def steps(self, lines: Iterable[bytes]) -> Iterator[Step]:
        for call in sorted(_calls(lines), key=lambda one: one.at):
            step = self._step(call)
            if step is not None:
                yield step

    def _step(self, call: _Call) -> Step | None:
        path = _path_of(call)
        if path == self._words and call.name == "write":
            return Word(call.at, _unescape(_TEXT.findall(call.arguments)[0]).decode().strip())
        if path == str(self._store.parent) and call.name in _SYNCS:
            return None if call.was_made_to_fail else Sync(call.at, FOLDER, call.began)
        if not path.startswith(str(self._store)) or path.endswith("-shm"):
            return None
        name = Path(path).name
        if call.was_made_to_fail:
            return Failure(call.at, self._files[name], call.began, call.name)
        return self._step_on(call, name)

    def _step_on(self, call: _Call, name: str) -> Step | None:
        match call.name:
            case "close":
                return Close(call.at, self._files[name]) if name in self._files else None
            case "openat":
                return self._create(call, name)
            case "unlink":
                self._files.pop(name, None)
                return Entry(call.at, None, name)
            case "pwrite64":
                _, offset = map(int, call.arguments.rsplit(b", ", 2)[1:])
                data = _unescape(_TEXT.findall(call.arguments)[0])
                return Write(call.at, self._files[name], offset, data)
            case "ftruncate":
                size = int(call.arguments.rsplit(b", ", 1)[1])
                return Resize(call.at, self._files[name], size)
            case "fdatasync" | "fsync":
                return Sync(call.at, self._files[name], call.began)
            case _:
                raise NotImplementedError(f"{call.name} on {name}: let this module understand it")

    def _create(self, call: _Call, name: str) -> Entry | None:
        assert b"O_TRUNC" not in call.arguments
        if b"O_CREAT" not in call.arguments or name in self._files:
            return None
        self._made += 1
        self._files[name] = self._made
        return Entry(call.at, self._made, name)


def _calls(lines: Iterable[bytes]) -> Iterator[_Call]:
    """Give the calls that ended well or were made to fail; those of threads may overlap."""
    begun: dict[bytes, tuple[int, bytes]] = {}
    for at, line in enumerate(lines, 1):
        found = _LINE.match(line)
        if found is None:  # a signal, or the end of a thread
            continue
        thread, arguments, began = line.split()[0], found["arguments"], at
        if found["resumed"]:
            began, arguments = begun.pop(thread)
        if found["result"] is None:
            begun[thread] = (at, arguments)
        elif (was_made_to_fail := b"(INJECTED)" in line) or not found["result"].startswith(b"-"):
            yield _Call(found["name"].decode(), arguments, began, at, was_made_to_fail)


def _path_of(call: _Call) -> str:
    pattern = _TEXT if call.name in {"openat", "unlink", "unlinkat", "rename"} else _FILE
    found = pattern.search(call.arguments)
    return "" if found is None else _unescape(found[1]).decode(errors="replace")


def _unescape(text: bytes) -> bytes:
    return bytes.fromhex(text.replace(b"\\x", b"").decode())
