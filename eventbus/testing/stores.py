"""Stores of a simulation: their work is done in the loop, in an order by the seed, and can crash.

Each of the calls that a store would make in its threads is one step of the loop. A program that
runs for its life is killed at one of them: before it, after it, or amid what it writes. From then
on nothing of the program reaches the file, whatever it still does while it is unwound.
"""

__all__ = ("Life", "SimulatedStores")

import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from itertools import count
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any, Literal, Self, TypeAlias
from unittest.mock import patch

from anyio import CancelScope

from eventbus._loop import call_soon
from eventbus.errors import StoreError
from eventbus.transports.sqlite import presence, schema
from eventbus.transports.sqlite.clerks import Writer
from eventbus.transports.sqlite.desk import Clerk, Desk, Job

Death: TypeAlias = Literal["before", "amid", "after"]
Files: TypeAlias = dict[Path, bytes]

MOST_TURNS = 3
SECTOR = 512

_current: ContextVar["Life | None"] = ContextVar("eventbus_simulated_life", default=None)


class Life:
    """One run of a program, until it ends or is killed."""

    def __init__(self, process: int, calls: int, death: Death, scope: CancelScope) -> None:
        self.process = process
        self.is_over = False
        self._calls = calls
        self._death: Death = death
        self._scope = scope
        self.desks: list[SimulatedDesk] = []

    @contextmanager
    def current(self) -> Generator[None]:
        """Have the stores that are opened within a block belong to it."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def next_death(self) -> Death | None:
        """Count a call; tell how it ends this life, if it does."""
        self._calls -= 1
        return self._death if self._calls == 0 else None

    def end(self) -> None:
        """Let nothing more of it reach a store."""
        self.is_over = True
        self._scope.cancel()
        for desk in self.desks:
            desk.abandon()


class SimulatedDesk(Desk):
    """A desk without a thread: its clerk works in the loop, some turns after there is work."""

    def __init__(self, stores: "SimulatedStores", name: str, clerk: Clerk) -> None:
        self._stores = stores
        self._life = _current.get()
        self._is_abandoned = self._life is not None and self._life.is_over
        self._is_expected = False
        self._post = call_soon()
        super().__init__(name, clerk)

    def _begin(self) -> None:
        if self._is_abandoned:
            return
        self._stores.desks.append(self)
        if self._life is not None:
            self._life.desks.append(self)

    def submit(self, job: Job[Any]) -> Job[Any]:
        """Hand in a job, to be done after all that were handed in before."""
        super().submit(job)
        if not self._is_expected:
            self._is_expected = True
            self._come_nearer(self._stores.chance.randint(0, MOST_TURNS))
        return job

    def _come_nearer(self, turns: int) -> None:
        with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            self._post(self._serve if turns == 0 else lambda: self._come_nearer(turns - 1))

    def _serve(self) -> None:
        self._is_expected = False
        while self._jobs:
            jobs = [self._jobs.popleft() for _ in range(len(self._jobs))]
            self._serve_some(jobs)
            for job in jobs:
                job.finish()

    def _serve_some(self, jobs: Sequence[Job[object]]) -> None:
        death = None if self._life is None or self._is_abandoned else self._life.next_death()
        if death is not None:
            assert self._life is not None  # noqa: S101 - it has just ended
            self._stores.kill(self._life, death, self, jobs)
        if self._is_abandoned:
            for job in jobs:
                job.error = StoreError("the simulation has killed this program")
        elif death is None:
            self.work(jobs)
            self._stores.look_around()

    def work(self, jobs: Sequence[Job[object]]) -> None:
        """Do jobs as the process that the simulation has this be one of."""
        with self._stores.in_process_of(self._life):
            self._clerk.serve(jobs)

    @property
    def writes(self) -> bool:
        """Whether it is a writer's."""
        return isinstance(self._clerk, Writer)

    def look(self) -> None:
        """Look whether anything was written, where the desk is a reader's."""
        if not (self._is_abandoned or self.writes):
            self._clerk.idle()

    def abandon(self) -> None:
        """Give up the connection, as the end of a process does; idempotent."""
        if not self._is_abandoned:
            self._is_abandoned = True
            self._stores.desks.remove(self)
            self._clerk.close()

    async def close(self) -> None:
        """Do what was handed in, and give up the connection; idempotent."""
        self._is_closing = True
        self._serve()
        self.abandon()


