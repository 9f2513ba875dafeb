"""Handlers that are not async: their threads, their places, and what they may publish."""

from threading import Event as ThreadEvent

import anyio
import pytest

from eventbus import Context, EventBus, EventBusError
from eventbus.middleware import DeadLetter
from eventbus.threads import Threads


async def test_a_function_runs_in_a_thread_and_gives_its_result() -> None:
    """Who waits gets what the function returned."""
    assert await Threads(1).run(lambda: "done") == "done"


async def test_an_error_comes_back_from_the_thread() -> None:
    """Who waits gets the function's own exception."""

    def fail() -> None:
        raise KeyError("missing")

    with pytest.raises(KeyError, match="missing"):
        await Threads(1).run(fail)


async def test_a_deserted_thread_keeps_its_place_until_it_returns() -> None:
    """With one place, the next function waits for a thread nobody waits for any more."""
    threads, began, release, ended = Threads(1), anyio.Event(), ThreadEvent(), anyio.Event()
    had_to_wait = False

    def block() -> None:
        anyio.from_thread.run_sync(began.set)
        release.wait(10)

    async def run_next() -> None:
        await threads.run(lambda: None)
        ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(threads.run, block)
        await began.wait()
        tasks.cancel_scope.cancel()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_next)
        await anyio.wait_all_tasks_blocked()
        had_to_wait = not ended.is_set()
        release.set()

    assert had_to_wait
    assert ended.is_set()


async def test_a_handler_in_a_thread_publishes_through_its_context() -> None:
    """What it publishes goes out when it has returned, with this message as its cause."""
    bus = EventBus()
    heard: list[tuple[dict[str, str], str | None]] = []

    @bus.on("orders.created")
    def bill(event: object, context: Context[object]) -> None:
        context.publish_nowait("invoices.requested", {"of": context.message.topic})

    @bus.on("invoices.requested")
    async def send(event: dict[str, str], context: Context[dict[str, str]]) -> None:
        heard.append((event, context.message.causation_id))

    async with bus:
        receipt = await bus.publish("orders.created", {})

    assert heard == [({"of": "orders.created"}, receipt.id)]


async def test_a_thread_may_not_publish_to_the_bus_itself() -> None:
    """It says so before anything is queued, and names what to use."""
    bus = EventBus(middleware=[DeadLetter()])

    @bus.on("orders.created")
    def bill(event: object) -> None:
        bus.publish_nowait("invoices.requested", {})

    @bus.on("invoices.requested")
    async def send(event: object) -> None:
        pass

    async with bus:
        await bus.publish("orders.created", {})
        await bus.join()
        await bus.publish("invoices.requested", {})
        await bus.join()
        (dead,) = await bus.dead_letters()

    assert dead.error_type == EventBusError.__qualname__
    assert "context.publish_nowait" in dead.error
    assert bus.stats().succeeded == 1
