"""What retention takes from durable subscriptions: each is told once what it would have had."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest

from eventbus import Context, EventBus
from eventbus.middleware import DeadLetter
from eventbus.testing import ManualClock
from eventbus.transports.sqlite import cursors
from eventbus.transports.sqlite.limits import Limit
from eventbus.transports.sqlite.losses import Loss
from eventbus.transports.sqlite.removal import remove_at, remove_up_to
from eventbus.transports.sqlite.sweep import Sweep

Opened: TypeAlias = Callable[..., EventBus]
Heard: TypeAlias = dict[str, list[int | None]]
NOTHING: dict[str, int] = {}


def rows(store: Path, statement: str) -> list[Any]:
    """Read from the file, as another program would."""
    with closing(sqlite3.connect(store)) as connection:
        return connection.execute(statement).fetchall()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Give what was said of losses, up to the reason."""
    said = [one.getMessage() for one in caplog.records if "has lost" in one.getMessage()]
    return sorted(text.partition(", ")[0] for text in said)


async def run(bus: EventBus, patterns: Mapping[str, str], start: Any = "new") -> tuple[Heard, Any]:
    """Let durable subscriptions handle all there is for them; give positions, and their figures."""
    heard: Heard = {name: [] for name in patterns}

    def note(name: str, pattern: str) -> None:
        @bus.on(pattern, name=name, start=start)
        async def hear(event: object, context: Context[object]) -> None:
            heard[name].append(context.message.position)

    for name, pattern in patterns.items():
        note(name, pattern)
    async with bus:
        await bus.join()
    return heard, bus.stats().subscriptions


async def keep_only(
    store: Path, bus: EventBus, clock: ManualClock, expected: Sequence[int], topics: str = ""
) -> None:
    """Publish to topics of one letter each, and let retention leave those records alone."""
    async with bus:
        for topic in topics:
            await bus.publish(topic, NOTHING)
        while rows(store, "SELECT position FROM log") != [(one,) for one in expected]:
            await clock.advance(1)


# --- who is told ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "kept"),
    [("?max_count.a=1", [1, 4, 5, 6]), ("?max_count=3", [4, 5, 6])],
    ids=["a gap", "the begin"],
)
async def test_who_passes_it_is_told_once_of_what_was_for_it(
    opened: Opened,
    store: Path,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
    query: str,
    kept: list[int],
) -> None:
    """Wherever it was removed from: with how many and where, and in its figures."""
    patterns = {"letters": "a", "others": "c", "digits": "{digit}.1"}
    await run(opened(), patterns)
    await keep_only(store, opened(query, clock=clock), clock, kept, "baacac")

    heard, figures = await run(opened(), patterns)
    await run(opened(), patterns)

    assert heard == {"letters": [5], "others": [4, 6], "digits": []}
    assert told(caplog) == ["letters has lost 2 messages of positions 2 to 3"]
    assert [figures[name].lost for name in patterns] == [2, 0, 0]
    assert rows(store, "SELECT lost FROM meta") == [(2,)]


