"""Publishing from other threads than that of the event loop."""

__all__ = ("PublishingFromThreads",)

from collections.abc import Awaitable, Iterator, Sequence
from itertools import groupby
from typing import Any, TypeVar, overload

from anyio.lowlevel import checkpoint
from typing_extensions import Unpack

from eventbus.clock import Clock
from eventbus.context import Payload
from eventbus.contracts import Topic
from eventbus.errors import (
    BusClosed,
    EventBusError,
    InvalidOption,
    StoreCorrupt,
    StoreError,
    StoreVersion,
)
from eventbus.inbox import Inbox
from eventbus.message import Message, Receipt, write_message
from eventbus.middleware.chain import compose_publish
from eventbus.publishing import PublishOptions, traits_of
from eventbus.schedule import later_of
from eventbus.sending import TURNS, Sending
from eventbus.waiters import wait_for_places
from eventbus.wording import counted

M = TypeVar("M")

STORED_TOGETHER = 512  # messages from threads, in one commit
PATIENCE_SECONDS = 0.5


class PublishingFromThreads(Sending):
    """What threads publish with: they check, put into the inbox, and the loop sends."""

    clock: Clock
    _inbox: Inbox[Message]  # of the current run

    @overload
    def publish_from_thread(
        self, topic: Topic[M], event: M, /, **options: Unpack[PublishOptions]
    ) -> None: ...
    @overload
    def publish_from_thread(
        self, topic: str, event: Payload, /, **options: Unpack[PublishOptions]
    ) -> None: ...
    def publish_from_thread(
        self, topic: Topic[Any] | str, event: object, /, **options: Unpack[PublishOptions]
    ) -> None:
        """Publish from another thread than that of the bus's event loop.

        Checked now, and put into a bounded inbox, from which the bus sends it; those of one thread
        in their order. Where the inbox is full, the thread waits. In a handler that is not async,
        it is sent even if the handler then fails: `context.publish_nowait` waits for that.

        Nobody is left to be told when it is sent. So what finds a full queue waits there, whatever
        its overflow policy would refuse; an error of publish middleware is logged, and the event
        counted `lost`; and `require=` cannot be said. In a store it is not yet safe when this
        returns, but soon, together with others; while the store fails, it waits.

        Raises:
            InvalidTopic, InvalidEvent, InvalidOption, UnknownTopic: As `publish`.
            QueueFull: `schedule_size` messages are scheduled already.
            UnsupportedByTransport: It is for later, and the transport keeps nothing until then.
            DeadlockError: Called in the thread of the event loop, which it would block.
            NotStarted, BusClosed: The bus is not running; also if it closes while the thread waits.
        """
        route = self._recent_route(topic)
        if options or route is None:
            self._write_in_thread(topic, event, options)
            return
        if route.contract is not None:
            route.check(event)
        message = Message()
        message.head = route.head
        message.seconds = self._now()
        message.event = event
        self._inbox.put(message)  # the bus runs, or there would be no route

    def _write_in_thread(
        self, topic: Topic[Any] | str, event: object, options: PublishOptions
    ) -> None:
        inbox = self.open_inbox()
        now = self._now()
        traits = traits_of(options, now)
        if traits is not None and traits.is_required:
            raise InvalidOption(
                "require=True: nobody is left to be told; use `publish` in the event loop"
            )
        if traits is not None and traits.within is not None:
            raise InvalidOption(
                "connection=: a transaction belongs to its thread, and this event is sent in that "
                "of the event loop; use `publish` there"
            )
        if traits is not None and traits.scheduled is not None:
            self._require_delay(topic)
            self._schedule.require_room()
        name = self._name_of(topic)
        self._check(name, event)
        inbox.put(write_message(self._head_of(name, traits), now, event))

    def abandon_inbox(self) -> int:
        """Count what is left of what threads have published, and refuse them; give how much."""
        left = self._inbox.stop()
        self._abandoned += left
        return left

    async def serve_threads(self) -> None:
        """Send what threads put into the inbox, until it is closed."""
        inbox = self._inbox
        send = compose_publish(self._layers, self._accept_late)
        while batch := await inbox.take():
            for topic, messages in self._runs(batch):
                if inbox.is_closed:
                    return
                inbox.done(len(messages))  # from here on, who sends them counts them
                sending = (
                    send(messages[0]) if topic is None else self._enqueue_late(topic, messages)
                )
                await self._sent(sending, messages)
                await checkpoint()  # so that what was enqueued makes room for what comes

    def _runs(self, batch: Sequence[Message]) -> Iterator[tuple[str | None, Sequence[Message]]]:
        """Keep together what can be sent together: of one topic, and nothing else to do.

        In a store it is of any topic, which is then told as empty.
        """
        for topic, group in groupby(batch, self._plain_topic):
            messages = list(group)
            size = 1 if topic is None else TURNS if self._feeds else STORED_TOGETHER
            for start in range(0, len(messages), size):
                yield topic, messages[start : start + size]

    def _plain_topic(self, message: Message) -> str | None:
        topic, _, traits, _ = message.head
        if not (self._layers or self._feeds):
            return ""
        return None if self._layers or traits is not None else topic

    async def _sent(self, sending: Awaitable[object], messages: Sequence[Message]) -> None:
        """Await that messages are sent; count them if they are not, as nobody else would know."""
        abandoned = self._abandoned
        try:
            await sending
        except Exception:
            self._lost += len(messages)
            self.logger.exception("%r, published from a thread, is lost", messages[0])
        except BaseException:
            if self._abandoned == abandoned:  # cancelled in the middleware
                self._abandoned += len(messages)
            raise

    async def _accept_late(self, message: Message) -> Receipt:
        if self._feeds and (later := later_of(message)) is not None:
            return self._keep_for_later(message, later)
        self._check(self._name_of(message.topic), message.payload)
        await self._enqueue_late(message.topic, [message])
        return message

    async def _enqueue_late(self, topic: str, messages: Sequence[Message]) -> None:
        """Enqueue messages of a thread, waiting where queues are full; count what never can be."""
        if not self._feeds:
            await self._store_late(messages)
            return
        waiters = self._feed_late(topic, messages)
        try:
            await wait_for_places(waiters)
        except BaseException as error:
            refused = sum(not waiter.is_taken for waiter in waiters)
            self._abandoned += refused
            if not isinstance(error, BusClosed):
                raise
            self.logger.warning(
                "%s from threads abandoned: their queues stayed full", counted(refused, "message")
            )
        self._turns -= len(messages)

    async def _store_late(self, messages: Sequence[Message]) -> None:
        """Have messages of a thread stored together, as soon as the store can.

        One that is refused leaves the others alone. What a store may have taken before it failed
        has its ids by then, and is not stored again.
        """
        while True:
            try:
                await self._store(messages)
            except (StoreCorrupt, StoreVersion):
                raise
            except StoreError as error:
                many = counted(len(messages), "message")
                self.logger.error("%s from threads wait to be stored: %s", many, error)
                await self.clock.sleep(PATIENCE_SECONDS)
            except EventBusError:
                if len(messages) == 1:
                    raise
                for one in messages:
                    await self._sent(self._store_late([one]), [one])
                return
            else:
                break
        for one in messages:
            self._count_stored(self._recent_route(one.topic) or self._look_up(one.topic), one)

    def open_inbox(self) -> Inbox[Message]:
        """Give where this thread may put what it publishes."""
        raise NotImplementedError
