"""Events taken by iteration instead of by a handler.

What a loop was given last is settled when it asks for the next, or when the block ends normally:
then what was published through its context is sent, and a verdict counts. Without one it is done.
Where it is durable, all that is not settled goes back to the transport when the block ends.
"""

__all__ = ("Desk", "Events")

from collections.abc import AsyncIterator, Sequence
from typing import Generic, TypeVar
from weakref import ReferenceType, ref

from anyio.lowlevel import checkpoint

from eventbus.attempts import delay_of_next, give_up, retry_later
from eventbus.carrying_out import carry_out
from eventbus.context import Context
from eventbus.message import Entry, delivery_of
from eventbus.subscription import Subscription
from eventbus.transports.base import Ack

M_co = TypeVar("M_co", covariant=True)

TAKES_PER_CHECKPOINT = 128  # as publishes: a checkpoint costs as much as 30 of them


class _Place(Generic[M_co]):
    """Where one loop is given its deliveries, one after the other."""

    def __init__(self, subscription: Subscription) -> None:
        self.taker: ReferenceType[object] | None = None
        self._subscription = subscription
        self._queue = subscription.ready_queue()
        self._takes = 0
        self._in_hand: Context[M_co] | None = None

    async def take(self) -> Context[M_co]:
        """Settle what was given last, and give the next."""
        queue = self._queue
        if self._in_hand is not None:
            await self.settle()
        while True:
            self._takes += 1
            if self._takes % TAKES_PER_CHECKPOINT == 0:
                await checkpoint()
            while not queue.items:
                if queue.is_finished:
                    raise StopAsyncIteration
                await queue.wait()
            lagged = self._subscription.take_lagged(queue)
            entry = queue.take_nowait()
            if self._subscription.has_expired(entry):
                self._subscription.counts.expired += 1
                await self._acknowledge(entry)
                continue
            self._subscription.counts.started += 1
            if await self._is_wanted(entry):
                return self._give(entry, lagged)

    async def settle(self) -> None:
        """Do what was said about the delivery given last; cancelled, it stays in hand."""
        if self._in_hand is None:
            return
        entry, asked = self._in_hand.entry, self._in_hand.asked
        try:
            if asked is not None:
                await carry_out(self._subscription, asked)
            await self._acknowledge(entry)
        except Exception as error:  # noqa: BLE001 - a verdict, or what was published cannot be sent
            self._lay_down()
            await self._fail(entry, error)
        else:
            self._lay_down()

    def release(self) -> Sequence[Entry]:
        """Lay down what is in hand, as given to nobody: the bus ended, or the block by an error.

        Gives it, and counts it as abandoned unless the transport has it still.
        """
        if self._in_hand is None:
            return ()
        entry = self._in_hand.entry
        self._lay_down()
        self._subscription.counts.cancelled += 1
        self._subscription.counts.abandoned += not self._subscription.is_durable
        return (entry,)

    def _give(self, entry: Entry, lagged: int) -> Context[M_co]:
        context: Context[M_co] = Context()
        context.entry = entry
        context.origin = self._subscription
        context.lagged = lagged
        context.asked = None
        context.is_handled = True
        self._in_hand = context
        self._subscription.taken += 1
        return context

    def _lay_down(self) -> None:
        self._in_hand = None
        self._subscription.taken -= 1

    async def _is_wanted(self, entry: Entry) -> bool:
        where = self._subscription.options.where
        try:
            if where is None or where(entry.event):
                return True
        except Exception as error:  # noqa: BLE001 - a user's function
            self._subscription.counts.failed += 1
            await give_up(self._subscription, delivery_of(entry), error)
            return False
        self._subscription.counts.skipped += 1
        await self._acknowledge(entry)
        return False

    async def _acknowledge(self, entry: Entry) -> None:
        if self._subscription.is_durable:
            await self._subscription.source.settle([(delivery_of(entry), Ack())])

    async def _fail(self, entry: Entry, error: Exception) -> None:
        subscription, delivery = self._subscription, delivery_of(entry)
        subscription.counts.failed += 1
        delay = delay_of_next(subscription, delivery, error)
        if delay is None:
            await give_up(subscription, delivery, error)
        else:
            await retry_later(subscription, delivery, delay, error)


class Desk(Generic[M_co]):
    """Where a subscription without handlers hands out its deliveries, to one loop or several."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._places: list[_Place[M_co]] = []

    def place_of(self, taker: object) -> _Place[M_co]:
        """Give a loop its place: that of one which has gone, so that what it left is settled."""
        place = next((one for one in self._places if _is_gone(one)), None)
        if place is None:
            place = _Place[M_co](self._subscription)
            self._places.append(place)
        place.taker = ref(taker)
        return place

    async def settle(self) -> None:
        """Settle what is in hand anywhere."""
        for place in self._places:
            await place.settle()

    def release(self) -> Sequence[Entry]:
        """Settle nothing more; give what is in hand anywhere."""
        return [entry for place in self._places for entry in place.release()]


def _is_gone(place: _Place[M_co]) -> bool:
    return place.taker is not None and place.taker() is None


class _Contexts(Generic[M_co]):
    """Iterates over the deliveries themselves."""

    def __init__(self, desk: Desk[M_co]) -> None:
        self._place = desk.place_of(self)

    def __aiter__(self) -> AsyncIterator[Context[M_co]]:
        return self

    async def __anext__(self) -> Context[M_co]:
        return await self._place.take()


class Events(Generic[M_co]):
    """The events of a subscription, one after the other, until the bus drains or closes.

    An event is done when the next is asked for, or when the block of `subscribe` ends normally.
    Several tasks may iterate, each in a loop of its own: each event goes to one of them. Cancelled
    while waiting, none is lost.
    """

    def __init__(self, desk: Desk[M_co]) -> None:
        self._desk = desk
        self._place = desk.place_of(self)

    def __aiter__(self) -> AsyncIterator[M_co]:
        """Begin a loop, with an event of its own in hand."""
        return Events(self._desk)

    async def __anext__(self) -> M_co:
        return (await self._place.take()).event

    def contexts(self) -> AsyncIterator[Context[M_co]]:
        """Iterate over the same deliveries with all that is known about them.

        `context.retry()` and `context.reject()` count as in a handler, once the next is asked for.
        """
        return _Contexts(self._desk)
