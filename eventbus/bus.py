"""The bus: wiring and life cycle, no policy.

Publishing is in `publisher.py`, asking in `requesting.py`, registering in `router.py` and
`registry.py`; on the other side of the task boundary `dispatch.py` takes over.
"""

__all__ = ("EventBus",)

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from datetime import timedelta
from enum import Enum, auto
from inspect import Parameter
from types import TracebackType
from typing import Any, Generic, Self, overload

from anyio import TASK_STATUS_IGNORED, CancelScope
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint
from typing_extensions import TypeForm, TypeVar, Unpack

from eventbus.activity import Activity
from eventbus.bus_logger import BusLogger
from eventbus.clock import Clock, SystemClock, seconds_of
from eventbus.contracts import Contracts, Topic
from eventbus.errors import BusClosed, DeadlockError, EventBusError, InvalidOption, NotStarted
from eventbus.events import Desk, Events
from eventbus.from_threads import PublishingFromThreads
from eventbus.inbox import Inbox
from eventbus.message import Message
from eventbus.middleware import Correlate, Middleware, Policy, PublishMiddleware
from eventbus.middleware.chain import check_middleware, innermost
from eventbus.plugins import exchange_for
from eventbus.probe import Probe
from eventbus.queue import Overflow
from eventbus.redriving import Redriving
from eventbus.registration import (
    SUBSCRIBE_OPTIONS,
    Registration,
    SubscribeOptions,
    check_options,
    check_overflow,
    check_positive,
    model_of,
    patterns_of,
)
from eventbus.registry import Defaults, Registry
from eventbus.replaying import Replaying
from eventbus.replies import Asking
from eventbus.requesting import Requesting
from eventbus.router import Registering, Router, marked_methods
from eventbus.runtime import Runtime, is_handler_of
from eventbus.schedule import SCHEDULE_SIZE
from eventbus.signals import require_main_thread, run_until_signal
from eventbus.stats import BusStats, read_bus
from eventbus.subscription import Subscription
from eventbus.timers import Timers
from eventbus.transports.fed_exchange import FedExchange
from eventbus.wording import counted

C = TypeVar("C", default=Any)
M = TypeVar("M")
N = TypeVar("N")
P = TypeVar("P")


class Phase(Enum):
    """Where a bus is in its life."""

    NEW = auto()
    RUNNING = auto()
    DRAINING = auto()
    DRAINED = auto()
    STOPPING = auto()
    CLOSED = auto()


_LIVE = frozenset({Phase.RUNNING, Phase.DRAINING, Phase.DRAINED})


