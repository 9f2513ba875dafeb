"""Cancellation passes through everything the bus calls: swallowed nowhere, mistaken for nothing."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeAlias
from unittest.mock import AsyncMock, Mock

import anyio
import pytest

from eventbus import Context, EventBus, Message, Receipt, dispatch
from eventbus.middleware import CallNext, DeadLetter, Filter, Log, PublishNext, Retry, Timeout
from eventbus.subscription import Subscription
from eventbus.testing import ManualClock
from tests.faults.stepping import turns

Way: TypeAlias = Literal["scope", "native", "timeout"]

IN_EACH_WAY = pytest.mark.parametrize(
    ("anyio_backend", "way"),
    [("asyncio", "scope"), ("asyncio", "native"), ("asyncio", "timeout"), ("trio", "scope")],
)
PROMPT = 2.0  # seconds; on a quiet machine it is a hundredth of that


class Trap:
    """Cancels the program from wherever it is stepped into."""

    def __init__(self) -> None:
        self.cancel: Callable[[], object] = lambda: None

    async def spring(self) -> None:
        """Cancel the program, and wait for that."""
        self.cancel()
        await anyio.sleep_forever()

    def pick(self, _: object = None) -> bool:
        """Cancel the program, and say yes: a filter."""
        self.cancel()
        return True

    def tell_key(self, _: object) -> str:
        """Cancel the program, and give a key."""
        self.cancel()
        return "key"


@asynccontextmanager
async def cancelled(trap: Trap, way: Way) -> AsyncGenerator[None]:
    """Expect the block to be cancelled by the trap, and nothing to be left of that."""
    with anyio.fail_after(PROMPT):
        if way == "scope":
            with anyio.CancelScope() as scope:
                trap.cancel = scope.cancel
                yield
            assert scope.cancelled_caught
        elif way == "timeout":
            limit = asyncio.timeout(None)
            trap.cancel = lambda: limit.reschedule(asyncio.get_running_loop().time())
            with pytest.raises(TimeoutError):
                async with limit:
                    yield
        else:
            task = asyncio.current_task()
            assert task is not None
            trap.cancel = task.cancel
            with pytest.raises(asyncio.CancelledError):
                yield
            assert task.uncancel() == 0
    await nothing_is_left()


async def nothing_is_left() -> None:
    """The task goes on as if it had never been cancelled."""
    await turns(3)
    if (task := _asyncio_task()) is not None:
        assert task.cancelling() == 0


def _asyncio_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


# --- Around what a worker calls -------------------------------------------------------------------


def in_middleware(trap: Trap) -> EventBus:
    """Be cancelled in a middleware, before the handler."""

    async def middleware(context: Context[Any], call_next: CallNext) -> object:
        await trap.spring()
        return await call_next(context)

    return bus_with(None, middleware)


def in_handler(trap: Trap, *middleware: Any, **options: Any) -> EventBus:
    """Be cancelled in the handler."""
    return bus_with(trap.spring, *middleware, **options)


def in_where(trap: Trap) -> EventBus:
    """Be cancelled in a filter, before the handler begins."""
    return bus_with(anyio.sleep_forever, where=trap.pick)


def in_key(trap: Trap) -> EventBus:
    """Be cancelled in the function that gives the key."""
    return bus_with(anyio.sleep_forever, key=trap.tell_key, concurrency=2)


def in_filter(trap: Trap) -> EventBus:
    """Be cancelled in the predicate of a `Filter`."""
    return bus_with(anyio.sleep_forever, Filter(trap.pick))


def in_thread(trap: Trap) -> EventBus:
    """Be cancelled while a handler runs in a thread, which goes on a little longer."""
    bus = bus_with(None)

    @bus.on("work", name="thread")
    def handle(event: object) -> None:
        anyio.from_thread.run_sync(trap.pick)
        threading.Event().wait(0.05)

    return bus


def in_outbox(trap: Trap) -> EventBus:
    """Be cancelled while what a handler has published waits for room."""
    bus = bus_with(None)

    @bus.on("full", name="full", queue_size=1)
    async def stand_still(event: object) -> None:
        await anyio.sleep_forever()

    @bus.on("work", name="publisher")
    async def publish(event: object, context: Context[Any]) -> None:
        for _ in range(4):
            await context.publish("full", {})

    @bus.on("work", name="later")
    async def spring_later(event: object) -> None:
        await turns()
        await trap.spring()

    return bus


def bus_with(handler: Callable[[], Any] | None, *middleware: Any, **options: Any) -> EventBus:
    """Make a bus that keeps what fails, with a handler for the work."""
    bus = EventBus(middleware=[DeadLetter(), *middleware])

    async def handle(event: object) -> None:
        if handler is not None:
            await handler()

    bus.on("work", name="work", **options)(handle)
    return bus


PLACES: dict[str, Callable[[Trap], EventBus]] = {
    "middleware": in_middleware,
    "where": in_where,
    "key": in_key,
    "Filter": in_filter,
    "thread": in_thread,
    "outbox": in_outbox,
    "handler": in_handler,
    "handler inside Log": lambda trap: in_handler(trap, Log()),
    "handler with policies": lambda trap: in_handler(trap, Retry(), Timeout(60.0)),
}


@IN_EACH_WAY
@pytest.mark.parametrize("place", PLACES)
async def test_it_ends_the_bus_and_is_no_failure(place: str, way: Way) -> None:
    """Wherever it strikes: the program ends at once, and nothing is recorded as failed."""
    trap = Trap()
    bus = PLACES[place](trap)

    async with cancelled(trap, way), bus:
        await bus.publish("work", {})
        await anyio.sleep_forever()

    stats = bus.stats()
    assert (stats.failed, stats.retried, stats.dead_lettered, stats.lost) == (0, 0, 0, 0)
    assert stats.abandoned >= 1


@IN_EACH_WAY
async def test_it_ends_a_worker_that_holds_a_retry(way: Way) -> None:
    """The failure before it is one; the cancellation after it is none."""

    async def fail() -> None:
        raise ValueError("to be tried again")

    trap = Trap()
    bus = bus_with(fail, Retry(initial=60.0, hold=True))
    async with cancelled(trap, way), bus:
        await bus.publish("work", {})
        await turns()
        await trap.spring()

    stats = bus.stats()
    assert (stats.failed, stats.dead_lettered, stats.abandoned) == (1, 0, 1)


async def test_control_taken_for_a_failure_it_would_be_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The figures above tell the difference."""
    monkeypatch.setattr(dispatch, "_raise_cancellation", Mock())
    monkeypatch.setattr(dispatch, "checkpoint_if_cancelled", AsyncMock())
    trap = Trap()
    bus = in_handler(trap)

    async with cancelled(trap, "scope"), bus:
        await bus.publish("work", {})
        await anyio.sleep_forever()

    assert bus.stats().failed == bus.stats().dead_lettered == 1


