"""`bus.replay`: what is stored is read once more, in its order, and leaves no trace."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import enumerate as threads
from typing import Any, TypeAlias

import anyio
import pytest
from anyio.lowlevel import checkpoint
from pydantic import BaseModel

from eventbus import (
    AlreadySettled,
    BusClosed,
    Context,
    EventBus,
    EventBusError,
    InvalidEvent,
    InvalidOption,
    InvalidPattern,
    NotStarted,
    PositionGone,
    Replay,
    ReplayProgress,
    StoreCorrupt,
    SystemClock,
    Topic,
    UnsupportedByTransport,
)
from eventbus.message import write_message
from eventbus.replay import Pace
from eventbus.testing import ManualClock
from eventbus.transports.sqlite import Settings, SqliteTransport, newest, reading, searching
from eventbus.transports.sqlite.log import Page, read_between
from tests.waiting import until

Opened: TypeAlias = Callable[..., EventBus]


class Order(BaseModel):
    n: int


ORDER = Topic("orders.placed", Order)
HOUR = timedelta(hours=1)


async def fill(bus: EventBus, count: int, topic: str = "orders.placed") -> None:
    """Publish so many, numbered from 1 on."""
    await bus.publish_many(topic, [{"n": n} for n in range(1, count + 1)])


async def positions(replay: AsyncIterator[Context[Any]]) -> list[int | None]:
    """Read to the end; tell the positions of what was given."""
    return [context.message.position async for context in replay]


async def take_all(replay: AsyncIterator[Context[Any]], taken: list[int | None]) -> None:
    """Read to the end, and note the positions of what was given."""
    async for context in replay:
        taken.append(context.message.position)


def change(store: Path, statement: str) -> None:
    """Change a store behind the back of the bus."""
    with closing(sqlite3.connect(store)) as connection:
        connection.execute(statement)
        connection.commit()


def remove_up_to(store: Path, position: int) -> None:
    """Do what retention does."""
    change(store, f"UPDATE meta SET removed = {position}")
    change(store, f"DELETE FROM log WHERE position <= {position}")


def transport_on(store: Path) -> SqliteTransport:
    """Give the transport itself, with no bus around it."""
    return SqliteTransport(Settings.of_url(f"sqlite:///{store}"), SystemClock())


# --- what is given --------------------------------------------------------------------------------


async def test_it_gives_what_is_stored(opened: Opened) -> None:
    """In its order, validated, with all that is known of it."""
    async with opened() as bus:
        await fill(bus, 600)
        contexts = [context async for context in bus.replay(ORDER)]

    assert [context.event for context in contexts] == [Order(n=n) for n in range(1, 601)]
    assert [context.message.position for context in contexts] == [*range(1, 601)]
    assert {context.replay for context in contexts} == {True}
    assert {(one.attempt, one.last_attempt, one.lagged) for one in contexts} == {(1, True, 0)}
    assert {one.subscription for one in contexts} == {"replay"}


async def test_it_gives_payloads_as_they_are_without_a_model(opened: Opened) -> None:
    """What JSON holds, or the bytes."""
    async with opened() as bus:
        await bus.publish("orders.placed", Order(n=1))
        await bus.publish("orders.raw", b"\x00")

        assert [context.event async for context in bus.replay("orders.*")] == [{"n": 1}, b"\x00"]


async def test_it_gives_what_was_said_beside(opened: Opened) -> None:
    """Ids, keys, headers and times are those of the publish; captures those of the pattern."""
    async with opened() as bus:
        await bus.publish("orders.eu.placed", {}, id="o-1", key="k", headers={"user": "ann"})
        (context,) = [one async for one in bus.replay("orders.{region}.placed")]

    message = context.message
    assert (message.id, message.key, dict(message.headers)) == ("o-1", "k", {"user": "ann"})
    assert context.captures == {"region": "eu"}


async def test_it_gives_what_matches(opened: Opened) -> None:
    """One of several patterns; what lies between is passed by, be it more than a page."""
    async with opened() as bus:
        await bus.publish("topic.1", {})
        await bus.publish("topic.2", {})
        await fill(bus, 700, "other")
        await bus.publish("topic.last", {})

        assert await positions(bus.replay("topic.2", "*.last")) == [2, 703]


async def test_wildcards_do_not_match_what_belongs_to_the_bus(store: Path) -> None:
    """Should there ever be such a topic in a store."""
    messages = [write_message((topic, None, None, 1), 1e9, {}) for topic in ("$own.x", "a.x")]
    async with transport_on(store) as transport:
        await transport.publish(messages)
        for pattern in (">", "*.x"):
            kept = await transport.read([pattern], None, None)

            assert [one.topic for one in await kept.read_on()] == ["a.x"]


async def test_it_ends_at_what_was_the_end(opened: Opened) -> None:
    """What is published while it is read is not given: so it comes to an end."""
    async with opened() as bus:
        await fill(bus, 3)
        given: list[int] = []
        async for context in bus.replay(ORDER):
            await bus.publish(ORDER, context.event)
            given.append(context.event.n)

        assert given == [1, 2, 3]


async def test_it_begins_with_its_first_step(opened: Opened) -> None:
    """What is published after it was made, and before that, is given."""
    async with opened() as bus:
        replay = bus.replay(ORDER)
        await fill(bus, 2)

        assert await positions(replay) == [1, 2]


async def test_it_is_at_its_end_for_good(opened: Opened) -> None:
    """Asked again, it gives nothing; a store that holds nothing gives nothing at once."""
    async with opened() as bus:
        replay = bus.replay(ORDER)
        assert await positions(replay) == []
        await fill(bus, 2)

        assert await positions(replay) == []


async def test_several_tasks_take_from_one(opened: Opened) -> None:
    """Each message goes to one of them."""
    taken: list[int | None] = []

    async def take(replay: Replay[Order]) -> None:
        async for context in replay:
            taken.append(context.message.position)
            await checkpoint()

    async with opened() as bus:
        await fill(bus, 600)
        replay = bus.replay(ORDER)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(take, replay)

    assert sorted(map(int, filter(None, taken))) == [*range(1, 601)]


async def test_a_handler_may_replay(opened: Opened) -> None:
    """To build what it needs from what was before."""
    bus = opened()
    sums: list[int] = []

    @bus.on("sums.wanted")
    async def add(event: dict[str, int]) -> None:
        sums.append(sum([context.event.n async for context in bus.replay(ORDER)]))

    async with bus:
        await fill(bus, 4)
        await bus.publish("sums.wanted", {})

    assert sums == [10]


async def test_there_is_nothing_to_settle(opened: Opened) -> None:
    """A verdict comes too late, and no success would send what the context publishes."""
    async with opened() as bus:
        await fill(bus, 1)
        async for context in bus.replay(ORDER):
            with pytest.raises(AlreadySettled, match="settled by being replayed"):
                await context.ack()
            with pytest.raises(AlreadySettled):
                context.retry_nowait()
            with pytest.raises(EventBusError, match=r"publish with bus\.publish"):
                await context.publish("orders.copied", {})


# --- from where to where --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (None, None, [1, 2, 3, 4, 5]),
        (3, None, [3, 4, 5]),
        (None, 2, [1, 2]),
        (2, 4, [2, 3, 4]),
        (4, 4, [4]),
        (6, None, []),
        (4, 100, [4, 5]),
    ],
)
async def test_positions_are_included(
    opened: Opened, since: int | None, until: int | None, expected: Sequence[int]
) -> None:
    """Both; the end of the log is an end, too."""
    async with opened() as bus:
        await fill(bus, 5)

        assert await positions(bus.replay(">", since=since, until=until)) == expected


async def test_times_are_included(opened: Opened, clock: ManualClock) -> None:
    """From the first stored at or after the one, to the last stored at or before the other."""
    async with opened(clock=clock) as bus:
        for n in range(5):
            await bus.publish(ORDER, Order(n=n))
            await clock.advance(60)
        times = [context.message.time async for context in bus.replay(ORDER)]

        for since, end, expected in [
            (times[1], times[3], [2, 3, 4]),
            (times[1] - HOUR, times[1], [1, 2]),
            (times[1] + timedelta(seconds=1), None, [3, 4, 5]),
            (times[4] + HOUR, None, []),
            (None, times[0] - HOUR, []),
            (3, times[3] + timedelta(seconds=1), [3, 4]),
        ]:
            assert await positions(bus.replay(ORDER, since=since, until=end)) == expected


async def test_times_are_looked_for_by_position(
    opened: Opened, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the clock was set back, and however many records are looked through at once."""
    async with opened(clock=clock) as bus:
        for seconds in (0, 10, -5, 20):  # the third is older than the second
            clock.set_wall(seconds)
            await bus.publish(ORDER, Order(n=1))
        times = [context.message.time async for context in bus.replay(ORDER)]
        for at_once in (1, 2, 3, 100):
            monkeypatch.setattr(searching, "SEARCHED_AT_ONCE", at_once)

            assert await positions(bus.replay(ORDER, since=times[2])) == [2, 3, 4]
            assert await positions(bus.replay(ORDER, until=times[2])) == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"since": 0}, "since=0: give a position, from 1 on"),
        ({"since": True}, "since=True"),
        ({"until": "first"}, "until='first'"),
        ({"since": 1.5}, "since=1.5"),
        ({"since": datetime(2026, 1, 1)}, "no time zone"),  # noqa: DTZ001 - what is refused
        ({"since": 5, "until": 4}, "until=4 is before since=5"),
        (
            {"since": datetime(2026, 1, 2, tzinfo=UTC), "until": datetime(2026, 1, 1, tzinfo=UTC)},
            "is before since=",
        ),
        ({"speed": 0}, "speed=0: give more than 0"),
        ({"speed": float("nan")}, "speed=nan"),
        ({"speed": float("inf")}, "speed=inf"),
        ({"speed": "fast"}, "speed='fast'"),
        ({"last_per_key": 1}, "last_per_key=1"),
        ({"invalid": "dead_letter"}, "give one of 'raise', 'skip'"),
        ({"form": 1}, "replay has no option 'form'"),
    ],
)
async def test_options_are_checked_at_the_door(
    opened: Opened, options: dict[str, Any], sentence: str
) -> None:
    """Before the first step, in a sentence."""
    async with opened() as bus:
        with pytest.raises(InvalidOption, match=sentence):
            bus.replay("orders.*", **options)


