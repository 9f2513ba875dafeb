"""The life of a bus: starting, draining, stopping, and starting again."""

import asyncio
import gc
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
import sniffio
import trio
from anyio.lowlevel import checkpoint

from eventbus import (
    BusClosed,
    Context,
    DeadlockError,
    EventBus,
    EventBusError,
    NotStarted,
    Topic,
    dispatch,
)
from eventbus.middleware import DeadLetter, Retry, Timeout
from eventbus.testing import ManualClock
from tests.gate import Gate


def running_tasks() -> int:
    """Count the tasks of the event loop."""
    if sniffio.current_async_library() == "asyncio":
        return len(asyncio.all_tasks())
    return trio.lowlevel.current_statistics().tasks_living


# --- Starting -------------------------------------------------------------------------------------


async def test_a_handler_may_come_while_the_bus_runs() -> None:
    """A registration counts from the next publish on, also on a topic published to before."""
    seen: list[object] = []
    async with EventBus() as bus:
        await bus.publish("numbers", {"n": 1})
        bus.on("numbers")(seen.append)
        await bus.publish("numbers", {"n": 2})
        await bus.join()

    assert seen == [{"n": 2}]


_module_bus = EventBus(name="module")
_module_seen: list[Any] = []


@_module_bus.on("numbers")
async def note_number(event: dict[str, int]) -> None:
    """Note what the bus of this module delivers."""
    _module_seen.append(event)


@pytest.mark.parametrize("number", range(3))
async def test_a_bus_of_a_module_runs_again_and_on_either_loop(number: int) -> None:
    """A bus made at import time belongs to no loop; it serves the one it was started on."""
    _module_seen.clear()

    async with _module_bus:
        await _module_bus.publish("numbers", {"n": number})

    assert _module_seen == [{"n": number}]


async def test_a_restarted_bus_keeps_its_handlers_and_figures() -> None:
    """Registrations live as long as the bus object, and the figures add up."""
    seen: list[object] = []
    bus = EventBus()
    bus.on("numbers")(seen.append)

    for number in range(3):
        async with bus:
            await bus.publish("numbers", {"n": number})

    assert seen == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert (bus.stats().published, bus.stats().succeeded) == (3, 3)


async def test_a_running_bus_cannot_be_entered() -> None:
    """The second `async with` is refused, and the first one is none the worse."""
    seen: list[object] = []
    bus = EventBus(name="shop")
    bus.on("numbers")(seen.append)

    async with bus:
        with pytest.raises(EventBusError, match="'shop'"):
            await bus.__aenter__()
        await bus.publish("numbers", {"n": 1})

    assert seen == [{"n": 1}]


async def test_two_buses_are_two_worlds() -> None:
    """What one publishes, the other does not see."""
    seen: list[str] = []
    first, second = EventBus(), EventBus()
    first.on(">")(lambda event: seen.append("first"))
    second.on(">")(lambda event: seen.append("second"))

    async with first, second:
        await first.publish("numbers", {})

    assert seen == ["first"]


# --- Leaving normally -----------------------------------------------------------------------------


async def test_leaving_handles_all_that_is_queued() -> None:
    """Nothing that was accepted is left behind, however long the queues."""
    seen: list[int] = []
    bus = EventBus()

    @bus.on("numbers")
    async def slow(event: dict[str, int]) -> None:
        await checkpoint()
        seen.append(event["n"])

    async with bus:
        await bus.publish_many("numbers", [{"n": n} for n in range(300)])

    assert seen == list(range(300))


async def test_leaving_handles_what_handlers_publish_meanwhile() -> None:
    """A chain of events goes on to its end, though the bus takes nothing new from outside."""
    seen: list[int] = []
    bus = EventBus()

    @bus.on("numbers")
    async def count_down(event: dict[str, int], context: Context[dict[str, int]]) -> None:
        number = event["n"]
        seen.append(number)
        if number:
            publish = bus.publish if number % 2 else context.publish
            await publish("numbers", {"n": number - 1})

    async with bus:
        await bus.publish("numbers", {"n": 10})

    assert seen == list(range(10, -1, -1))


async def test_leaving_handles_the_queues_of_sync_handlers() -> None:
    """Work in threads is waited for like any other."""
    seen: list[int] = []
    bus = EventBus()

    @bus.on("numbers")
    def sync(event: dict[str, int]) -> None:
        seen.append(event["n"])

    async with bus:
        await bus.publish_many("numbers", [{"n": n} for n in range(20)])

    assert seen == list(range(20))


