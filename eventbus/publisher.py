"""The publishing half of the bus: from `publish` to the queues.

A message passes its contract and its route. Both are looked up together: the route of a topic knows
the contract that governs it, and is kept while nobody subscribes, unsubscribes or states another
contract. Starting and stopping empty the cache too, so that asking whether the bus is running costs
a publish nothing.
"""

__all__ = ("TURNS", "Publishing")

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, overload

from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from pydantic import BaseModel
from typing_extensions import Unpack

from eventbus.activity import Activity
from eventbus.bus_logger import BusLogger
from eventbus.cache import BoundedCache
from eventbus.clock import Clock
from eventbus.context import Payload
from eventbus.contracts import Contracts, RequestTopic, Topic
from eventbus.correlation import cause_here, is_correlated
from eventbus.errors import (
    BusClosed,
    EventBusError,
    InvalidEvent,
    InvalidOption,
    InvalidTopic,
    NoSubscribers,
    UnsupportedByTransport,
)
from eventbus.message import (
    Delivery,
    Entry,
    Message,
    Receipt,
    Traits,
    Within,
    join,
    note_matched,
    within_of,
    write_message,
)
from eventbus.middleware.chain import (
    PublishMiddleware,
    check_publish_middleware,
    compose_publish,
    run_without_waiting,
)
from eventbus.probe import Probe
from eventbus.publishing import PublishOptions, caused_by, traits_of
from eventbus.schedule import Later, Schedule, later_of
from eventbus.subscription import Counts
from eventbus.timers import Timers
from eventbus.topics import check_topic, is_reserved
from eventbus.transports.exchange import Exchange
from eventbus.transports.probed import ProbedRoute
from eventbus.transports.route import Route, require_room
from eventbus.waiters import Waiter, wait_for_places

if TYPE_CHECKING:  # who needs no store, loads no SQLite
    from sqlite3 import Connection

M = TypeVar("M")


ROUTES_KEPT = 8192
QUEUES_KEPT = 1_000_000  # in all routes together: 100,000 subscriptions to `>` are one route each
TURNS = 128  # publishes from one checkpoint to the next


class Routes(Protocol):
    """Where a route is looked up by its topic."""

    def __getitem__(self, topic: Topic[Any] | str, /) -> Route:
        """Give the route.

        Raises:
            KeyError: There is none.
        """
        ...


