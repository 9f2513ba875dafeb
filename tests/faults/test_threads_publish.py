"""Many foreign threads publish, rightly and wrongly, while the bus runs, drains and stops."""

import random
from collections import Counter
from collections.abc import Sequence
from threading import Event as ThreadEvent
from threading import Thread
from typing import Any, TypeVar

import anyio
import pytest
from anyio.lowlevel import checkpoint
from pydantic import BaseModel

from eventbus import BusClosed, EventBus, EventBusError, InvalidEvent, InvalidOption, Topic
from eventbus.inbox import Inbox
from tests.faults.scale import full

T = TypeVar("T")

THREADS = 8
ROUNDS = full(200, small=4)
EACH = full(2_000, small=300)
A_FEW = 30


class Job(BaseModel, frozen=True):
    thread: int
    number: int


JOBS = Topic("jobs", Job)


class Publisher(Thread):
    """A thread that publishes numbered jobs, now and then something that is none."""

    def __init__(self, bus: EventBus, thread: int, seed: int, jobs: int = EACH) -> None:
        super().__init__(daemon=True)
        self._jobs = jobs
        self.accepted: list[Job] = []
        self.errors: Counter[type[Exception]] = Counter()
        self._bus = bus
        self._thread_number = thread
        self._draw = random.Random(seed)

    def run(self) -> None:
        for number in range(self._jobs):
            if not self._publish(number):
                return

    def _publish(self, number: int) -> bool:
        job = Job(thread=self._thread_number, number=number)
        kind = self._draw.random()
        topic: Any = JOBS if kind < 0.5 else "jobs"
        wrong: dict[str, Any] = {}
        event: Any = job if kind < 0.9 else {"number": "many"}
        if kind > 0.97:
            event, wrong = job, {"key": ""}
        elif kind > 0.8:
            wrong = {"key": str(number % 3)}
        try:
            self._bus.publish_from_thread(topic, event, **wrong)
        except BusClosed:
            return False
        except EventBusError as error:
            self.errors[type(error)] += 1
        else:
            self.accepted.append(job)
        return True


async def hammer(
    bus: EventBus, seed: int, *, stop_early: bool, jobs: int = EACH
) -> Sequence[Publisher]:
    """Run the bus once, with threads that publish; leave it when they end, or in the middle."""
    publishers = [Publisher(bus, thread, seed + thread, jobs) for thread in range(THREADS)]
    async with bus:
        for publisher in publishers:
            publisher.start()
        for publisher in () if stop_early else publishers:
            await anyio.to_thread.run_sync(publisher.join)  # a loop that spins would starve them
        for _ in range(seed % 50):
            await checkpoint()
    for publisher in publishers:
        publisher.join(30)
        assert not publisher.is_alive()
    return publishers


@pytest.mark.parametrize("stop_early", [False, True])
async def test_each_publish_has_its_right_result_or_a_typed_error(*, stop_early: bool) -> None:
    """What was accepted is handled once, in each thread's order; also when the bus closes on it."""
    for round_ in range(ROUNDS):
        bus, handled = EventBus(queue_size=16), list[Job]()

        @bus.on(JOBS)
        async def handle(job: Job, handled: list[Job] = handled) -> None:
            handled.append(job)

        publishers = await hammer(bus, round_ * 100, stop_early=stop_early)

        for thread, publisher in enumerate(publishers):
            assert [job for job in handled if job.thread == thread] == publisher.accepted
            assert set(publisher.errors) <= {InvalidEvent, InvalidOption}
        assert bus.stats().published == len(handled)
        assert bus.stats().abandoned == 0


async def test_a_bus_that_stops_at_once_accounts_for_all_it_accepted() -> None:
    """Handled or abandoned, whatever it was doing; and it can be started again."""
    bus, handled = EventBus(queue_size=16), list[Job]()
    bus.on(JOBS, name="jobs")(_slowly(handled))
    accepted = 0
    for round_ in range(ROUNDS):
        publishers = [Publisher(bus, thread, round_ + thread) for thread in range(THREADS)]
        with anyio.CancelScope() as scope:
            async with bus:
                for publisher in publishers:
                    publisher.start()
                for _ in range(10 + round_ % 100):
                    await checkpoint()
                scope.cancel()
                await checkpoint()
        for publisher in publishers:
            publisher.join(30)
            assert not publisher.is_alive()
        accepted += sum(len(publisher.accepted) for publisher in publishers)

    stats = bus.stats()
    assert stats.succeeded == len(handled)
    assert stats.succeeded + stats.abandoned == accepted
    assert (stats.lost, stats.failed) == (0, 0)


def _slowly(handled: list[Job]) -> Any:
    async def handle(job: Job) -> None:
        if job.number % 7 == 0:
            await checkpoint()
        handled.append(job)

    return handle


class Forgetful(Inbox[T]):
    """An inbox whose threads do without the lock: the control."""

    def put(self, item: T) -> None:
        items = self._items
        for _ in range(20):  # the worst moment to be interrupted: until the loop has taken them
            if self._items is not items:
                break
            ThreadEvent().wait(0.001)
        items.append(item)
        self._call_soon(self.look)


async def test_a_lost_message_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the lock, what comes while the loop takes is lost."""
    monkeypatch.setattr("eventbus.runtime.Inbox", Forgetful)
    lost = 0
    for round_ in range(50):
        bus, handled = EventBus(), list[Job]()
        bus.on(JOBS)(_slowly(handled))
        publishers = await hammer(bus, round_, stop_early=False, jobs=A_FEW)
        lost += sum(len(publisher.accepted) for publisher in publishers) - len(handled)
        if lost:
            break

    assert lost > 0