async def test_patterns_are_checked_at_the_door(opened: Opened) -> None:
    """As everywhere."""
    async with opened() as bus:
        with pytest.raises(InvalidPattern):
            bus.replay("orders..placed")
        with pytest.raises(InvalidPattern):
            bus.replay()  # type: ignore[call-overload]  # what is refused
        with pytest.raises(InvalidOption, match="leave it out"):
            bus.replay(ORDER, model=Order)  # type: ignore[call-overload]  # what is refused


async def test_it_cannot_begin_ahead_of_the_log(opened: Opened) -> None:
    """At the end it can: there is nothing yet."""
    async with opened() as bus:
        await fill(bus, 2)
        with pytest.raises(InvalidOption, match="since=4 is not in the log, which ends at 2"):
            await anext(bus.replay(">", since=4))


async def test_what_retention_removed_is_gone(opened: Opened, store: Path) -> None:
    """A position before that is refused; without one, it begins with what is kept."""
    async with opened() as bus:
        await fill(bus, 5)
        remove_up_to(store, 3)

        with pytest.raises(PositionGone, match=r"since=3: .* begin at 4 or later"):
            await anext(bus.replay(">", since=3))
        with pytest.raises(PositionGone, match=r"until=3: .* end at 4 or later"):
            await anext(bus.replay(">", until=3))
        assert await positions(bus.replay(">")) == [4, 5]
        assert await positions(bus.replay(">", since=4)) == [4, 5]
        long_ago = datetime(2000, 1, 1, tzinfo=UTC)
        assert await positions(bus.replay(">", since=long_ago)) == [4, 5]