async def test_what_would_keep_it_is_said(
    opened: Opened, store: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """By whichever limit it went: another bus may have had that one."""
    await run(opened(), {"all": "*"})
    await keep_only(store, opened("?max_count=1", clock=clock), clock, [2], "aa")

    await run(opened(), {"all": "*"})

    assert "keep more, by a larger max_age, max_count or max_bytes" in caplog.text


async def test_who_begins_later_has_lost_nothing(
    opened: Opened, store: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It begins with what is there then, gaps and all."""
    await keep_only(store, opened("?max_count.a=1", clock=clock), clock, [1, 4, 5, 6], "baabab")

    heard, figures = await run(opened(), {"all": "*"}, start="first")

    assert heard == {"all": [1, 4, 5, 6]}
    assert told(caplog) == []
    assert figures["all"].lost == rows(store, "SELECT lost FROM meta")[0][0] == 0


async def test_all_that_is_lost_before_it_comes_back_is_told_at_once(
    opened: Opened, store: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """However many gaps there are."""
    await run(opened(), {"all": "*"})
    await keep_only(store, opened("?max_count.a=1", clock=clock), clock, [2, 3, 4], "abba")
    await keep_only(store, opened("?max_count=1", clock=clock), clock, [6], "ba")

    await run(opened(), {"all": "*"})

    assert told(caplog) == ["all has lost 5 messages of positions 1 to 5"]


async def test_what_is_forgotten_is_told_nothing(
    opened: Opened, store: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A new subscription of that name, or of its number, has lost nothing."""
    await run(opened(), {"all": "*"})
    await keep_only(store, opened("?max_count=1", clock=clock), clock, [3], "aaa")
    async with opened() as bus:
        await bus.forget("all")

    await run(opened(), {"all": "*"}, start="first")

    assert told(caplog) == []
    assert rows(store, "SELECT count(*) FROM loss") == [(0,)]


# --- what waited ----------------------------------------------------------------------------------


async def test_what_waited_for_a_dead_letter_is_told_too(
    opened: Opened, store: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """And the letter, which retention does not reach, lets go the rest."""
    bus, may_succeed = opened(middleware=[DeadLetter(sequenced=True)]), set[str]()
    handled: list[int | None] = []

    @bus.on("a", name="workers")
    async def work(event: object, context: Context[object]) -> None:
        if not may_succeed and context.message.position == 1:
            raise ConnectionError
        handled.append(context.message.position)

    async with bus:
        for _ in range(5):
            await bus.publish("a", NOTHING, key="k")
        await bus.join()
    await keep_only(store, opened("?max_count=2", clock=clock), clock, [4, 5])
    may_succeed.add("now")
    async with bus:
        (letter,) = await bus.dead_letters()
        assert letter.waiting == 2
        await bus.redrive()
        await bus.join()
        lost = bus.stats().lost

    assert handled == [1, 4, 5]
    assert told(caplog) == ["workers has lost 2 messages of positions 2 to 3"]
    assert (lost, rows(store, "SELECT lost FROM meta")) == (2, [(2,)])


async def test_what_a_process_had_is_lost_when_it_gives_it_back(
    opened: Opened, store: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Until then its handler may still do it."""
    bus, has_begun = opened(), anyio.Event()

    @bus.on("a", name="slow")
    async def stand_still(event: object) -> None:
        has_begun.set()
        await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        async with bus:
            await bus.publish_many("a", [NOTHING] * 3)
            await has_begun.wait()
            await keep_only(store, opened("?max_count=1", clock=clock), clock, [3])
            assert rows(store, "SELECT lost FROM meta") == [(0,)]
            scope.cancel()
    heard, figures = await run(opened(), {"slow": "a"})

    assert heard == {"slow": [3]}
    assert told(caplog) == ["slow has lost 2 messages of positions 1 to 2"]
    assert (figures["slow"].lost, rows(store, "SELECT lost FROM meta")) == (2, [(2,)])


@pytest.mark.parametrize("name", ["failing", None])
async def test_a_dead_letter_without_its_message_is_not_kept(
    opened: Opened,
    store: Path,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
    name: str | None,
) -> None:
    """It was removed while the handler was at it: that is said, and counted."""
    bus, has_begun, may_fail = opened(middleware=[DeadLetter()]), anyio.Event(), anyio.Event()

    @bus.on("a", name=name)
    async def fail(event: object) -> None:
        has_begun.set()
        await may_fail.wait()
        raise ConnectionError

    async with bus:
        await bus.publish("a", NOTHING)
        await bus.publish("b", NOTHING)
        await has_begun.wait()
        await keep_only(store, opened("?max_count=1", clock=clock), clock, [2])
        may_fail.set()
        await bus.join()
        assert await bus.dead_letters() == []

    assert "does not keep the dead letter of position 1: retention" in caplog.text
    assert rows(store, "SELECT lost FROM meta") == [(1,)]


# --- between reading and claiming -----------------------------------------------------------------


@pytest.fixture
def log(opened: Opened, store: Path) -> Iterator[sqlite3.Connection]:
    """Give a connection to a store of twenty records, which a subscription has yet to read."""

    async def fill() -> None:
        await run(opened(), {"all": "*"})
        async with opened() as bus:
            await bus.publish_many("a", [NOTHING] * 20)

    anyio.run(fill)
    with closing(sqlite3.connect(store)) as connection:
        connection.text_factory = bytes
        yield connection


def claim(log: sqlite3.Connection, upto: int, most: int = 100) -> cursors.Taken | None:
    """Claim what was read up to a position, some while ago."""
    entries = [(position, None) for position in range(1, upto + 1)]
    return cursors.claim_new(log, 1, 1, entries=entries, seen=upto, most=most)


def test_damaged_text_keeps_nothing_from_being_removed(log: sqlite3.Connection) -> None:
    """Nor the publishers from being served, whose commits it shares."""
    log.execute("UPDATE log SET topic = CAST(x'ff' AS TEXT) WHERE position = 3")

    assert Sweep([Limit("max_count", 15)], 20, 0).round(log) == [1, 2, 3, 4, 5]
    assert remove_up_to(log, 5, remember_since=0) == 5
    assert claim(log, 6) == (6, frozenset({6}), Loss(1, 5, 1, 5))


def test_what_was_read_and_then_removed_is_not_claimed(log: sqlite3.Connection) -> None:
    """It has been counted as lost."""
    remove_at(log, [2, 3, 5], remember_since=0)

    assert claim(log, 4) == (4, frozenset({1, 4}), Loss(1, 3, 2, 5))
    assert claim(log, 6) == (6, frozenset({6}), None)


def test_what_another_process_has_read_of_it_is_not_claimed_either(
    log: sqlite3.Connection,
) -> None:
    """It may be further than the one that was told."""
    remove_up_to(log, 10, remember_since=0)

    assert claim(log, 3) == (3, frozenset(), Loss(1, 10, 1, 10))
    assert claim(log, 12) == (12, frozenset({11, 12}), None)
    assert log.execute("SELECT count(*) FROM loss").fetchone() == (0,)


def test_it_is_told_as_soon_as_something_is_claimed(log: sqlite3.Connection) -> None:
    """Also of what it has yet to reach, and then of what goes meanwhile."""
    remove_at(log, [7], remember_since=0)
    assert claim(log, 2) == (2, frozenset({1, 2}), Loss(1, 1, 7, 7))
    remove_at(log, [9], remember_since=0)
    assert claim(log, 20, most=1) == (3, frozenset({3}), Loss(1, 1, 9, 9))
    assert claim(log, 20) == (20, frozenset({*range(4, 21)} - {7, 9}), None)
