"""The asking half of the bus: `request`, `request_many` and `wait_for`.

A request is published as any message, so that who listens on its topic hears it; its message says
in `reply_to` where the answer goes, and in `expires_at` until when anybody waits for it.
"""

__all__ = ("Requesting",)

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import timedelta
from inspect import Parameter, formatannotation
from typing import Any, TypeVar, cast, overload

from anyio import CancelScope
from anyio.lowlevel import checkpoint
from typing_extensions import TypeForm

from eventbus.answers import Answer, answer_of, rebuilt
from eventbus.cache import BoundedCache
from eventbus.clock import Clock, seconds_of
from eventbus.context import Payload
from eventbus.contracts import Contracts, RequestTopic, Topic
from eventbus.correlation import message_here
from eventbus.deadlocks import is_serving
from eventbus.errors import (
    BusClosed,
    EventBusError,
    InvalidOption,
    InvalidTopic,
    NoResponders,
    RequestTimeout,
    UnsupportedByTransport,
)
from eventbus.events import Events
from eventbus.message import Message, Receipt, Traits, note_matched, reply_to_of
from eventbus.middleware.chain import PublishMiddleware, compose_publish
from eventbus.publisher import Publishing
from eventbus.registration import (
    SUBSCRIBE_OPTIONS,
    SubscribeOptions,
    check_options,
    check_positive,
    model_of,
    patterns_of,
)
from eventbus.replies import Asking, AwaitedReply, End, Replies
from eventbus.runtime import Runtime
from eventbus.timers import Timers
from eventbus.transports.base import CarriesRequests
from eventbus.transports.exchange import Exchange
from eventbus.transports.route import Route
from eventbus.waiters import wait_for_places

M = TypeVar("M")
Q = TypeVar("Q")
A = TypeVar("A")

LONGEST_SECONDS = 366 * 86_400.0
REPLY_MODELS_KEPT = 256
TOPICS_KEPT = 8192
NO_LIMIT = 1_000_000_000  # replies: as many as there are responders


