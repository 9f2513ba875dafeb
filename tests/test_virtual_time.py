"""Time that jumps, on both loops: what it may pass over, and what it must not."""

import socket
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from anyio import to_thread

from eventbus import Context, EventBus, HandlerTimeout, InvalidOption
from eventbus.clock import Clock
from eventbus.middleware import DeadLetter, Retry, Timeout
from eventbus.testing import TestBus, VirtualClock, virtual_backend

pytestmark = pytest.mark.virtual_time


async def test_an_hour_takes_a_moment() -> None:
    """Sleeping ends exactly when it is due, and nobody has waited."""
    began, due = time.perf_counter(), anyio.current_time() + 3600
    await anyio.sleep(3600)

    assert anyio.current_time() == pytest.approx(due, abs=1e-6)
    assert time.perf_counter() - began < 5


async def test_time_stands_still_while_code_runs() -> None:
    """However slow the machine, a deadline is missed by what the program waits for alone."""
    before = anyio.current_time()
    time.sleep(0.02)  # noqa: ASYNC251 - the machine is slow here
    await anyio.lowlevel.checkpoint()

    assert anyio.current_time() == before


async def test_sleepers_wake_in_the_order_they_are_due() -> None:
    """Each at its own moment, none passed over."""
    woken: list[tuple[int, float]] = []
    began = anyio.current_time()

    async def nap(seconds: int) -> None:
        await anyio.sleep(seconds)
        woken.append((seconds, round(anyio.current_time() - began, 6)))

    async with anyio.create_task_group() as tasks:
        for seconds in (300, 100, 200):
            tasks.start_soon(nap, seconds)

    assert woken == [(100, 100), (200, 200), (300, 300)]


async def test_a_time_limit_ends_what_would_wait_for_ever() -> None:
    """Time jumps to the limit, as it is the next thing that can happen."""
    with anyio.move_on_after(86_400) as scope:
        await anyio.sleep_forever()

    assert scope.cancelled_caught


async def test_time_does_not_jump_over_a_thread() -> None:
    """A worker thread that takes a while is waited for, not timed out."""
    with anyio.fail_after(60):
        await to_thread.run_sync(time.sleep, 0.05)


async def test_a_time_limit_of_a_thread_still_counts() -> None:
    """While a thread is busy time passes as outside, so a limit ends the waiting."""
    began = time.perf_counter()
    with anyio.move_on_after(0.1) as scope:
        await to_thread.run_sync(time.sleep, 0.3, abandon_on_cancel=True)

    assert scope.cancelled_caught
    assert 0.05 < time.perf_counter() - began < 10


async def test_time_jumps_again_after_a_thread() -> None:
    """An idle worker thread holds nothing up."""
    await to_thread.run_sync(time.sleep, 0.0)
    began = time.perf_counter()
    await anyio.sleep(3600)

    assert time.perf_counter() - began < 5


async def test_time_does_not_jump_over_a_socket() -> None:
    """A peer outside the loop needs real time to answer."""
    ours, peer = socket.socketpair()
    ours.setblocking(False)

    def answer() -> None:
        time.sleep(0.05)
        peer.send(b"x")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(to_thread.run_sync, answer)
        with anyio.fail_after(60):
            await anyio.wait_readable(ours)
    ours.close()
    peer.close()


async def test_a_time_limit_of_a_socket_takes_its_time() -> None:
    """Nobody can tell that nothing will come: the limit is waited for."""
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    began = time.perf_counter()
    with anyio.move_on_after(0.1) as scope:
        await anyio.wait_readable(ours)
    ours.close()
    peer.close()

    assert scope.cancelled_caught
    assert time.perf_counter() - began >= 0.05


async def test_time_jumps_again_after_a_socket() -> None:
    """Once nobody waits for it any more."""
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    peer.send(b"x")
    await anyio.wait_readable(ours)
    began = time.perf_counter()
    await anyio.sleep(3600)
    ours.close()
    peer.close()

    assert time.perf_counter() - began < 5


# --- the clock ------------------------------------------------------------------------------------


async def test_the_clock_goes_with_the_loop(event_clock: VirtualClock) -> None:
    """Wall time and monotonic time move on together, by what was slept."""
    told: Clock = event_clock
    now, monotonic = told.now(), told.monotonic()
    await told.sleep(3600)

    assert told.monotonic() - monotonic == pytest.approx(3600)
    assert told.now() - now == pytest.approx(3600)


async def test_the_clock_begins_where_it_is_told() -> None:
    """Or now, so that `at=` an hour from now is an hour away."""
    start = datetime(2030, 1, 1, tzinfo=UTC)

    assert VirtualClock(start).now() == start.timestamp()
    assert abs(VirtualClock().now() - time.time()) < 60


async def test_the_clock_can_be_asked_from_a_thread(event_clock: VirtualClock) -> None:
    """It shows the loop's time there, too."""
    await event_clock.sleep(3600)

    assert await to_thread.run_sync(event_clock.now) >= event_clock.now() - 60


def test_the_clock_can_be_asked_before_any_loop() -> None:
    """A bus may be looked at before it runs."""
    start = datetime(2030, 1, 1, tzinfo=UTC)

    assert VirtualClock(start).now() == start.timestamp()


