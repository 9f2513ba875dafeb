"""A durable subscription: its deliveries are claimed, and what becomes of each is written.

Claims come by page, and each record is claimed by one bus. What a dead process had comes back one
by one, each attempt written before it begins, and nothing else meanwhile: so it is known which of
them it died of. Successes are written together, and nobody waits for that: after a crash, at most a
batch of them is delivered again.
"""

__all__ = ("DurableSource",)

import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Self, TypeVar

from anyio import CancelScope

from eventbus.bus_logger import BusLogger
from eventbus.clock import Clock
from eventbus.context import FailedDelivery
from eventbus.errors import StoreError
from eventbus.message import Delivery, LaterDelivery, Message, note_stored
from eventbus.settling import Overtaken
from eventbus.transaction import Transaction
from eventbus.transports.base import (
    Ack,
    Commit,
    Dead,
    Outcome,
    Released,
    RetryLater,
    SourceSpec,
)
from eventbus.transports.sqlite import cursors, losses
from eventbus.transports.sqlite.beginning import Begin
from eventbus.transports.sqlite.clerks import Change, Look
from eventbus.transports.sqlite.damage import OnDamage
from eventbus.transports.sqlite.desk import Desk
from eventbus.transports.sqlite.effects import Effects, Places, Storing, carry_out
from eventbus.transports.sqlite.letters import bury, read_records, unsend
from eventbus.transports.sqlite.limits import KEEP_MORE
from eventbus.transports.sqlite.pulse import Pulse
from eventbus.transports.sqlite.records import message_of
from eventbus.transports.sqlite.scan import Scan
from eventbus.transports.sqlite.searching import look_for
from eventbus.transports.sqlite.sequence import Behind, hold_back, let_go
from eventbus.transports.sqlite.settlements import Ending, Settlements
from eventbus.wording import counted

R = TypeVar("R")

CURSOR_LAG = 4096
"""How many records that are not for it a subscription passes by before that is written down."""


