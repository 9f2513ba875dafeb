"""A bus on a store crashes at any of its steps, under many schedules, and is started again."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import Mock

import anyio
import pytest

from eventbus import EventBus, Message, Receipt
from eventbus.message import Delivery
from eventbus.middleware import DeadLetter, Middleware, Policy, Retry
from eventbus.testing import Simulation, simulate
from eventbus.transports.base import Ack, Outcome
from eventbus.transports.sqlite import cursors
from eventbus.transports.sqlite.clerks import Append
from eventbus.transports.sqlite.durable import DurableSource
from eventbus.transports.sqlite.neighbours import Neighbours
from eventbus.transports.sqlite.records import record_of
from eventbus.transports.sqlite.store import SqliteTransport
from tests.faults.scale import full

ORDERS = 12
KEYS = "abc"
TIME_LIMIT = 600.0  # seconds, of which none takes a tenth: one that hangs is told in a moment

pytestmark = pytest.mark.timeout(3600)  # seconds, in full

both_loops = simulate(
    seeds=full(2000, small=12), backends=("asyncio", "trio"), time_limit=TIME_LIMIT
)


@dataclass
class Diary:
    """What the program has seen, over all its lives."""

    placed: set[int] = field(default_factory=set)
    begun: list[int] = field(default_factory=list)
    handled: list[int] = field(default_factory=list)
    crashes: int = 0

    @property
    def handled_in_order(self) -> list[int]:
        """Each once, in the order they were first handled."""
        return list(dict.fromkeys(self.handled))


def shop(simulation: Simulation, diary: Diary) -> EventBus:
    """Make the bus of one life."""
    bus = EventBus(simulation.store(), clock=simulation.clock)
    often_failing: list[Middleware | Policy] = [
        DeadLetter(),
        Retry(attempts=30, initial=0.5),
        simulation.failing(0.2),
        simulation.delaying(0.5),
    ]

    @bus.on("orders", name="once", ack="first", start="first")
    async def begin(order: dict[str, int]) -> None:
        diary.begun.append(order["n"])

    @bus.on("orders", name="all", start="first", concurrency=3, middleware=often_failing)
    async def handle(order: dict[str, int]) -> None:
        diary.handled.append(order["n"])

    return bus


async def live(simulation: Simulation, diary: Diary) -> None:
    """Place what was not placed yet, and handle all."""

    async def place(key: int) -> None:
        for n in range(key, ORDERS, len(KEYS)):
            if n not in diary.placed:
                await bus.publish("orders", {"n": n}, id=f"order-{n}", key=KEYS[key])
                diary.placed.add(n)

    bus = shop(simulation, diary)
    async with bus:
        async with anyio.create_task_group() as tasks:
            for key in range(len(KEYS)):
                tasks.start_soon(place, key)
        await bus.join()


async def live_and_die(simulation: Simulation, diary: Diary) -> None:
    """Live, crash, and live again, and hold what was seen against what is promised."""
    diary.crashes = await simulation.crashing(partial(live, simulation, diary))

    assert set(diary.handled) == diary.placed, "an order is lost"
    assert max(Counter(diary.begun).values(), default=0) <= 1, "what was acked came again"
    for key in range(len(KEYS)):
        of_key = [n for n in diary.handled_in_order if n % len(KEYS) == key]
        assert of_key == sorted(of_key), "orders of one key were overtaken"


@both_loops
async def test_what_was_stored_and_acked_outlives_every_crash(simulation: Simulation) -> None:
    """Nothing is lost, what was acked urgently never comes again, keys stay in order."""
    await live_and_die(simulation, Diary())


async def publish_hastily(self: SqliteTransport, messages: Sequence[Message]) -> Sequence[Receipt]:
    """Acknowledge what is only on its way."""
    vars(self)["_writer"].submit(Append([record_of(one) for one in messages], []))
    return messages


async def settle_hastily(self: DurableSource, outcomes: Sequence[tuple[Delivery, Outcome]]) -> None:
    """Note how deliveries ended, and take no ack for urgent."""
    acks = [(one, Ack() if isinstance(how, Ack) else how) for one, how in outcomes]
    await settle_carefully(self, acks)


settle_carefully = DurableSource.settle


def due_in_any_order(unsettled: Iterable[Any], now: int) -> Iterator[cursors.Claimed]:
    """Take over whatever is free, also before an earlier one of its key."""
    for one in unsettled:
        if one.owner is None and one.due <= now:
            yield cursors.Claimed(one.position, one.attempts, bool(one.suspect))


@pytest.mark.parametrize(
    ("owner", "protection", "without", "flaw"),
    [
        (SqliteTransport, "publish", publish_hastily, "an order is lost"),
        (Neighbours, "free_the_gone", Mock(), "an order is lost"),
        (DurableSource, "settle", settle_hastily, "acked came again"),
        (cursors, "_due", due_in_any_order, "overtaken"),
    ],
)
def test_that_each_flaw_would_be_seen(
    monkeypatch: pytest.MonkeyPatch, owner: object, protection: str, without: Any, flaw: str
) -> None:
    """Control: where a publish or an ack is not waited for, or who died keeps what it had."""

    @simulate(seeds=60, time_limit=TIME_LIMIT)
    async def live_dangerously(simulation: Simulation) -> None:
        await live_and_die(simulation, Diary())

    monkeypatch.setattr(owner, protection, without)
    with pytest.raises(AssertionError, match=flaw):
        live_dangerously()


def test_that_a_program_without_an_end_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: where nothing that was handled is settled, some wait for ever, and that is told."""

    @simulate(seeds=60, time_limit=TIME_LIMIT)
    async def live_in_vain(simulation: Simulation) -> None:
        await live_and_die(simulation, Diary())

    async def settle_nothing(*_: object) -> None:
        """Forget how deliveries ended."""

    monkeypatch.setattr(DurableSource, "settle", settle_nothing)
    with pytest.raises(TimeoutError):
        live_in_vain()


@simulate(seeds=1, backends=("asyncio", "trio"))
async def test_join_waits_for_what_an_earlier_run_will_try_again(simulation: Simulation) -> None:
    """What is to be retried later is not forgotten when the bus was started again meanwhile."""
    attempts: list[float] = []

    def bus_of_a_run() -> EventBus:
        retry = Retry(attempts=3, initial=60.0, jitter=False)
        bus = EventBus(simulation.store(), clock=simulation.clock, middleware=[retry])

        @bus.on("orders", name="all", start="first")
        async def fail_once(order: dict[str, int]) -> None:
            attempts.append(simulation.clock.monotonic())
            if len(attempts) == 1:
                raise ConnectionError

        return bus

    async with bus_of_a_run() as bus:
        await bus.publish("orders", {"n": 1})
        await anyio.sleep(1.0)
    async with bus_of_a_run() as bus:
        await bus.join()

    assert len(attempts) == 2
    assert attempts[1] - attempts[0] >= 60.0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_seed_decides_every_crash(backend: str) -> None:
    """The same seed crashes at the same steps and handles in the same order, each time."""

    def lives_of(seed: int) -> Diary:
        diary = Diary()

        @simulate(seed=seed, backends=[backend])
        async def run(simulation: Simulation) -> None:
            await live_and_die(simulation, diary)

        run()
        return diary

    diaries = [lives_of(seed) for seed in range(5)]

    assert diaries == [lives_of(seed) for seed in range(5)]
    assert diaries[0] != diaries[1]
    assert sum(diary.crashes for diary in diaries) > 5
