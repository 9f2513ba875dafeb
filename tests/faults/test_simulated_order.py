"""Order per key, retries and dead letters under hundreds of schedules."""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import anyio
import pytest

from eventbus import Context
from eventbus.middleware import CallNext, DeadLetter, Retry
from eventbus.testing import Simulation, TestBus, simulate

ATTEMPTS = 3
KEYS = "abcd"
EACH = 5

# Seconds of a busy machine: 200 runs take 10 on one that is not.
pytestmark = pytest.mark.timeout(180)

both_loops = simulate(seeds=100, backends=("asyncio", "trio"))


@dataclass
class Life:
    """What happened to one message: each attempt's beginning, end and outcome."""

    begins: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)


class Witness:
    """Outermost middleware that notes every attempt, and what is promised of them all."""

    def __init__(self) -> None:
        self.certain: set[tuple[str, int]] = set()
        self.lives: defaultdict[tuple[str, int], Life] = defaultdict(Life)
        self._moments = 0

    async def __call__(self, context: Context[Any], call_next: CallNext) -> object:
        event = context.event
        life = self.lives[event["key"], event["n"]]
        life.begins.append(self._moment())
        outcome = "cancelled"
        try:
            result = await call_next(context)
            outcome = "succeeded"
        except Exception:
            outcome = "failed"
            raise
        finally:
            life.ends.append(self._moment())
            life.outcomes.append(outcome)
        return result

    def _moment(self) -> int:
        self._moments += 1
        return self._moments

    def check_attempts(self) -> None:
        """Each accepted message is tried until it succeeds, and no more often than promised."""
        assert self.certain <= self.lives.keys()
        for life in self.lives.values():
            *earlier, last = life.outcomes
            assert set(earlier) <= {"failed"}
            assert last == "succeeded" or len(life.outcomes) == ATTEMPTS

    def check_order(self) -> None:
        """The next of a key begins when the one before it is settled, and never earlier."""
        for key in KEYS:
            lives = [life for (of, _), life in sorted(self.lives.items()) if of == key]
            for life, following in pairwise(lives):
                assert life.ends[-1] < following.begins[0], f"{key} was overtaken"

    def outcomes(self, outcome: str) -> int:
        """Count attempts by what came of them."""
        return sum(life.outcomes.count(outcome) for life in self.lives.values())


async def publish_all(simulation: Simulation, bus: TestBus, witness: Witness) -> None:
    """Publish from a task per key, cancelling some on the way."""

    async def publish(key: str) -> None:
        for n in range(EACH):
            event = {"key": key, "n": n}
            if await simulation.cancelling(lambda e=event: bus.publish("orders", e)):  # type: ignore[misc]  # mypy infers no lambda's default
                witness.certain.add((key, n))

    async with anyio.create_task_group() as tasks:
        for key in KEYS:
            tasks.start_soon(publish, key)


def bus_for(simulation: Simulation, witness: Witness, *, has_lanes: bool = True) -> TestBus:
    """Make a bus whose one handler works on four messages at once, and often fails."""
    bus = TestBus(
        middleware=[
            witness,
            DeadLetter(),
            Retry(attempts=ATTEMPTS, initial=10.0, maximum=100.0),
            simulation.failing(0.3),
            simulation.delaying(5.0),
        ],
        clock=simulation.clock,
        queue_size=simulation.random.randint(1, 12),
        raise_failures=False,
    )
    key = key_of if has_lanes else None

    @bus.on("orders", model=dict[str, Any], name="orders", concurrency=4, key=key)
    async def handle(event: dict[str, Any]) -> None:
        await anyio.sleep(simulation.random.choice((0.0, 1.0)))

    return bus


def key_of(event: dict[str, Any]) -> str:
    """Tell what orders a message."""
    key: str = event["key"]
    return key


async def live(simulation: Simulation, *, has_lanes: bool) -> None:
    """Publish, handle, check; then redrive until nothing is dead, and check the end."""
    witness = Witness()
    async with bus_for(simulation, witness, has_lanes=has_lanes) as bus:
        await publish_all(simulation, bus, witness)
        await bus.join()
        witness.check_attempts()
        witness.check_order()
        dead = await bus.dead_letters(limit=1000)
        assert len(dead) == sum(life.outcomes[-1] == "failed" for life in witness.lives.values())
        while await bus.redrive():
            await bus.join()
    check_figures(bus, witness)
    for life in witness.lives.values():
        assert life.outcomes.count("succeeded") == 1


def check_figures(bus: TestBus, witness: Witness) -> None:
    """The figures tell what the witness saw."""
    stats = bus.stats()
    assert stats.delivered == stats.succeeded + stats.failed
    assert stats.succeeded == witness.outcomes("succeeded")
    assert stats.failed == witness.outcomes("failed") == stats.retried + stats.dead_lettered
    assert (stats.lost, stats.dropped, stats.abandoned, stats.in_flight) == (0, 0, 0, 0)
    assert stats.subscriptions["orders"].queue_depth == 0


@both_loops
async def test_order_per_key_holds_through_failures(simulation: Simulation) -> None:
    """No message of a key begins before the one ahead is done, and each succeeds in the end."""
    await live(simulation, has_lanes=True)


def test_without_lanes_the_same_runs_fail() -> None:
    """The control: a handful of seeds is enough to see one of a key overtake another."""

    @simulate(seeds=20, backends=("asyncio", "trio"))
    async def overtake(simulation: Simulation) -> None:
        await live(simulation, has_lanes=False)

    with pytest.raises(AssertionError, match="was overtaken"):
        overtake()


async def stop_somewhere(simulation: Simulation, *figures: str) -> None:
    """Stop a bus at a random moment; what was accepted has to be found in these figures."""
    witness = Witness()
    bus = bus_for(simulation, witness)

    async def stop(scope: anyio.CancelScope) -> None:
        await anyio.sleep(simulation.random.uniform(0.0, 60.0))
        scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop, tasks.cancel_scope)
        async with bus:
            await publish_all(simulation, bus, witness)
            await anyio.sleep_forever()

    stats = bus.stats()
    found = sum(getattr(stats, figure) for figure in figures)
    assert len(witness.certain) <= found <= len(bus.published), "a message is not accounted for"


@both_loops
async def test_a_stop_at_any_moment_loses_count_of_nothing(simulation: Simulation) -> None:
    """Each message that was accepted has succeeded, is dead, or counts as abandoned."""
    await stop_somewhere(simulation, "succeeded", "dead_lettered", "abandoned")


def test_without_what_was_abandoned_the_same_runs_fail() -> None:
    """The control: most of them stop while something is queued, running or retrying."""

    @simulate(seeds=20, backends=("asyncio", "trio"))
    async def miscount(simulation: Simulation) -> None:
        await stop_somewhere(simulation, "succeeded", "dead_lettered")

    with pytest.raises(AssertionError, match="not accounted for"):
        miscount()
