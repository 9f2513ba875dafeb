"""A store that is only looked at: nothing in it is changed, and who writes it is not waited for.

Who may write it reads beside those who do. Who may not, as a copy, say, or that of another user,
does so where files of SQLite stand beside it: somebody has it open, or died with it. Where none do,
nobody has it open, and it is read without a lock. Whoever opens and changes it meanwhile is noticed
by the file's time: what was read by then is given up.
"""

__all__ = ("StoreView", "may_write")

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn, Self, TypeAlias

from anyio import CancelScope

from eventbus._loop import Bell
from eventbus.bus_logger import BusLogger
from eventbus.clock import Clock
from eventbus.context import FailedDelivery
from eventbus.errors import StoreError, StoreVersion
from eventbus.message import Message, Receipt
from eventbus.transports.base import Capabilities, Place, SourceSpec
from eventbus.transports.figures import StoreFigures
from eventbus.transports.sqlite import letters
from eventbus.transports.sqlite.clerks import LOOK_SECONDS, Change, Look
from eventbus.transports.sqlite.damage import OnDamage, policy_of
from eventbus.transports.sqlite.desk import Begin, Desk, Job, begin_at_once
from eventbus.transports.sqlite.edge import translated
from eventbus.transports.sqlite.live import LiveSource
from eventbus.transports.sqlite.log import first_and_last
from eventbus.transports.sqlite.mark import Mark
from eventbus.transports.sqlite.reading import LogReading, begin_reading
from eventbus.transports.sqlite.schema import (
    LOCK_SECONDS,
    VERSION,
    connect_to,
    open_store,
    set_up,
    version_of,
)
from eventbus.transports.sqlite.settings import Settings
from eventbus.transports.sqlite.survey import survey

_Stamp: TypeAlias = tuple[int, int, int]


def may_write(store: Path) -> bool:
    """Tell whether this process may change a store and, as that takes, make files beside it."""
    return os.access(store, os.W_OK) and os.access(store.absolute().parent, os.W_OK | os.X_OK)