class Requesting(Publishing):
    """What `EventBus` asks with."""

    _runtime: Runtime  # while the bus runs

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
        super().__init__(
            exchange, contracts, clock, middleware, timers=timers, schedule_size=schedule_size
        )
        self._timers = timers
        self.replies = Replies(clock, timers, exchange.codec, exchange.carrier)
        if exchange.carrier is not None:
            exchange.carrier.on_reply = self.replies.receive
        self._ask_through = compose_publish(self._layers, self._accept_request)
        self._agreed: dict[object, tuple[str, Answer]] = {}
        self._answers: BoundedCache[object, Answer] = BoundedCache(REPLY_MODELS_KEPT)

    @overload
    async def request(
        self, topic: RequestTopic[Q, A], event: Q, /, *, timeout: float | timedelta = 5.0
    ) -> A: ...
    @overload
    async def request(
        self,
        topic: str,
        event: Payload,
        /,
        *,
        reply: TypeForm[A],
        timeout: float | timedelta = 5.0,
    ) -> A: ...
    async def request(
        self,
        topic: RequestTopic[Any, Any] | str,
        event: object,
        /,
        *,
        reply: object = Parameter.empty,
        timeout: float | timedelta = 5.0,
    ) -> Any:
        """Ask the responder of a topic, and wait `timeout` seconds for its reply.

        In a responder it waits no longer than who asked that one still does. The request is a
        message like any: others that listen on its topic hear it, whether it is answered or not.
        Cancelled, nothing is left behind; the responder may still run.

        Example:
            >>> quote = await bus.request(QUOTE, QuoteRequest(sku="x"), timeout=2.0)

        Raises:
            RequestTimeout: There was no reply in time.
            NoResponders: Nobody answers on this topic, or who does holds this request back.
            RemoteError: The responder failed; or one of the exceptions that the topic `raises`.
            InvalidEvent: The contract or the responder's model refuses the event.
            ContractError: The reply is not of the model that was asked for.
            InvalidOption: No `reply=` beside a string, one beside a `RequestTopic`, a time-out that
                cannot be, or a topic with many responders.
            UnsupportedByTransport: The transport carries no requests.
            QueueFull: The queue of a subscription refuses, or 100,000 requests are waiting.
            DeadlockError: In a handler: only it, or handlers that wait so, could answer.
            BusClosed: The bus drains or closes, or did before the reply came.
            InvalidTopic, UnknownTopic, NotStarted: As `publish`.
        """
        is_plain = reply is Parameter.empty and isinstance(topic, RequestTopic)
        agreed = self._agreed.get(topic) if is_plain else None
        name, answer = agreed or self._agreement(topic, reply)
        if answer.many:
            raise InvalidOption(
                f"{name!r} may have many responders, so request() cannot choose: use request_many()"
            )
        asking = await self._ask(name, event, timeout, 1)
        if asking.replies:
            reply = asking.replies[0]
            return reply if reply.__class__ is answer.exact else answer.accept(name, reply)
        if asking.failures:
            await checkpoint()  # as some are there at once
            raise rebuilt(asking.failures[0], name, answer.raises)
        raise _ended(name, asking, timeout)

    async def request_many(
        self,
        topic: RequestTopic[Q, A],
        event: Q,
        /,
        *,
        max_replies: int | None = None,
        timeout: float | timedelta = 0.5,
    ) -> list[A]:
        """Ask all responders of a `RequestTopic(many=True)`; give their replies as they came.

        Returns when all have answered, `max_replies` have, or after `timeout` seconds, with those
        that came until then. Who fails is left out, and logged where it failed.

        Raises:
            NoResponders: Nobody answers on this topic.
            InvalidOption: The topic was not made with `many=True`, or an option cannot be.
            InvalidEvent, ContractError, QueueFull, BusClosed, UnknownTopic, NotStarted: As
                `request`.
        """
        name, answer = self._agreement(topic, Parameter.empty)
        if not answer.many:
            raise InvalidOption(
                f"{name!r} has one responder: use request(), or RequestTopic({name!r}, ..., "
                "many=True)"
            )
        if max_replies is not None:
            check_positive("max_replies", max_replies)
        asking = await self._ask(name, event, timeout, max_replies or NO_LIMIT)
        if asking.end is End.CLOSED:
            raise _ended(name, asking, timeout)
        return [cast("A", answer.accept(name, reply)) for reply in asking.replies]

    @overload
    async def wait_for(
        self,
        topic: Topic[M],
        /,
        *,
        where: Callable[[M], bool] | None = None,
        timeout: float | timedelta | None = None,
    ) -> M: ...
    @overload
    async def wait_for(
        self,
        pattern: str,
        /,
        *,
        model: TypeForm[M],
        where: Callable[[M], bool] | None = None,
        timeout: float | timedelta | None = None,
    ) -> M: ...
    @overload
    async def wait_for(
        self,
        pattern: str,
        /,
        *,
        where: Callable[[Any], bool] | None = None,
        timeout: float | timedelta | None = None,
    ) -> object: ...
    async def wait_for(
        self,
        topic: object,
        /,
        *,
        model: object = Parameter.empty,
        where: Callable[[Any], bool] | None = None,
        timeout: float | timedelta | None = None,
    ) -> Any:
        """Wait for the next event on a topic or pattern that fits, and return it.

        It hears what is published from its first step on, before it waits. What the model refuses
        is passed over, and so is what `where` says no to; an error in `where` is raised.

        Example:
            >>> shipped = await bus.wait_for(SHIPPED, where=lambda e: e.order_id == "o-1")

        Raises:
            RequestTimeout: Nothing came within `timeout` seconds.
            BusClosed: The bus drained or closed first.
            InvalidPattern, InvalidOption, ContractError, UnknownTopic, NotStarted: As `subscribe`.
        """
        texts, topics = patterns_of([topic])
        check_options({"where": where}, SUBSCRIBE_OPTIONS, "wait_for")
        self.require_here()
        with CancelScope() as scope, self._limit(scope, timeout):
            async with self.listen(
                texts, topics, model_of(topics, model), {"invalid": "skip"}
            ) as events:
                async for event in events:
                    if where is None or where(event):
                        return event
            raise BusClosed(f"the bus closed before {texts[0]!r} came: wait while it runs")
        raise RequestTimeout(f"nothing on {texts[0]!r} within timeout={timeout}: wait longer")

    @contextmanager
    def _limit(self, scope: CancelScope, timeout: float | timedelta | None) -> Generator[None]:
        if timeout is None:
            yield
            return
        timer = self._timers.call_later(
            seconds_of("timeout", timeout), scope.cancel, drop=lambda: None
        )
        try:
            yield
        finally:
            self._timers.forget(timer)

    def listen(
        self,
        patterns: tuple[str, ...],
        topics: tuple[Topic[Any], ...],
        model: object,
        options: SubscribeOptions[Any],
    ) -> AbstractAsyncContextManager[Events[Any]]:
        """Subscribe for the length of a block."""
        raise NotImplementedError

    # --- what is asked --------------------------------------------------------------------------

    def _agreement(self, topic: object, reply: object) -> tuple[str, Answer]:
        """Learn what a `RequestTopic` states, check a string; give the name and its answers."""
        if isinstance(topic, RequestTopic):
            if reply is not Parameter.empty:
                raise InvalidOption(
                    f"reply={formatannotation(reply)}: a RequestTopic says its own; leave it out"
                )
            stated = cast("RequestTopic[object, object]", topic)
            if self.contracts.learn(stated):
                self.forget_routes()
            if len(self._agreed) < TOPICS_KEPT:
                self._agreed[stated] = stated.name, stated.answer
            return stated.name, stated.answer
        if not isinstance(topic, str):
            raise InvalidTopic(f"{topic!r} cannot be asked: request a str or a RequestTopic")
        name = self._name_of(topic)
        if reply is Parameter.empty:
            raise InvalidOption(f"{name!r} is a string: say reply=Model, or use a RequestTopic")
        return name, self._answer_for(name, reply)

    def _answer_for(self, name: str, model: object) -> Answer:
        stated = self.contracts.requests_on(name)
        if stated is not None and stated.many:
            return stated.answer
        try:
            answer = self._answers.get(model)
        except TypeError:  # what is noted in a type need not be hashable
            return answer_of(model)
        if answer is None:
            answer = answer_of(model)
            self._answers.put(model, answer)
        return answer

    # --- asking ---------------------------------------------------------------------------------

    async def _ask(self, name: str, event: object, timeout: float | timedelta, most: int) -> Asking:
        """Publish a request and wait for its replies, or until there is no sense in that.

        One function, as `publish` is: each call in it would cost a hundredth of a round trip.
        """
        route = self._routes.young.get(name) or await self._find_route(name)
        if not self._feeds and self._exchange.carrier is None:
            raise UnsupportedByTransport(
                f"a request to {name!r}: this transport carries none; ask on a bus in memory, say"
            )
        self.require_here()
        now = self._now()
        seconds = _seconds_left(name, timeout, now)
        asking = Asking(self._runtime.new_wake_up(), most)
        if self._feeds:
            asking.awaited = min(most, route.responders)
            asking.responders = route.answering
        traits = Traits()
        traits.reply_to = reply_to = self.replies.open(asking, seconds)
        traits.expires_at = now + seconds
        message = Message()
        message.head = (name, route.matched, traits, route.head[3])
        message.seconds = now
        message.event = event
        try:
            if self._layers or not (self._feeds and route.responders):
                with asking.limited():  # they may wait for anything
                    await self._ask_through(message)
            else:
                if not route.is_expiring:
                    route.expect_expiry()
                self._turns -= 1
                if waiters := route.feed_quickly(message):
                    with asking.limited():
                        await wait_for_places(waiters)
            if is_serving():
                await AwaitedReply(asking, reply_to).wait()
            else:
                await asking.wake_up.wait()
        except EventBusError:
            await checkpoint()  # who tries again and again must let the workers run
            raise
        finally:
            self.replies.close(reply_to)
        return asking

    async def _accept_request(self, message: Message) -> Receipt:
        """Accept a request that has come through the publish middleware."""
        route = await self._way_of(message.topic)
        asking = self.replies.asking_at(reply_to_of(message))
        if asking is None:
            return message
        if self._exchange.carrier is not None:
            return await self._send_request(message, route, asking, self._exchange.carrier)
        asking.awaited = min(asking.awaited, route.responders)
        asking.responders = route.answering
        route.expect_expiry()
        await wait_for_places(route.feed(message))
        note_matched(message, route.matched)
        self._count(route, 1)
        if not route.responders:
            raise _nobody(message.topic)
        return message

    async def _send_request(
        self, message: Message, route: Route, asking: Asking, carrier: CarriesRequests
    ) -> Receipt:
        """Have a request stored, unless nobody is there to answer it, here or in another bus."""
        self._require_acceptable(route, message)
        here = {one.name for one in route.answering if one.is_durable}
        elsewhere = [one for one in await carrier.responders(message.topic) if one not in here]
        if not route.responders and not elsewhere:
            raise _nobody(message.topic)
        asking.awaited = min(asking.awaited, route.responders + len(elsewhere))
        (receipt,) = await self._store([message])
        self._turns -= 1
        return receipt


def _nobody(topic: str) -> NoResponders:
    return NoResponders(
        f"nobody answers requests to {topic!r}: register a responder, with "
        "@bus.on(RequestTopic(...)) or reply=Model"
    )


def _seconds_left(name: str, timeout: float | timedelta, now: float) -> float:
    """Tell how long a request may wait: its own time, or what is left of the one it serves."""
    seconds = timeout if type(timeout) is float else seconds_of("timeout", timeout)
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise InvalidOption(f"timeout={timeout!r}: give seconds, from 0 to those of a year")
    message = message_here()
    traits = None if message is None else message.head[2]
    if traits is None or traits.expires_at is None:
        return seconds
    if traits.expires_at <= now:
        raise _overdue(name, timeout)
    return min(seconds, traits.expires_at - now)


def _ended(name: str, asking: Asking, timeout: object) -> EventBusError:
    if asking.end is End.CLOSED:
        return BusClosed(f"the bus closed before {name!r} was answered: ask while it runs")
    return _overdue(name, timeout)


def _overdue(name: str, timeout: object) -> RequestTimeout:
    return RequestTimeout(
        f"no reply from {name!r} within timeout={timeout}, or what was left of the request that "
        "is being answered: give it more time, or see what its responder does"
    )
