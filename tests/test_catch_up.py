"""What was stored before a subscription was created is a replay to it, and can be passed over."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest

from eventbus import Context, EventBus, FailedDelivery, InvalidOption, Router, handles
from eventbus.middleware import DeadLetter, Retry
from eventbus.transports.base import Start

Opened: TypeAlias = Callable[..., EventBus]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """Give what makes a bus on one store."""

    def open_bus(*middleware: Any) -> EventBus:
        return EventBus(f"sqlite:///{tmp_path}/events.db", middleware=middleware)

    return open_bus


class Notes:
    """What a handler was given: the number of each event, and whether it was a replay."""

    def __init__(self, stop_at: int = 0) -> None:
        self.given: list[tuple[int, bool]] = []
        self.is_at_stop = anyio.Event()
        self._stop_at = stop_at

    async def __call__(self, event: Any, context: Context[Any]) -> None:
        if event["n"] == self._stop_at:
            self.is_at_stop.set()
            await anyio.sleep_forever()
        self.given.append((event["n"], context.replay))


def note(bus: EventBus, notes: Notes, **options: Any) -> Notes:
    """Subscribe notes."""
    bus.on("orders.*", model=object, **options)(notes)
    return notes


async def publish(bus: EventBus, *numbers: int) -> None:
    """Publish numbers."""
    await bus.publish_many("orders.placed", [{"n": n} for n in numbers])


@pytest.mark.parametrize("is_durable", [True, False])
@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("first", [(1, True), (2, True), (3, False)]),
        ("last", [(2, True), (3, False)]),
        (2, [(2, True), (3, False)]),
        ("new", [(3, False)]),
    ],
)
async def test_what_was_there_before_is_a_replay(
    opened: Opened, start: Start, expected: list[tuple[int, bool]], *, is_durable: bool
) -> None:
    """To a subscription that is durable, and to one that lasts as long as the bus."""
    async with opened() as earlier:
        await publish(earlier, 1, 2)
    bus = opened()
    notes = note(bus, Notes(), name="audit", start=start, durable=is_durable)
    async with bus:
        await publish(bus, 3)
        await bus.join()

    assert notes.given == expected


async def test_a_restart_does_not_end_the_catching_up(opened: Opened) -> None:
    """What was there when it was created is a replay in the next run, too; what is new is not."""
    async with opened() as earlier:
        await publish(earlier, 1, 2, 3)
    bus = opened()
    notes = note(bus, Notes(stop_at=2), name="audit", start="first")
    with anyio.CancelScope() as scope:
        async with bus:
            await notes.is_at_stop.wait()
            await publish(bus, 4)
            scope.cancel()
    again = opened()
    rest = note(again, Notes(), name="audit", start="first")
    async with again:
        await publish(again, 5)
        await again.join()

    assert notes.given == [(1, True)]
    assert rest.given == [(2, True), (3, True), (4, False), (5, False)]


async def test_one_that_is_not_durable_begins_with_each_run(opened: Opened) -> None:
    """So all that was there before that run is a replay."""
    bus = opened()
    notes = note(bus, Notes(), start="first")
    for n in (1, 2):
        async with bus:
            await publish(bus, n)
            await bus.join()

    assert notes.given == [(1, False), (1, True), (2, False)]


@pytest.mark.parametrize("is_durable", [True, False])
async def test_a_handler_can_pass_replays_over(opened: Opened, *, is_durable: bool) -> None:
    """They are done without it, be they valid or not, and counted as filtered."""
    async with opened() as earlier:
        await earlier.publish("orders.placed", b"no JSON")
        await publish(earlier, 1)
    bus = opened(DeadLetter())
    notes = note(bus, Notes(), name="audit", start="first", durable=is_durable, replay=False)
    async with bus:
        await publish(bus, 2)
        await bus.join()

    stats = bus.stats().subscriptions["audit"]
    assert notes.given == [(2, False)]
    assert (stats.filtered, stats.delivered, stats.succeeded) == (2, 1, 1)
    assert (stats.invalid, stats.dead_lettered) == (0, 0)


async def test_what_was_passed_over_is_done(opened: Opened) -> None:
    """It does not come in the next run, to a handler that wants replays."""
    async with opened() as earlier:
        await publish(earlier, 1)
    bus, again = opened(), opened()
    note(bus, Notes(), name="audit", start="first", replay=False)
    notes = note(again, Notes(), name="audit")
    async with bus:
        await bus.join()
    async with again:
        await again.join()

    assert (bus.stats().filtered, notes.given) == (1, [])


async def nothing(event: object) -> None:
    """Handle anything."""


async def test_passing_over_outlasts_a_restart(opened: Opened) -> None:
    """In the middle of the catching up: what was not read is passed over in the next run."""
    async with opened() as earlier:
        await publish(earlier, 1, 2, 3)
    bus = opened()
    notes = note(bus, Notes(stop_at=2), name="audit", start="first")
    with anyio.CancelScope() as scope:
        async with bus:
            await notes.is_at_stop.wait()
            scope.cancel()
    again = opened()
    rest = note(again, Notes(), name="audit", replay=False)
    async with again:
        await publish(again, 4)
        await again.join()

    assert rest.given == [(4, False)]
    assert again.stats().filtered == 2


async def test_a_retry_of_a_replay_is_one_too(opened: Opened) -> None:
    """As it is the same message."""
    async with opened() as earlier:
        await publish(earlier, 1)
    bus = opened(Retry(attempts=2, initial=0.001))
    told: list[tuple[int, bool]] = []

    @bus.on("orders.*", name="audit", start="first")
    async def fail_once(event: dict[str, int], context: Context[dict[str, int]]) -> None:
        told.append((context.attempt, context.replay))
        if context.attempt == 1:
            raise ConnectionError

    async with bus:
        await bus.join()

    assert told == [(1, True), (2, True)]


async def test_a_dead_letter_is_no_replay_to_who_listens_to_them(opened: Opened) -> None:
    """Though its message was there before: that it failed is new, and not passed over."""
    async with opened() as earlier:
        await publish(earlier, 1)
    bus = opened(DeadLetter())
    told: list[tuple[bool, FailedDelivery | None]] = []

    @bus.on("orders.*", name="audit", start="first")
    async def fail(event: dict[str, int]) -> None:
        raise ConnectionError

    @bus.on("$dlq.audit", replay=False)
    async def tell(event: object, context: Context[object]) -> None:
        told.append((context.replay, context.failure))

    async with bus:
        await bus.join()

    ((is_replay, failure),) = told
    assert (is_replay, failure is None) == (False, False)


async def test_one_that_was_forgotten_begins_anew(opened: Opened) -> None:
    """What has come since is no replay to it: it was there all the time."""
    bus = opened()
    notes = note(bus, Notes(), name="audit", replay=False)
    async with bus, opened() as other:
        await publish(bus, 1)
        await bus.join()
        await other.forget("audit")
        await publish(other, 2)
        with anyio.fail_after(20):
            while len(notes.given) < 2:  # noqa: ASYNC110 - there is no event for it
                await anyio.sleep(0.01)

    assert notes.given == [(1, False), (2, False)]


async def test_in_memory_nothing_is_a_replay() -> None:
    """And so nothing is passed over."""
    bus = EventBus()
    notes = note(bus, Notes(), replay=False)
    async with bus:
        await publish(bus, 1)

    assert notes.given == [(1, False)]
    assert bus.stats().filtered == 0


async def test_routers_methods_and_loops_take_the_option(opened: Opened) -> None:
    """As `on` does."""
    async with opened() as earlier:
        await publish(earlier, 1)
    given: list[object] = []
    router = Router("orders")

    @router.on("placed", model=object, name="routed", start="first", replay=False)
    async def take(event: object) -> None:
        given.append(event)

    class Methods:
        @handles("orders.placed", model=object, name="method", start="first", replay=False)
        async def take(self, event: object) -> None:
            given.append(event)

    bus = opened()
    bus.include(router)
    bus.include(Methods())
    async with bus, bus.subscribe("orders.*", replay=False) as events:
        await publish(bus, 2)
        await bus.join()
        given.append(await anext(events))

    assert given == [{"n": 2}] * 3


def test_it_is_checked_at_the_door(opened: Opened) -> None:
    """A group says it once."""
    bus = opened()
    with pytest.raises(InvalidOption, match="replay='no': give True, False or None"):
        bus.on("orders.*", model=object, replay="no")  # type: ignore[call-overload]  # refused
    bus.on("orders.*", model=object, group="audit", replay=False)(nothing)
    bus.on("orders.*", model=object, group="audit")(nothing)
    with pytest.raises(InvalidOption, match="differs in replay"):
        bus.on("orders.*", model=object, group="audit", replay=True)(nothing)