@IN_EACH_WAY
async def test_an_error_in_answer_to_it_is_no_failure(way: Way) -> None:
    """A handler whose cleaning up fails was cancelled all the same, and is not tried again."""
    trap = Trap()

    async def fail_when_cancelled() -> None:
        try:
            await trap.spring()
        finally:
            raise ValueError("in answer")

    bus = bus_with(fail_when_cancelled)
    async with cancelled(trap, way), bus:
        await bus.publish("work", {})
        await anyio.sleep_forever()

    assert (bus.stats().failed, bus.stats().dead_lettered, bus.stats().abandoned) == (0, 0, 1)


# --- Around a publish -----------------------------------------------------------------------------


@IN_EACH_WAY
async def test_it_ends_a_publish_in_its_middleware(way: Way) -> None:
    """The publish is cancelled, and the bus goes on."""
    trap, passes = Trap(), [False, True]

    async def middleware(message: Message, call_next: PublishNext) -> Receipt:
        if not passes.pop(0):
            await trap.spring()
        return await call_next(message)

    seen: list[object] = []
    bus = EventBus(publish_middleware=[middleware])
    bus.on("work")(seen.append)

    async with bus:
        async with cancelled(trap, way):
            await bus.publish("work", {"n": 1})
        await bus.publish("work", {"n": 2})

    assert seen == [{"n": 2}]


# --- Middleware that catches too much -------------------------------------------------------------


async def catch_errors(context: Context[Any], call_next: CallNext) -> object:
    """Catch what a middleware may catch."""
    try:
        return await call_next(context)
    except Exception:  # noqa: BLE001 - that is the point
        caught.append(context.event)
        return None


async def catch_all(context: Context[Any], call_next: CallNext) -> object:
    """Catch what no middleware may catch."""
    try:
        return await call_next(context)
    except BaseException:  # noqa: BLE001 - that is the mistake
        caught.append(context.event)
        return None


caught: list[object] = []


@pytest.fixture(autouse=True)
def _forget_what_was_caught() -> None:
    caught.clear()


@IN_EACH_WAY
async def test_middleware_that_catches_exceptions_never_sees_it(way: Way) -> None:
    """Cancellation is no `Exception`, on either loop."""
    trap = Trap()
    bus = in_handler(trap, catch_errors)

    async with cancelled(trap, way), bus:
        await bus.publish("work", {})
        await anyio.sleep_forever()

    assert caught == []


@IN_EACH_WAY
async def test_middleware_that_swallows_it_is_told_on(
    way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot keep the bus from ending, what it interrupted is no success, and a line says so."""
    trap = Trap()
    bus = in_handler(trap, catch_all)

    async with cancelled(trap, way), bus:
        await bus.publish_many("work", [{"n": n} for n in range(5)])
        await anyio.sleep_forever()

    # From a scope around the bus it may reach the handler before the bus knows: once.
    assert len(caught) <= 2
    assert bus.stats().abandoned == 5 - bus.stats().succeeded >= 4
    assert caplog.text.count("work returned though it was cancelled") == 1


async def test_control_untold_of_the_stop_it_would_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a look at what was interrupted, all that is queued is swallowed as well."""
    monkeypatch.setattr(Subscription, "interrupt", Mock())
    trap = Trap()
    bus = in_handler(trap, catch_all)

    async with cancelled(trap, "scope"), bus:
        await bus.publish_many("work", [{"n": n} for n in range(5)])
        await anyio.sleep_forever()

    assert len(caught) > 2
    assert bus.stats().succeeded > 1
    assert "returned though it was cancelled" not in caplog.text


async def test_a_time_limit_that_is_swallowed_is_told(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What returns in spite of its `Timeout` has returned, and a line says so."""
    bus = EventBus(clock=clock, middleware=[DeadLetter(), Timeout(5.0)])

    @bus.on("work", name="work", middleware=[catch_all])
    async def handle(event: object) -> None:
        if not caught:
            await anyio.sleep_forever()

    async with bus:
        await bus.publish_many("work", [{"n": 1}, {"n": 2}])
        await clock.advance(10.0)
        await bus.join()

    assert caught == [{"n": 1}]
    assert (bus.stats().succeeded, bus.stats().failed) == (2, 0)
    assert caplog.text.count("work returned though it was cancelled") == 1