def test_the_clock_goes_on_from_loop_to_loop() -> None:
    """Wall time never goes back, though each loop's own time begins anew."""
    clock, told = VirtualClock(), list[float]()

    async def spend_an_hour() -> None:
        told.append(clock.now())
        await clock.sleep(3600)
        told.append(clock.now())

    for name in ("asyncio", "trio", "asyncio"):
        run_virtually(spend_an_hour, name)

    assert told == sorted(told)
    assert told[-1] - told[0] == pytest.approx(3 * 3600)


# --- the bus --------------------------------------------------------------------------------------


async def test_an_hour_of_backoff_passes_at_once(
    event_bus: TestBus, event_clock: VirtualClock
) -> None:
    """Each attempt comes exactly when it is due."""
    began, attempts = event_clock.monotonic(), list[float]()

    @event_bus.on(
        "a", middleware=[Retry(attempts=3, initial=1200, maximum=7200, jitter=False), DeadLetter()]
    )
    async def fail(event: object) -> None:
        attempts.append(round(event_clock.monotonic() - began, 3))
        raise ConnectionError

    await event_bus.publish("a", {})
    await event_bus.join()
    event_bus.assert_failed(fail, ConnectionError)

    assert attempts == [0, 1200, 3600]


async def test_a_time_limit_of_a_handler_passes_at_once(event_bus: TestBus) -> None:
    """The watchdog looks in virtual time."""

    @event_bus.on("a", middleware=[Timeout(3600)])
    async def hang(event: object) -> None:
        await anyio.sleep_forever()

    await event_bus.publish("a", {})
    await event_bus.join()
    event_bus.assert_failed(hang, HandlerTimeout)


async def test_handlers_in_threads_do_not_time_out(event_bus: TestBus) -> None:
    """A handler that is not async takes the time it takes."""
    handled: list[object] = []

    @event_bus.on("a", middleware=[Timeout(60)])
    def work(event: object, context: Context[object]) -> None:
        time.sleep(0.05)
        handled.append(event)
        context.publish_nowait("b", {})

    await event_bus.publish("a", {})
    await event_bus.join()

    assert handled == [{}]
    event_bus.assert_published("b", times=1)


def test_the_bus_of_an_application_runs_in_virtual_time() -> None:
    """Though it was made with the machine's own clock."""
    bus, attempts = (
        EventBus(middleware=[Retry(attempts=3, initial=1200, maximum=7200)]),
        list[int](),
    )

    @bus.on("a")
    async def fail(event: object, context: Context[object]) -> None:
        attempts.append(context.attempt)
        raise ConnectionError

    async def main() -> None:
        async with TestBus.around(bus, raise_failures=False):
            await bus.publish("a", {})
            await bus.join()

    for name in ("asyncio", "trio"):
        run_virtually(main, name)

    assert attempts == [1, 2, 3, 1, 2, 3]


# --- the loops ------------------------------------------------------------------------------------


def run_virtually(main: Callable[[], Awaitable[Any]], name: str) -> None:
    """Run a program to its end on a loop with virtual time."""
    backend, options = virtual_backend(name)
    anyio.run(main, backend=backend, backend_options=options)


def test_options_of_the_loop_are_kept() -> None:
    """Virtual time comes on top of what a project says of its loops."""
    assert virtual_backend("asyncio", debug=True)[1]["debug"] is True
    assert (
        "restrict_keyboard_interrupt_to_checkpoints"
        in (virtual_backend("trio", restrict_keyboard_interrupt_to_checkpoints=True)[1])
    )


def test_there_are_two_loops() -> None:
    """Another name is refused with theirs."""
    with pytest.raises(InvalidOption, match=r"'curio'.* 'asyncio' or 'trio'"):
        virtual_backend("curio")


def test_asyncio_needs_no_trio(monkeypatch: pytest.MonkeyPatch) -> None:
    """A project that runs on asyncio alone has virtual time without installing anything."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "trio"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "eventbus.testing._trio", raising=False)
    monkeypatch.delattr("eventbus.testing._trio", raising=False)

    assert virtual_backend("asyncio")[0] == "asyncio"
    with pytest.raises(ImportError):
        virtual_backend("trio")


def test_asyncios_own_threads_hold_time_too() -> None:
    """`asyncio.to_thread`, and the executor's end, are waited for."""
    import asyncio

    async def main() -> None:
        async with asyncio.timeout(60):
            await asyncio.to_thread(time.sleep, 0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.Future()

    run_virtually(main, "asyncio")


@pytest.mark.parametrize(
    ("name", "guard"),
    [
        ("asyncio", "eventbus.testing.loop.VirtualLoop.is_held"),
        ("trio", "eventbus.testing._trio._Holding.after_task_step"),
    ],
)
def test_without_being_held_time_jumps_over_a_thread(
    name: str, guard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what is looked at outside of the loop is why nothing times out above."""

    def never(*_: object) -> bool:
        return False

    monkeypatch.setattr(guard, never)

    async def main() -> None:
        with anyio.move_on_after(60) as scope:
            await to_thread.run_sync(time.sleep, 0.05, abandon_on_cancel=True)
        assert scope.cancelled_caught

    run_virtually(main, name)


@pytest.mark.skipif(sys.platform == "win32", reason="the loop with pipes is another one there")
def test_subprocesses_are_waited_for() -> None:
    """A pipe is a file as a socket is."""

    async def main() -> None:
        with anyio.fail_after(60):
            result = await anyio.run_process([sys.executable, "-c", "print('done')"])
        assert result.stdout.strip() == b"done"

    for name in ("asyncio", "trio"):
        run_virtually(main, name)
