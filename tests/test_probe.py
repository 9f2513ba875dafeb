"""What a probe sees of a bus, from when it is attached until it is gone."""

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from eventbus import Context, EventBus, EventBusError, FailedDelivery, InvalidOption, Message
from eventbus.middleware import CallNext, DeadLetter
from eventbus.testing import ManualClock
from eventbus.transports.probed import ProbedRoute


class Log:
    """A probe that notes what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_published(self, message: Message) -> None:
        self.lines.append(f"published {message.payload}")

    async def on_call(
        self, handler: Callable[..., object], context: Context[Any], call_next: CallNext
    ) -> object:
        self.lines.append(f"call {context.event}")
        return await call_next(context)

    def on_given_up(self, failure: FailedDelivery, error: BaseException) -> None:
        self.lines.append(f"gave up {failure.message.payload}: {error!r}")


async def test_it_sees_each_way_to_publish() -> None:
    """Alone, with options, many at once, without waiting, and from a handler."""
    bus, log = EventBus(), Log()

    @bus.on("a")
    async def pass_on(event: object, context: Context[object]) -> None:
        await context.publish("b", {"from": "handler"})

    async with bus:
        with bus.attach(log):
            await bus.publish("b", {"n": 1})
            await bus.publish("b", {"n": 2}, key="k")
            await bus.publish_many("b", [{"n": 3}, {"n": 4}])
            bus.publish_nowait("b", {"n": 5})
            await bus.publish("a", {"n": 6})
            await bus.join()

    assert log.lines == [
        *(f"published {{'n': {n}}}" for n in range(1, 7)),
        "call {'n': 6}",
        "published {'from': 'handler'}",
    ]


async def test_it_sees_what_was_scheduled_when_it_is_due(clock: ManualClock) -> None:
    """Until then it may still be cancelled."""
    bus, log = EventBus(clock=clock), Log()
    async with bus:
        with bus.attach(log):
            await bus.publish("a", {"n": 1}, delay=10.0, expires=60.0)
            await clock.advance(5.0)
            assert log.lines == []
            await clock.advance(5.0)

    assert log.lines == ["published {'n': 1}"]


async def test_it_sees_handlers_that_were_running_before_and_none_after() -> None:
    """Workers go on with their next delivery: attached, watched; detached, as if never."""
    bus, log, seen = EventBus(), Log(), list[object]()
    bus.on("a", model=object)(_noting(seen))
    async with bus:
        for n in range(3):
            with bus.attach(log) if n == 1 else EMPTY:
                await bus.publish("a", n)  # type: ignore[call-overload]  # a number is shortest
                await bus.join()

    assert seen == [0, 1, 2]
    assert log.lines == ["published 1", "call 1"]


async def test_attaching_runs_no_handler_beside_another() -> None:
    """Of `concurrency=1` one delivery runs at a time, also while its worker begins anew."""
    bus, running, most = EventBus(), 0, 0

    @bus.on("a")
    async def work(event: object) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.lowlevel.checkpoint()
        running -= 1

    async with bus:
        await bus.publish_many("a", [{"n": n} for n in range(20)])
        for _ in range(10):
            with bus.attach(Log()):
                await anyio.lowlevel.checkpoint()

    assert (most, bus.stats().succeeded) == (1, 20)


async def test_it_hears_of_what_is_given_up() -> None:
    """A failure of a handler, and a payload its model refuses, each with the error itself."""
    bus, log = EventBus(middleware=[DeadLetter()]), Log()

    @bus.on("a", model=dict[str, int])
    async def fail(event: object) -> None:
        raise KeyError("k")

    @bus.on("b", model=int)
    async def take(event: int) -> None: ...

    async with bus:
        with bus.attach(log):
            await bus.publish("a", {"n": 1})
            await bus.publish("b", {"n": 2})
            await bus.join()

    given_up = [line for line in log.lines if line.startswith("gave up")]
    assert "gave up {'n': 1}: KeyError('k')" in given_up
    assert any(line.startswith("gave up {'n': 2}: 1 validation error") for line in given_up)


async def test_an_unwatched_bus_publishes_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a probe costs is gone with it: the routes it looks at are none of the bus's."""
    fed: list[object] = []

    def feed(_: ProbedRoute, message: Message) -> list[object]:
        fed.append(message.payload)
        return []

    monkeypatch.setattr(ProbedRoute, "feed", feed)
    bus = EventBus()
    bus.on("a", model=object)(_noting([]))
    async with bus:
        await bus.publish("a", {"n": 1})
        with bus.attach(Log()):
            await bus.publish("a", {"n": 2})
        await bus.publish("a", {"n": 3})

    assert fed == [{"n": 2}]


def test_a_bus_takes_another_clock_until_it_starts() -> None:
    """What waits and stamps asks the new one."""
    bus, clock = EventBus(), ManualClock()
    bus.keep_time_by(clock)

    async def main() -> None:
        async with bus:
            receipt = await bus.publish("a", {})
            assert isinstance(receipt, Message)
            assert receipt.seconds == clock.now()
            with pytest.raises(EventBusError, match="before it starts"):
                bus.keep_time_by(ManualClock())

    anyio.run(main)


def test_names_of_a_handler_are_those_of_its_subscriptions() -> None:
    """A handler may serve several; what is not subscribed is refused with what is near."""
    bus = EventBus()
    handler = bus.on("a", name="first")(bus.on("b", name="second")(_noting([])))

    assert bus.names_of(handler) == ["second", "first"]
    assert bus.names_of("first") == ["first"]
    with pytest.raises(InvalidOption, match="did you mean 'second'"):
        bus.names_of("secnod")


def _noting(seen: list[object]) -> Callable[[object], Any]:
    async def note(event: object) -> None:
        seen.append(event)

    return note


class _Empty:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


EMPTY = _Empty()
