"""What is to become of dead letters: listed, sent again, forgotten."""

__all__ = ("Redriving",)

from collections.abc import Sequence

from anyio.lowlevel import checkpoint

from eventbus.context import FailedDelivery
from eventbus.errors import InvalidOption
from eventbus.registry import Registry
from eventbus.transports.exchange import Exchange
from eventbus.wording import did_you_mean


class Redriving:
    """What `EventBus` does about dead letters with."""

    _exchange: Exchange
    _registry: Registry

    def require_open(self) -> None:
        """Raise unless the bus works for this caller now."""
        raise NotImplementedError

    def require_here(self) -> None:
        """Raise where a running bus cannot be used from."""
        raise NotImplementedError

    async def dead_letters(
        self, subscription: str | None = None, *, limit: int = 100, before: str | None = None
    ) -> list[FailedDelivery]:
        """List dead letters, of one subscription or of all, newest first.

        `before=` an id gives those that failed before that one: the next page.

        Raises:
            InvalidOption: A limit below 1, an id that is not kept, or a subscription that neither
                is there nor left any.
        """
        await checkpoint()
        self.require_here()
        await self._refuse_unknown(subscription)
        return await self._exchange.list_dead_letters(subscription, limit=limit, before=before)

    async def redrive(
        self, subscription: str | None = None, *, ids: Sequence[str] | None = None
    ) -> int:
        """Send dead letters again, each to the subscription that failed alone, as attempt 1.

        Waits for room. What is refused again, or whose subscription is gone, stays a dead letter.
        Gives the number sent; cancelled, the rest stays.

        Raises:
            DeadlockError: As `publish`; the rest stays.
            InvalidOption: The subscription neither is there nor has dead letters.
            NotStarted, BusClosed: The bus is not running.
        """
        await checkpoint()
        self.require_open()
        await self._refuse_unknown(subscription)
        return await self._exchange.redrive(subscription, ids)

    async def purge_dead_letters(
        self, subscription: str | None = None, *, ids: Sequence[str] | None = None
    ) -> int:
        """Forget dead letters: these ids, those of a subscription, or all. Gives how many.

        Raises:
            DeadlockError: This task has a transaction open in which it published.
            InvalidOption: The subscription neither is there nor has dead letters.
        """
        await checkpoint()
        self.require_here()
        await self._refuse_unknown(subscription)
        return await self._exchange.purge_dead_letters(subscription, ids)

    async def _refuse_unknown(self, subscription: str | None) -> None:
        """Refuse a name that is misspelt; a transport that others share may know more of them."""
        known = self._registry.subscriptions
        if subscription is None or subscription in known or not self._exchange.capabilities.feeds:
            return
        if not await self._exchange.list_dead_letters(subscription, limit=1, before=None):
            raise InvalidOption(
                f"{subscription!r} is no subscription and has no dead letters: give the name of "
                f"one, as bus.stats().subscriptions has them{did_you_mean(subscription, known)}"
            )