class StoreView:
    """Reads a store as `SqliteTransport` does, and changes nothing in it.

    Unless `is_beside` those who write, nothing is changed beside it either. With it, an older store
    is led to this version first.
    """

    capabilities = Capabilities(replay=True, dead_letters=True)

    def __init__(self, settings: Settings, clock: Clock, *, is_beside: bool = False) -> None:
        self._settings = settings
        self._path = settings.path
        self._clock = clock
        self._is_beside = is_beside
        self._sources: set[LiveSource] = set()
        self.bus_logger = BusLogger()
        self.on_damage: OnDamage = policy_of(settings.damaged, self)

    async def __aenter__(self) -> Self:
        """Open the store.

        Raises:
            StoreVersion: It is none, or one of another version.
            StoreCorrupt: It is damaged, or misses records that were acknowledged.
            StoreError: It cannot be read.
        """
        news = Bell(self._wake_all)
        connect = partial(_connect_beside, self._settings) if self._is_beside else None
        self._desk = Desk("eventbus-sqlite-reader", _Looker(self._path, connect, news.ring))
        try:
            await self._desk.ask(Look(self._check))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        with CancelScope(shield=True):
            await self._desk.close()

    async def serve(self) -> None:
        """Do nothing: it is only looked at."""

    def _check(self, connection: sqlite3.Connection) -> None:
        version = version_of(connection, self._path)
        if version < VERSION:
            raise StoreVersion(
                f"{self._path} is a store of version {version}, which is read once it has been led "
                f"to version {VERSION}: copy it to where you may write, and look there"
            )
        with suppress(FileNotFoundError):
            mark = Mark(self._path, os.O_RDONLY)
            try:
                mark.check(lambda: first_and_last(connection)[1])
            finally:
                mark.close()

    # --- reading ----------------------------------------------------------------------------

    def open(self, spec: SourceSpec) -> LiveSource:
        """Give what reads along the log, as far as it goes now."""
        source = LiveSource(spec, self._desk, self._desk, self.on_damage, self.bus_logger)
        self._sources.add(source)
        return source

    def _wake_all(self) -> None:
        for source in self._sources:
            source.wake()

    async def read(
        self,
        patterns: Sequence[str],
        since: Place | None,
        until: Place | None,
        *,
        last_per_key: bool = False,
    ) -> LogReading:
        """Begin to read what is stored now, as `SqliteTransport.read`."""
        return await begin_reading(
            self._desk,
            patterns,
            since,
            until,
            last_per_key=last_per_key,
            on_damage=self.on_damage,
        )

    async def dead_letters(
        self, subscription: str | None, *, limit: int, before: str | None
    ) -> list[FailedDelivery]:
        """List what is kept, as `SqliteTransport.dead_letters`."""
        newest = partial(
            letters.newest,
            subscription=subscription,
            limit=limit,
            before=before,
            on_damage=self.on_damage,
        )
        return await self._desk.ask(Look(newest))

    async def figures(self) -> StoreFigures:
        """Read what the store holds; who looks counts as a bus."""
        figures = await self._desk.ask(Look(partial(survey, now=self._clock.now())))
        return replace(figures, buses=figures.buses + 1)

    # --- changing ---------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Refuse."""
        self._refuse()

    async def redrive(self, subscription: str | None, ids: Sequence[str] | None) -> int:
        """Refuse."""
        self._refuse()

    async def purge(self, subscription: str | None, ids: Sequence[str] | None) -> int:
        """Refuse."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise StoreError(f"{self._path} is only looked at: see that this process may write it")


class _Looker:
    """Reads, in its thread."""

    def __init__(
        self,
        store: Path,
        connect: Callable[[], sqlite3.Connection] | None,
        on_change: Callable[[], None],
    ) -> None:
        self._path = store
        self._connect = connect or self._connect_as_it_is
        self._on_change = on_change
        self._connection: sqlite3.Connection | None = None
        self._alone: _Stamp | None = None
        self._version = 0

    def serve(self, jobs: Sequence[Job[object]], begin: Begin = begin_at_once) -> None:
        """Do jobs one by one; what was read of a file that was changed meanwhile is an error."""
        begin()
        for job in jobs:
            assert isinstance(job, Look | Change)  # noqa: S101 - nothing else is handed in here
            try:
                with translated(self._path):
                    job.result = job.work(self._connected())
            except Exception as error:  # noqa: BLE001 - raised by who waits for the job
                job.error = error
            if self._alone is not None and self._alone != _stamp_of(self._path):
                self.close()
                job.error = StoreError(
                    f"{self._path} was changed, by who may write it, while it was read: look again"
                )

    def follow_up(self) -> None:
        """Do nothing: all that there is has been told."""

    def idle(self) -> float | None:
        """Look whether anything has been written since."""
        if self._connection is None:
            return None
        if self._alone is not None and self._alone != _stamp_of(self._path):
            self.close()  # before anything is read that is to be given up
            self._on_change()
            return None
        with suppress(sqlite3.Error):  # whoever reads next is told
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            if version != self._version:
                self._version = version
                self._on_change()
        return LOOK_SECONDS

    def close(self) -> None:
        """Close the connection."""
        self._alone = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect_as_it_is(self) -> sqlite3.Connection:
        stamp = _stamp_of(self._path)  # Race: before it is seen that nobody has it open
        is_alone = _is_left_alone(self._path)
        word = "immutable" if is_alone else "readonly_shm"
        connection = connect_to(self._path, f"mode=ro&{word}=1", timeout=LOCK_SECONDS)
        self._alone = stamp if is_alone else None
        return connection


def _connect_beside(settings: Settings) -> sqlite3.Connection:
    """Connect as who may write does, so that SQLite finds or makes its files, and never write."""
    set_up(settings.path, settings.durability)
    connection = open_store(settings.path, settings.durability)
    connection.execute("PRAGMA query_only=1")
    return connection


def _is_left_alone(store: Path) -> bool:
    """Tell whether nobody has a store open, nor left something of it in another file.

    Raises:
        StoreError: Somebody did, and without the file by which SQLite finds its way there.
    """
    log, index = (store.with_name(store.name + end) for end in ("-wal", "-shm"))
    if index.exists():
        return False
    if log.exists() and log.stat().st_size:
        raise StoreError(
            f"{store} is not all there is: {log.name} beside it is to be read, too, which takes a "
            "file that cannot be made there; copy both to where you may write, and look there"
        )
    return True


def _stamp_of(store: Path) -> _Stamp | None:
    """Tell by what is seen whether a file was changed."""
    try:
        found = store.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
