"""From a written message to the queues: through publish middleware, contract and route.

Everything but the quick way of `publish` comes through here: what waits until it is due, what is
handed to a transport that keeps it, what handlers have published through their context.
"""

__all__ = ("TURNS", "Sending", "require_matched")

from collections.abc import Iterable, Sequence

from eventbus.activity import Activity
from eventbus.bus_logger import BusLogger
from eventbus.clock import Clock
from eventbus.contracts import Contracts
from eventbus.errors import EventBusError, NoSubscribers, UnsupportedByTransport
from eventbus.message import Entry, Message, Receipt, Traits, note_matched
from eventbus.middleware.chain import (
    PublishMiddleware,
    check_publish_middleware,
    compose_publish,
)
from eventbus.routing import Routing
from eventbus.schedule import Later, Schedule, later_of
from eventbus.subscription import Counts
from eventbus.timers import Timers
from eventbus.transports.exchange import Exchange
from eventbus.transports.route import Route, require_room
from eventbus.waiters import Waiter, wait_for_places

TURNS = 128  # publishes from one checkpoint to the next


class Sending(Routing):
    """What `EventBus` sends messages with."""

    logger: BusLogger

    def __init__(
        self,
        exchange: Exchange,
        contracts: Contracts,
        clock: Clock,
        middleware: Iterable[PublishMiddleware],
        *,
        timers: Timers,
        schedule_size: int,
    ) -> None:
        super().__init__(exchange, contracts)
        self.unmatched: int = 0
        # `publish` counts down to its next checkpoint, and what it has counted is summed up then:
        # one number to look at, where a count and a checkpoint of their own were 28 ns more.
        self._turns = 0
        self._published_before = -TURNS
        self._lost = 0
        self._abandoned = 0
        self._now = clock.now
        self._schedule = Schedule(
            schedule_size, clock, timers, self.activity, self._send_due, self.logger
        )
        self._layers = check_publish_middleware(middleware)
        self._feeds = exchange.capabilities.feeds
        self._is_careful = bool(self._layers) or not self._feeds
        if self._is_careful:
            self._quick_routes = {}
        accept = self._accept if self._feeds else self._hand_over
        self._send = compose_publish(self._layers, accept)
        self._send_now = compose_publish(self._layers, self._accept_now)

    # --- one message ------------------------------------------------------------------------

    async def _accept(self, message: Message) -> Receipt:
        if (later := later_of(message)) is not None:
            self.require_open()
            return self._keep_for_later(message, later)
        route = await self._way_of(message.topic)
        _tell_expiry(route, message)
        await wait_for_places(route.feed(message))
        note_matched(message, route.matched)
        self._count(route, 1)
        return message

    async def _accept_now(self, message: Message) -> Receipt:
        if (later := later_of(message)) is not None:
            self.require_open()
            return self._keep_for_later(message, later)
        route = self._route(message.topic)
        route.check(message.payload)
        _tell_expiry(route, message)
        route.feed_all([message], may_wait=False)
        note_matched(message, route.matched)
        self._count(route, 1)
        return message

    async def _hand_over(self, message: Message) -> Receipt:
        """Give a message to a transport that keeps it, and feeds no queue itself."""
        route = await self._way_of(message.topic)
        self._require_acceptable(route, message)
        (receipt,) = await self._store([message])
        self._count_stored(route, message)
        return receipt

    def _require_acceptable(self, route: Route, message: Message) -> None:
        """Raise what makes a message refused, whatever room there is."""
        traits = message.head[2]
        if traits is not None and traits.scheduled is not None:
            self._require_delay(message.topic)
        elif traits is not None and traits.is_required and not route.matched:
            raise _nobody(message.topic)
        route.check(message.payload)

    def _require_delay(self, topic: object) -> None:
        if not self._exchange.capabilities.delay:
            raise UnsupportedByTransport(
                f"a publish to {topic!r} with delay= or at=: this transport keeps nothing for "
                "later; publish it when it is due"
            )

    async def _store(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        receipts = await self._exchange.publish(messages)
        for probe in self.probes:
            for message in messages:
                probe.on_published(message)
        return receipts

    def _check(self, topic: str, event: object) -> None:
        self._exchange.check(topic, event, self.contracts.schema_for(topic))

    # --- what a handler published -----------------------------------------------------------

    async def send_all(self, messages: Sequence[Message]) -> None:
        """Send what a handler published: none of it where it is known that some will be refused.

        What publish middleware refuses is not known, nor what a wait for room comes to.
        """
        ways = [(await self._way_of(message.topic), message) for message in messages]
        if len(ways) > 1:
            self._require_acceptance(ways)
        if len(ways) == 1 or self._layers:
            for message in messages:
                require_matched(await self._send(message), message.head[2])
        elif self._feeds:
            await self._feed_together(ways)
        else:
            await self._store(messages)
            for route, message in ways:
                self._count_stored(route, message)

    def _require_acceptance(self, ways: Sequence[tuple[Route, Message]]) -> None:
        """Raise what one of several messages would be refused with, before any goes out."""
        for route, message in ways:
            self._require_acceptable(route, message)
        now = [way for way in ways if later_of(way[1]) is None]
        require_room(now)
        self._schedule.require_room(len(ways) - len(now))

    async def _feed_together(self, ways: Sequence[tuple[Route, Message]]) -> None:
        """Put messages of several topics into the queues at one moment; then wait for the rest."""
        fed = [(route, self._feed_or_keep(route, message)) for route, message in ways]
        try:
            await wait_for_places([waiter for _, waiters in fed for waiter in waiters])
        except BaseException:
            fed = [(route, waiters) for route, waiters in fed if all(w.is_taken for w in waiters)]
            raise
        finally:
            for route, _ in fed:
                self._count(route, 1)

    def _feed_or_keep(self, route: Route, message: Message) -> Sequence[Waiter[Entry]]:
        if (later := later_of(message)) is not None:
            self._schedule.add(message, later)
            return ()
        _tell_expiry(route, message)
        note_matched(message, route.matched)
        return route.feed(message)

    # --- what is sent when nobody waits for it ----------------------------------------------

    def _keep_for_later(self, message: Message, later: Later) -> Receipt:
        self._check(self._name_of(message.topic), message.payload)
        self._schedule.add(message, later)
        self._turns -= 1
        return message

    def _send_due(self, message: Message) -> Sequence[Waiter[Entry]]:
        """Put a scheduled message into the queues; give what has to wait."""
        return self._feed_late(message.topic, [message])

    def _feed_late(self, topic: str, messages: Sequence[Message]) -> Sequence[Waiter[Entry]]:
        """Put messages into the queues whose publisher has gone; give what has to wait."""
        try:
            route = self._recent_route(topic) or self._look_up(topic)
            for message in messages:
                _tell_expiry(route, message)
            waiters = route.feed_late(messages)
        except EventBusError as error:  # one that no JSON can hold, or a contract stated since
            if len(messages) > 1:
                return [waiter for one in messages for waiter in self._feed_late(topic, [one])]
            self._lost += 1
            self.logger.error("%r is lost, as nobody is left to be told: %s", messages[0], error)
            return ()
        if not route.matched:
            self.unmatched += len(messages)
        return waiters

    # --- what has become of them ------------------------------------------------------------

    @property
    def accepted(self) -> int:
        """How many messages have been accepted."""
        return self._published_before + TURNS - self._turns

    @property
    def unrouted(self) -> Counts:
        """What became of accepted messages that never reached a subscription."""
        abandoned = self._abandoned + self._schedule.abandoned
        return Counts(lost=self._lost, abandoned=abandoned)

    @property
    def activity(self) -> Activity:
        """Where work is counted."""
        raise NotImplementedError

    def _count_stored(self, route: Route, message: Message) -> None:
        if later_of(message) is None:
            self._count(route, 1)
        else:  # who will want it is not known yet
            self._turns -= 1

    def _count(self, route: Route, messages: int) -> None:
        self._turns -= messages
        if not route.matched:
            self.unmatched += messages


def _tell_expiry(route: Route, message: Message) -> None:
    traits = message.head[2]
    if traits is not None and traits.expires_at is not None:
        route.expect_expiry()


def require_matched(receipt: Receipt, traits: Traits | None) -> None:
    """Raise if nobody has a message that somebody was to have.

    Raises:
        NoSubscribers: It says `require=True`, and nobody matched.
    """
    if traits is not None and traits.is_required and receipt.matched == 0:
        raise _nobody(receipt.topic)


def _nobody(topic: str) -> NoSubscribers:
    return NoSubscribers(
        f"no subscription matches {topic!r}: register one first, or publish without require=True"
    )
