"""Nothing is left of what has ended: no task, thread, descriptor, memory or object."""

import asyncio
import gc
import os
import threading
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest
import sniffio
import trio

from eventbus import Context, EventBus
from eventbus.middleware import DeadLetter, Retry, Timeout
from tests.faults.scale import full
from tests.faults.stepping import turns

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts as Linux does")

CYCLES = full(10_000, small=1000)
MOST_GROWTH = 5 * 2**20  # bytes
POOLED_THREADS = 2  # which the loop's own pool keeps for a while
MOST_OBJECTS = 50  # of one kind, over all cycles: a leak would be one in each

# By name, without debug mode: it would keep where each task was made.
ON_BOTH = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])

Cycle: TypeAlias = Callable[[int], Awaitable[object]]


@dataclass(frozen=True)
class Holdings:
    """What the process holds at one moment."""

    tasks: int
    threads: int
    descriptors: list[str]
    bytes: int
    objects: Counter[str]

    @classmethod
    async def now(cls) -> "Holdings":
        """Count, once what is over has been freed."""
        await turns()
        gc.collect()
        return cls(
            _tasks(),
            threading.active_count(),
            sorted(_descriptors()),
            _resident_bytes(),
            Counter(type(one).__qualname__ for one in gc.get_objects()),
        )

    def grown(self, before: "Holdings") -> dict[str, int]:
        """Tell of which kinds of object there are notably more."""
        more = self.objects - before.objects
        return {kind: number for kind, number in more.items() if number > MOST_OBJECTS}


def _tasks() -> int:
    if sniffio.current_async_library() == "asyncio":
        return len(asyncio.all_tasks())
    return trio.lowlevel.current_statistics().tasks_living


def _descriptors() -> list[str]:
    """Name what is open, sockets and pipes without their numbers."""
    names: list[str] = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{entry}").split(":")[0])
        except FileNotFoundError:  # the listing's own
            continue
    return names


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


