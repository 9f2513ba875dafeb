"""What a seed decides in a simulated test, and that it decides all."""

import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from eventbus import Context, EventBus, InvalidOption
from eventbus.middleware import DeadLetter, Retry
from eventbus.testing import Simulation, TestBus, simulate

BACKENDS = ("asyncio", "trio")


def shuffled(seed: int, backend: str) -> str:
    """Run tasks that all want to go on at once, and give their order."""
    order: list[str] = []

    @simulate(seed=seed, backends=[backend])
    async def run(simulation: Simulation) -> None:
        async def work(name: str) -> None:
            for _ in range(3):
                await checkpoint()
                order.append(name)

        async with anyio.create_task_group() as tasks:
            for name in "abcd":
                tasks.start_soon(work, name)

    run()
    return "".join(order)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_seed_decides_which_task_goes_on(backend: str) -> None:
    """The same seed gives the same order, other seeds others."""
    orders = [shuffled(seed, backend) for seed in range(10)]

    assert orders == [shuffled(seed, backend) for seed in range(10)]
    assert len(set(orders)) > 5


STORY = """
import hashlib, sys
from tests.test_simulation import tell_stories
print(hashlib.sha256(repr(tell_stories()).encode()).hexdigest())
"""


def tell_stories() -> list[list[str]]:
    """Run a bus with everything that can go wrong, and give what happened in each run."""
    stories: list[list[str]] = []

    @simulate(seeds=10, backends=BACKENDS)
    async def live(simulation: Simulation) -> None:
        story: list[str] = []
        async with TestBus(
            middleware=[
                DeadLetter(),
                Retry(attempts=3, initial=60.0),
                simulation.failing(0.4),
                simulation.delaying(),
            ],
            publish_middleware=[simulation.duplicating(0.3), simulation.reordering()],
            clock=simulation.clock,
            raise_failures=False,
        ) as bus:

            @bus.on("a", concurrency=4)
            async def handle(event: dict[str, int], context: Context[Any]) -> None:
                story.append(f"{event} {context.message.id} {simulation.clock.now()}")

            async def publish(number: int) -> None:
                await simulation.cancelling(lambda: bus.publish("a", {"n": number}), 0.3)

            async with anyio.create_task_group() as tasks:
                for number in range(10):
                    tasks.start_soon(publish, number)
            with anyio.move_on_after(30.0):
                await bus.join()
        story.append(f"{bus.stats()}")
        stories.append(story)

    live()
    return stories


