"""`bus.run()`: a program that serves until a signal, tried as a program of its own."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint

from eventbus import BusClosed, EventBus, EventBusError, NotStarted

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")

PROGRAM = """
import os
import sys
import anyio
from eventbus import EventBus

class Telling(EventBus):
    async def __aenter__(self):
        await super().__aenter__()
        await self.publish("work", {"n": 1})
        return self

    async def drain(self):
        print("draining", flush=True)
        await super().drain()

bus = Telling()

@bus.on("work")
async def work(event: dict[str, int]) -> None:
    print("working", flush=True)
    await anyio.wait_readable(0)
    print("worked", flush=True)

async def start_outside() -> None:
    async with bus:
        await bus.run()
        print("drained", flush=True)

async def start_by_run() -> None:
    await bus.run()
    print("drained", flush=True)

anyio.run(globals()[sys.argv[1]], backend=sys.argv[2])
print("ended", flush=True)
"""


EXIT_PROGRAM = """
import sys
import anyio
from eventbus import EventBus

bus = EventBus()

@bus.on("async")
async def end(event: dict[str, int]) -> None:
    sys.exit(7)

@bus.on("thread")
def end_in_thread(event: dict[str, int]) -> None:
    sys.exit(7)

async def main() -> None:
    async with bus:
        await bus.publish(sys.argv[1], {})
        await anyio.sleep_forever()

anyio.run(main, backend=sys.argv[2])
"""


CASES = pytest.mark.parametrize(
    ("start", "number"),
    [
        pytest.param("start_outside", signal.SIGTERM, id="SIGTERM"),
        pytest.param("start_by_run", signal.SIGINT, id="SIGINT"),
    ],
)


class Served:
    """The program, as seen from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def expect(self, line: str) -> None:
        """Wait for a line of its output."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == line

    def finish_work(self) -> None:
        """Let the handler go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("go on\n")
        self.process.stdin.flush()

    def rest(self) -> str:
        """Wait for its end, and give what else it wrote."""
        # Not by `communicate`: it closes the input, which would let the handler go on, and does
        # not see what `expect` has buffered.
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        output, errors = self.process.stdout.read(), self.process.stderr.read()
        self.process.wait()
        assert "Traceback" not in errors, errors
        return output


@contextmanager
def serving(start: str, backend: str) -> Generator[Served, None, None]:
    """Run the program until the block ends."""
    process = subprocess.Popen(  # noqa: S603 - the program is written above
        [sys.executable, "-c", PROGRAM, start, backend],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    try:
        yield Served(process)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    """Name the event loop of the program."""
    name: str = request.param
    return name


@CASES
def test_the_first_signal_drains(start: str, backend: str, number: signal.Signals) -> None:
    """What is being handled is finished, and the program ends well."""
    with serving(start, backend) as program:
        program.expect("working")
        program.process.send_signal(number)
        program.expect("draining")
        program.finish_work()
        program.expect("worked")

        assert program.rest().replace("draining\n", "") == "drained\nended\n"
        assert program.process.returncode == 0


@CASES
def test_the_second_signal_stops(start: str, backend: str, number: signal.Signals) -> None:
    """Whoever asks twice does not want to wait: the program ends at once, with code 1."""
    with serving(start, backend) as program:
        program.expect("working")
        program.process.send_signal(number)
        program.expect("draining")
        program.process.send_signal(number)

        assert program.rest() == ""
        assert program.process.returncode == 1


@pytest.mark.parametrize("handler", ["async", "thread"])
def test_a_handler_ends_the_program_with_its_own_exit_code(handler: str, backend: str) -> None:
    """`sys.exit(7)` in a handler is what it is anywhere else."""
    program = [sys.executable, "-c", EXIT_PROGRAM, handler, backend]
    ended = subprocess.run(program, capture_output=True, timeout=60, check=False)  # noqa: S603 - ours

    assert ended.returncode == 7


async def raise_signal() -> None:
    """Send this process a signal as soon as everybody waits for it."""
    await anyio.wait_all_tasks_blocked()
    os.kill(os.getpid(), signal.SIGINT)


async def test_a_signal_drains_the_bus_of_this_process() -> None:
    """`run` returns when the bus that it started has been drained."""
    seen: list[object] = []
    bus = EventBus()
    bus.on("work")(seen.append)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(raise_signal)
        async with bus:
            await bus.publish("work", {"n": 1})
            await bus.run()
            assert seen == [{"n": 1}]
            with pytest.raises(BusClosed):
                await bus.publish("work", {"n": 2})


async def test_a_second_signal_stops_the_bus_of_this_process() -> None:
    """`run` raises the end of the program, and what is stuck is abandoned."""
    bus = EventBus()

    @bus.on("work")
    async def stuck(event: object) -> None:
        await anyio.sleep_forever()

    async def serve() -> None:
        async with bus:
            await bus.publish("work", {})
            await bus.run()

    async def raise_two() -> None:
        await raise_signal()
        await raise_signal()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(raise_two)
        with pytest.raises(SystemExit, match="1"):
            await serve()

    assert bus.stats().abandoned == 1


async def test_a_run_is_begun_when_the_bus_runs() -> None:
    """`await tasks.start(bus.run)` returns then, so that what follows may publish."""
    seen: list[object] = []
    bus = EventBus()
    bus.on("work")(seen.append)

    async with anyio.create_task_group() as tasks:
        await tasks.start(bus.run)
        await bus.publish("work", {"n": 1})
        await bus.join()
        tasks.cancel_scope.cancel()

    assert seen == [{"n": 1}]


async def test_who_publishes_too_early_is_told_how_to_begin() -> None:
    """The error names both ways of running a bus."""
    with pytest.raises(NotStarted, match=r"`async with bus:`, or beside .*bus\.run"):
        await EventBus().publish("work", {})


async def test_the_first_signal_says_what_happens(caplog: pytest.LogCaptureFixture) -> None:
    """How much is left, how long that may take, and what a second signal would do; then its end."""
    caplog.set_level(logging.INFO, "eventbus")
    release = anyio.Event()
    bus = EventBus(drain_timeout=20)

    @bus.on("work")
    async def work(event: object) -> None:
        await release.wait()

    async with anyio.create_task_group() as tasks:
        await tasks.start(bus.run)
        await bus.publish_many("work", [{}, {}])
        await raise_signal()
        while not caplog.messages:
            await checkpoint()
        release.set()

    assert caplog.messages == [
        "the bus drains 2 deliveries, for at most 20 s; a second signal stops at once",
        "draining has ended, with 0 deliveries left",
    ]


async def test_a_run_outside_the_main_thread_is_refused() -> None:
    """Signals come to the main thread alone, so that nothing would end it."""
    bus = EventBus()
    with pytest.raises(EventBusError, match="signals come to the main thread alone"):
        await anyio.to_thread.run_sync(lambda: anyio.run(bus.run))


async def test_a_cancelled_run_ends_the_bus_it_started() -> None:
    """Without a signal `run` ends as any other call does, when it is cancelled."""
    bus = EventBus()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.run)
            await anyio.wait_all_tasks_blocked()
            await bus.publish("work", {})
            scope.cancel()

    with pytest.raises(BusClosed):
        await bus.publish("work", {})


async def test_a_cancelled_run_leaves_a_bus_that_ran_already() -> None:
    """Who started the bus ends it."""
    async with EventBus() as bus:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await bus.run()
        await bus.publish("work", {})
