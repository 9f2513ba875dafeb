"""The publishing half of the bus: from `publish` to the queues.

`publish` itself goes the quick way: a message that is nothing special, to a topic whose route is
known (`routing.py`), into queues that have room. All else is sent with care (`sending.py`).
"""

__all__ = ("Publishing",)

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from pydantic import BaseModel
from typing_extensions import Unpack

from eventbus.context import Payload
from eventbus.contracts import Topic
from eventbus.correlation import cause_here
from eventbus.errors import (
    EventBusError,
    InvalidEvent,
    InvalidOption,
    UnsupportedByTransport,
)
from eventbus.message import (
    Delivery,
    Entry,
    Message,
    Receipt,
    Within,
    join,
    with_traits,
    within_of,
    write_message,
)
from eventbus.middleware.chain import (
    run_without_waiting,
)
from eventbus.publishing import PublishOptions, caused_by, traits_of
from eventbus.sending import TURNS, Sending, require_matched
from eventbus.transports.route import Route
from eventbus.waiters import Waiter, wait_for_places

if TYPE_CHECKING:  # who needs no store, loads no SQLite
    from sqlite3 import Connection

M = TypeVar("M")


class Publishing(Sending):
    """What `EventBus` publishes with."""

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
        if not self._exchange.capabilities.nowait:
            raise UnsupportedByTransport(
                f"publish_nowait to {topic!r}: this transport waits until a message is stored; "
                "use `await publish`"
            )
        message = self._write(topic, event, options)
        receipt = run_without_waiting(self._send_now(message), self._layers)
        require_matched(receipt, message.head[2])
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
                message.head = with_traits(message.head, caused_by(cause, None))
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
        return write_message(self._head_of(name, traits), now, event)

    # --- the careful way --------------------------------------------------------------------

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
        require_matched(receipt, message.head[2])
        return receipt

    def _write(self, topic: Topic[Any] | str, event: object, options: PublishOptions) -> Message:
        self.require_open()
        now = self._now()
        traits = traits_of(options, now)
        if (cause := self._cause()) is not None:
            traits = caused_by(cause, traits)
        route = self._recent_route(topic)
        name = self._name_of(topic) if route is None else route.topic
        return write_message(self._head_of(name, traits), now, event)

    def _check_joinable(self, within: Within) -> None:
        joiner = self._exchange.joiner
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


def _refuse_no_list(events: object) -> None:
    if type(events) is list:
        return
    kind = type(events).__name__
    if isinstance(events, (Mapping, str, bytes, BaseModel)) or not isinstance(events, Iterable):
        raise InvalidEvent(f"publish_many takes a list of events, and got one {kind}: give a list")


def _chunks(messages: Sequence[Message], size: int) -> Iterable[Sequence[Message]]:
    return (messages[start : start + size] for start in range(0, len(messages), size or 1))
