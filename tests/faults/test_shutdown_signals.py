"""Programs that serve until a signal, signalled at random moments: in time, with the right code."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.faults.scale import full

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")

BUDGET = 0.5
BEYOND = 6.0
PROGRAMS = full(100, small=3)  # of each kind, on each loop

PROGRAM = """
import json, sys
import anyio
from eventbus import BusClosed, EventBus
from eventbus.middleware import DeadLetter, Retry

bus = EventBus(drain_timeout=float(sys.argv[2]), queue_size=8, middleware=[DeadLetter()])

@bus.on("work", middleware=[Retry(initial=0.05)])
async def work(event: dict[str, int]) -> None:
    await anyio.sleep(0.002)
    if event["n"] % 5 == 0:
        raise ValueError("by design")

@bus.on("sync")
def work_in_thread(event: dict[str, int]) -> None:
    pass

@bus.on("stuck")
async def stuck(event: dict[str, int]) -> None:
    print("ready", flush=True)
    if "stuck" in sys.argv:
        await anyio.sleep_forever()

async def publish(topic: str) -> None:
    try:
        for n in range(1_000_000):
            await bus.publish(topic, {"n": n})
            await anyio.sleep(0.001)
    except BusClosed:
        pass

async def main() -> None:
    async with anyio.create_task_group() as tasks:
        async with bus:
            tasks.start_soon(publish, "work")
            tasks.start_soon(publish, "sync")
            await bus.publish("stuck", {})
            await bus.run()

try:
    anyio.run(main, backend=sys.argv[1])
finally:
    s = bus.stats()
    ends = s.succeeded + s.dead_lettered + s.dropped + s.abandoned
    print(json.dumps({"published": s.published, "ends": ends}), flush=True)
"""


class Served:
    """The program, as seen from outside."""

    def __init__(self, backend: str, *words: str) -> None:
        self.process = subprocess.Popen(  # noqa: S603 - the program is written above
            [sys.executable, "-c", PROGRAM, backend, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.process.communicate()

    def signal(self, number: signal.Signals, after: float) -> None:
        """Send a signal a while later."""
        time.sleep(after)
        self.process.send_signal(number)

    def end(self, within: float) -> tuple[int, dict[str, Any]]:
        """Wait for the end; give the exit code, and what the program said last."""
        with self.process:
            try:
                output, errors = self.process.communicate(timeout=within)
            finally:
                self.process.kill()
        assert output, errors
        return self.process.returncode, json.loads(output.splitlines()[-1])


SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("stuck", [(), ("stuck",)], ids=["busy", "stuck"])
def test_the_first_signal_ends_it_in_time(backend: str, stuck: tuple[str, ...]) -> None:
    """Whatever the moment: code 0, within the budget, and nothing unaccounted for."""
    random = Random(backend)
    for _ in range(PROGRAMS):
        program = Served(backend, str(BUDGET), *stuck)
        program.signal(random.choice(SIGNALS), after=random.random() / 5)

        code, figures = program.end(within=BUDGET + BEYOND)

        assert code == 0
        assert figures["published"] == figures["ends"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_second_signal_ends_it_at_once(backend: str) -> None:
    """However long it might have drained: code 1."""
    random = Random(backend)
    for _ in range(PROGRAMS):
        program = Served(backend, "1000", "stuck")
        for _ in range(2):
            program.signal(random.choice(SIGNALS), after=0.05 + random.random() / 10)

        code, figures = program.end(within=BEYOND)

        assert code == 1
        assert figures["published"] == figures["ends"]


def test_control_one_signal_alone_waits_for_the_budget() -> None:
    """Where the budget is long, a stuck handler takes all of it."""
    program = Served("asyncio", "1000", "stuck")
    program.signal(signal.SIGTERM, after=0.0)

    with pytest.raises(subprocess.TimeoutExpired):
        program.end(within=1.0)