class DurableSource:
    """Where one such subscription is, and what this bus has of it."""

    def __init__(
        self,
        spec: SourceSpec,
        session: int,
        writer: Desk,
        reader: Desk,
        clock: Clock,
        storing: Callable[[Sequence[Message]], Storing],
        on_damage: OnDamage,
        logger: BusLogger,
    ) -> None:
        self.spec = spec
        self._storing = storing
        self._on_damage = on_damage
        self._logger = logger
        self.number = 0
        self.began = 0
        self._session = session
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._scan = Scan(reader, spec, on_damage, logger)
        self._settlements = Settlements(writer, self._write, spec.name, logger)
        self._cursor = 0
        self._first_new: int | None = None
        self._held: dict[int, Delivery] = {}
        self._closing: dict[str, int] = {}  # lanes, and the endings that close them
        self._is_calm = Pulse()
        self._needs_calm = False
        self._is_unsure = False
        self._may_have_free = True
        # By the writer, so that it begins before what is published after this.
        self._begin = Change(self._establish)
        writer.submit(self._begin)

    async def __aenter__(self) -> Self:
        await self._go_on(self._begin)
        return self

    async def _go_on(self, begin: Change[cursors.Established | Begin]) -> None:
        """Go on from where it is, or begin where it is to start."""
        established = await self._writer.wait(begin)
        while isinstance(established, Begin):
            found = await look_for(self._reader, self.spec.start, self.spec.patterns, established)
            establish = partial(self._establish, found=found)
            established = await self._writer.ask(Change(establish))
        self.number, self._cursor, self.began, loss = established
        self._scan.go_to(self._cursor)
        self._tell(loss)

    def _establish(
        self, connection: sqlite3.Connection, found: Begin | None = None
    ) -> cursors.Established | Begin:
        spec = self.spec
        return cursors.establish(
            connection, spec.name, spec.patterns, spec.start, self._first_new, found
        )

    async def __aexit__(self, *_: object) -> None:
        """Give back what was not handed out, without waiting until that is written."""
        self._writer.submit(Change(self._release(list(self._held))))

    def _release(self, held: Sequence[int]) -> Callable[[sqlite3.Connection], None]:
        def release(connection: sqlite3.Connection) -> None:
            # Race: what ended just now is not held, and may be written after this.
            but = [*held, *self._settlements.unwritten()]
            cursors.release(connection, self.number, self._session, but=but)

        return release

    @property
    def reached(self) -> int | None:
        """The position up to which everything was fetched or passed by."""
        return self._scan.reached

    def expect(self, position: int) -> None:
        """Begin no later than here, if it has not begun: this was not published by the writer."""
        if self._first_new is None:
            self._first_new = position

    def wake(self) -> None:
        """Tell that something was written, here or elsewhere."""
        self._may_have_free = True
        self._scan.wake()

    def tick(self) -> None:
        """Look again at what could not be done a while ago."""
        self._settlements.flush()
        if self._may_have_free:
            self._scan.wake()

    async def close(self) -> None:
        """Write how the last deliveries ended."""
        await self._settlements.close()

    # --- fetching ---------------------------------------------------------------------------

    async def fetch(self, most: int) -> Sequence[Delivery]:
        """Wait for what is to be handled, and take it over; empty-handed when there is no more."""
        try:
            if self._is_unsure:
                await self._give_back_unheard()
            return await self._fetch(most)
        except StoreError:
            self._is_unsure = True
            raise

    async def _give_back_unheard(self) -> None:
        """Free what was claimed in a commit that failed, or seemed to."""
        await self._writer.ask(Change(self._release(list(self._held))))
        self._is_unsure = False
        self.wake()

    async def _fetch(self, most: int) -> Sequence[Delivery]:
        while True:
            while self._needs_calm and self._held:
                await self._is_calm.wait()
            await self._scan.wait()
            if recovered := await _to_its_end(self._recover(most)):
                self._scan.wake()
                return recovered
            if self._needs_calm:
                continue
            if not await self._scan.read_on():
                if self._may_have_free:  # it is not the end while some wait for their time
                    continue
                return []
            if claimed := await _to_its_end(self._claim(most)):
                return claimed

    async def _recover(self, most: int) -> Sequence[Delivery]:
        self._needs_calm = False
        if not self._may_have_free:
            return []
        if not await self._has_free():
            return []
        recover = partial(
            cursors.recover,
            subscription=self.number,
            session=self._session,
            now=self._micros(),
            most=most,
            is_calm=not self._held,
        )
        self._forget_closed()
        claimed, self._needs_calm = await self._writer.ask(Change(recover))
        if not claimed:
            return []
        positions = [one.position for one in claimed]
        read = partial(read_records, positions=positions, on_damage=self._on_damage)
        records = await self._reader.ask(Look(read))
        if lost := [position for position in positions if position not in records]:
            await self._give_up(lost)
        return self._hold_all(
            (one.position, message_of(records[one.position]), self._attempt(one))
            for one in claimed
            if one.position in records
        )

    async def _give_up(self, positions: Sequence[int]) -> None:
        """End deliveries whose records are gone, while some process had them, or are damaged."""
        give_up = partial(losses.give_up, subscription=self.number, positions=positions)
        await self._writer.ask(Change(give_up))
        loss = losses.Loss(self.number, len(positions), min(positions), max(positions))
        self._tell(loss, "of which the store has nothing any more that could be given")

    def _tell(
        self,
        loss: losses.Loss | None,
        why: str = f"which retention has removed: {KEEP_MORE}",
    ) -> None:
        """Tell what is lost, if anything is."""
        if loss is None:
            return
        self._logger.warning(
            "%s has lost %s of positions %d to %d, %s",
            self.spec.name,
            counted(loss.messages, "message"),
            loss.first,
            loss.last,
            why,
        )
        self.spec.note_lost(loss.messages)

    async def _has_free(self) -> bool:
        # Before it looks: what is freed meanwhile has to be looked for again.
        self._may_have_free = False
        has_free = True
        try:
            free = partial(cursors.has_free, subscription=self.number)
            has_free = await self._reader.ask(Look(free))
        finally:
            self._may_have_free = self._may_have_free or has_free
        return has_free

    def _attempt(self, claimed: cursors.Claimed) -> int:
        """Tell which attempt it is now; one too many, if the process died of the last one."""
        attempts = claimed.attempts
        if claimed.is_suspect and attempts and attempts + 1 >= self.spec.max_deliveries:
            # The very first attempt, when it was claimed by page, is not among those written.
            return self.spec.max_deliveries + 1
        return attempts + 1

    async def _claim(self, most: int) -> Sequence[Delivery]:
        messages = {one.position: message_of(one) for one in self._scan.ahead}
        if not messages and self._scan.seen - self._cursor < CURSOR_LAG:
            return []
        claim = partial(
            cursors.claim_new,
            subscription=self.number,
            session=self._session,
            entries=[(position, self.spec.order_of(one)) for position, one in messages.items()],
            seen=self._scan.seen,
            most=most,
            is_sequenced=self.spec.is_sequenced,
        )
        self._forget_closed()
        claimed = await self._writer.ask(Change(claim))
        if claimed is None:
            await self._begin_anew()
            return []
        self._cursor, ours, loss = claimed
        self._tell(loss)
        passed = self._scan.take_up_to(self._cursor)
        self._may_have_free = self._may_have_free or len(ours) < len(passed)
        places = [one.position for one in passed if one.position in ours]
        return self._hold_all((place, messages[place], 1) for place in places)

    async def _begin_anew(self) -> None:
        """Begin as a new subscription: it was forgotten while it runs here."""
        self._logger.warning(
            "%s was forgotten, by another process, and begins anew", self.spec.name
        )
        self._first_new = self._cursor + 1  # What has come since is not lost, and no replay.
        anew = Change(self._establish)
        self._writer.submit(anew)
        await self._go_on(anew)

    def _forget_closed(self) -> None:
        """Forget lanes that the store knows to be closed, before something is taken."""
        self._closing = {
            lane: ending
            for lane, ending in self._closing.items()
            if not self._settlements.has_written(ending)
        }

    def _hold_all(self, taken: Iterable[tuple[int, Message, int]]) -> Sequence[Delivery]:
        """Hold what was taken, but for what has to wait now.

        Race: a dead letter of its key was noted meanwhile, and is, or will be, written after it was
        taken. If it does not wait in the store by then, it is given back.
        """
        deliveries: list[Delivery] = []
        for position, message, attempt in taken:
            if self._closing and self.spec.order_of(message) in self._closing:
                self._settlements.add((position, attempt, Released(), None))
            else:
                deliveries.append(self._hold(position, message, attempt))
        return deliveries

    def _hold(self, position: int, message: Message, attempt: int) -> LaterDelivery:
        if position < 0 and (traits := message.head[2]) is not None:
            # A dead letter sent again goes whatever its time, and nobody waits for its reply.
            traits.expires_at = traits.reply_to = None
        delivery = LaterDelivery(message, message.event, attempt=attempt, token=position)
        self._held[position] = delivery
        return delivery

    # --- settling ---------------------------------------------------------------------------

    async def settle(self, outcomes: Sequence[tuple[Delivery, Outcome]]) -> None:
        """Note how deliveries ended; wait until it is written, but for ordinary successes."""
        must_wait = False
        for delivery, outcome in outcomes:
            if isinstance(outcome, Commit):
                await self._commit(delivery, outcome.transaction)
                continue
            self._note(delivery, outcome)
            can_wait = isinstance(outcome, Ack) and not outcome.is_urgent
            must_wait = must_wait or not can_wait or self._lets_go(delivery)
        if must_wait:
            await self._settlements.wait()

    def _note(self, delivery: Delivery, outcome: Outcome) -> None:
        position = delivery.token
        if position not in self._held:
            return
        assert isinstance(position, int)  # noqa: S101 - as it was handed out
        if not isinstance(outcome, RetryLater):
            del self._held[position]
            self._is_calm.beat()
        behind = self._let_wait(delivery, outcome) if self.spec.is_sequenced else None
        number = self._settlements.add((position, delivery.attempt, outcome, behind))
        if behind is not None:
            self._closing[behind.lane] = number

    def _let_wait(self, delivery: Delivery, outcome: Outcome) -> Behind | None:
        """Let go of what is to wait for a dead letter, if it has a key."""
        if not isinstance(outcome, Dead) or not outcome.keep:
            return None
        lane, order_of = self.spec.order_of(delivery.message), self.spec.order_of
        if lane is None:
            return None
        positions = [one for one, held in self._held.items() if order_of(held.message) == lane]
        for position in positions:
            del self._held[position]
        return Behind(lane, positions)

    def holds(self, delivery: Delivery) -> bool:
        """Tell whether a delivery is still to be begun, and not left to wait in the store."""
        return delivery.token in self._held

    def _lets_go(self, delivery: Delivery) -> bool:
        return self.spec.is_sequenced and self.is_waited_for(delivery)

    def is_waited_for(self, delivery: Delivery) -> bool:
        """Tell whether a delivery is a dead letter, sent again, that others may wait for."""
        return isinstance(delivery.token, int) and delivery.token < 0

    async def _commit(self, delivery: Delivery, transaction: Transaction) -> None:
        """Write an ending with all that belongs to it, and wait until that is done.

        Cancelled or not: its handler has succeeded.
        """
        position = delivery.token
        assert isinstance(position, int)  # noqa: S101 - as it was handed out
        messages = transaction.messages
        storing = self._storing(messages) if messages else None
        effects = Effects(self.number, self._session, position, transaction.statements, storing)
        places = await _to_its_end(self._writer.ask(self._committing(effects)))
        if isinstance(places, Exception) and not isinstance(places, Overtaken):
            raise places
        if self._held.pop(position, None) is not None:
            self._is_calm.beat()
        if isinstance(places, Exception):
            self._tell_of_lost(1)
            raise places
        for message, (place, is_duplicate) in zip(messages, places, strict=True):
            note_stored(message, place or None, is_duplicate=is_duplicate)

    def _committing(self, effects: Effects) -> Change[Places | Exception]:
        """Make the job that does it; in the loop, who else has to know is told in its order."""

        def tell() -> None:
            if effects.storing is not None and isinstance(job.result, Sequence):
                effects.storing.then(job.result)

        work = partial(carry_out, effects=effects)
        job = Change(work, tell, appends=effects.storing is not None)
        return job

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Do nothing: the session gives its sign of life for all it has."""

    def _write(self, connection: sqlite3.Connection, endings: Sequence[Ending]) -> None:
        """Write endings, in the writer's thread."""
        outcomes = cursors.Outcomes()
        for position, attempt, outcome, behind in endings:
            match outcome:
                case RetryLater(delay):
                    due = self._micros() + round(delay * 1e6)
                    outcomes.later.append((position, attempt, due))
                case Dead(failure, keep=True):
                    write = partial(self._bury, failure=failure, position=position, behind=behind)
                    outcomes.dead.append((position, write))
                case Released():
                    outcomes.released.append(position)
                case _:
                    outcomes.done.append(position)
        lost = cursors.settle(connection, self.number, self._session, outcomes)
        if sent := [position for position in outcomes.done if position < 0]:
            unsend(connection, sent)
        if lost:
            self._tell_of_lost(lost)

    def _bury(
        self,
        connection: sqlite3.Connection,
        failure: FailedDelivery,
        position: int,
        behind: Behind | None,
    ) -> None:
        lane, after = None if behind is None else behind.lane, failure.message.position
        is_kept = bury(connection, self._logger, failure, position, lane)
        if lane is not None and after is not None:
            hold_back(connection, self.number, self._session, lane=lane, after=after)
            if not is_kept:  # retention was faster, and there is nothing to wait for
                let_go(connection)

    def _tell_of_lost(self, deliveries: int) -> None:
        self._logger.warning(
            "%s: %s settled too late, as another process has taken over, or forgotten the "
            "subscription: did this one not answer for longer than ack_wait=%s?",
            self.spec.name,
            counted(deliveries, "delivery"),
            self.spec.ack_wait,
        )

    def _micros(self) -> int:
        return round(self._clock.now() * 1e6)


async def _to_its_end(taking: Awaitable[R]) -> R:
    """Let it end, cancelled or not: what is so by the store has to be known here."""
    with CancelScope(shield=True):
        return await taking
    raise AssertionError("unreachable")
