"""The transport `sqlite://`: an event log in one file, shared by processes of one machine."""

__all__ = ("SqliteTransport",)

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Self, TypeAlias, cast

from anyio import CancelScope, move_on_after

from eventbus._loop import Bell
from eventbus.bus_logger import BusLogger
from eventbus.clock import Clock
from eventbus.context import FailedDelivery
from eventbus.errors import StoreCorrupt, StoreError
from eventbus.message import Message, Receipt, ReplyTo, given_ids_of, note_stored, within_of
from eventbus.schedule import SCHEDULE_SIZE, later_of
from eventbus.transports.base import Capabilities, Place, SourceSpec
from eventbus.transports.figures import StoreFigures
from eventbus.transports.sqlite import cursors, letters, requests, scheduled, sessions
from eventbus.transports.sqlite.clerks import Append, Change, Look, Reader, Writer
from eventbus.transports.sqlite.damage import OnDamage, policy_of
from eventbus.transports.sqlite.departures import Departures
from eventbus.transports.sqlite.desk import Desk, Job
from eventbus.transports.sqlite.durable import DurableSource
from eventbus.transports.sqlite.effects import Places, Storing
from eventbus.transports.sqlite.expiry import Expiry
from eventbus.transports.sqlite.live import LiveSource
from eventbus.transports.sqlite.log import append
from eventbus.transports.sqlite.neighbours import Neighbours
from eventbus.transports.sqlite.outbox import Outbox
from eventbus.transports.sqlite.postbox import Postbox
from eventbus.transports.sqlite.reading import LogReading, begin_reading
from eventbus.transports.sqlite.records import Record, packed, record_of
from eventbus.transports.sqlite.schema import LOCK_SECONDS
from eventbus.transports.sqlite.settings import Settings
from eventbus.transports.sqlite.shrinking import rewrite_once, shrink
from eventbus.transports.sqlite.survey import survey

TICK_SECONDS = 0.25
CLOSE_SECONDS = 5.0
CANCEL_SECONDS = 5.0

Source: TypeAlias = DurableSource | LiveSource


