"""The bus of a test: the production one, watched."""

__all__ = ("BusOptions", "TestBus")

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, ClassVar, Generic

from typing_extensions import TypedDict, TypeVar, Unpack

from eventbus.bus import EventBus
from eventbus.clock import Clock, SystemClock
from eventbus.middleware import Middleware, Policy, PublishMiddleware
from eventbus.queue import Overflow
from eventbus.testing.clock import VirtualClock
from eventbus.testing.recorder import Recorder

C = TypeVar("C", default=Any)


class BusOptions(TypedDict, Generic[C], total=False):
    """The keyword arguments of `EventBus` that a `TestBus` hands on."""

    contracts: type[C] | None
    middleware: Sequence[Middleware | Policy]
    publish_middleware: Sequence[PublishMiddleware]
    queue_size: int
    overflow: Overflow
    drain_timeout: float | timedelta
    schedule_size: int
    threads: int
    name: str | None


class TestBus(EventBus[C], Recorder, Generic[C]):
    """The `EventBus` itself, which remembers what went through it.

    Payloads go through JSON as on a durable transport, unless another `url` is given. Its time is
    that of the event loop, which may be virtual. `await bus.join()` waits until everything has been
    handled, retries included; leaving the block does what it does in production, and then raises
    what handlers failed with for good, unless the test expected it.

    Args:
        url: As `EventBus`.
        raise_failures: Whether leaving the block raises failures that nobody expected: those of
            deliveries given up on, if neither `fail` caused nor `assert_failed` asked for them.
        clock: As `EventBus`; by default the loop's time.
        options: All else that `EventBus` takes.

    Example:
        >>> async with TestBus(middleware=[Retry(attempts=3)]) as bus:
        ...     bus.include(orders)
        ...     bus.fail(bill, times=2)
        ...     await bus.publish(ORDER_PLACED, OrderPlaced(order_id="o-1"))
        ...     await bus.join()
        ...     assert bus.attempts(bill) == 3
        ...     bus.assert_published("invoices.*", times=1)
    """

    __test__: ClassVar[bool] = False  # its name is no test's, whatever pytest makes of it

    def __init__(
        self,
        url: str = "memory://?codec=json",
        *,
        raise_failures: bool = True,
        clock: Clock | None = None,
        **options: Unpack[BusOptions[C]],
    ) -> None:
        EventBus.__init__(self, url, clock=clock or VirtualClock(), **options)
        Recorder.__init__(self, self)
        self.raise_failures = raise_failures
        self.probes = (self,)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        """Drain the bus, then raise failures that nobody expected.

        Raises:
            AssertionError: There were some; the handler's error is its cause.
        """
        __tracebackhide__ = True
        await super().__aexit__(kind, error, trace)
        if error is None and self.raise_failures:
            self.raise_unexpected()

    @classmethod
    @asynccontextmanager
    async def around(
        cls, bus: EventBus[Any], /, *, raise_failures: bool = True
    ) -> AsyncGenerator[Recorder]:
        """Watch the bus of an application for the length of a block.

        It is started and drained, on the loop's time if it was made without a `clock=`; a bus that
        runs already is joined in the end. What the application publishes and handles through its
        own `bus` is seen.

        Example:
            >>> async with TestBus.around(app.bus) as test:
            ...     await app.place_order("o-1")
            ...     await app.bus.join()
            ...     test.assert_published("orders.placed")

        Raises:
            AssertionError: At the end, as of a `TestBus`.
        """
        recorder = Recorder(bus)
        with bus.attach(recorder):
            if bus.is_running:
                yield recorder
                await bus.join()
            else:
                async with _on_loop_time(bus), bus:
                    yield recorder
        if raise_failures:
            recorder.raise_unexpected()


@asynccontextmanager
async def _on_loop_time(bus: EventBus[Any]) -> AsyncGenerator[None]:
    own = bus.clock
    if isinstance(own, SystemClock):
        bus.keep_time_by(VirtualClock())
    try:
        yield
    finally:
        bus.keep_time_by(own)
