"""Where subscriptions begin that are looked for in the log: at a time, or at the newest."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any, TypeAlias

import anyio
import anyio.to_thread
import pytest

from eventbus import Context, EventBus, StoreCorrupt
from eventbus.testing import ManualClock
from eventbus.transports.base import Start
from eventbus.transports.sqlite import cursors, searching
from eventbus.transports.sqlite.beginning import Begin
from eventbus.transports.sqlite.removal import remove_up_to

Opened: TypeAlias = Callable[..., EventBus]
SOME_DAY = datetime(2100, 1, 1, tzinfo=UTC)
NAMES = pytest.mark.parametrize("name", ["audit", None])
STEPS = pytest.mark.parametrize("step", [1, 2, 3, 100])


def note(
    bus: EventBus, pattern: str = "*", *, name: str | None, start: Start
) -> list[tuple[int | None, bool]]:
    """Subscribe; give the positions that come, and whether they are replayed."""
    heard: list[tuple[int | None, bool]] = []

    @bus.on(pattern, model=object, name=name, start=start)
    async def hear(event: object, context: Context[object]) -> None:
        heard.append((context.message.position, context.replay))

    return heard


@NAMES
@STEPS
async def test_a_time_is_the_first_in_the_order_of_positions(
    opened: Opened,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    name: str | None,
) -> None:
    """Also where the clock was set back between; however many are looked at in one step."""
    async with opened(clock=clock) as bus:
        for seconds in (10, 50, -45, 20, 30):
            clock.set_wall(seconds)
            await bus.publish("a", {})
        moment = datetime.fromtimestamp(clock.now(), UTC) - timedelta(seconds=20)
    monkeypatch.setattr(searching, "SEARCHED_AT_ONCE", step)
    bus = opened()
    heard = note(bus, name=name, start=moment)
    async with bus:
        await bus.join()

    assert heard == [(2, True), (3, True), (4, True), (5, True)]


@NAMES
@STEPS
async def test_the_newest_is_the_last_that_is_wanted(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, step: int, name: str | None
) -> None:
    """However far back it is."""
    async with opened() as bus:
        for topic in ("a", "b", "a", "b", "b", "c"):
            await bus.publish(topic, {})
    monkeypatch.setattr(searching, "TOPICS_AT_ONCE", step)
    bus = opened()
    heard = note(bus, "a", name=name, start="last")
    async with bus:
        await bus.publish("a", {})
        await bus.join()

    assert heard == [(3, True), (7, False)]


async def test_damage_is_told_when_it_is_read(opened: Opened, store: Path) -> None:
    """And not when it is only passed in a search."""
    async with opened() as bus:
        for topic in ("a", "b"):
            await bus.publish(topic, {})
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        connection.execute("UPDATE log SET topic = CAST(x'ff' AS TEXT) WHERE position = 2")
    bus = opened()
    note(bus, "a", name=None, start="last")

    with pytest.raises(StoreCorrupt, match="position 2 is damaged"):
        async with bus:
            await anyio.sleep(20)


@NAMES
@pytest.mark.parametrize("start", ["last", SOME_DAY], ids=["last", "a time"])
async def test_publishers_do_not_wait_while_it_is_looked_for(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, start: Start, name: str | None
) -> None:
    """And where nothing is found, it begins with what they published meanwhile."""
    has_begun, may_end = Event(), Event()
    for step in ("_first_since", "_newest_by_topic"):
        monkeypatch.setattr(searching, step, held(step, has_begun, may_end))
    async with opened() as bus:
        await bus.publish("b", {})
        heard = note(bus, "a", name=name, start=start)
        await anyio.to_thread.run_sync(has_begun.wait)
        with anyio.fail_after(20):
            await bus.publish("a", {})
        may_end.set()
        await bus.join()

    assert heard == [(2, False)]


def held(step: str, has_begun: Event, may_end: Event) -> Callable[..., object]:
    """Make a step of a search one that waits, in its thread."""
    search = getattr(searching, step)

    def wait(*given: Any, **named: Any) -> object:
        has_begun.set()
        assert may_end.wait(60)
        return search(*given, **named)

    return wait


@pytest.mark.parametrize("start", ["last", SOME_DAY - timedelta(days=36_500)], ids=["last", "time"])
async def test_who_goes_on_looks_for_nothing(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    """Where a subscription begins counts when it is created, and not again."""
    for numbers in (1, 2):
        bus = opened()
        heard = note(bus, name="audit", start=start)
        async with bus:
            await bus.publish("a", {})
            await bus.join()
        assert heard == [(numbers, False)]
        monkeypatch.delattr(searching, "_first_since", raising=False)
        monkeypatch.delattr(searching, "_newest_by_topic", raising=False)


async def test_what_retention_removes_meanwhile_is_passed_over(opened: Opened, store: Path) -> None:
    """What was found is no longer there: it begins with what follows."""
    async with opened() as bus:
        await bus.publish_many("a", [{"n": n} for n in range(5)])
    with closing(sqlite3.connect(store)) as connection:
        remove_up_to(connection, 3, remember_since=0)
        found = Begin(1, 5)
        created = cursors.establish(connection, "audit", ["a"], SOME_DAY, found=found)

    assert created == cursors.Established(1, 3, 5)
