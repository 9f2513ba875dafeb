"""Handlers that are not async: their threads, their places, and what they may publish."""

import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from threading import Event as ThreadEvent
from threading import Thread
from typing import Any, TypeVar

import anyio
import pytest
from anyio.lowlevel import checkpoint
from pydantic import BaseModel

from eventbus import (
    BusClosed,
    Context,
    DeadlockError,
    EventBus,
    EventBusError,
    InvalidEvent,
    InvalidOption,
    InvalidTopic,
    Message,
    NotStarted,
    Receipt,
    Topic,
)
from eventbus.inbox import INBOX_SIZE
from eventbus.middleware import DeadLetter, PublishNext, Timeout
from eventbus.testing import ManualClock
from eventbus.threads import Threads
from tests.waiting import until

R = TypeVar("R")


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


# --- publishing from threads ------------------------------------------------------------------


class Number(BaseModel, frozen=True):
    number: int


NUMBER = Topic("numbers.checked", Number)


async def in_thread(function: Callable[[], R]) -> R:
    """Run a function in a thread that the bus does not know."""
    return await anyio.to_thread.run_sync(function)


async def test_a_thread_publishes() -> None:
    """Text or topic, event and options arrive as they would from the loop."""
    bus, messages = EventBus(), list[Message]()

    @bus.on("numbers.>")
    async def handle(event: object, context: Context[object]) -> None:
        messages.append(context.message)

    def publish() -> None:
        bus.publish_from_thread("numbers.raw", {"number": 1})
        bus.publish_from_thread(NUMBER, Number(number=2), key="k", headers={"a": "b"}, id="n-2")

    async with bus:
        await in_thread(publish)

    assert [message.payload for message in messages] == [{"number": 1}, Number(number=2)]
    assert [message.key for message in messages] == [None, "k"]
    assert (messages[1].id, messages[1].headers) == ("n-2", {"a": "b"})
    assert (bus.stats().published, bus.stats().succeeded) == (2, 2)


async def test_what_one_thread_publishes_stays_in_order() -> None:
    """Though several publish at once, far more than the inbox and the queue hold."""
    bus, heard = EventBus(queue_size=16), dict[int, list[int]]()

    @bus.on("numbers.*")
    async def handle(event: dict[str, int]) -> None:
        heard.setdefault(event["thread"], []).append(event["number"])

    def publish(thread: int) -> None:
        for number in range(3_000):
            bus.publish_from_thread(f"numbers.{number % 3}", {"thread": thread, "number": number})

    async with bus, anyio.create_task_group() as tasks:
        for thread in range(3):
            tasks.start_soon(in_thread, partial(publish, thread))

    assert heard == {thread: list(range(3_000)) for thread in range(3)}
    assert bus.stats().published == 9_000


@pytest.mark.parametrize(
    ("topic", "event", "options", "error"),
    [
        ("no topic", {}, {}, InvalidTopic),
        ("$dlq.own", {}, {}, InvalidTopic),
        (["numbers"], {}, {}, InvalidTopic),
        ("numbers.checked", {"number": "many"}, {}, InvalidEvent),
        ("numbers.raw", {}, {"key": ""}, InvalidOption),
        ("numbers.raw", {}, {"urgent": True}, InvalidOption),
        ("numbers.raw", {}, {"delay": -1}, InvalidOption),
        ("numbers.raw", {}, {"require": True}, InvalidOption),
    ],
)
async def test_what_cannot_be_published_is_refused_in_the_thread(
    topic: Any, event: Any, options: Any, error: type[Exception]
) -> None:
    """Whether the loop has published to the topic before or not."""
    bus = EventBus()
    bus.on(NUMBER)(print)
    async with bus:
        for _ in range(2):
            with pytest.raises(error):
                await in_thread(lambda: bus.publish_from_thread(topic, event, **options))
            await bus.publish("numbers.raw", {})
            await bus.publish(NUMBER, Number(number=1))

    assert bus.stats().published == 4


async def test_the_loops_own_thread_is_refused_by_name() -> None:
    """It would wait for itself, were the inbox full."""
    bus = EventBus()
    async with bus:
        with pytest.raises(DeadlockError, match="`await publish`, or publish_nowait"):
            bus.publish_from_thread("numbers.raw", {})

    assert bus.stats().published == 0


async def test_a_thread_publishes_only_while_the_bus_runs() -> None:
    """Before, and after, it is told so."""
    bus = EventBus()
    with pytest.raises(NotStarted):
        await in_thread(lambda: bus.publish_from_thread("numbers.raw", {}))
    async with bus:
        await bus.drain()
        with pytest.raises(BusClosed):
            await in_thread(lambda: bus.publish_from_thread("numbers.raw", {}))
    with pytest.raises(BusClosed):
        await in_thread(lambda: bus.publish_from_thread("numbers.raw", {}))
    async with bus:
        await in_thread(lambda: bus.publish_from_thread("numbers.raw", {}))

    assert bus.stats().unmatched == 1