class EventBus(Registering, Requesting, PublishingFromThreads, Redriving, Replaying, Generic[C]):
    """A typed publish-subscribe bus.

    Register handlers with `on`, at any time; run it with `async with`. Leaving the block normally
    drains the bus: what is queued is handled, for `drain_timeout` seconds at most. Leaving it by an
    exception or cancellation stops it at once. It can be started again, on either event loop.

    Args:
        url: Where messages go; `memory://` is this process.
        contracts: A TypedDict class, topic or pattern to model. With it, no other topic is known.
        middleware: What wraps every handler: middleware, and policies such as `Retry`.
        publish_middleware: What wraps every publish.
        queue_size: Places in the queue of each subscription that does not say itself.
        overflow: What happens when they are taken, likewise.
        drain_timeout: Seconds that leaving the block may take to finish what was accepted.
        schedule_size: How many messages may be scheduled for later at once.
        threads: How many handlers that are not async may run at once.
        clock: Where the time comes from, for tests.
        name: What the bus is called: each line it logs begins so, and says so in the field `bus`.

    Example:
        >>> bus = EventBus(middleware=[DeadLetter(), Retry(attempts=3), Timeout(5.0)])
        >>> async with bus:
        ...     await bus.publish(ORDER_CREATED, OrderCreated(order_id="o-1"))

    Raises:
        InvalidOption: An option has a value that cannot be used.
        UnknownTransport: No installed transport serves the URL.
        ContractError: The contracts contradict each other.
    """

    def __init__(
        self,
        url: str = "memory://",
        *,
        contracts: type[C] | None = None,
        middleware: Sequence[Middleware | Policy] = (),
        publish_middleware: Sequence[PublishMiddleware] = (),
        queue_size: int = 1024,
        overflow: Overflow = "block",
        drain_timeout: float | timedelta = 30.0,
        schedule_size: int = SCHEDULE_SIZE,
        threads: int = 40,
        clock: Clock | None = None,
        name: str | None = None,
    ) -> None:
        check_positive("queue_size", queue_size)
        check_positive("threads", threads)
        check_positive("schedule_size", schedule_size)
        check_overflow("overflow", overflow)
        self.name = "eventbus" if name is None else name
        self.logger = BusLogger(name)
        self.clock: Clock = clock or SystemClock()
        self._activity = Activity()
        self._drain_seconds = seconds_of("drain_timeout", drain_timeout)
        self._timers = Timers(self.clock)
        exchange = exchange_for(
            url,
            self.clock,
            self._timers,
            self._activity,
            self.logger,
            schedule_size=schedule_size,
        )
        known, layers = Contracts(contracts, logger=self.logger), check_middleware(middleware)
        Requesting.__init__(
            self,
            exchange,
            known,
            self.clock,
            publish_middleware,
            timers=self._timers,
            schedule_size=schedule_size,
        )
        self._registry = Registry(
            self,
            exchange,
            known,
            Defaults(queue_size=queue_size, overflow=overflow, middleware=layers),
        )
        Replaying.__init__(self)
        if innermost(layers, Correlate) is not None:
            self.correlate()
        self._phase = Phase.NEW
        self._is_live = False
        self._drain_until = 0.0
        self._most_threads = threads

    def __repr__(self) -> str:
        phase = "forked" if self._is_copy else self._phase.name.lower()
        return f"<EventBus {self.name!r}, {phase}>"

    @property
    def reaches_other_processes(self) -> bool:
        """Whether its transport carries what is published to buses of other processes."""
        return self._exchange.capabilities.cross_process

    # --- who listens ------------------------------------------------------------------------

    def register(self, registration: Registration) -> None:
        """Add a handler with all that was said about it; `on` and `include` end here."""
        self.require_here()
        self._registry.register(registration)
        if innermost(registration.middleware, Correlate) is not None:
            self.correlate()
        self.forget_routes()

    def include(
        self, router_or_object: object, /, *, prefix: str = "", name: str | None = None
    ) -> None:
        """Register the handlers of a `Router`, or an object's methods marked with `@handles`.

        A router stays connected: handlers it gets later count too. The prefix goes before string
        patterns; the name, before the names of an object's subscriptions.

        Raises:
            InvalidHandler: The object has no marked methods.
            InvalidOption: `name=` was given for a router.
            InvalidPattern, ContractError, UnknownTopic, DuplicateSubscription: As `on`.
            EventBusError: As `require_here`.
        """
        self.require_here()
        if isinstance(router_or_object, Router):
            if name is not None:
                raise InvalidOption(f"name={name!r}: a router's handlers name themselves")
            router_or_object.attach(lambda one: self.register(one.within(prefix, ())))
            return
        for registration in marked_methods(router_or_object, name):
            self.register(registration.within(prefix, ()))

    async def unsubscribe(self, handler_or_name: str | Callable[..., object], /) -> None:
        """End subscriptions, by handler or by name; returns when their queues have been handled.

        What is published from now on does not reach them. One handler of a group leaves it to the
        others. Called from a handler, it does not wait. Cancelled, it has still been done.

        Raises:
            InvalidOption: Nothing of that name, or no such handler, is subscribed.
            EventBusError: As `require_here`.
        """
        self.require_here()
        ending: list[Subscription] = []
        for subscription, member in self._registry.find(handler_or_name):
            if len(subscription.members) > 1 and handler_or_name != subscription.name:
                subscription.retire(member)
            else:
                self._registry.close(subscription)
                ending.append(subscription)
        self.forget_routes()
        for subscription in ending:
            if subscription.queue is None:
                self._registry.forget(subscription)
            else:  # in a task of the bus: this one may be cancelled
                self._runtime.start_soon(self._forget_when_done, subscription)
        await checkpoint()
        for subscription in () if is_handler_of(self) else ending:
            await self._forget_when_done(subscription)

    @overload
    def subscribe(
        self, topic: Topic[M], /, **options: Unpack[SubscribeOptions[M]]
    ) -> AbstractAsyncContextManager[Events[M]]: ...
    @overload
    def subscribe(
        self, topic: Topic[M], second: Topic[N], /, **options: Unpack[SubscribeOptions[M | N]]
    ) -> AbstractAsyncContextManager[Events[M | N]]: ...
    @overload
    def subscribe(
        self,
        topic: Topic[M],
        second: Topic[N],
        third: Topic[P],
        /,
        **options: Unpack[SubscribeOptions[M | N | P]],
    ) -> AbstractAsyncContextManager[Events[M | N | P]]: ...
    @overload
    def subscribe(
        self,
        pattern: str,
        /,
        *patterns: str,
        model: TypeForm[M],
        **options: Unpack[SubscribeOptions[M]],
    ) -> AbstractAsyncContextManager[Events[M]]: ...
    @overload
    def subscribe(
        self, pattern: str, /, *patterns: str, **options: Unpack[SubscribeOptions[Any]]
    ) -> AbstractAsyncContextManager[Events[object]]: ...
    def subscribe(
        self,
        *patterns: object,
        model: object = Parameter.empty,
        **options: Unpack[SubscribeOptions[Any]],
    ) -> AbstractAsyncContextManager[Events[Any]]:
        """Subscribe for the length of a block, and take the events by iteration.

        It hears what is published inside the block. An event is done when the next is asked for, or
        when the block ends normally; by an exception, what is in hand is abandoned. When the bus
        drains, iteration ends with what is queued; neither `join` nor `drain` waits for it.

        With a `name`, on a transport that keeps messages, it is durable: the next block of that
        name, in whatever process, goes on with the first event that is not done.

        Example:
            >>> async with bus.subscribe(ORDER_CREATED) as events:
            ...     async for event in events: ...

        Raises:
            InvalidPattern, InvalidOption, ContractError, UnknownTopic, DuplicateSubscription: As
                `on`.
            NotStarted, BusClosed: The bus is not running.
        """
        texts, topics = patterns_of(patterns)
        options = check_options(options, SUBSCRIBE_OPTIONS, "subscribe")
        return self.listen(texts, topics, model_of(topics, model), options)

    async def forget(self, name: str, /) -> None:
        """Forget a durable subscription: where it was, and what it has not settled.

        Raises:
            DeadlockError: This task has a transaction open in which it published.
            InvalidOption: None of that name is stored, or this bus has it subscribed.
            UnsupportedByTransport: The transport keeps no subscriptions.
            NotStarted, BusClosed: The bus is not running.
        """
        await checkpoint()
        self.require_open()
        if name in self._registry.subscriptions:
            raise InvalidOption(f"{name!r} is subscribed: `await bus.unsubscribe({name!r})` first")
        if not await self._exchange.forget(name):
            raise InvalidOption(f"{name!r} is no durable subscription: look at how it is spelt")

    # --- waiting ----------------------------------------------------------------------------

    async def join(self) -> None:
        """Wait until nothing is queued, running, retrying, scheduled or waiting to be queued.

        It does not wait for iterators. A checkpoint; cancelling it changes nothing.

        Raises:
            DeadlockError: Called by a handler of this bus, which would wait for itself.
            EventBusError: As `require_here`.
        """
        self._refuse_handlers("join")
        self.require_here()
        await self._wait_idle()

    async def drain(self) -> None:
        """Refuse what is new and finish what was accepted: the first half of leaving the block.

        Handlers may still publish. Gives up after `drain_timeout` seconds: retries and scheduled
        messages due later are abandoned at once. Final until the bus is started again; who repeats
        it, or leaves the block, waits for what is left of that time.

        Raises:
            DeadlockError: Called by a handler of this bus, which would wait for itself.
            NotStarted: The bus is not running.
            EventBusError: As `require_here`.
        """
        self._refuse_handlers("drain")
        self.require_here()
        if self._phase is Phase.NEW:
            raise NotStarted("drain() ends a running bus: begin with `async with bus:`")
        if not self._is_live:
            return
        if self._phase is Phase.RUNNING:
            self._enter(Phase.DRAINING)
            self._drain_until = self.clock.monotonic() + self._drain_seconds
            self._schedule.set_deadline(self._drain_until)
            self._exchange.set_deadline(self._drain_until)
        with self._patience():
            await self._wait_idle()
            while not self._inbox.close_if_empty():
                await self._wait_idle()
        if self._phase is Phase.DRAINING:  # Race: it may have been stopped, and started again.
            self._enter(Phase.DRAINED)
            self._close_queues()

    async def _wait_idle(self) -> None:
        if self._is_live:
            self._inbox.look()
            self._exchange.look()
        await self.activity.wait_idle()

    def _close_queues(self) -> None:
        self._inbox.close()
        for subscription in self._registry.subscriptions.values():
            if subscription.queue is not None:
                subscription.queue.refuse_waiting()
                subscription.queue.close()
        self.replies.end_all(but=self._is_of_handler)
        self.end_replays(of_handlers=False)

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Run until a signal: the first SIGINT or SIGTERM drains, the second stops.

        Starts the bus unless it runs already. As a task beside others it is begun by
        `await tasks.start(bus.run)`, which returns when the bus runs.

        Raises:
            SystemExit: With code 1, after a second signal. After the first it returns, so that a
                program ends with code 0.
            EventBusError: This is not the main thread, to which alone signals come.
        """
        require_main_thread()
        async with AsyncExitStack() as stack:
            if self._phase is not Phase.RUNNING:
                await stack.enter_async_context(self)
            await run_until_signal(task_status.started, self._tell_of_draining, self.drain)
            self.logger.info("draining has ended, with %s left", self._deliveries_left())

    def _tell_of_draining(self) -> None:
        self.logger.info(
            "the bus drains %s, for at most %g s; a second signal stops at once",
            self._deliveries_left(),
            self._drain_seconds,
        )

    def _deliveries_left(self) -> str:
        each = self.stats().subscriptions.values()
        return counted(sum(one.queue_depth + one.in_flight for one in each), "delivery")

    # --- what happened ----------------------------------------------------------------------

    def stats(self) -> BusStats:
        """Read the figures of the bus and of each subscription; also after it was closed."""
        subscriptions = self._registry.subscriptions.values()
        gone = self.unrouted
        gone.add(self._registry.ended)
        return read_bus(
            self.accepted,
            self.unmatched,
            self.replies.late,
            gone,
            subscriptions,
            self.clock.now(),
        )

    # --- who watches ------------------------------------------------------------------------

    @contextmanager
    def attach(self, probe: Probe) -> Generator[None]:
        """Let a probe watch the bus for the length of a block, whether it runs or not.

        Handlers that run meanwhile are watched from their next delivery on.
        """
        self._watch((*self.probes, probe))
        try:
            yield
        finally:
            self._watch(tuple(one for one in self.probes if one is not probe))

    def _watch(self, probes: tuple[Probe, ...]) -> None:
        self.probes = probes
        self.forget_routes()
        for subscription in self._registry.subscriptions.values():
            subscription.renew_workers()

    def keep_time_by(self, clock: Clock) -> None:
        """Take the time from another clock: for tests of a bus that an application has made.

        Raises:
            EventBusError: The bus is running.
        """
        if self.is_running:
            raise EventBusError(f"{self!r} is running: give it another clock before it starts")
        self.clock = self._timers.clock = self._schedule.clock = clock
        self._exchange.keep_time_by(clock)
        self._now = clock.now

    def names_of(self, handler_or_name: str | Callable[..., object], /) -> list[str]:
        """Name the subscriptions that a handler serves, or the one of that name.

        Raises:
            InvalidOption: Nothing of that name, or no such handler, is subscribed.
        """
        return [subscription.name for subscription, _ in self._registry.find(handler_or_name)]

    @property
    def is_running(self) -> bool:
        """Whether the bus has been started and not yet closed."""
        return self._phase not in {Phase.NEW, Phase.CLOSED}

    # --- life -------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start the bus.

        Raises:
            ContractError: A handler fits none of the contracts that its pattern overlaps.
            UnsupportedByTransport: A subscription asks for what the transport cannot do.
            StoreError: The store cannot be opened, or not trusted.
            EventBusError: It is running already.
        """
        self._refuse_copies()
        if self.is_running:
            raise EventBusError(f"{self!r} is running already: enter it once at a time")
        self._registry.begin()
        self._runtime = Runtime(
            self,
            self.clock,
            self._timers,
            self.activity,
            threads=self._most_threads,
            refuse_copies=self._refuse_copies,
        )
        await self._runtime.start()
        self._inbox = self._runtime.inbox
        self._runtime.start_soon(self.serve_threads)
        self._schedule.begin()
        try:
            await self._exchange.__aenter__()
        except BaseException:
            await self._stop(None)
            raise
        if isinstance(self._exchange, FedExchange):
            self._runtime.start_soon(self._exchange.serve)
        self._enter(Phase.RUNNING)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        """Drain the bus, or stop it at once if the block ended by an exception."""
        try:
            if error is None:
                await self.drain()
        finally:
            await self._stop(error)

    async def _stop(self, reason: BaseException | None) -> None:
        self._enter(Phase.STOPPING)
        for subscription in self._registry.subscriptions.values():
            subscription.interrupt()
        try:
            await self._runtime.stop()
        except BaseException as failure:
            failure.__context__ = failure.__context__ or reason  # which trio takes off
            raise
        finally:
            self.replies.end_all()
            self.end_replays(of_handlers=True)
            self._timers.clear()
            self._warn_of_stuck_threads()
            abandoned = self._registry.stop() + self._schedule.stop()
            abandoned += self.abandon_inbox()
            if abandoned:
                self.logger.warning(
                    "the bus ended with %s abandoned", counted(abandoned, "delivery")
                )
            await self._exchange.__aexit__(None, None, None)
            self._enter(Phase.CLOSED)

    def _warn_of_stuck_threads(self) -> None:
        if stuck := self._runtime.threads.stuck:
            self.logger.warning(
                "the bus ended, and handlers still run in %s, of %s: threads cannot be stopped",
                counted(len(stuck), "thread"),
                ", ".join(sorted(set(stuck))),
            )

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._is_live = phase in _LIVE  # asked each time, that was a tenth of a request
        self.forget_routes()

    @contextmanager
    def _patience(self) -> Generator[None]:
        seconds = max(0.0, self._drain_until - self.clock.monotonic())
        with CancelScope() as scope:
            timer = self._timers.call_later(seconds, scope.cancel, drop=scope.cancel)
            try:
                yield
            finally:
                self._timers.forget(timer)

    @asynccontextmanager
    async def listen(
        self,
        patterns: tuple[str, ...],
        topics: tuple[Topic[Any], ...],
        model: object,
        options: SubscribeOptions[Any],
    ) -> AsyncGenerator[Events[Any]]:
        """Subscribe for the length of a block."""
        self.require_open()
        subscription = self._registry.add_iterator(patterns, topics, model, options)
        self.forget_routes()
        desk: Desk[Any] = Desk(subscription)
        try:
            if isinstance(self._exchange, FedExchange):
                await self._exchange.start(subscription)
            yield Events(desk)
            await desk.settle()
        finally:
            in_hand = desk.release()
            if isinstance(self._exchange, FedExchange):
                await self._exchange.let_go(subscription, in_hand)
            self._registry.close(subscription)
            self._registry.forget(subscription)
            self.forget_routes()

    async def _forget_when_done(self, subscription: Subscription) -> None:
        if subscription.queue is not None:
            await subscription.queue.wait_idle()
        self._registry.forget(subscription)

    def _is_of_handler(self, asking: Asking) -> bool:
        """Tell who is cancelled when the bus stops, and so need not be told that it drains."""
        return asking.variables.run(is_handler_of, self)

    def _refuse_handlers(self, verb: str) -> None:
        if is_handler_of(self):
            raise DeadlockError(
                f"{verb}() in a handler of {self!r} would wait for that handler: call it from the "
                "code that runs the bus"
            )

    @property
    def _is_copy(self) -> bool:
        """Whether this is the copy of a running bus, in a child process."""
        return self._is_live and self._runtime.is_copy

    def _refuse_copies(self) -> None:
        if self._is_copy:
            raise EventBusError(
                f"{self!r} was running when this process was forked, and runs in the parent alone: "
                "fork before it is started, or make a new one in the child"
            )

    # --- what its parts ask of it -----------------------------------------------------------

    @property
    def activity(self) -> Activity:
        """Where queues with work, and what else is to be waited for, are counted."""
        return self._activity

    @property
    def runtime(self) -> Runtime:
        """What it has while it runs."""
        return self._runtime

    def forget_routes_soon(self) -> None:
        """Work all routes out anew, also if this is not the thread that works them out."""
        if self._is_live and not self._runtime.is_in_its_thread():
            self._runtime.call_soon(self.forget_routes)
        else:
            self.forget_routes()

    def open_inbox(self) -> Inbox[Message]:
        """Give where a thread may put what it publishes.

        Raises:
            NotStarted, BusClosed: As `require_open`.
        """
        self._refuse_copies()
        self._require_phase()
        return self._inbox

    @property
    def is_stopping(self) -> bool:
        """Whether the bus is being stopped at once."""
        return self._phase is Phase.STOPPING

    @property
    def keeps_routes(self) -> bool:
        """Whether a route that was found stays good for other callers."""
        return self._phase is Phase.RUNNING

    def require_open(self) -> None:
        """Raise unless the bus takes messages from this caller now.

        Raises:
            NotStarted: It has not been started.
            BusClosed: It is closed or drained; or draining, and the caller is no handler of it.
            EventBusError: As `require_here`.
        """
        self.require_here()
        self._require_phase()

    def _require_phase(self) -> None:
        if self._phase is Phase.RUNNING:
            return
        if self._phase is Phase.NEW:
            raise NotStarted(
                f"{self!r} is not running: use it inside `async with bus:`, or beside "
                "`await tasks.start(bus.run)`"
            )
        if self._phase is not Phase.DRAINING or not is_handler_of(self):
            raise BusClosed(f"{self!r} takes nothing new: publish before it drains or closes")

    def require_here(self) -> None:
        """Raise where a running bus cannot be used from.

        Raises:
            EventBusError: It runs in another thread, or in the process that was forked.
        """
        self._refuse_copies()
        if self._is_live and not self._runtime.is_in_its_thread():
            raise EventBusError(
                f"{self!r} runs in another thread, and is not safe to use from this one: publish "
                "with publish_from_thread or, in a handler, context.publish_nowait; for all else "
                "take anyio.from_thread.run"
            )