@pytest.mark.timeout(180)  # seconds of a busy machine: two programs are started
def test_a_seed_decides_everything_in_every_process() -> None:
    """Neither the hash of text, nor places in memory, nor the machine's time have a say."""
    told: list[str] = []
    for hash_seed in ("1", "2"):
        run = subprocess.run(  # noqa: S603 - the command is written above
            [sys.executable, "-c", f"waste = [object() for _ in range({hash_seed}9)]\n{STORY}"],
            cwd=Path(__file__).parents[1],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        told.append(run.stdout)

    assert told[0] == told[1]


# --- what it finds --------------------------------------------------------------------------------


@simulate(seeds=50, backends=BACKENDS)
async def lose_an_update(simulation: Simulation) -> None:
    """Count in two tasks as one must not: read, wait, write."""
    count = 0

    async def add() -> None:
        nonlocal count
        before = count
        if simulation.random.random() < 0.3:
            await checkpoint()
        count = before + 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(add)
        tasks.start_soon(add)
    assert count == 2


def caught(test: Callable[[], None]) -> BaseException:
    """Run a simulated test that fails, and give its error."""
    with pytest.raises(AssertionError) as caught:
        test()
    return caught.value


def test_a_failing_seed_is_named_and_fails_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says how to run it once more; the variable runs it alone."""
    [line] = caught(lose_an_update).__notes__

    assert line.startswith("seed ")
    seed, backend = line.split()[1], line.split()[3].rstrip(":")
    assert f"@simulate(seed={seed}, backends=['{backend}'])" in line
    monkeypatch.setenv("EVENTBUS_SEED", seed)
    assert caught(lose_an_update).__notes__ == [line]


def test_the_number_of_seeds_can_be_set_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a night of them; what a test says of one seed stays."""
    ran: list[int] = []

    @simulate(seeds=[7, 8])
    async def note(simulation: Simulation) -> None:
        ran.append(simulation.seed)

    @simulate(seed=5)
    async def note_one(simulation: Simulation) -> None:
        ran.append(simulation.seed)

    note()
    monkeypatch.setenv("EVENTBUS_SEEDS", "3")
    note()
    note_one()

    assert ran == [7, 8, 0, 1, 2, 5]


@pytest.mark.parametrize("name", ["EVENTBUS_SEED", "EVENTBUS_SEEDS"])
def test_what_is_no_number_is_no_seed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable must not run something else."""
    monkeypatch.setenv(name, "x1")

    with pytest.raises(InvalidOption, match=f"{name}=x1"):
        lose_an_update()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_that_hangs_is_found_at_once(backend: str) -> None:
    """Where every task waits for another, time jumps to the limit."""

    @simulate(seed=1, backends=[backend])
    async def hang(simulation: Simulation) -> None:
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError):
        hang()


# --- what goes wrong by it ------------------------------------------------------------------------


@simulate(seeds=20, backends=BACKENDS)
async def test_failures_are_retried(simulation: Simulation) -> None:
    """Half of them come before the handler, half after it has done its work."""
    ran: list[int] = []
    retry = Retry(attempts=20, initial=1.0)
    async with TestBus(clock=simulation.clock, middleware=[retry, simulation.failing(0.5)]) as bus:
        bus.on("a", model=dict[str, int])(lambda event: ran.append(event["n"]))
        await bus.publish_many("a", [{"n": n} for n in range(20)])
        await bus.join()

    assert set(ran) == set(range(20))
    assert len(ran) > 20
    assert bus.stats().failed > len(ran) - 20


@simulate(seeds=20, backends=BACKENDS)
async def test_duplicates_are_the_same_message_twice(simulation: Simulation) -> None:
    """As after a publish that was repeated because nobody answered: with one id."""
    bus = TestBus(clock=simulation.clock, publish_middleware=[simulation.duplicating(0.5)])
    async with bus:
        for n in range(20):
            await bus.publish("a", {"n": n})

    ids = [message.id for message in bus.published]
    assert len(set(ids)) == 20 < len(ids)


@simulate(seeds=20, backends=BACKENDS)
async def test_publishers_overtake_one_another(simulation: Simulation) -> None:
    """Of different ones there is no order; of each its own is kept."""
    bus = TestBus(clock=simulation.clock, publish_middleware=[simulation.reordering()])

    async def publish(name: str) -> None:
        for n in range(10):
            await bus.publish(name, {"n": n})

    async with bus, anyio.create_task_group() as tasks:
        tasks.start_soon(publish, "a")
        tasks.start_soon(publish, "b")

    topics = [message.topic for message in bus.published]
    assert topics != ["a"] * 10 + ["b"] * 10 != topics[::-1]
    for name in "ab":
        assert [m.payload for m in bus.published if m.topic == name] == [
            {"n": n} for n in range(10)
        ]


@simulate(seeds=20, backends=BACKENDS)
async def test_calls_are_cancelled_part_of_the_way(simulation: Simulation) -> None:
    """The test is told which ended by themselves; errors come out as they are."""
    steps = 0

    async def walk() -> None:
        nonlocal steps
        for _ in range(8):
            await checkpoint()
            steps += 1

    ended = [await simulation.cancelling(walk, rate=0.5) for _ in range(20)]
    assert set(ended) == {True, False}
    assert sum(ended) * 8 <= steps < 160

    async def fail() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await simulation.cancelling(fail, rate=1.0)


# --- as a test ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2])
@simulate(seeds=2)
async def test_fixtures_and_parameters_are_passed_on(
    simulation: Simulation, tmp_path: Path, number: int
) -> None:
    """A simulated test takes what any other may."""
    assert tmp_path.name
    assert number in {1, 2}


def test_chance_goes_on_afterwards_as_it_would_have() -> None:
    """A simulated test leaves the program's own random numbers alone."""
    random.seed(1)
    before = random.random()
    random.seed(1)
    shuffled(1, "asyncio")

    assert random.random() == before


def test_many_runs_are_silent_and_one_alone_tells_all(caplog: pytest.LogCaptureFixture) -> None:
    """Injected failures of hundreds of runs would bury the one line that counts."""

    async def fail_once(simulation: Simulation) -> None:
        async with EventBus(clock=simulation.clock) as bus:
            bus.on("a", model=int)(print)
            await bus.publish("a", {})

    simulate(seeds=2)(fail_once)()
    assert caplog.records == []
    simulate(seed=1)(fail_once)()
    assert len(caplog.records) == 1
    assert logging.getLogger("eventbus").level == logging.NOTSET


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_run_has_a_store_of_its_own(backend: str) -> None:
    """It is empty at first, the same all through the run, and gone afterwards."""
    urls: list[str] = []

    @simulate(seeds=3, backends=[backend])
    async def run(simulation: Simulation) -> None:
        urls.append(simulation.store())
        for n in range(2):
            async with EventBus(simulation.store("max_count=10"), clock=simulation.clock) as bus:
                receipt = await bus.publish("orders", {"n": n})
                assert receipt.position == n + 1

    run()
    assert len(set(urls)) == 3
    assert not any(Path(url.removeprefix("sqlite:///")).exists() for url in urls)


@simulate(seeds=30, backends=BACKENDS)
async def test_programs_crash_as_often_as_they_may(simulation: Simulation) -> None:
    """Each life but the last is cut short, and then the program runs to its end."""
    lives: list[bool] = []

    async def live() -> None:
        lives.append(False)
        async with EventBus(simulation.store(), clock=simulation.clock) as bus:
            for n in range(20):
                await bus.publish("orders", {"n": n}, id=str(n))
        lives[-1] = True

    crashes = await simulation.crashing(live, times=4, most=10)

    assert lives == [False] * crashes + [True]
    assert crashes == 4


@simulate(seeds=1, backends=BACKENDS)
async def test_errors_of_a_program_that_was_not_killed_come_out(simulation: Simulation) -> None:
    """They are its own."""

    async def live() -> None:
        async with EventBus(simulation.store(), clock=simulation.clock):
            raise LookupError("of its own")

    with pytest.raises(LookupError, match="of its own"):
        await simulation.crashing(live, most=1_000)
