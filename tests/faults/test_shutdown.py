"""The bus ends in time, at whatever moment and in whatever way, and loses count of nothing."""

import logging
import math
import threading
from contextlib import nullcontext
from random import Random
from typing import Any
from unittest.mock import Mock

import anyio
import pytest

from eventbus import BusClosed, BusStats, Context, EventBus
from eventbus.middleware import DeadLetter, Retry, Timeout
from eventbus.queue import DeliveryQueue
from eventbus.subscription import Subscription
from eventbus.testing import ManualClock
from tests.faults.scale import full
from tests.faults.stepping import turns

BUDGET = 10.0  # virtual seconds that leaving may take to finish what was accepted
BEYOND = 6.0  # and what it may take beyond them
SHUTDOWNS = full(2000, small=200)  # half of them on each loop
BATCH = 10


def by_n(event: dict[str, int]) -> str:
    """Give the key of an event: one of four."""
    return str(event["n"] % 4)


class Clock(ManualClock):
    """A clock that gives the others only a few turns: what is left over comes a little later."""

    async def settle(self) -> None:
        """Let every task take some steps."""
        await turns(6)


class Program:
    """A bus with handlers of all kinds, good and bad, and a publisher for each of them."""

    def __init__(self, seed: int, way: str | None = None) -> None:
        self.random = Random(seed)
        self.clock = Clock()
        self.way = way or self.random.choice(["leave", "drain", "fail", "cancel", "cancel all"])
        self.ended_at: float | None = None  # when its block was left
        self.is_over = False  # when its publishers had gone too
        self.may_return = threading.Event()
        self._is_to_end = anyio.Event()
        self._all, self._block = anyio.CancelScope(), anyio.CancelScope()
        self.bus = EventBus(
            clock=self.clock,
            queue_size=self.random.choice([1, 3, 50]),
            drain_timeout=BUDGET,
            threads=3,
            middleware=[DeadLetter(), Timeout(self.random.choice([2.0, 60.0]))],
        )
        self._subscribe()

    def _subscribe(self) -> None:
        bus, retry = self.bus, Retry(3, initial=1.0, jitter=False)
        bus.on("quick", name="quick", middleware=[retry])(self.fail_at_times)
        bus.on("keyed", name="keyed", middleware=[retry], key=by_n, concurrency=3)(
            self.fail_at_times
        )
        bus.on("held", name="held", middleware=[Retry(2, initial=3.0, hold=True)])(
            self.fail_at_times
        )
        bus.on("slow", name="slow", concurrency=2)(self.sleep)
        bus.on("chain", name="chain")(self.publish_more)
        bus.on("oldest", name="oldest", overflow="drop_oldest")(self.sleep)
        bus.on("newest", name="newest", overflow="drop_newest")(self.sleep)
        bus.on("latest", name="latest", overflow="latest", key=by_n)(self.sleep)
        bus.on("thread", name="thread")(self.wait_in_thread)
        bus.on("stubborn", name="stubborn")(self.swallow_once)

    # --- handlers -------------------------------------------------------------------------------

    async def fail_at_times(self, event: dict[str, int]) -> None:
        if self.random.random() < 0.3:
            raise ValueError("by chance")

    async def sleep(self, event: dict[str, int]) -> None:
        await self.clock.sleep(self.random.random() * 4.0)

    async def publish_more(self, event: dict[str, int], context: Context[Any]) -> None:
        await self.sleep(event)
        for topic in ("quick", "slow"):
            await context.publish(topic, event)

    def wait_in_thread(self, event: dict[str, int]) -> None:
        if event["n"] % 4 == 0:
            self.may_return.wait()

    async def swallow_once(self, event: dict[str, int]) -> None:
        try:
            await self.clock.sleep(1e6 if event["n"] % 5 == 0 else 0.5)
        except BaseException:  # noqa: BLE001 - that is what makes it stubborn
            await self.clock.sleep(1.0)

    # --- its life -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until it is told to end, and note when it has."""
        with self._all:
            await self._run()
        self.is_over = True

    async def _run(self) -> None:
        async with anyio.create_task_group() as publishers:
            try:
                with self._block:
                    await self._serve(publishers)
            except LookupError:
                assert self.way == "fail"
            finally:
                self.ended_at = self.clock.monotonic()

    async def _serve(self, publishers: anyio.abc.TaskGroup) -> None:
        async with self.bus:
            for topic in self.bus.stats().subscriptions:
                publishers.start_soon(self._publish, topic)
            await self._is_to_end.wait()
            if self.way == "drain":
                await self.bus.drain()
            if self.way == "fail":
                raise LookupError

    async def _publish(self, topic: str) -> None:
        n = 0
        try:
            while True:
                n += 1
                await self.bus.publish(topic, {"n": n})
                await self.clock.sleep(self.random.random())
        except BusClosed:
            pass

    def end(self) -> None:
        """End, in the way that was drawn."""
        self._is_to_end.set()
        if self.way == "cancel":
            self._block.cancel()
        if self.way == "cancel all":
            self._all.cancel()


async def shut_down(seed: int, way: str | None = None) -> tuple[float, BusStats]:
    """Run a program for a while, and end it; give how many seconds that took, and the figures."""
    program = Program(seed, way)
    clock, begun = program.clock, 0.0
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(program.run)
            await clock.advance(program.random.random() * 10.0)
            begun = clock.monotonic()
            program.end()
            while program.ended_at is None and clock.monotonic() < begun + 2 * (BUDGET + BEYOND):
                await clock.advance(0.5)
            await clock.advance(1.0)  # the publishers look once more, and find it closed
            tasks.cancel_scope.cancel()
    finally:
        program.may_return.set()
    seconds = (program.ended_at or math.inf) - begun
    return seconds if program.is_over else math.inf, program.bus.stats()


def flaw_of(seconds: float, stats: BusStats) -> str | None:
    """Say what was wrong with a shutdown, if anything was."""
    # Each topic has one subscription: what was published became one of these.
    ends = [stats.succeeded, stats.dead_lettered, stats.lost, stats.dropped, stats.abandoned]
    if seconds > BUDGET + BEYOND:
        return f"it took {seconds} s"
    if stats.published != sum(ends):
        return f"{stats.published} published, {sum(ends)} accounted for: {stats}"
    return "handlers are counted as running" if stats.in_flight else None


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "eventbus")  # thousands of failures are logged on purpose


# By name, without debug mode, which would take most of the time on asyncio.
ON_BOTH = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


@ON_BOTH
@pytest.mark.parametrize("batch", range(SHUTDOWNS // 2 // BATCH))
async def test_it_ends_in_time_and_accounts_for_all(batch: int) -> None:
    """Nothing outstays the budget, and published is the sum of what became of it, exactly."""
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        assert flaw_of(*await shut_down(seed)) is None, f"seed {seed}"


@ON_BOTH
@pytest.mark.parametrize(
    ("owner", "protection", "without", "flaw"),
    [
        (EventBus, "_patience", Mock(side_effect=nullcontext), "it took"),
        (DeliveryQueue, "refuse_waiting", Mock(), "accounted for"),
        (Subscription, "stop", Mock(return_value=0), "accounted for"),
    ],
)
async def test_control_without_its_protection_a_shutdown_is_flawed(
    monkeypatch: pytest.MonkeyPatch, owner: type, protection: str, without: Mock, flaw: str
) -> None:
    """Among the first moments is one that shows it."""
    monkeypatch.setattr(owner, protection, without)

    for seed in range(10 * BATCH):
        found = flaw_of(*await shut_down(seed, "leave"))
        if found is not None and flaw in found:
            return
    pytest.fail("no shutdown showed it")
