"""Events taken by iteration instead of by a handler."""

__all__ = ("Events",)

from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from anyio.lowlevel import checkpoint

from eventbus.context import Context
from eventbus.dispatch import give_up
from eventbus.message import Entry, delivery_of
from eventbus.subscription import Subscription

M_co = TypeVar("M_co", covariant=True)

TAKES_PER_CHECKPOINT = 128  # as publishes: a checkpoint costs as much as 30 of them


class _Contexts(Generic[M_co]):
    """Iterates over the deliveries of a subscription without handlers."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._queue = subscription.ready_queue()
        self._taken = 0

    def __aiter__(self) -> AsyncIterator[Context[M_co]]:
        return self

    async def __anext__(self) -> Context[M_co]:
        queue = self._queue
        while True:
            self._taken += 1
            if self._taken % TAKES_PER_CHECKPOINT == 0:
                await checkpoint()
            while not queue.items:
                if queue.is_closed:
                    raise StopAsyncIteration
                await queue.wait()
            lagged = self._subscription.take_lagged(queue)
            entry = queue.take_nowait()
            if self._subscription.has_expired(entry):
                self._subscription.counts.expired += 1
                continue
            self._subscription.counts.started += 1
            if await self._is_wanted(entry):
                return self._context(entry, lagged)

    def _context(self, entry: Entry, lagged: int) -> Context[M_co]:
        context: Context[M_co] = Context()
        context.entry = entry
        context.origin = self._subscription
        context.lagged = lagged
        context.outbox = None
        context.is_handled = True
        return context

    async def _is_wanted(self, entry: Entry) -> bool:
        where, counts = self._subscription.options.where, self._subscription.counts
        try:
            if where is None or where(entry.event):
                return True
        except Exception as error:  # noqa: BLE001 - a user's function
            counts.failed += 1
            await give_up(self._subscription, delivery_of(entry), error)
            return False
        counts.skipped += 1
        return False


class Events(Generic[M_co]):
    """The events of a subscription, one after the other, until the bus drains or closes.

    Several tasks may iterate: each event goes to one of them. Cancelled while waiting, none is
    lost.
    """

    def __init__(self, subscription: Subscription) -> None:
        self._contexts: _Contexts[M_co] = _Contexts(subscription)

    def __aiter__(self) -> AsyncIterator[M_co]:
        return self

    async def __anext__(self) -> M_co:
        return (await self._contexts.__anext__()).event

    def contexts(self) -> AsyncIterator[Context[M_co]]:
        """Iterate over the same deliveries with all that is known about them."""
        return self._contexts