async def test_leaving_waits_for_retries_that_are_due_in_time(clock: ManualClock) -> None:
    """A retry before the deadline is part of what was accepted."""
    attempts: list[int] = []
    bus = EventBus(
        clock=clock, drain_timeout=30, middleware=[Retry(attempts=2, initial=10, jitter=False)]
    )

    @bus.on("numbers")
    async def fails_once(event: object, context: Context[object]) -> None:
        attempts.append(context.attempt)
        if context.attempt == 1:
            raise ValueError("not yet")

    async with anyio.create_task_group() as tasks, bus:
        await bus.publish("numbers", {})
        tasks.start_soon(clock.advance, 10)

    assert attempts == [1, 2]
    assert (bus.stats().succeeded, bus.stats().abandoned) == (1, 0)


async def test_leaving_abandons_retries_due_after_the_deadline(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not even wait for the deadline: what cannot come in time is given up at once."""
    bus = EventBus(
        clock=clock,
        drain_timeout=30,
        middleware=[DeadLetter(), Retry(attempts=2, initial=60, jitter=False)],
    )

    @bus.on("numbers", name="fails")
    async def fails(event: object) -> None:
        raise ValueError("never")

    began = clock.monotonic()
    async with bus:
        await bus.publish("numbers", {})
        await anyio.wait_all_tasks_blocked()

    assert clock.monotonic() == began
    assert (bus.stats().abandoned, bus.stats().dead_lettered) == (1, 0)
    assert "fails abandons" in caplog.text


async def test_leaving_abandons_retries_set_while_it_drains(clock: ManualClock) -> None:
    """A failure during the drain gets no retry that would come too late."""
    gate = Gate()
    bus = EventBus(
        clock=clock, drain_timeout=30, middleware=[Retry(attempts=2, initial=60, jitter=False)]
    )

    @bus.on("numbers")
    async def fails(event: object) -> None:
        await gate(event)
        raise ValueError("never")

    async with anyio.create_task_group() as tasks:

        async def open_the_gate() -> None:
            await anyio.wait_all_tasks_blocked()
            gate.opened.set()

        async with bus:
            await bus.publish("numbers", {})
            await gate.entered.wait()
            tasks.start_soon(open_the_gate)

    assert bus.stats().abandoned == 1


async def test_a_stuck_handler_holds_leaving_up_to_the_deadline(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """After `drain_timeout` it is stopped; it and what is behind it are counted and logged."""
    gate = Gate()
    bus = EventBus(clock=clock, drain_timeout=30, name="shop")
    bus.on("numbers", name="stuck")(gate)
    left = anyio.Event()

    async def run() -> None:
        async with bus:
            await bus.publish_many("numbers", [{"n": n} for n in range(3)])
        left.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await gate.entered.wait()
        await clock.advance(29)
        assert not left.is_set()
        await clock.advance(1)
        await left.wait()

    stats = bus.stats()
    assert (gate.seen, gate.done) == ([{"n": 0}], [])
    assert (stats.abandoned, stats.failed, stats.dead_lettered, stats.in_flight) == (3, 0, 0, 0)
    assert "shop: the bus ended with 3 deliveries abandoned" in caplog.text


async def test_no_patience_at_all_still_handles_what_is_ready(clock: ManualClock) -> None:
    """A `drain_timeout` of 0 stops at once what waits for anything."""
    gate = Gate()
    bus = EventBus(clock=clock, drain_timeout=0)
    bus.on("numbers")(gate)

    async with bus:
        await bus.publish("numbers", {})
        await gate.entered.wait()

    assert gate.done == []
    assert bus.stats().abandoned == 1


# --- Draining -------------------------------------------------------------------------------------


async def test_a_draining_bus_takes_nothing_from_outside_and_all_from_handlers() -> None:
    """Publishing is refused to everybody but the handlers that are being waited for."""
    gate = Gate()
    seen: list[object] = []
    bus = EventBus()

    @bus.on("first")
    async def handler(event: object) -> None:
        await gate(event)
        await bus.publish("second", {"via": "publish"})
        bus.publish_nowait("second", {"via": "publish_nowait"})
        await bus.publish_many("second", [{"via": "publish_many"}])

    bus.on("second")(seen.append)

    async with bus, anyio.create_task_group() as tasks:
        await bus.publish("first", {})
        await gate.entered.wait()
        tasks.start_soon(bus.drain)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(BusClosed, match="nothing new"):
            await bus.publish("second", {})
        with pytest.raises(BusClosed):
            bus.publish_nowait("second", {})
        with pytest.raises(BusClosed):
            await bus.publish_many("second", [{}])
        gate.opened.set()

    assert seen == [{"via": "publish"}, {"via": "publish_nowait"}, {"via": "publish_many"}]


async def test_a_sync_handler_may_publish_while_the_bus_drains() -> None:
    """Its `context.publish_nowait` is part of what the handler does."""
    seen: list[object] = []
    bus = EventBus()

    @bus.on("first")
    def handler(event: object, context: Context[object]) -> None:
        context.publish_nowait("second", {"n": 1})

    bus.on("second")(seen.append)

    async with bus:
        await bus.publish("first", {})

    assert seen == [{"n": 1}]


async def test_a_task_of_a_handler_may_publish_while_the_bus_drains() -> None:
    """Who is at work for a handler is inside, whatever task it runs in."""
    gate = Gate()
    seen: list[object] = []
    bus = EventBus()
    bus.on("second")(seen.append)

    @bus.on("first")
    async def handler(event: object) -> None:
        await gate(event)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.publish, "second", {"n": 1})

    async with bus, anyio.create_task_group() as tasks:
        await bus.publish("first", {})
        await gate.entered.wait()
        tasks.start_soon(bus.drain)
        await anyio.wait_all_tasks_blocked()
        gate.opened.set()

    assert seen == [{"n": 1}]


async def test_drain_is_final_until_the_next_start() -> None:
    """After `drain` the bus takes nothing, but can be left and started again."""
    seen: list[object] = []
    bus = EventBus()
    bus.on("numbers")(seen.append)

    async with bus:
        await bus.publish("numbers", {"n": 1})
        await bus.drain()
        assert seen == [{"n": 1}]
        with pytest.raises(BusClosed):
            await bus.publish("numbers", {"n": 2})
        await bus.drain()

    async with bus:
        await bus.publish("numbers", {"n": 3})

    assert seen == [{"n": 1}, {"n": 3}]


async def test_drain_of_a_bus_that_never_ran_is_refused() -> None:
    """There is nothing to finish, and it says so."""
    with pytest.raises(NotStarted):
        await EventBus().drain()


async def test_drain_of_a_closed_bus_does_nothing() -> None:
    """It has been drained."""
    async with EventBus() as bus:
        pass
    await bus.drain()


async def test_a_waiting_publisher_gets_through_while_the_bus_drains() -> None:
    """Who waited for room when the drain began had been accepted at the door."""
    gate = Gate()
    bus = EventBus()
    bus.on("numbers", queue_size=1)(gate)

    async with bus, anyio.create_task_group() as tasks:
        await bus.publish("numbers", {"n": 1})
        await gate.entered.wait()
        await bus.publish("numbers", {"n": 2})
        tasks.start_soon(bus.publish, "numbers", {"n": 3})
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(bus.drain)
        await anyio.wait_all_tasks_blocked()
        gate.opened.set()

    assert gate.done == [{"n": 1}, {"n": 2}, {"n": 3}]


# --- Joining --------------------------------------------------------------------------------------


async def test_join_waits_for_what_is_running_and_queued() -> None:
    """It returns when the last handler has, and not before."""
    gate = Gate()
    bus = EventBus()
    bus.on("numbers")(gate)
    joined = anyio.Event()

    async def join() -> None:
        await bus.join()
        joined.set()

    async with bus, anyio.create_task_group() as tasks:
        await bus.publish_many("numbers", [{"n": 1}, {"n": 2}])
        tasks.start_soon(join)
        await gate.entered.wait()
        await anyio.wait_all_tasks_blocked()
        assert not joined.is_set()
        gate.opened.set()
        await joined.wait()
        assert gate.done == [{"n": 1}, {"n": 2}]


async def test_join_waits_for_retries(clock: ManualClock) -> None:
    """A delivery that will be tried again is not done."""
    bus = EventBus(clock=clock, middleware=[Retry(attempts=2, initial=10, jitter=False)])
    attempts: list[int] = []

    @bus.on("numbers")
    async def fails_once(event: object, context: Context[object]) -> None:
        attempts.append(context.attempt)
        if context.attempt == 1:
            raise ValueError("not yet")

    joined = anyio.Event()

    async def join() -> None:
        await bus.join()
        joined.set()

    async with bus, anyio.create_task_group() as tasks:
        await bus.publish("numbers", {})
        tasks.start_soon(join)
        await clock.advance(9)
        assert (attempts, joined.is_set()) == ([1], False)
        await clock.advance(1)
        await joined.wait()

    assert attempts == [1, 2]


async def test_join_returns_at_once_where_nothing_is_to_be_done() -> None:
    """An idle bus is joined, before its first message and after its last, and while closed."""
    bus = EventBus()
    bus.on("numbers")(lambda event: None)
    await bus.join()
    async with bus:
        await bus.join()
        await bus.publish("numbers", {})
        await bus.join()
        await bus.join()
    await bus.join()


async def test_a_cancelled_join_changes_nothing() -> None:
    """Who no longer wants to wait leaves the work as it is."""
    gate = Gate()
    bus = EventBus()
    bus.on("numbers")(gate)

    async with bus:
        await bus.publish("numbers", {"n": 1})
        await gate.entered.wait()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await bus.join()
        gate.opened.set()
        await bus.join()
        assert gate.done == [{"n": 1}]


@pytest.mark.parametrize("verb", ["join", "drain"])
async def test_a_handler_cannot_wait_for_itself(verb: str) -> None:
    """`join` and `drain` in a handler would never return; they raise."""
    errors: list[str] = []
    bus = EventBus(name="shop")

    @bus.on("numbers")
    async def handler(event: object) -> None:
        with pytest.raises(DeadlockError) as caught:
            await getattr(bus, verb)()
        errors.append(str(caught.value))

    async with bus:
        await bus.publish("numbers", {})

    assert len(errors) == 1
    assert f"{verb}()" in errors[0]
    assert "'shop'" in errors[0]


async def test_a_handler_may_join_another_bus() -> None:
    """Only the handler's own bus waits for it."""
    joined: list[bool] = []
    other = EventBus()
    bus = EventBus()

    @bus.on("numbers")
    async def handler(event: object) -> None:
        await other.join()
        joined.append(True)

    async with other, bus:
        await bus.publish("numbers", {})

    assert joined == [True]


# --- Leaving otherwise ----------------------------------------------------------------------------


async def break_off(bus: EventBus, topic: str, busy: anyio.Event) -> None:
    """Leave the bus by an error, while the first of two messages is being handled."""
    async with bus:
        await bus.publish_many(topic, [{"n": 1}, {"n": 2}])
        await busy.wait()
        raise LookupError("enough")


async def test_an_error_of_the_block_stops_at_once_and_leaves_unwrapped() -> None:
    """The program's own exception comes out as it is, in no group; handlers are cancelled."""
    gate = Gate()
    bus = EventBus()
    bus.on("numbers")(gate)

    with pytest.raises(LookupError, match="enough"):
        await break_off(bus, "numbers", gate.entered)

    assert gate.done == []
    stats = bus.stats()
    assert (stats.abandoned, stats.failed, stats.dead_lettered, stats.in_flight) == (2, 0, 0, 0)


async def test_a_cancellation_around_stops_at_once() -> None:
    """The scope outside is what was cancelled, and what catches it."""
    gate = Gate()
    bus = EventBus()
    bus.on("numbers")(gate)

    with anyio.CancelScope() as scope:
        async with bus:
            await bus.publish("numbers", {})
            await gate.entered.wait()
            scope.cancel()
            await checkpoint()
            pytest.fail("a cancelled scope ends at its next checkpoint")

    assert scope.cancelled_caught
    assert gate.done == []
    assert bus.stats().abandoned == 1


async def test_a_cancellation_while_leaving_stops_the_drain() -> None:
    """Whoever cancels a bus that drains does not wait for the rest of the drain."""
    gate = Gate()
    bus = EventBus()
    bus.on("numbers")(gate)

    scope = anyio.CancelScope()

    async def cancel_once_blocked() -> None:
        await anyio.wait_all_tasks_blocked()
        scope.cancel()

    async with anyio.create_task_group() as tasks:
        with scope:
            async with bus:
                await bus.publish("numbers", {})
                await gate.entered.wait()
                tasks.start_soon(cancel_once_blocked)

    assert scope.cancelled_caught
    assert gate.done == []
    with pytest.raises(BusClosed):
        await bus.publish("numbers", {})


async def test_a_timeout_around_a_running_bus_ends_it() -> None:
    """`anyio.fail_after` around the block is an ordinary timeout."""
    bus = EventBus()

    async def serve() -> None:
        with anyio.fail_after(0):
            async with bus:
                await anyio.sleep_forever()

    with pytest.raises(TimeoutError):
        await serve()
    async with bus:
        pass


async def test_a_handler_that_cleans_up_is_waited_for() -> None:
    """A stop lets what is cancelled finish its `finally`."""
    cleaned: list[bool] = []
    entered = anyio.Event()
    bus = EventBus()

    @bus.on("numbers")
    async def handler(event: object) -> None:
        try:
            entered.set()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            cleaned.append(True)

    with pytest.raises(LookupError):
        await break_off(bus, "numbers", entered)

    assert cleaned == [True]


async def test_a_handler_publishing_into_a_stopping_bus_is_cancelled_not_failed() -> None:
    """What fails because the bus stops is no failure: nothing is recorded as one."""
    raised: list[type[BaseException]] = []
    entered = anyio.Event()
    bus = EventBus(middleware=[DeadLetter(), Retry(attempts=3)])

    @bus.on("numbers")
    async def handler(event: object) -> None:
        try:
            entered.set()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            try:
                await bus.publish("numbers", {})
            except BaseException as error:
                raised.append(type(error))
                raise

    with pytest.raises(LookupError):
        await break_off(bus, "numbers", entered)

    assert raised == [anyio.get_cancelled_exc_class()]
    stats = bus.stats()
    assert (stats.failed, stats.retried, stats.dead_lettered, stats.abandoned) == (0, 0, 0, 2)


async def test_a_bus_stopped_by_an_error_can_be_started_again() -> None:
    """Nothing of the old run is left in the way; what was queued then is gone."""
    seen: list[object] = []
    bus = EventBus()
    bus.on("numbers")(seen.append)
    gate = Gate()
    bus.on("stuck", name="stuck")(gate)

    with pytest.raises(LookupError):
        await break_off(bus, "stuck", gate.entered)
    async with bus:
        gate.opened.set()
        await bus.publish("numbers", {"n": 3})
        await bus.publish("stuck", {"n": 4})

    assert seen == [{"n": 3}]
    assert gate.done == [{"n": 4}]


# --- When the machinery itself fails --------------------------------------------------------------


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break what a worker does with a failure: a bug of the bus itself."""

    async def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(dispatch, "give_up", fail)


async def failing(event: object) -> None:
    """Fail, so that the worker has something to do."""
    raise ValueError("no")


async def serve_for_ever(bus: EventBus) -> None:
    """Run the bus, with a message, until something ends it."""
    async with bus:
        await bus.publish("numbers", {})
        await anyio.sleep_forever()


@pytest.mark.usefixtures("broken")
async def test_an_error_of_the_machinery_ends_the_bus_in_a_group() -> None:
    """A bug of the bus is not hidden: the block is cancelled, one group of depth one comes out."""
    bus = EventBus()
    bus.on("numbers")(failing)

    with pytest.raises(ExceptionGroup) as caught:
        await serve_for_ever(bus)

    (error,) = caught.value.exceptions
    assert isinstance(error, ZeroDivisionError)
    with pytest.raises(BusClosed):
        await bus.publish("numbers", {})


@pytest.mark.usefixtures("broken")
async def test_an_error_of_the_machinery_leaves_no_cancellation_behind() -> None:
    """The task that ran the bus goes on as if nothing had been cancelled."""
    bus = EventBus()
    bus.on("numbers")(failing)

    with pytest.raises(ExceptionGroup):
        await serve_for_ever(bus)

    for _ in range(3):
        await checkpoint()
    if sniffio.current_async_library() == "asyncio":
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


@pytest.mark.usefixtures("broken")
async def test_an_error_of_the_machinery_during_the_drain_comes_out() -> None:
    """Leaving normally does not hide it either."""
    bus = EventBus()
    bus.on("numbers")(failing)

    with pytest.raises(ExceptionGroup) as caught:
        async with bus:
            await bus.publish("numbers", {})

    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]


# --- Afterwards -----------------------------------------------------------------------------------


async def leave_normally(bus: EventBus) -> None:
    """Run the bus, and leave it as one should."""
    async with bus:
        await bus.publish_many("numbers", [{"n": n} for n in range(50)])
        await bus.publish_many("sync", [{"n": n} for n in range(5)])


async def leave_by_an_error(bus: EventBus) -> None:
    """Run the bus until the block raises."""
    with suppress(LookupError):
        async with bus:
            await bus.publish_many("numbers", [{"n": n} for n in range(50)])
            await bus.publish("stuck", {})
            await anyio.wait_all_tasks_blocked()
            raise LookupError


async def leave_by_cancellation(bus: EventBus) -> None:
    """Run the bus until somebody outside has enough."""
    with anyio.CancelScope() as scope:
        async with bus, bus.subscribe(">"):
            await bus.publish_many("numbers", [{"n": n} for n in range(50)])
            await bus.publish("stuck", {})
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            await checkpoint()


@pytest.mark.parametrize("leave", [leave_normally, leave_by_an_error, leave_by_cancellation])
async def test_no_task_is_left(leave: Callable[[EventBus], Any]) -> None:
    """Every task belongs to the bus, and ends with it."""
    bus = EventBus(middleware=[DeadLetter(), Retry(attempts=2, initial=0.001), Timeout(30)])

    @bus.on("numbers", concurrency=4, key=lambda event: str(event["n"] % 7))
    async def handler(event: dict[str, int]) -> None:
        await checkpoint()
        if event["n"] % 5 == 0:
            raise ValueError("a bad number")

    @bus.on("stuck")
    async def stuck(event: object) -> None:
        await anyio.sleep_forever()

    bus.on("sync", concurrency=2)(lambda event: None)
    before = running_tasks()

    await leave(bus)
    await checkpoint()

    assert running_tasks() == before


async def test_what_happened_can_be_read_after_the_end() -> None:
    """Statistics and dead letters outlive the run."""
    bus = EventBus(middleware=[DeadLetter()])

    @bus.on("numbers", name="fails")
    async def fails(event: object) -> None:
        raise ValueError("no")

    async with bus:
        await bus.publish("numbers", {"n": 1})

    assert bus.stats().subscriptions["fails"].dead_lettered == 1
    (letter,) = await bus.dead_letters("fails")
    assert (letter.error_type, letter.error) == ("ValueError", "no")
    assert await bus.purge_dead_letters() == 1
    assert await bus.dead_letters() == []


async def assert_refuses(
    bus: EventBus, topic: Topic[dict[str, int]], error: type[EventBusError], match: str
) -> None:
    """Assert that whatever is asked of the bus raises one error."""
    with pytest.raises(error, match=match):
        await bus.publish(topic, {"n": 1})
    with pytest.raises(error, match=match):
        bus.publish_nowait(topic, {"n": 1})
    with pytest.raises(error, match=match):
        await bus.publish_many(topic, [{"n": 1}])
    with pytest.raises(error, match=match):
        await bus.redrive()
    with pytest.raises(error, match=match):
        async with bus.subscribe(topic):
            pass


async def test_a_closed_bus_refuses() -> None:
    """Publishing and redriving after the end say that it is over."""
    topic = Topic("numbers", dict[str, int])
    async with EventBus(name="shop") as bus:
        await bus.publish(topic, {"n": 1})

    await assert_refuses(bus, topic, BusClosed, "'shop'")


async def test_a_bus_that_has_not_begun_refuses() -> None:
    """Publishing before the start names the way to start."""
    topic = Topic("numbers", dict[str, int])

    await assert_refuses(EventBus(name="shop"), topic, NotStarted, "async with bus")


async def test_a_bus_that_is_over_is_freed() -> None:
    """Nothing global holds on to a bus."""

    class Counted(EventBus):
        living = 0

        def __init__(self) -> None:
            Counted.living += 1
            super().__init__()

        def __del__(self) -> None:
            Counted.living -= 1

    async def handle(event: object) -> None:  # a worker thread would keep its last context a while
        pass

    async def run() -> None:
        bus = Counted()
        bus.on("numbers")(handle)
        async with bus:
            await bus.publish("numbers", {})

    await run()
    await checkpoint()
    gc.collect()

    assert Counted.living == 0


# --- Independence ---------------------------------------------------------------------------------


async def test_a_quiet_end_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A bus that did its work has nothing to say about it."""
    caplog.set_level(logging.INFO, logger="eventbus")
    await leave_normally(EventBus())

    assert caplog.records == []