class SimulatedStores:
    """The stores of one run, in a folder that lasts as long."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(f"stores of {seed}")
        self.desks: list[SimulatedDesk] = []
        self._processes = count(2**40)  # no number that a process of this machine has
        self._gone: set[int] = set()
        self._served: Life | None = None
        self._folder: Path | None = None
        self._patches = ExitStack()

    # --- for the test -----------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what there is, at the end of the run."""
        for desk in tuple(self.desks):
            desk.abandon()
        self._patches.close()

    def url(self, options: str) -> str:
        """Give the URL of the store of this run."""
        if self._folder is None:
            self._folder = Path(mkdtemp(prefix="eventbus-simulation-"))
            self._patches.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self._take_over()
        return f"sqlite:///{self._folder / 'events.db'}{options and '?'}{options}"

    def _take_over(self) -> None:
        def make(name: str, clerk: Clerk) -> SimulatedDesk:
            return SimulatedDesk(self, name, clerk)

        sqlite = "eventbus.transports.sqlite"
        for target, stand_in in {
            f"{sqlite}.store.Desk": make,
            f"{sqlite}.sessions.this_process": self._this_process,
            f"{sqlite}.neighbours.is_gone": self._is_gone,
            f"{sqlite}.clerks.open_store": _open_unsynced,
            f"{sqlite}.schema.open_store": _open_unsynced,
        }.items():
            self._patches.enter_context(patch(target, stand_in))

    def new_life(self, most: int, scope: CancelScope) -> Life:
        """Begin a life that ends at one of so many calls of a store."""
        death: Death = self.chance.choice(("before", "amid", "after"))
        return Life(next(self._processes), self.chance.randint(1, most), death, scope)

    # --- for desks --------------------------------------------------------------------------

    def look_around(self) -> None:
        """Let all look whether something was written, as they do now and then."""
        for desk in tuple(self.desks):
            desk.look()

    @contextmanager
    def in_process_of(self, life: Life | None) -> Generator[None]:
        """Have a block be work of the process that a life is."""
        self._served = life
        try:
            yield
        finally:
            self._served = None

    def kill(
        self, life: Life, death: Death, desk: SimulatedDesk, jobs: Sequence[Job[object]]
    ) -> None:
        """End a life, at work on some jobs."""
        before: Files = {}
        if death == "amid" and desk.writes and set(self.desks) <= set(life.desks):
            before = self._files()
        if death == "after" or before:
            desk.work(jobs)
        after = self._files() if before else {}
        self._gone.add(life.process)
        life.end()
        if before:
            self._leave(_torn(before, after, self.chance))

    def _files(self) -> Files:
        assert self._folder is not None  # noqa: S101 - a store is in it
        paths = sorted(self._folder.iterdir())
        return {path: path.read_bytes() for path in paths if not path.name.endswith("-shm")}

    def _leave(self, files: Mapping[Path, bytes]) -> None:
        assert self._folder is not None  # noqa: S101 - a store is in it
        for path in self._folder.iterdir():
            path.unlink()
        for path, content in files.items():
            path.write_bytes(content)

    def _this_process(self) -> int:
        return os.getpid() if self._served is None else self._served.process

    def _is_gone(self, place: str, process: int) -> bool:
        return process in self._gone or (process < 2**40 and presence.is_gone(place, process))


def _torn(before: Files, after: Files, chance: Random) -> Files:
    """Give files as a power cut leaves them that hits while a log is written, but not synced."""
    changed = {path for path in after if before.get(path) != after[path]}
    if any(not path.name.endswith(("-wal", "-mark")) for path in changed):
        return after  # it was synced, and is moved into the store
    logs = {path for path in changed if path.name.endswith("-wal")}
    return before | {path: _mixed(before.get(path, b""), after[path], chance) for path in logs}


def _mixed(before: bytes, after: bytes, chance: Random) -> bytes:
    """Let some of the sectors be written."""
    old = before.ljust(len(after), b"\0")
    starts = range(0, len(after), SECTOR)
    return b"".join(chance.choice((old, after))[at : at + SECTOR] for at in starts)


def _open_unsynced(*arguments: Any) -> Any:
    """Open a store without syncs: what is not synced is lost where a simulation says so."""
    connection = _open_store(*arguments)
    connection.execute("PRAGMA synchronous=OFF")
    return connection


_open_store = schema.open_store