async def test_join_counts_what_threads_have_published() -> None:
    """Also what the loop has not looked at yet."""
    bus, heard = EventBus(), list[object]()
    bus.on("numbers.raw", model=object)(heard.append)
    async with bus:
        thread = Thread(target=bus.publish_from_thread, args=("numbers.raw", {}))
        thread.start()
        thread.join()
        await bus.join()
        joined = list(heard)

    assert joined == [{}]


async def test_draining_takes_what_threads_have_published() -> None:
    """All that was put in before, be it more than the queue holds."""
    bus, heard = EventBus(queue_size=2), list[object]()

    @bus.on("numbers.raw")
    async def handle(event: object) -> None:
        heard.append(event)

    def publish() -> None:
        for _ in range(100):
            bus.publish_from_thread("numbers.raw", {})

    async with bus:
        thread = Thread(target=publish)
        thread.start()
        thread.join()

    assert len(heard) == 100
    assert bus.stats().abandoned == 0


async def test_a_thread_that_waits_when_the_bus_closes_is_told(clock: ManualClock) -> None:
    """It gets `BusClosed`; what it had put in is counted `abandoned`."""
    bus = EventBus(clock=clock, drain_timeout=10.0)
    published, errors = 0, list[type[Exception]]()

    @bus.on("numbers.raw", queue_size=1)
    async def handle(event: object) -> None:
        await anyio.sleep_forever()

    def publish() -> None:
        nonlocal published
        try:
            while True:
                bus.publish_from_thread("numbers.raw", {})
                published += 1
        except BusClosed as error:
            errors.append(type(error))

    async with anyio.create_task_group() as tasks, bus:
        tasks.start_soon(in_thread, publish)
        await until(lambda: bus.runtime.inbox.waiting > 0)
        tasks.start_soon(clock.advance, 10.0)

    stats = bus.stats()
    assert errors == [BusClosed]
    assert published >= INBOX_SIZE
    assert stats.abandoned == published
    assert stats.delivered == 1


async def test_a_bus_that_stops_at_once_counts_what_is_in_the_inbox() -> None:
    """As abandoned, every message once."""
    bus = EventBus()
    bus.on("numbers.raw", model=object)(print)

    def publish() -> None:
        for _ in range(10):
            bus.publish_from_thread("numbers.raw", {})

    with anyio.CancelScope() as scope:
        async with bus:
            thread = Thread(target=publish)
            thread.start()
            thread.join()
            scope.cancel()
            await checkpoint()

    assert bus.stats().abandoned == 10
    assert bus.stats().delivered == 0


async def test_a_handler_in_a_thread_may_publish_from_it() -> None:
    """Also while the bus drains; a thread of somebody else's may not any more."""
    bus, heard = EventBus(), list[object]()
    refused: list[type[Exception]] = []
    is_draining = ThreadEvent()

    @bus.on("ropes")
    def pull(event: object) -> None:
        is_draining.wait(10)
        bus.publish_from_thread("bells", {"n": 1})
        stranger = Thread(target=ring)
        stranger.start()
        stranger.join()

    @bus.on("bells")
    async def hear(event: object) -> None:
        heard.append(event)

    def ring() -> None:
        try:
            bus.publish_from_thread("bells", {"n": 2})
        except BusClosed as error:
            refused.append(type(error))

    async with bus, anyio.create_task_group() as tasks:
        await bus.publish("ropes", {})
        tasks.start_soon(bus.drain)
        await anyio.wait_all_tasks_blocked()
        is_draining.set()

    assert (heard, refused) == ([{"n": 1}], [BusClosed])


async def test_publish_middleware_runs_for_threads_too() -> None:
    """In the loop; its error is logged and counted, as the thread has gone."""

    async def tag(message: Message, call_next: PublishNext) -> Receipt:
        await checkpoint()
        if message.payload == {"n": 2}:
            raise ValueError("no twos")
        return await call_next(message.replace(headers={"tag": "t"}))

    bus, headers = EventBus(publish_middleware=[tag]), list[object]()

    @bus.on("numbers.raw")
    async def handle(event: object, context: Context[object]) -> None:
        headers.append(dict(context.message.headers))

    def publish() -> None:
        for number in range(1, 4):
            bus.publish_from_thread("numbers.raw", {"n": number})

    async with bus:
        await in_thread(publish)

    assert headers == [{"tag": "t"}, {"tag": "t"}]
    assert (bus.stats().published, bus.stats().lost) == (2, 1)


async def test_a_thread_schedules_and_lets_expire(clock: ManualClock) -> None:
    """With the same options as the loop."""
    bus, heard = EventBus(clock=clock), list[int]()

    @bus.on("numbers.raw")
    async def handle(event: dict[str, int]) -> None:
        heard.append(event["n"])
        await clock.sleep(2.0)

    def publish() -> None:
        bus.publish_from_thread("numbers.raw", {"n": 1})
        bus.publish_from_thread("numbers.raw", {"n": 2}, expires=1.0)
        bus.publish_from_thread("numbers.raw", {"n": 3}, delay=5.0)

    async with bus:
        await in_thread(publish)
        await clock.advance(20.0)

    assert heard == [1, 3]
    assert bus.stats().expired == 1