async def nothing_is_left_of(cycle: Cycle, cycles: int = CYCLES) -> None:
    """Do something over and over, and compare what the process holds with what it held."""
    for number in range(cycles // 10):  # what is made once, and kept on purpose, is made here
        await cycle(number)
    before = await Holdings.now()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for number in range(cycles):
            await cycle(number)
        after = await Holdings.now()
    assert after.tasks == before.tasks
    assert after.threads - before.threads <= POOLED_THREADS
    assert after.descriptors == before.descriptors
    assert after.grown(before) == {}
    assert after.bytes - before.bytes <= MOST_GROWTH


# --- Buses ----------------------------------------------------------------------------------------


class Shop:
    """Makes buses, each with handlers of all kinds, and lets them live."""

    def __init__(self) -> None:
        self.handled = 0

    def open(self) -> EventBus:
        """Make a bus."""
        bus = EventBus(middleware=[DeadLetter(), Retry(2, initial=0.0), Timeout(60.0)])
        bus.on("orders.*", concurrency=2, key=lambda e: str(e["n"]))(self.handle)
        bus.on("orders.created", where=lambda e: e["n"] % 2 == 0)(self.publish)
        bus.on("sync")(self.count)
        return bus

    async def handle(self, event: dict[str, int]) -> None:
        """Fail at times."""
        self.handled += 1
        if event["n"] % 7 == 0:
            raise ValueError("by design")

    async def publish(self, event: dict[str, int], context: Context[Any]) -> None:
        """Publish in turn."""
        await context.publish("orders.sent", event)

    def count(self, event: object) -> None:
        """Count, in a thread."""
        self.handled += 1

    async def run(self, bus: EventBus, number: int) -> None:
        """Run a bus, and leave it in one of three ways."""
        with anyio.CancelScope() as scope:
            try:
                async with bus:
                    await bus.publish_many("orders.created", [{"n": n} for n in range(1, 4)])
                    await bus.publish(f"orders.of-{number}", {"n": number})
                    if number % 50 == 0:
                        await bus.publish("sync", {})
                    if number % 3 == 1:
                        raise LookupError
                    if number % 3 == 2:
                        scope.cancel()
            except LookupError:
                pass


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", "eventbus")  # records, kept by the fixture, would be the growth


@ON_BOTH
async def test_nothing_is_left_of_a_bus() -> None:
    """Made, run and thrown away, however it ended."""
    shop = Shop()

    async def cycle(number: int) -> None:
        await shop.run(shop.open(), number)

    await nothing_is_left_of(cycle, CYCLES // 4)  # half of each is the making
    assert shop.handled > CYCLES // 4


@ON_BOTH
async def test_nothing_is_left_of_a_run() -> None:
    """Started again and again, it is the same bus as before."""
    shop = Shop()
    bus = shop.open()

    async def cycle(number: int) -> None:
        await shop.run(bus, number)
        await bus.purge_dead_letters()

    await nothing_is_left_of(cycle)
    assert shop.handled > CYCLES


# --- Subscriptions --------------------------------------------------------------------------------


@ON_BOTH
async def test_nothing_is_left_of_a_handler() -> None:
    """Subscribed, served and unsubscribed; also where nobody waited for the end of that."""
    shop = Shop()
    async with EventBus() as bus:

        async def cycle(number: int) -> None:
            topic = f"topic.{number}"

            @bus.on(topic, name=f"handler-{number}")
            async def handle(event: dict[str, int]) -> None:
                await shop.handle(event)

            await bus.publish(topic, {"n": 1})
            with anyio.CancelScope() as scope:
                if number % 2:
                    scope.cancel()
                await bus.unsubscribe(handle)
            await bus.join()

        await nothing_is_left_of(cycle)
    assert shop.handled > CYCLES


@ON_BOTH
async def test_nothing_is_left_of_an_iterator() -> None:
    """Subscribed for the length of a block, with events taken and events left."""
    async with EventBus() as bus:

        async def cycle(number: int) -> None:
            async with bus.subscribe(f"topic.{number}", "topic.*") as events:
                await bus.publish_many(f"topic.{number}", [{"n": n} for n in range(3)])
                assert await anext(events) == {"n": 0}

        await nothing_is_left_of(cycle)


@ON_BOTH
async def test_nothing_is_left_of_a_cancelled_publisher() -> None:
    """Who gave up waiting for room is forgotten."""
    async with EventBus() as bus, bus.subscribe("full", queue_size=1):
        await bus.publish("full", {})

        async def publish() -> None:
            await bus.publish("full", {})

        async def cycle(_: int) -> None:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(publish)
                    await turns(3)
                    scope.cancel()

        await nothing_is_left_of(cycle)


# --- Controls -------------------------------------------------------------------------------------


class Mess:
    """Leaves something behind in each cycle, until it is tidied up."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        self._gate, self._may_return = anyio.Event(), threading.Event()
        self._objects: list[object] = []
        self._descriptors: list[int] = []

    def leave_task(self) -> None:
        """Leave a task that waits."""
        self._tasks.start_soon(self._gate.wait)

    def leave_thread(self) -> None:
        """Leave a thread that waits."""
        threading.Thread(target=self._may_return.wait).start()

    def leave_descriptor(self) -> None:
        """Leave a file open."""
        self._descriptors.append(os.open(os.devnull, os.O_RDONLY))

    def leave_object(self) -> None:
        """Leave an object."""
        self._objects.append(Shop())

    def leave_memory(self) -> None:
        """Leave memory that is no object of the collector's; some may be paged out."""
        self._objects.append(b"x" * (MOST_GROWTH // 10))

    def tidy_up(self) -> None:
        """Take it all away."""
        self._gate.set()
        self._may_return.set()
        for descriptor in self._descriptors:
            os.close(descriptor)


@ON_BOTH
@pytest.mark.parametrize("kind", ["task", "thread", "descriptor", "object", "memory"])
async def test_control_what_is_left_is_found(kind: str) -> None:
    """One thing left by each cycle fails the test, whatever it is."""
    async with anyio.create_task_group() as tasks:
        mess = Mess(tasks)

        async def cycle(_: int) -> None:
            getattr(mess, f"leave_{kind}")()

        with pytest.raises(AssertionError):
            await nothing_is_left_of(cycle, 100)
        mess.tidy_up()
