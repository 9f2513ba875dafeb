"""What the two threads of a store do: one writes, one reads.

The writer takes all that is queued, writes it in one transaction, and acknowledges it together
after one sync. After an error its connection is given up, never used again: what a failed sync has
left behind nobody can tell. When the disk is full, records are refused, and all else is written
into what was held in reserve.
"""

__all__ = ("Append", "Change", "Look", "Reader", "Writer")

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Generic, TypeVar

from eventbus.bus_logger import BusLogger
from eventbus.clock import stopwatch
from eventbus.errors import EventBusError, StoreError
from eventbus.transports.sqlite.desk import Begin, Job, begin_at_once
from eventbus.transports.sqlite.edge import WAITING, full_disk, is_full_disk, translated
from eventbus.transports.sqlite.effects import Undone
from eventbus.transports.sqlite.guard import GuardedConnection
from eventbus.transports.sqlite.log import append, first_and_last
from eventbus.transports.sqlite.mark import Mark
from eventbus.transports.sqlite.packing import Compression
from eventbus.transports.sqlite.records import Record, packed
from eventbus.transports.sqlite.reserve import Reserve
from eventbus.transports.sqlite.schema import VERSION, insist, open_store, secure_names, set_up
from eventbus.transports.sqlite.settings import Settings

R = TypeVar("R")

IDLE_SECONDS = 1.0
LOOK_SECONDS = 0.01
SCHEDULE_LOOK_SECONDS = 0.025
WAL_ALARM_BYTES = 64 * 1024 * 1024
COMMITS_PER_LOOK_AT_WAL = 256