async def test_a_full_queue_that_refuses_others_lets_threads_wait() -> None:
    """Nobody is left who could be told of a `QueueFull`."""
    bus, heard = EventBus(), list[int]()

    @bus.on("numbers.raw", overflow="fail", queue_size=2)
    async def handle(event: dict[str, int]) -> None:
        heard.append(event["n"])

    def publish() -> None:
        for number in range(50):
            bus.publish_from_thread("numbers.raw", {"n": number})

    async with bus:
        await in_thread(publish)

    assert heard == list(range(50))


# --- threads that are stuck -------------------------------------------------------------------


async def test_stuck_threads_are_counted_and_named_at_the_end(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """After a time-out they run on; the bus closes without them, and says whose they are."""
    bus, began, release = EventBus(clock=clock), ThreadEvent(), ThreadEvent()

    @bus.on("orders.created", name="billing", middleware=[Timeout(1.0)])
    def bill(event: object) -> None:
        began.set()
        release.wait(30)

    async with bus:
        await bus.publish("orders.created", {})
        await until(began.is_set)
        await clock.advance(2.0)
        await bus.join()
        stuck = bus.runtime.threads.stuck
    release.set()

    assert stuck == ("billing",)
    assert bus.stats().failed == 1
    (warning,) = [text for text in caplog.messages if "still run" in text]
    assert "handlers still run in 1 thread, of billing" in warning


async def test_a_thread_that_returns_in_the_end_is_stuck_no_more(clock: ManualClock) -> None:
    """Its place is free again."""
    bus, began, release = EventBus(clock=clock, threads=1), ThreadEvent(), ThreadEvent()
    heard: list[int] = []

    @bus.on("orders.created", middleware=[Timeout(1.0)])
    def bill(event: dict[str, int]) -> None:
        if event["n"] == 1:
            began.set()
            release.wait(30)
        heard.append(event["n"])

    async with bus:
        await bus.publish("orders.created", {"n": 1})
        await until(began.is_set)
        await clock.advance(2.0)
        await until(lambda: len(bus.runtime.threads.stuck) == 1)
        release.set()
        await until(lambda: not bus.runtime.threads.stuck)
        await bus.publish("orders.created", {"n": 2})

    assert heard == [1, 2]


async def test_no_thread_is_left_when_the_bus_has_closed() -> None:
    """As many run as before, where none is stuck."""
    bus = EventBus()
    before = set(threading.enumerate())

    @bus.on("orders.created", concurrency=5)
    def bill(event: object) -> None:
        pass

    async with bus:
        await bus.publish_many("orders.created", [{"n": n} for n in range(50)])
        await bus.join()

    left = set(threading.enumerate()) - before
    assert [thread for thread in left if thread.name.startswith("eventbus")] == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_interpreter_exits_though_a_thread_is_stuck(backend: str) -> None:
    """A handler that never returns keeps neither the bus nor the program."""
    program = f"""
import threading, anyio
from eventbus import EventBus
from eventbus.middleware import Timeout
from eventbus.testing import ManualClock

clock, began = ManualClock(), threading.Event()
bus = EventBus(clock=clock)

@bus.on("orders.created", name="billing", middleware=[Timeout(1.0)])
def bill(event: object) -> None:
    began.set()
    threading.Event().wait()

async def main() -> None:
    async with bus:
        await bus.publish("orders.created", {{}})
        await anyio.to_thread.run_sync(began.wait)
        await clock.advance(2.0)

anyio.run(main, backend={backend!r})
print("ended")
"""
    ran = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )

    assert ran.stdout == "ended\n"
    assert "of billing" in ran.stderr


async def test_a_handler_in_a_thread_reaches_its_loop_and_may_run_another() -> None:
    """As in any worker thread of anyio's: `from_thread` works, and so does a loop of its own."""
    bus = EventBus()
    seen: list[object] = []

    async def answer() -> str:
        await checkpoint()
        return "from the loop"

    async def alone() -> str:
        await checkpoint()
        return "from another"

    @bus.on("orders.created")
    def bill(event: object) -> None:
        seen.append(anyio.from_thread.run(answer))
        anyio.from_thread.check_cancelled()
        seen.append(anyio.run(alone))

    async with bus:
        await bus.publish("orders.created", {})

    assert seen == ["from the loop", "from another"]


async def test_a_deserted_thread_can_learn_that_it_is(clock: ManualClock) -> None:
    """`anyio.from_thread.check_cancelled` raises after the time-out."""
    bus, began, ended = EventBus(clock=clock), ThreadEvent(), ThreadEvent()
    told: list[bool] = []

    @bus.on("orders.created", middleware=[Timeout(1.0)])
    def bill(event: object) -> None:
        began.set()
        try:
            while not ended.wait(0.01):
                anyio.from_thread.check_cancelled()
        except BaseException:
            told.append(True)
            raise

    async with bus:
        await bus.publish("orders.created", {})
        await until(began.is_set)
        await clock.advance(2.0)
        await bus.join()
        await until(lambda: bool(told))
    ended.set()

    assert told == [True]