class SqliteTransport:
    """Keeps every message in a log, where durable subscriptions find it again.

    While it is open it has two threads, one that writes and one that reads, and a session by which
    other processes know it.
    """

    capabilities = Capabilities(
        durable=True,
        replay=True,
        nowait=False,
        delay=True,
        groups=True,
        requests=True,
        dead_letters=True,
        sequences=True,
        transactions=True,
        cross_process=True,
    )

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self.clock = clock
        self.bus_logger = BusLogger()
        self._outbox = Outbox(settings.path)
        self.schedule_size = SCHEDULE_SIZE
        self.on_damage: OnDamage = policy_of(settings.damaged, self)
        self.on_departure: Callable[[], None] = lambda: None
        self.on_reply: Callable[[int, str], None] = lambda number, text: None
        self._postbox: Postbox | None = None
        self._sources: set[Source] = set()
        self._session = 0

    # --- life -------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the store, creating the file where there is none.

        Raises:
            StoreVersion: The file is no store, or one of a later version.
            StoreCorrupt: It is damaged, or misses records that were acknowledged.
            StoreError: It cannot be opened.
        """
        news = Bell(self._hear_news)
        self._departures = Departures(self.clock)
        reader = Reader(self._settings, news.ring, self._departures.look)
        self._writer = Desk("eventbus-sqlite-writer", self._new_writer())
        self._reader = Desk("eventbus-sqlite-reader", reader)
        self._expiry = Expiry(self._settings, self.clock, self._writer, self._reader, self._let_out)
        try:
            self._session = await self._writer.ask(Change(sessions.begin))
            self._neighbours = Neighbours(self._session, self.clock, self.bus_logger)
            self._postbox = Postbox(
                self._session,
                self._writer,
                self._reader,
                self.clock,
                self.on_reply,
                self.bus_logger,
            )
            await self._writer.ask(Change(self._neighbours.free_the_gone))
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Write what is left to be written, give back what is not done, and end both threads.

        Where that takes too long, the threads do so by themselves, once they can.
        """
        with move_on_after(CLOSE_SECONDS, shield=True) as patience:
            try:
                for source in self._sources:
                    await source.close()
            finally:
                self._end_session()
            await self._reader.close()
            await self._writer.close()
        if patience.cancelled_caught:
            self._reader.end()
            self._writer.end()
            self._tell_of_lock()
        self._sources.clear()
        self._session = 0

    async def serve(self) -> None:
        """Let out what is due, give signs of life, look after others', remove what is too old."""
        next_tick = 0.0
        while True:
            await self._departures.nap(min(TICK_SECONDS, next_tick - self.clock.monotonic()))
            try:
                await self._let_out()
                if self.clock.monotonic() >= next_tick:
                    next_tick = self.clock.monotonic() + TICK_SECONDS
                    await self._keep_house()
            except StoreCorrupt:
                raise
            except StoreError as error:  # a full disk, say: it may be better in a moment
                self.bus_logger.error("the store cannot be looked after: %s", error)

    def _end_session(self) -> None:
        if self._session:
            self._open_postbox.close()
            self._writer.submit(Change(partial(sessions.end, session=self._session)))

    def _tell_of_lock(self) -> None:
        cause = (
            "a transaction is open in which this program has published with connection=: commit "
            "it, or roll it back, before the block of the bus is left"
            if self._outbox.is_open
            else "it is locked, most likely, by a transaction of another program, or of a "
            "connection of this one: end that first"
        )
        self.bus_logger.error(
            "the store did not close within %g s, and its thread waits for %g s at most: %s",
            CLOSE_SECONDS,
            LOCK_SECONDS,
            cause,
        )

    def _new_writer(self) -> Writer:
        return Writer(self._settings, self.bus_logger)

    async def _keep_house(self) -> None:
        for source in tuple(self._sources):
            source.tick()
        self._outbox.forget_ended()
        self._open_postbox.tick()
        waits = {
            source.number: source.spec.ack_wait
            for source in self._sources
            if isinstance(source, DurableSource) and source.number
        }
        await self._neighbours.greet(self._writer, self._reader, waits)
        await self._expiry.go_on()

    # --- publishing -------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Append messages to the log, together, or keep those that are for later.

        Returns when they are synced. Cancelled before the writer takes them, none is stored; after
        that all are, and then the cancellation goes on.

        Raises:
            InvalidEvent: A payload cannot be JSON; nothing was stored.
            QueueFull: More than `schedule_size` would be kept for later; nothing was stored.
            StoreError: The store failed; they may be stored.
            DeadlockError: This task has a transaction open in which it published before.
        """
        given = given_ids_of(messages)
        records = [record_of(one) for one in messages]
        self._open_postbox.expect(messages)
        places: Places
        within = within_of(messages)
        if within is not None:
            places = await self._outbox.append(
                within.connection, self._packed(records), given, self._expect
            )
        else:
            self._outbox.refuse_to_wait()
            places = await self._writer.ask(self._storing(messages, records, given))
        for message, (position, is_duplicate) in zip(messages, places, strict=True):
            note_stored(message, position or None, is_duplicate=is_duplicate)
        return messages

    def _packed(self, records: Sequence[Record]) -> Sequence[Record]:
        """Pack what goes past the writer, which packs all else in its thread."""
        compression = self._settings.compression
        return records if compression is None else [packed(one, compression) for one in records]

    def check_connection(self, connection: object) -> None:
        """Refuse a connection in whose transaction nothing can be published.

        Raises:
            InvalidOption: It is none to this store, cannot be used here, or has no transaction.
        """
        self._outbox.check(connection)

    # --- requests ---------------------------------------------------------------------------

    @property
    def _open_postbox(self) -> Postbox:
        assert self._postbox is not None  # noqa: S101 - it was entered
        return self._postbox

    @property
    def inbox(self) -> str:
        """The address of this bus while it is open."""
        return "" if self._postbox is None else self._postbox.address

    def announce(self, name: str, patterns: Sequence[str], *, is_shared: bool) -> None:
        """Let others know that a subscription answers requests."""
        self._open_postbox.announce(name, patterns, is_shared=is_shared)

    def withdraw(self, name: str) -> None:
        """Let others know that it answers none any more."""
        self._open_postbox.withdraw(name)

    async def responders(self, topic: str) -> Collection[str]:
        """Name who answers requests to a topic in other buses; a process that died is none."""
        look = partial(requests.elsewhere, session=self._session, topic=topic)
        return await self._reader.ask(Look(look))

    def reply(self, reply_to: ReplyTo, text: str) -> None:
        """Send a reply to another bus, with whatever else is written next."""
        self._open_postbox.send(reply_to, text)

    # --- for later --------------------------------------------------------------------------

    def _storing(
        self, messages: Sequence[Message], records: Sequence[Record], given_ids: Sequence[str]
    ) -> Job[Places]:
        """Make the job that keeps what is for later, and appends the rest."""
        if not any(map(later_of, messages)):
            return Append(records, given_ids, self._wake_all)
        storing = self._storing_later(messages, records, given_ids)
        job: Change[Places] = Change(
            storing.write, lambda: storing.then(job.result or ()), appends=True
        )
        return job

    def _storing_later(
        self, messages: Sequence[Message], records: Sequence[Record], given_ids: Sequence[str]
    ) -> Storing:
        marked = [
            (record, later_of(one) is not None)
            for record, one in zip(self._packed(records), messages, strict=True)
        ]
        return Storing(
            lambda one: scheduled.accept(one, marked, given_ids, self.schedule_size),
            partial(self._note_kept, marked),
        )

    def _storing_beside(self, messages: Sequence[Message]) -> Storing:
        """Tell how messages are stored in one commit with something else."""
        given_ids = given_ids_of(messages)
        records = [record_of(one) for one in messages]
        if any(map(later_of, messages)):
            return self._storing_later(messages, records, given_ids)
        batch = self._packed(records)
        return Storing(lambda one: append(one, [batch], given_ids)[0], lambda _: self._wake_all())

    def _note_kept(self, marked: Sequence[tuple[Record, bool]], places: Places) -> None:
        for (record, is_later), (_, is_duplicate) in zip(marked, places, strict=False):
            if is_later and not is_duplicate:
                self._departures.expect(record.time, is_own=True)
        self._wake_all()

    async def _let_out(self) -> None:
        """Let those join the log that are due, if there are any."""
        if not self._departures.is_due:
            return
        self._departures.begin()
        depart = partial(
            scheduled.depart,
            tell_time=lambda: self._departures.now,
            on_damage=self.on_damage,
        )
        job: Change[int] = Change(depart, lambda: self._note_departure(job), appends=True)
        await self._writer.ask(job)

    def _note_departure(self, job: Change[int]) -> None:
        # Here, in the order of the writer's answers: a later one may know of an earlier departure.
        again = self._departures.now + round(TICK_SECONDS * 1e6)
        self._departures.end(again if job.result is None else job.result)
        self._wake_all()
        self.on_departure()

    @property
    def has_awaited(self) -> bool:
        """Whether what was published for later since it was entered is yet to go out."""
        return bool(self._session) and self._departures.has_awaited

    def cancel(self, id: str) -> bool:
        """Keep a message from going out; also while the store is closed.

        Raises:
            StoreError: The store failed, or did not answer in time.
            DeadlockError: As `publish`.
        """
        self._outbox.refuse_to_wait()
        cancel = partial(scheduled.cancel, id=id)
        if self._session:
            job = Change(cancel, self._departures.look_again)
            return self._writer.ask_standing_still(job, CANCEL_SECONDS)
        job, writer = Change(cancel), self._new_writer()
        writer.serve([cast("Job[object]", job)])
        writer.close()
        return job.outcome()

    # --- subscriptions ----------------------------------------------------------------------

    def open(self, spec: SourceSpec) -> Source:
        """Give a subscription its source."""
        source: Source
        if spec.is_durable:
            source = DurableSource(
                spec,
                self._session,
                self._writer,
                self._reader,
                self.clock,
                self._storing_beside,
                self.on_damage,
                self.bus_logger,
            )
        else:
            source = LiveSource(spec, self._writer, self._reader, self.on_damage, self.bus_logger)
        self._sources.add(source)
        return source

    async def forget(self, name: str) -> bool:
        """Forget a durable subscription; False if there is none of that name.

        Raises:
            DeadlockError: As `publish`.
        """
        self._outbox.refuse_to_wait()
        return await self._writer.ask(Change(partial(cursors.forget, name=name)))

    async def read(
        self,
        patterns: Sequence[str],
        since: Place | None,
        until: Place | None,
        *,
        last_per_key: bool = False,
    ) -> LogReading:
        """Begin to read once more what is stored now; nothing is noted of it.

        Raises:
            InvalidOption: `since` lies ahead of what is stored.
            PositionGone: Retention has removed the position where it is to begin, or to end.
            StoreError: The store cannot be read.
        """
        return await begin_reading(
            self._reader,
            patterns,
            since,
            until,
            last_per_key=last_per_key,
            on_damage=self.on_damage,
        )

    def _expect(self, position: int) -> None:
        for source in self._sources:
            source.expect(position)

    def _hear_news(self) -> None:
        self._wake_all()
        self._open_postbox.hear()

    def _wake_all(self) -> None:
        for source in self._sources:
            source.wake()

    # --- dead letters -----------------------------------------------------------------------

    async def dead_letters(
        self, subscription: str | None, *, limit: int, before: str | None
    ) -> list[FailedDelivery]:
        """List what is kept, newest first; also while the store is closed.

        Raises:
            InvalidOption: A limit below 1, or an id that is not kept.
        """
        newest = partial(
            letters.newest,
            subscription=subscription,
            limit=limit,
            before=before,
            on_damage=self.on_damage,
        )
        if self._session:
            return await self._reader.ask(Look(newest))
        async with self._at_desk() as desk:
            return await desk.ask(Change(newest))

    async def redrive(self, subscription: str | None, ids: Sequence[str] | None) -> int:
        """Deliver dead letters again, to the subscriptions that failed; give how many.

        Raises:
            DeadlockError: As `publish`.
        """
        self._outbox.refuse_to_wait()
        send = partial(letters.send_again, subscription=subscription, ids=ids)
        return await self._writer.ask(Change(send, self._wake_all))

    async def purge(self, subscription: str | None, ids: Sequence[str] | None) -> int:
        """Forget dead letters; give how many; also while the store is closed.

        Raises:
            DeadlockError: As `publish`.
        """
        self._outbox.refuse_to_wait()
        purge = partial(letters.purge, subscription=subscription, ids=ids)
        async with self._at_desk() as desk:
            return await desk.ask(Change(purge))

    @asynccontextmanager
    async def _at_desk(self) -> AsyncGenerator[Desk]:
        """Give the writer, made for this once where the store is closed."""
        if self._session:
            yield self._writer
            return
        desk = Desk("eventbus-sqlite-writer", self._new_writer())
        try:
            yield desk
        finally:
            with CancelScope(shield=True):
                await desk.close()

    # --- upkeep -----------------------------------------------------------------------------

    async def remove_now(self, tell: Callable[[int], None]) -> None:
        """Remove all that is beyond the limits; `tell` is called with how many were looked at."""
        await self._expiry.finish(tell)

    async def shrink(self) -> int:
        """Give some room back to the disk; give how many pages there are left to give back."""
        await self._reader.ask(Look(rewrite_once))
        return await self._writer.ask(Change(shrink))

    # --- figures ----------------------------------------------------------------------------

    async def figures(self) -> StoreFigures:
        """Read what the store holds, and how far its durable subscriptions are."""
        return await self._reader.ask(Look(partial(survey, now=self.clock.now())))