class _QuickOutsideHandlers:
    """The routes, but none where a message may have to be noted as what this one came from."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    def __getitem__(self, topic: Topic[Any] | str, /) -> Route:
        if is_correlated():
            raise KeyError(topic)
        return self._routes[topic]


class Publishing:
    """What `EventBus` publishes with."""

    logger: BusLogger

    def __init__(
        self,
        transport: Exchange,
        contracts: Contracts,
        clock: Clock,
        middleware: Iterable[PublishMiddleware],
        *,
        timers: Timers,
        schedule_size: int,
    ) -> None:
        self.contracts = contracts
        self.probes: tuple[Probe, ...] = ()
        self.unmatched = 0
        # `publish` counts down to its next checkpoint, and what it has counted is summed up then:
        # one number to look at, where a count and a checkpoint of their own were 28 ns more.
        self._turns = 0
        self._published_before = -TURNS
        self._lost = 0
        self._abandoned = 0
        self._transport = transport
        self._now = clock.now
        self._routes: BoundedCache[Topic[Any] | str, Route] = BoundedCache(ROUTES_KEPT)
        self._queues_kept = 0
        self._schedule = Schedule(
            schedule_size, clock, timers, self.activity, self._send_due, self.logger
        )
        self._layers = check_publish_middleware(middleware)
        self._feeds = transport.capabilities.feeds
        self._is_careful = bool(self._layers) or not self._feeds
        accept = self._accept if self._feeds else self._hand_over
        self._send = compose_publish(self._layers, accept)
        self._send_now = compose_publish(self._layers, self._accept_now)
        self._is_correlating = False
        # Where `publish` finds what needs nothing but its route.
        self._quick_routes: Routes = {} if self._is_careful else self._routes.young

    @overload
    async def publish(
        self, topic: Topic[M], event: M, /, **options: Unpack[PublishOptions]
    ) -> Receipt: ...
    @overload
    async def publish(
        self, topic: str, event: Payload, /, **options: Unpack[PublishOptions]
    ) -> Receipt: ...
    async def publish(  # noqa: C901 - one function, as each call in it would cost 0.1 F
        self, topic: Topic[Any] | str, event: object, /, **options: Unpack[PublishOptions]
    ) -> Receipt:
        """Publish an event; returns when every matching subscription has it in its queue.

        Where a queue is full and its policy is `block`, waits for room, first come first served.
        Cancelled while it waits, the event may have reached some subscriptions, and none twice.
        That nobody matches is no error. A checkpoint when it waits, and at least every 128 calls.

        With `delay=` or `at=` it returns once the event is checked and kept; who subscribes when it
        is due gets it, unless the receipt's `cancel` was called.

        With `connection=` it returns once the event is written in the open transaction of that
        connection: delivered when the transaction commits, gone with its `position` when it does
        not, and as durable as the connection's own `PRAGMA synchronous` makes it.

        Example:
            >>> receipt = await bus.publish(ORDER_CREATED, OrderCreated(order_id="o-1"), key="o-1")

        Raises:
            InvalidTopic: No topic, or one of the bus's own.
            InvalidEvent: Not what the topic's contract says; nothing was delivered.
            InvalidOption: An unknown option, or a key, header, id or time that cannot be used.
            UnknownTopic: The contracts of the bus do not name it.
            QueueFull: A subscription with `overflow="fail"` has no room, and nothing was delivered;
                or `schedule_size` messages are scheduled already.
            NoSubscribers: `require=True`, and nobody matches.
            UnsupportedByTransport: The transport cannot do what an option asks.
            StoreError: The transport's store failed; the event may be stored.
            DeadlockError: In a handler: only it, or handlers that wait so, could make room. Or this
                task has a transaction open, by `connection=`, that the event would wait for.
            NotStarted, BusClosed: The bus is not running, or draining.
        """
        if self._turns <= 0:
            await self._give_way()  # each time would cost 30 publishes, every 64th 0.1 F more
        if options:
            return await self._publish_with(topic, event, options)
        try:
            route = self._quick_routes[topic]
        except (KeyError, TypeError):  # a new topic, or one of a bus with middleware; or no topic
            route = None
        if route is None:
            if self._is_careful or self._cause() is not None:
                return await self._publish_with(topic, event, options)
            route = await self._find_route(topic)
        message = Message()
        message.head = route.head
        message.seconds = self._now()
        message.event = event
        entry: Entry = message
        waiters: list[Waiter[Entry]] | None = None
        try:
            validate, queues = route.ways[type(event)]
            if validate is not None:
                made = validate(event)
                entry = Delivery()  # inlined `converted`: a call is a tenth of the validation
                entry.message = message
                entry.event = made
        except Exception:  # noqa: BLE001 - no short way, or a model refuses: `feed` settles either
            queues = None
        if queues is None:
            waiters = await self._feed(route, message)
        else:
            for queue in queues:
                if len(queue.items) < queue.limit:
                    queue.items.append(entry)
                elif (waiter := queue.offer(entry)) is not None:
                    waiters = waiters or []
                    waiters.append(waiter)
        if waiters:
            await wait_for_places(waiters)
        self._turns -= 1
        return message

    @overload
    def publish_nowait(
        self, topic: Topic[M], event: M, /, **options: Unpack[PublishOptions]
    ) -> Receipt: ...
    @overload
    def publish_nowait(
        self, topic: str, event: Payload, /, **options: Unpack[PublishOptions]
    ) -> Receipt: ...
    def publish_nowait(
        self, topic: Topic[Any] | str, event: object, /, **options: Unpack[PublishOptions]
    ) -> Receipt:
        """Publish without waiting.

        Raises:
            QueueFull: A queue that `publish` would wait for, or that refuses, has no room, and
                nothing was delivered; or `schedule_size` messages are scheduled already.
            InvalidOption: As `publish`; also when a publish middleware wants to wait.
            UnsupportedByTransport: The transport waits until a message is stored.
            InvalidTopic, InvalidEvent, UnknownTopic, NoSubscribers, NotStarted, BusClosed: As
                `publish`.
        """
        if not self._transport.capabilities.nowait:
            raise UnsupportedByTransport(
                f"publish_nowait to {topic!r}: this transport waits until a message is stored; "
                "use `await publish`"
            )
        message = self._write(topic, event, options)
        receipt = run_without_waiting(self._send_now(message), self._layers)
        _require(receipt, message.head[2])
        return receipt

    @overload
    async def publish_many(
        self, topic: Topic[M], events: Iterable[M], /, *, connection: "Connection | None" = None
    ) -> list[Receipt]: ...
    @overload
    async def publish_many(
        self, topic: str, events: Iterable[Payload], /, *, connection: "Connection | None" = None
    ) -> list[Receipt]: ...
    async def publish_many(
        self,
        topic: Topic[Any] | str,
        events: Iterable[object],
        /,
        *,
        connection: "Connection | None" = None,
    ) -> list[Receipt]:
        """Publish events to one topic, in their order; all are checked before any is enqueued.

        Waits as `publish`, and like it may leave some behind when it is cancelled meanwhile. Can
        always be cancelled before anything goes out, and gives way at least every 128 messages.
        `connection=` is that of `publish`.

        Raises:
            InvalidEvent: One of them is not what the topic's contract says; none was delivered.
            QueueFull: A subscription with `overflow="fail"` has no room for all; none was
                delivered.
            InvalidTopic, InvalidOption, UnknownTopic, UnsupportedByTransport, DeadlockError,
                NotStarted, BusClosed: As `publish`.
        """
        # To give way for each batch of 100 would be 0.12 F for each message.
        await (checkpoint_if_cancelled() if self._turns > 0 else self._give_way())
        route = self._recent_route(topic) or await self._find_route(topic)
        _refuse_no_list(events)
        if connection is not None:
            return await self._publish_many_within(route, events, connection)
        head, seconds = route.head, self._now()
        messages: list[Message] = []
        for event in events:  # inlined `write_message`: the call would be a third of its cost
            message = Message()
            message.head = head
            message.seconds = seconds
            message.event = event
            messages.append(message)
        if route.contract is not None:
            for message in messages:
                route.check(message.payload)
        if (cause := self._cause()) is not None:
            for message in messages:
                message.head = (*message.head[:2], caused_by(cause, None))
        if self._layers:
            return [await self._send(message) for message in messages]
        if not self._feeds:
            receipts = await self._store(messages)
            self._count(route, len(messages))
            return list(receipts)
        for chunk in _chunks(messages, len(messages) if route.is_refusing else TURNS):
            await wait_for_places(route.feed_all(chunk))
            self._count(route, len(chunk))
        return cast("list[Receipt]", messages)

    def prepare(
        self, topic: Topic[Any] | str, event: object, options: PublishOptions, cause: Message
    ) -> Message:
        """Check what a handler publishes, and write its message, to be sent later.

        A handler that is not async calls this from its thread: so routes are left alone.
        """
        now = self._now()
        traits = caused_by(cause, traits_of(options, now))
        if traits.within is not None:
            raise InvalidOption(
                "connection=: what a handler publishes through its context is sent when it has "
                "succeeded, and its transaction is over; use bus.publish"
            )
        name = self._name_of(topic)
        self._check(name, event)
        return write_message((name, None, traits), now, event)

    async def send_all(self, messages: Sequence[Message]) -> None:
        """Send what a handler published: none of it where it is known that some will be refused.

        What publish middleware refuses is not known, nor what a wait for room comes to.
        """
        ways = [(await self._way_of(message.topic), message) for message in messages]
        if len(ways) > 1:
            self._require_acceptance(ways)
        if len(ways) == 1 or self._layers:
            for message in messages:
                _require(await self._send(message), message.head[2])
        elif self._feeds:
            await self._feed_together(ways)
        else:
            await self._store(messages)
            for route, message in ways:
                self._count_stored(route, message)

    @property
    def accepted(self) -> int:
        """How many messages have been accepted."""
        return self._published_before + TURNS - self._turns

    @property
    def unrouted(self) -> Counts:
        """What became of accepted messages that never reached a subscription."""
        abandoned = self._abandoned + self._schedule.abandoned
        return Counts(lost=self._lost, abandoned=abandoned)

    def forget_routes_soon(self) -> None:
        """Work all routes out anew, also if this is not the thread that works them out."""
        raise NotImplementedError

    def correlate(self) -> None:
        """Let what handlers with `Correlate` publish here belong to their message."""
        if not self._is_correlating:
            self._is_correlating = True
            self._quick_routes = _QuickOutsideHandlers(self._quick_routes)

    def forget_routes(self) -> None:
        """Work all routes out anew: who listens, a contract or the bus's state has changed."""
        self._routes.clear()
        self._queues_kept = 0

    @property
    def activity(self) -> Activity:
        """Where work is counted."""
        raise NotImplementedError

    def require_open(self) -> None:
        """Raise unless the bus takes messages from this caller now."""
        raise NotImplementedError

    def require_here(self) -> None:
        """Raise in another thread, and in another process, than that of a running bus."""
        raise NotImplementedError

    @property
    def is_stopping(self) -> bool:
        """Whether the bus is being stopped at once."""
        raise NotImplementedError

    @property
    def keeps_routes(self) -> bool:
        """Whether a route that was found stays good for other callers."""
        raise NotImplementedError

    # --- the careful way ----------------------------------------------------------------------

    async def _feed(self, route: Route, message: Message) -> list[Waiter[Entry]]:
        try:
            waiters = route.feed(message)
        except EventBusError:
            await checkpoint()  # who tries again and again must let the workers run
            raise
        if not route.matched:
            self.unmatched += 1
        return waiters

    async def _give_way(self) -> None:
        self.require_here()  # not each time, as that would cost a tenth of a publish
        self._published_before += TURNS - self._turns
        self._turns = TURNS
        await checkpoint()

    async def _publish_with(
        self, topic: Topic[Any] | str, event: object, options: PublishOptions
    ) -> Receipt:
        try:
            message = self._write(topic, event, options)
            if (within := within_of([message])) is None:
                receipt = await self._send(message)
            else:
                self._check_joinable(within)
                (receipt,) = await self._send_within(within, [message])
        except EventBusError:
            await checkpoint()  # who tries again and again must let the workers run
            raise
        _require(receipt, message.head[2])
        return receipt

    def _write(self, topic: Topic[Any] | str, event: object, options: PublishOptions) -> Message:
        self.require_open()
        now = self._now()
        traits = traits_of(options, now)
        if (cause := self._cause()) is not None:
            traits = caused_by(cause, traits)
        route = self._recent_route(topic)
        name = self._name_of(topic) if route is None else route.topic
        return write_message((name, None, traits), now, event)

    def _check_joinable(self, within: Within) -> None:
        joiner = self._transport.joiner
        if joiner is None:
            raise UnsupportedByTransport(
                "connection=: this transport keeps nothing in a file of SQLite; leave it out, or "
                "take sqlite:///events.db, say"
            )
        joiner.check_connection(within.connection)

    async def _send_within(self, within: Within, messages: Sequence[Message]) -> list[Receipt]:
        """Send messages that are to be part of a transaction."""
        try:
            return [await self._send(message) for message in messages]
        finally:
            within.connection = None

    async def _publish_many_within(
        self, route: Route, events: Iterable[object], connection: object
    ) -> list[Receipt]:
        within = Within(connection)
        self._check_joinable(within)
        messages = [self._write(route.topic, event, {}) for event in events]
        for message in messages:
            route.check(message.payload)
            join(message, within)
        if self._layers or not messages:
            return await self._send_within(within, messages)
        receipts = await self._store(messages)
        within.connection = None
        self._count(route, len(messages))
        return list(receipts)

    def _cause(self) -> Message | None:
        return cause_here() if self._is_correlating else None

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

    async def _way_of(self, topic: Topic[Any] | str) -> Route:
        return self._recent_route(topic) or await self._find_route(topic)

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
        if not self._transport.capabilities.delay:
            raise UnsupportedByTransport(
                f"a publish to {topic!r} with delay= or at=: this transport keeps nothing for "
                "later; publish it when it is due"
            )

    async def _store(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        receipts = await self._transport.publish(messages)
        for probe in self.probes:
            for message in messages:
                probe.on_published(message)
        return receipts

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

    def _check(self, topic: str, event: object) -> None:
        self._transport.check(topic, event, self.contracts.schema_for(topic))

    def _count_stored(self, route: Route, message: Message) -> None:
        if later_of(message) is None:
            self._count(route, 1)
        else:  # who will want it is not known yet
            self._turns -= 1

    def _count(self, route: Route, messages: int) -> None:
        self._turns -= messages
        if not route.matched:
            self.unmatched += messages

    # --- routes -------------------------------------------------------------------------------

    def _recent_route(self, topic: Topic[Any] | str) -> Route | None:
        """Give the route of a topic that is kept; that the bus runs need not be asked then."""
        try:
            return self._routes.young.get(topic)
        except TypeError:  # not hashable, and so no topic
            return None

    async def _find_route(self, topic: Topic[Any] | str) -> Route:
        try:
            return self._route(topic)
        except BusClosed:
            if self.is_stopping:
                await checkpoint()  # in a handler: raises the cancellation, which is the cause
            raise

    def _route(self, topic: Topic[Any] | str) -> Route:
        self.require_open()
        return self._look_up(topic)

    def _look_up(self, topic: Topic[Any] | str) -> Route:
        name = self._name_of(topic)
        route = self._routes.get(topic)
        if route is None:
            route = self._transport.route(name, self.contracts.schema_for(name))
            if self.probes:
                route = ProbedRoute(route, self.probes)
            if self.keeps_routes:
                self._keep(topic, route)
        return route

    def _keep(self, topic: Topic[Any] | str, route: Route) -> None:
        self._queues_kept += route.matched
        if self._queues_kept > QUEUES_KEPT:
            self.forget_routes()
            self._queues_kept = route.matched
        self._routes.put(topic, route)

    def _name_of(self, topic: object) -> str:
        """Learn a `Topic`, check a string; give the name."""
        if isinstance(topic, Topic):
            stated = cast("Topic[object]", topic)
            if self.contracts.learn(stated):
                self.forget_routes_soon()
            return stated.name
        if isinstance(topic, RequestTopic):
            raise InvalidTopic(f"{topic!r} is asked, not told: use bus.request(), or its name")
        if not isinstance(topic, str):
            raise InvalidTopic(f"{topic!r} is no topic: publish to a str or a Topic")
        name = check_topic(str.__str__(topic))
        if is_reserved(name):
            raise InvalidTopic(f"{name!r} is the bus's own: publish to a topic without the '$'")
        return name


def _tell_expiry(route: Route, message: Message) -> None:
    traits = message.head[2]
    if traits is not None and traits.expires_at is not None:
        route.expect_expiry()


def _require(receipt: Receipt, traits: Traits | None) -> None:
    if traits is not None and traits.is_required and receipt.matched == 0:
        raise _nobody(receipt.topic)


def _refuse_no_list(events: object) -> None:
    if type(events) is list:
        return
    kind = type(events).__name__
    if isinstance(events, (Mapping, str, bytes, BaseModel)) or not isinstance(events, Iterable):
        raise InvalidEvent(f"publish_many takes a list of events, and got one {kind}: give a list")


def _nobody(topic: str) -> NoSubscribers:
    return NoSubscribers(
        f"no subscription matches {topic!r}: register one first, or publish without require=True"
    )


def _chunks(messages: Sequence[Message], size: int) -> Iterable[Sequence[Message]]:
    return (messages[start : start + size] for start in range(0, len(messages), size or 1))
