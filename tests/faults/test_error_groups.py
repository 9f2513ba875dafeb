"""What leaves the bus when more than one thing goes wrong: all of it, in one group at most."""

from collections.abc import Callable
from typing import Any, cast

import anyio
import pytest

from eventbus import EventBus
from eventbus.middleware import DeadLetter
from eventbus.timers import Timers
from eventbus.watchdog import Watchdog
from tests.ending import what_ends
from tests.faults.stepping import turns

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def leaves(error: BaseException) -> list[type[BaseException]]:
    """List what an error holds, which is one group deep at most."""
    if not isinstance(error, BaseExceptionGroup):
        return [type(error)]
    inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
    assert not any(isinstance(one, BaseExceptionGroup) for one in inner), "a group in a group"
    return sorted(map(type, inner), key=lambda kind: kind.__name__)


async def fail_in(bus: EventBus, error: Exception | None = None) -> None:
    """Run a bus, with a handler that is at work, until the block fails."""
    async with bus:
        await bus.publish("work", {})
        await turns()
        raise error or LookupError("of the block")


# --- The machinery --------------------------------------------------------------------------------


class Breakdown:
    """Two parts of the machinery, which fail in the same moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = anyio.Event()
        monkeypatch.setattr(Timers, "run", self._failing(ZeroDivisionError("timers")))
        monkeypatch.setattr(Watchdog, "run", self._failing(OSError("watchdog")))

    def _failing(self, error: Exception) -> Callable[..., Any]:
        async def run(_: object) -> None:
            try:
                await self.now.wait()
            finally:  # also where the other's failure cancels this one
                raise error

        return run


async def test_two_failures_of_the_machinery_both_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither hides the other, and they stand beside each other."""
    breakdown = Breakdown(monkeypatch)

    async def break_down() -> None:
        async with EventBus():
            breakdown.now.set()
            await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await break_down()

    assert leaves(raised.value) == [OSError, ZeroDivisionError]


async def test_failures_of_the_machinery_do_not_hide_that_of_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the block fails as well, its error stands behind theirs, as their context."""
    Breakdown(monkeypatch)

    with pytest.raises(ExceptionGroup) as raised:
        await fail_in(EventBus())

    assert leaves(raised.value) == [OSError, ZeroDivisionError]
    assert isinstance(raised.value.__context__, LookupError)


async def test_a_bus_whose_machinery_failed_can_be_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The failure is over with the run in which it happened."""
    bus, seen = EventBus(), list[object]()
    bus.on("work")(seen.append)
    with monkeypatch.context() as patched:
        Breakdown(patched)
        with pytest.raises(ExceptionGroup):
            await fail_in(bus)

    async with bus:
        await bus.publish("work", {})

    assert seen[-1] == {}
    assert (bus.stats().published, bus.stats().in_flight) == (2, 0)


# --- The block ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [LookupError("one"), ExceptionGroup("two", [OSError(), ValueError()])]
)
async def test_an_error_of_the_block_leaves_as_it_is(error: Exception) -> None:
    """The very same object, in no group of ours, though handlers were running."""
    bus = EventBus()

    @bus.on("work")
    async def handle(event: object) -> None:
        await anyio.sleep_forever()

    with pytest.raises(type(error)) as raised:
        await fail_in(bus, error)

    assert raised.value is error


async def test_control_handed_to_a_task_group_it_would_be_wrapped() -> None:
    """That is what a task group does with an error of its block."""

    async def fail() -> None:
        async with anyio.create_task_group():
            raise LookupError

    with pytest.raises(ExceptionGroup) as raised:
        await fail()

    assert leaves(raised.value) == [LookupError]


# --- Handlers -------------------------------------------------------------------------------------


async def test_a_group_from_a_handler_is_a_failure_like_any_other() -> None:
    """It is a dead letter, whose traceback names all that was in it; the bus goes on."""
    bus = EventBus(middleware=[DeadLetter()])

    @bus.on("work")
    async def handle(event: dict[str, int]) -> None:
        if event["n"]:
            raise ExceptionGroup("both", [OSError("first"), ValueError("second")])

    async with bus:
        await bus.publish_many("work", [{"n": 1}, {"n": 0}])
        await bus.join()
        (dead,) = await bus.dead_letters()

    assert dead.error_type == "ExceptionGroup"
    assert "OSError: first" in dead.traceback
    assert "ValueError: second" in dead.traceback
    assert (bus.stats().succeeded, bus.stats().failed) == (1, 1)


@BACKENDS
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("is_in_thread", [False, True], ids=["async", "thread"])
def test_what_ends_the_program_comes_from_any_handler(
    backend: str, kind: type[BaseException], *, is_in_thread: bool
) -> None:
    """Raised by a handler, it ends the program: in no group, and as no failure."""
    bus = EventBus(middleware=[DeadLetter()])

    def end_in_thread(event: object) -> None:
        raise kind

    async def end(event: object) -> None:
        raise kind

    bus.on("work")(end_in_thread if is_in_thread else end)

    async def main() -> None:
        async with bus:
            await bus.publish("work", {})
            await anyio.sleep_forever()

    assert type(what_ends(main, backend)) is kind
    assert (bus.stats().failed, bus.stats().dead_lettered) == (0, 0)