class Append(Job[Sequence[tuple[int, bool]]]):
    """Records to be appended together; gives the position of each, and whether it was there."""

    __slots__ = ("given_ids", "records")

    def __init__(
        self,
        records: Sequence[Record],
        given_ids: Sequence[str],
        then: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(then)
        self.records = records
        self.given_ids = given_ids


class Change(Job[R], Generic[R]):
    """A change of something else, done by a function that refuses before it changes anything.

    It says so if that may append records. It may be done again, where what it did was undone.
    """

    __slots__ = ("appends", "work")

    def __init__(
        self,
        work: Callable[[sqlite3.Connection], R],
        then: Callable[[], None] | None = None,
        *,
        appends: bool = False,
    ) -> None:
        super().__init__(then)
        self.work = work
        self.appends = appends


class Look(Job[R], Generic[R]):
    """Something to be read."""

    __slots__ = ("work",)

    def __init__(self, work: Callable[[sqlite3.Connection], R]) -> None:
        super().__init__()
        self.work = work


class Writer:
    """Writes, in its thread."""

    def __init__(self, settings: Settings, logger: BusLogger) -> None:
        self._settings = settings
        self._logger = logger
        self._path = settings.path
        self._connection: sqlite3.Connection | None = None
        self._mark: Mark | None = None
        self._reserve = Reserve(settings.path)
        self._acknowledged = 0
        self._naps = 0
        self._commits = 0
        self._has_alarmed = False
        self._begin: Begin = begin_at_once

    def serve(self, jobs: Sequence[Job[object]], begin: Begin = begin_at_once) -> None:
        """Do jobs in one transaction: all of them, or none if the store fails."""
        self._naps = 0
        self._begin = begin
        if self._reserve.is_short:
            self._reserve.take()
        if self._reserve.is_used:
            jobs = _but_records(jobs, full_disk(self._path))
        error = self._attempt(jobs)
        if error is not None and is_full_disk(error) and self._reserve.give_up():
            jobs = _but_records(jobs, error)
            error = self._attempt_in_reserve(jobs)
        if error is not None:
            for job in jobs:
                job.error = job.error or _copy(error)

    def _attempt(self, jobs: Sequence[Job[object]]) -> Exception | None:
        """Do jobs, which may have been tried before; give what was raised."""
        try:
            while jobs:
                jobs = self._attempt_once(jobs)
        except Exception as error:  # noqa: BLE001 - raised by who waits for each of the jobs
            self._disconnect()
            return error
        return None

    def _attempt_once(self, jobs: Sequence[Job[object]]) -> Sequence[Job[object]]:
        """Do jobs; give those to be done once more, without the one whose SQL undid them all."""
        for job in jobs:
            job.error = None
        try:
            if self._settings.compression is not None:
                _pack(jobs, self._settings.compression)  # before others have to wait for the lock
            with translated(self._path):
                self._commit(self._connected(), jobs)
        except Undone as undone:
            return [job for job in jobs if job is not undone.job]
        return ()

    def _attempt_in_reserve(self, jobs: Sequence[Job[object]]) -> Exception | None:
        """Do jobs, now that the disk is full, in the room that was held for them."""
        with suppress(StoreError, sqlite3.Error):  # then there may be room nevertheless
            self._connected().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return self._attempt(jobs)

    def follow_up(self) -> None:
        """Note how far the log has come, and look how large SQLite's own has become."""
        if self._acknowledged and self._mark is not None:
            with suppress(OSError):  # a mark that lags is one
                self._mark.write(self._acknowledged)
        self._acknowledged = 0
        self._watch_wal()

    def idle(self) -> float | None:
        """Move the log of SQLite into the file, once nothing has happened for a while.

        And hold more in reserve, if there is more room than there was.
        """
        self._naps += 1
        if self._naps == 1:
            return IDLE_SECONDS
        if self._naps == 2 and self._connection is not None:
            with suppress(sqlite3.Error):  # another process is at it: it will do the same
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._reserve.take()
        return None

    def close(self) -> None:
        """Close the connection, and with it the last of them the log of SQLite."""
        self._reserve.close()
        self._disconnect()
        if self._mark is not None:
            self._mark.close()

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            durability = self._settings.durability
            self._tell_of_migration(set_up(self._path, durability))
            self._connection = open_store(self._path, durability, GuardedConnection)
            self._connection.execute("PRAGMA busy_timeout=0")
            secure_names(self._connection, self._path)
        if self._mark is None:
            self._mark = self._checked_mark(self._connection)
            self._reserve.take()
        return self._connection

    def _tell_of_migration(self, found: int) -> None:
        if found < VERSION:
            self._logger.info(
                "%s was of version %d, and is of version %d now", self._path, found, VERSION
            )

    def _checked_mark(self, connection: sqlite3.Connection) -> Mark:
        mark = Mark(self._path)
        try:
            mark.check(lambda: first_and_last(connection)[1])
        except BaseException:
            mark.close()
            raise
        return mark

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _commit(self, connection: sqlite3.Connection, jobs: Sequence[Job[object]]) -> None:
        insist(connection, "BEGIN IMMEDIATE", self._tell_of_waiting)
        self._begin()
        last = 0
        wanted = [job for job in jobs if not job.is_withdrawn]  # while the lock was another's
        for kind, run in groupby(wanted, type):
            if kind is Append:
                appended = self._append(connection, [job for job in run if isinstance(job, Append)])
            else:
                appended = self._change(connection, [job for job in run if isinstance(job, Change)])
            last = max(last, appended)
        connection.execute("COMMIT")
        self._acknowledged = last

    def _tell_of_waiting(self) -> None:
        self._logger.warning("%s: %s", self._path, WAITING)

    def _append(self, connection: sqlite3.Connection, jobs: Sequence[Append]) -> int:
        given = [id for job in jobs for id in job.given_ids]
        placed = append(connection, [job.records for job in jobs], given)
        for job, places in zip(jobs, placed, strict=True):
            job.result = places
        return max((position for places in placed for position, _ in places), default=0)

    def _change(self, connection: sqlite3.Connection, jobs: Sequence[Change[object]]) -> int:
        last = 0
        for job in jobs:
            try:
                job.result = job.work(connection)
            except EventBusError as error:  # its own, and no reason to refuse the others
                job.error = error
            except Undone as undone:
                job.result, undone.job = undone.cause, job
                raise
            if job.appends:
                last = first_and_last(connection)[1]
        return last

    def _watch_wal(self) -> None:
        self._commits += 1
        if self._commits % COMMITS_PER_LOOK_AT_WAL:
            return
        size = _size_of(self._path.with_name(f"{self._path.name}-wal"))
        if size > WAL_ALARM_BYTES and not self._has_alarmed:
            self._logger.warning(
                "%s-wal has grown to %d bytes: something reads the store without an end, see that "
                "no other program keeps it open",
                self._path,
                size,
            )
        self._has_alarmed = size > WAL_ALARM_BYTES


class Reader:
    """Reads, in its thread, and looks whether any process has written.

    `on_change` is called in the thread, and so is `look_ahead`, which reads what is scheduled: no
    more often than that has to be known, as it costs publishers more than the look for a change.
    """

    def __init__(
        self,
        settings: Settings,
        on_change: Callable[[], None],
        look_ahead: Callable[[sqlite3.Connection], None],
    ) -> None:
        self._settings = settings
        self._on_change = on_change
        self._look_ahead = look_ahead
        self._connection: sqlite3.Connection | None = None
        self._version = 0
        self._looked_ahead = 0.0
        self._may_be_earlier = False

    def serve(self, jobs: Sequence[Job[object]], begin: Begin = begin_at_once) -> None:
        """Do jobs one by one, each in a transaction of its own, and a short one."""
        begin()
        for job in jobs:
            try:
                with translated(self._settings.path):
                    job.result = self._work_of(job)(self._connected())
            except Exception as error:  # noqa: BLE001 - raised by who waits for the job
                job.error = error
                if not isinstance(error, EventBusError) or isinstance(error, StoreError):
                    self.close()

    def follow_up(self) -> None:
        """Do nothing: all that there is has been told."""

    def idle(self) -> float | None:
        """Look whether anything has been written since."""
        if self._connection is None:
            return None
        with suppress(sqlite3.Error):  # whoever reads next is told
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            if version != self._version:
                self._version = version
                self._may_be_earlier = True
                self._on_change()
            if self._may_be_earlier and stopwatch() - self._looked_ahead > SCHEDULE_LOOK_SECONDS:
                self._may_be_earlier = False
                self._looked_ahead = stopwatch()
                self._look_ahead(self._connection)
        return LOOK_SECONDS

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _work_of(self, job: Job[object]) -> Callable[[sqlite3.Connection], object]:
        assert isinstance(job, Look)  # noqa: S101 - nothing else is handed in here
        return job.work

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = open_store(self._settings.path, self._settings.durability)
        return self._connection


def _but_records(jobs: Sequence[Job[object]], error: Exception) -> Sequence[Job[object]]:
    """Refuse records; give the other jobs."""
    for job in jobs:
        if isinstance(job, Append):
            job.error = _copy(error)
    return [job for job in jobs if not isinstance(job, Append)]


def _pack(jobs: Sequence[Job[object]], compression: Compression) -> None:
    for job in jobs:
        if isinstance(job, Append):
            job.records = [packed(record, compression) for record in job.records]


def _copy(error: Exception) -> Exception:
    """Copy an error that several tasks will raise: each adds its own traceback."""
    if not isinstance(error, StoreError):
        return error
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