async def test_what_retention_removes_meanwhile_is_told(
    opened: Opened, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost in silence; the next step goes on behind it."""
    monkeypatch.setattr(reading, "RECORDS_PER_PAGE", 2)
    async with opened() as bus:
        await fill(bus, 10)
        replay = bus.replay(">")
        taken = [(await anext(replay)).message.position for _ in range(4)]
        remove_up_to(store, 8)
        with pytest.raises(PositionGone, match=r"positions [57] to 8 before they were read"):
            await take_all(replay, taken)
        await take_all(replay, taken)

    # What was read ahead by then was not removed.
    assert taken in ([1, 2, 3, 4, 9, 10], [1, 2, 3, 4, 5, 6, 9, 10])


async def test_all_that_is_left_may_be_removed(
    opened: Opened, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is at its end."""
    monkeypatch.setattr(reading, "RECORDS_PER_PAGE", 2)
    async with opened() as bus:
        await fill(bus, 10)
        replay = bus.replay(">", until=8)
        await anext(replay)
        remove_up_to(store, 9)
        with pytest.raises(PositionGone, match="to 8 before they were read"):
            await positions(replay)

        assert await positions(replay) == []
        assert replay.progress.fraction == 1.0


# --- what the model refuses -----------------------------------------------------------------------


async def test_what_the_model_refuses_is_raised(opened: Opened) -> None:
    """Named by its position, and counted; the next step goes on behind it."""
    async with opened() as bus:
        await fill(bus, 1)
        await bus.publish("orders.placed", {"n": "many"})
        await fill(bus, 1)
        replay = bus.replay("orders.*", model=Order)
        given = [(await anext(replay)).message.position]
        with pytest.raises(InvalidEvent, match="at position 2: n: Input should be"):
            await anext(replay)
        given += await positions(replay)

        assert given == [1, 3]
        assert (replay.progress.given, replay.progress.invalid) == (2, 1)


async def test_what_the_model_refuses_can_be_passed_over(opened: Opened) -> None:
    """And is counted."""
    async with opened() as bus:
        await bus.publish_many("orders.placed", [{"n": n if n % 3 else None} for n in range(9)])
        replay = bus.replay(ORDER, invalid="skip")

        assert len(await positions(replay)) == 6
        assert (replay.progress.given, replay.progress.invalid) == (6, 3)


# --- how far it is --------------------------------------------------------------------------------


async def test_progress_tells_how_far_it_is(opened: Opened) -> None:
    """Before, meanwhile and in the end."""
    async with opened() as bus:
        await fill(bus, 4)
        await fill(bus, 4, "other")
        replay = bus.replay(ORDER, since=3)
        begun = replay.progress
        await anext(replay)
        meanwhile = replay.progress
        await positions(replay)

        assert begun == ReplayProgress(position=0, end=0, seen=0, given=0, invalid=0, fraction=0.0)
        assert meanwhile == ReplayProgress(
            position=3, end=8, seen=6, given=1, invalid=0, fraction=1 / 6
        )
        assert replay.progress == ReplayProgress(
            position=8, end=8, seen=6, given=2, invalid=0, fraction=1.0
        )


async def test_a_replay_of_nothing_is_done(opened: Opened) -> None:
    """Once it has begun."""
    async with opened() as bus:
        replay = bus.replay(">")
        await positions(replay)

        assert replay.progress.fraction == 1.0


# --- at which speed -------------------------------------------------------------------------------


async def replayed_at(bus: EventBus, clock: ManualClock, speed: float) -> list[float]:
    """Replay, and tell after how many seconds each message came."""
    began = clock.monotonic()
    came: list[float] = []

    async def read() -> None:
        async for _ in bus.replay(">", speed=speed):
            came.append(clock.monotonic() - began)
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        while True:
            await anyio.sleep(0.001)  # its pages are read in a thread
            await clock.advance(0.5)
    return came


async def test_messages_come_as_they_were_published(opened: Opened, clock: ManualClock) -> None:
    """As far apart, or closer by the speed."""
    async with opened(clock=clock) as bus:
        for seconds in (0, 10, 0, 4):
            await clock.advance(seconds)
            await bus.publish("x", {})

        first, *others = await replayed_at(bus, clock, 1.0)
        assert [one - first for one in others] == pytest.approx([10, 10, 14])
        first, *others = await replayed_at(bus, clock, 2.0)
        assert [one - first for one in others] == pytest.approx([5, 5, 7])


async def test_a_delayed_message_comes_when_it_went_out(opened: Opened, clock: ManualClock) -> None:
    """Though it was published long before."""
    async with opened(clock=clock) as bus:
        await bus.publish("x", {"n": 2}, delay=100)
        await clock.advance(90)
        await bus.publish("x", {"n": 1})
        while [one async for one in bus.replay("x")][-1].event != {"n": 2}:
            await clock.advance(1)
            await anyio.sleep(0.01)  # the store lets it out in its own time
        await bus.publish("x", {"n": 3})

        first, second, third = await replayed_at(bus, clock, 1.0)
        assert second - first == 10
        assert third - second < 30


def waits(clock: ManualClock, *times: float) -> list[float]:
    """Ask a pace how long to wait, by a clock that stands still."""
    pace = Pace(1.0, clock)
    return [pace.seconds_before(one) for one in times]


def test_no_wait_is_negative(clock: ManualClock) -> None:
    """Where a clock was set back, what follows is as far apart as it was."""
    assert waits(clock, 1000, 1010, 400, 405) == [0, 10, 10, 15]


def test_what_is_a_little_out_of_order_adds_no_time(clock: ManualClock) -> None:
    """Publishers at the same time are stored in any order."""
    assert waits(clock, 10.0, 10.2, 10.1, 10.3, 10.2, 10.4) == pytest.approx(
        [0, 0.2, 0.2, 0.3, 0.3, 0.4]
    )


async def test_a_slow_reader_need_not_wait(clock: ManualClock) -> None:
    """For what has passed while it was at work."""
    pace = Pace(1.0, clock)
    assert pace.seconds_before(100) == 0
    await clock.advance(7)

    assert [pace.seconds_before(105), pace.seconds_before(110)] == [0, 3]


async def test_a_wait_can_be_cancelled(opened: Opened, clock: ManualClock) -> None:
    """Nothing is lost: the next step gives what was waited for."""
    async with opened(clock=clock) as bus:
        await bus.publish("x", {})
        await clock.advance(10)
        await bus.publish("x", {})
        replay = bus.replay("x", speed=1.0)
        await anext(replay)
        with anyio.move_on_after(0.01) as scope:
            await anext(replay)
        assert scope.cancelled_caught
        await clock.advance(10)

        assert await positions(replay) == [2]


# --- the newest of each key -----------------------------------------------------------------------

KEYED = [
    ("a", "1"),  # 1: position 7 is newer
    ("a", None),
    ("a", "2"),  # 3
    ("b", "1"),
    ("a", "2"),
    ("a", None),
    ("a", "1"),
    ("c", "1"),  # 8: not wanted
]


async def fill_keyed(bus: EventBus) -> None:
    """Publish with keys, and without."""
    for topic, key in KEYED:
        await bus.publish(f"state.{topic}", {}, key=key)


async def test_the_newest_of_each_key_is_given(opened: Opened) -> None:
    """Where it stands; another topic's key is another key; what has none is always given."""
    async with opened() as bus:
        await fill_keyed(bus)

        replay = bus.replay("state.a", "state.b", last_per_key=True)
        assert await positions(replay) == [2, 4, 5, 6, 7]
        assert (replay.progress.seen, replay.progress.fraction) == (8, 1.0)


async def test_only_what_is_in_the_range_counts(opened: Opened) -> None:
    """What is newer, but lies behind the end, replaces nothing."""
    async with opened() as bus:
        await fill_keyed(bus)

        replay = bus.replay(">", last_per_key=True, since=2, until=6)
        assert await positions(replay) == [2, 4, 5, 6]


async def test_there_may_be_many_keys(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are looked at, or listed, at once."""
    monkeypatch.setattr(newest, "POSITIONS_AT_ONCE", 7)
    monkeypatch.setattr(reading, "RECORDS_PER_PAGE", 10)
    async with opened() as bus:
        async with anyio.create_task_group() as tasks:
            for n in range(300):
                tasks.start_soon(publish_keyed, bus, f"k{n % 50}")
        replay = bus.replay(">", last_per_key=True)
        keys = [context.message.key async for context in replay]

    assert sorted(map(str, keys)) == sorted(f"k{n}" for n in range(50))


async def publish_keyed(bus: EventBus, key: str) -> None:
    """Publish under a key."""
    await bus.publish("state.a", {}, key=key)


@pytest.mark.parametrize("last_per_key", [False, True])
async def test_it_holds_against_a_reading_of_all(opened: Opened, *, last_per_key: bool) -> None:
    """By a plain dictionary."""
    async with opened() as bus:
        await fill_keyed(bus)
        contexts = [one.message async for one in bus.replay(">", last_per_key=last_per_key)]
        everything = [one.message async for one in bus.replay(">")]

    last = {(one.topic, one.key or one.position): one.position for one in everything}
    expected = sorted(map(int, filter(None, last.values()))) if last_per_key else [*range(1, 9)]
    assert [one.position for one in contexts] == expected


# --- what is damaged ------------------------------------------------------------------------------


@pytest.mark.parametrize("last_per_key", [False, True])
@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("UPDATE log SET payload = '{}' WHERE position = 3", "position 3 is damaged"),
        ("UPDATE log SET key = 'x' WHERE position = 3", "position 3 is damaged"),
        ("UPDATE log SET topic = CAST(x'ff' AS TEXT) WHERE position = 3", "position 3 is damaged"),
        ("UPDATE log SET id = 'x' WHERE position = 3", "position 3 is damaged"),
        ("UPDATE log SET time = time + 1 WHERE position = 3", "position 3 is damaged"),
        ("UPDATE log SET traits = '{\"headers\":{}}' WHERE position = 3", "position 3 is damaged"),
        ("UPDATE log SET schema_version = 2 WHERE position = 3", "position 3 is damaged"),
        ("DELETE FROM log WHERE position = 3", "position 3 is missing"),
    ],
)
async def test_damage_is_told(
    opened: Opened, store: Path, statement: str, sentence: str, *, last_per_key: bool
) -> None:
    """What is damaged or missing is never passed over."""
    async with opened() as bus:
        await fill(bus, 5)
        change(store, statement)
        with pytest.raises(StoreCorrupt, match=sentence):
            await positions(bus.replay(">", last_per_key=last_per_key))


async def test_what_was_chosen_must_be_there(opened: Opened, store: Path) -> None:
    """Also when it is damaged, or goes, between being chosen and being read."""
    async with opened() as bus, transport_on(store) as transport:
        await fill(bus, 5)
        damaged = await transport.read([">"], None, None, last_per_key=True)
        missing = await transport.read([">"], None, None, last_per_key=True)
        change(store, "UPDATE log SET topic = CAST(x'ff' AS TEXT) WHERE position = 4")
        with pytest.raises(StoreCorrupt, match="position 4 is damaged"):
            await damaged.read_on()
        change(store, "DELETE FROM log WHERE position = 4")
        with pytest.raises(StoreCorrupt, match="position 4 is missing"):
            await missing.read_on()


async def test_what_was_chosen_may_be_removed(opened: Opened, store: Path) -> None:
    """By retention: that is told; what it removes beside is no loss."""
    async with opened() as bus, transport_on(store) as transport:
        for key in ("a", "a", "b", "c"):
            await bus.publish("x", {}, key=key)
        kept = await transport.read([">"], None, None, last_per_key=True)
        other = await transport.read([">"], None, None, last_per_key=True)
        remove_up_to(store, 1)
        assert [one.position for one in await kept.read_on()] == [2, 3, 4]
        remove_up_to(store, 2)
        with pytest.raises(PositionGone, match="positions 1 to 2"):
            await other.read_on()
        assert [one.position for one in await other.read_on()] == [3, 4]


async def test_what_goes_while_it_is_chosen_is_told(
    opened: Opened, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By retention, too: it may have been the newest of its key."""

    def read_late(connection: sqlite3.Connection, *arguments: Any) -> Page:
        remove_up_to(store, 2)
        return read_between(connection, *arguments)

    monkeypatch.setattr("eventbus.transports.sqlite.newest.read_between", read_late)
    async with opened() as bus:
        await fill(bus, 5)
        with pytest.raises(PositionGone, match="removes positions up to 2"):
            await anext(bus.replay(">", last_per_key=True))


# --- how it ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"last_per_key": True}, {"speed": 1000.0}])
async def test_cancelled_it_goes_on_where_it_was(
    opened: Opened, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it was cancelled, nothing is lost or given twice."""
    monkeypatch.setattr(reading, "RECORDS_PER_PAGE", 3)
    given: list[int | None] = []
    async with opened() as bus:
        await fill(bus, 20)
        replay = bus.replay(ORDER, **options)

        async def read() -> None:
            async for context in replay:
                given.append(context.message.position)

        for checkpoints in range(40):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                for _ in range(checkpoints % 5):
                    await checkpoint()
                tasks.cancel_scope.cancel()
        await read()

    assert given == [*range(1, 21)]


async def test_leaving_the_loop_leaves_nothing_behind(
    opened: Opened, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread, and no transaction: the log of SQLite can be emptied at once."""
    monkeypatch.setattr(reading, "RECORDS_PER_PAGE", 4)
    async with opened() as bus:
        await fill(bus, 50)
        before = len(threads())
        replays = [bus.replay(">"), bus.replay(">", last_per_key=True)]
        for replay in replays:
            async for _ in replay:
                break

        assert len(threads()) == before
        await until(lambda: is_free(store))


def is_free(store: Path) -> bool:
    """Tell whether nobody has a transaction open, as then the log of SQLite cannot be emptied."""
    with closing(sqlite3.connect(store, timeout=0)) as connection:
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy


async def test_a_transaction_left_open_is_seen(opened: Opened, store: Path) -> None:
    """The control of the test above."""
    async with opened() as bus:
        await fill(bus, 50)
        with closing(sqlite3.connect(store)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM log").fetchone()
            await fill(bus, 1)

            assert not is_free(store)


async def test_it_needs_a_running_bus(opened: Opened) -> None:
    """Before and after, it is refused."""
    bus = opened()
    with pytest.raises(NotStarted):
        bus.replay(ORDER)
    async with bus:
        replay = bus.replay(ORDER)
    with pytest.raises(BusClosed):
        bus.replay(ORDER)
    with pytest.raises(BusClosed, match="before the replay was at its end"):
        await anext(replay)
    async with bus:
        with pytest.raises(BusClosed):
            await anext(replay)


async def test_it_needs_a_bus_that_is_not_drained(opened: Opened) -> None:
    """What was begun ends with the draining, too."""
    async with opened() as bus:
        await fill(bus, 10)
        replay = bus.replay(ORDER)
        await anext(replay)
        await bus.drain()
        with pytest.raises(BusClosed):
            await anext(replay)
        with pytest.raises(BusClosed):
            bus.replay(ORDER)


@pytest.mark.parametrize("speed", [None, 1.0])
async def test_who_reads_while_the_bus_closes_is_told(
    opened: Opened, clock: ManualClock, speed: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it waits for the store or for the time."""
    monkeypatch.setattr(reading, "RECORDS_PER_PAGE", 2)
    ended: list[type[Exception]] = []
    bus = opened(clock=clock)

    async def read(replay: Replay[Any]) -> None:
        try:
            while True:
                async for _ in replay:
                    begun.set()
                replay = bus.replay(">", speed=speed)
        except Exception as error:  # noqa: BLE001 - to be looked at
            ended.append(type(error))

    async with anyio.create_task_group() as tasks, bus:
        await fill(bus, 5)
        await clock.advance(60)
        await fill(bus, 5)
        begun = anyio.Event()
        tasks.start_soon(read, bus.replay(">", speed=speed))
        await begun.wait()

    assert ended == [BusClosed]


async def test_it_is_cancelled_with_its_handler(opened: Opened, clock: ManualClock) -> None:
    """A handler that replays when the bus stops was interrupted, and has not failed."""
    bus = opened(clock=clock)
    begun = anyio.Event()

    @bus.on("go", name="slow")
    async def handle(event: object) -> None:
        async for _ in bus.replay("x", speed=1.0):
            begun.set()

    with anyio.CancelScope() as scope:
        async with bus:
            await bus.publish("x", {})
            await clock.advance(60)
            await bus.publish("x", {})
            await bus.publish("go", {})
            await begun.wait()
            scope.cancel()

    assert bus.stats().subscriptions["slow"].failed == 0


@pytest.mark.parametrize("url", ["memory://", "memory://?codec=json"])
async def test_in_memory_there_is_nothing_to_replay(url: str) -> None:
    """And it says what to do."""
    async with EventBus(url) as bus:
        with pytest.raises(UnsupportedByTransport, match=r"sqlite:///events\.db") as refused:
            bus.replay("orders.*")

    assert "\n" not in str(refused.value)
