"""Retention by pattern: what is beyond the limits of its topic goes, from anywhere in the log."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import anyio
import pytest

from eventbus import Context, EventBus, InvalidOption, StoreCorrupt
from eventbus.middleware import DeadLetter
from eventbus.testing import ManualClock
from eventbus.transports.sqlite import Settings, sweep
from eventbus.transports.sqlite.gaps import check_removed
from eventbus.transports.sqlite.limits import Limit, limits_of
from eventbus.transports.sqlite.log import first_and_last, read_page
from eventbus.transports.sqlite.removal import remove_at, remove_up_to
from tests.shell import Shell

Opened: TypeAlias = Callable[..., EventBus]
NOTHING: dict[str, int] = {}


@pytest.fixture
def shell(store: Path) -> Shell:
    """Give the commands that look after the store."""
    return Shell(f"sqlite:///{store}")


def rows(store: Path, statement: str) -> list[Any]:
    """Read from the file, as another program would."""
    with closing(sqlite3.connect(store)) as connection:
        return connection.execute(statement).fetchall()


def positions(store: Path) -> list[int]:
    """Tell which records there are."""
    return [position for (position,) in rows(store, "SELECT position FROM log ORDER BY position")]


async def publish(bus: EventBus, topics: str) -> None:
    """Publish to topics of one letter each, in order."""
    for topic in topics:
        await bus.publish(topic, NOTHING)


async def remain(store: Path, clock: ManualClock, expected: Sequence[int]) -> None:
    """Let time pass until those records are left, and no others."""
    while positions(store) != list(expected):
        await clock.advance(1)


# --- what goes ------------------------------------------------------------------------------------


async def test_a_pattern_has_an_age_of_its_own(
    opened: Opened, store: Path, clock: ManualClock
) -> None:
    """The rest keeps that of all."""
    async with opened("?max_age=2h&max_age.metrics.>=1h", clock=clock) as bus:
        await bus.publish("metrics.cpu", NOTHING)
        await bus.publish("orders", NOTHING)
        await bus.publish("metrics.disk.free", NOTHING)
        await bus.publish("orders", NOTHING)
        await clock.advance(3500)
        assert positions(store) == [1, 2, 3, 4]
        await remain(store, clock, [2, 4])
        await clock.advance(3000)
        assert positions(store) == [2, 4]
        await remain(store, clock, [4])  # the newest tells where the log ends


async def test_what_is_kept_longer_outlives_the_rest(
    opened: Opened, store: Path, clock: ManualClock
) -> None:
    """The pattern's limit may be the larger one."""
    async with opened("?max_age=30s&max_age.a=365d", clock=clock) as bus:
        await publish(bus, "babab")
        await remain(store, clock, [2, 4, 5])
        await clock.advance(60)
        assert positions(store) == [2, 4, 5]


async def test_a_pattern_has_a_count_of_its_own(
    opened: Opened, store: Path, clock: ManualClock
) -> None:
    """The newest stay; what has no limit is not counted."""
    async with opened("?max_count.a=2", clock=clock) as bus:
        await publish(bus, "abababab")
        await remain(store, clock, [2, 4, 5, 6, 7, 8])


async def test_a_pattern_has_a_size_of_its_own(
    opened: Opened, store: Path, clock: ManualClock
) -> None:
    """With what a record takes beside its payload."""
    async with opened("?max_bytes.a=2kB", clock=clock) as bus:
        for topic in "ababab":
            await bus.publish(topic, {"text": "x" * 800})
        await remain(store, clock, [2, 3, 4, 5, 6])


async def test_limits_of_all_hold_for_the_rest(
    opened: Opened, store: Path, clock: ManualClock
) -> None:
    """Each by itself: `a` has a count of its own, and the age of all."""
    async with opened("?max_count=1&max_age=1h&max_count.a=3", clock=clock) as bus:
        await publish(bus, "aaaabbb")
        await remain(store, clock, [2, 3, 4, 7])
        await clock.advance(3500)
        await remain(store, clock, [7])


async def test_a_long_log_is_gone_over_in_rounds(
    opened: Opened, store: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its end to its begin, with publishers between the rounds."""
    monkeypatch.setattr(sweep, "PER_ROUND", 7)
    async with opened("?max_count.a=10", clock=clock) as bus:
        await publish(bus, "ab" * 100)
        await remain(store, clock, [*range(2, 181, 2), *range(181, 201)])
        await publish(bus, "a" * 20)
        await remain(store, clock, [*range(2, 201, 2), *range(211, 221)])


async def test_the_size_of_dead_letters_is_not_counted(
    opened: Opened, store: Path, clock: ManualClock
) -> None:
    """Retention removes none of them: so they do not make it remove all else."""
    bus = opened("?max_bytes=300kB", clock=clock, middleware=[DeadLetter()])

    @bus.on("bad", name="failing")
    async def fail(event: dict[str, str]) -> None:
        raise ConnectionError

    async with bus:
        for _ in range(100):
            await bus.publish("bad", {"text": "x" * 8000})
        await bus.join()
        for _ in range(20):
            await bus.publish("good", {"text": "x" * 5000})
        while rows(store, "SELECT sum(length(payload)) FROM log")[0][0] > 300_000:
            await clock.advance(1)
        await clock.advance(20)

    assert rows(store, "SELECT count(*) FROM log WHERE topic = 'good'") == [(20,)]
    assert rows(store, "SELECT count(*) FROM dead_letter") == [(100,)]


# --- what is noticed ------------------------------------------------------------------------------


async def test_subscriptions_pass_by_what_was_removed(
    opened: Opened, store: Path, clock: ManualClock
) -> None:
    """Those that begin, those that go on, and replays; positions stay what they were."""
    async with opened("?max_count.a=1", clock=clock) as bus:
        await publish(bus, "abaabb")
        await remain(store, clock, [2, 4, 5, 6])
    bus, seen = opened(), dict[str, list[int | None]]()

    def note(name: str | None, start: Any) -> None:
        heard = seen[f"{name} {start}"] = []

        @bus.on("*", name=name, start=start)
        async def hear(event: object, context: Context[object]) -> None:
            heard.append(context.message.position)

    note("durable", "first")
    note(None, "first")
    note(None, 3)
    async with bus:
        await bus.join()
        replayed = [one.message.position async for one in bus.replay("*")]
        newest = [one.message.position async for one in bus.replay("*", last_per_key=True)]
        receipt = await bus.publish("a", NOTHING)
        await bus.join()

    assert seen == {
        "durable first": [2, 4, 5, 6, 7],
        "None first": [2, 4, 5, 6, 7],
        "None 3": [4, 5, 6, 7],
    }
    assert replayed == newest == [2, 4, 5, 6]
    assert receipt.position == 7


async def test_what_waited_is_lost_and_counted(
    opened: Opened, store: Path, clock: ManualClock, shell: Shell
) -> None:
    """A delivery that is not begun goes with its record; the id stays known for a while."""
    bus, has_begun = opened(), anyio.Event()

    @bus.on("*", name="slow", start="first")
    async def stand_still(event: object) -> None:
        has_begun.set()
        await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        async with bus:
            await bus.publish_many("a", [NOTHING] * 3)
            await bus.publish("a", NOTHING, id="known")
            await bus.publish("b", NOTHING)
            await has_begun.wait()
            scope.cancel()
    async with opened("?max_count.a=1", clock=clock) as bus:
        await bus.publish("a", NOTHING)
        await remain(store, clock, [5, 6])
        again = await bus.publish("a", NOTHING, id="known")

    assert (again.position, again.duplicate) == (4, True)
    (figures,) = (await anyio.to_thread.run_sync(shell, "stats", "--json")).json
    assert (figures["first"], figures["last"], figures["removed"]) == (5, 6, 4)
    assert figures["lost"] == rows(store, "SELECT lost FROM meta")[0][0] > 0
    (summary, *_) = (await anyio.to_thread.run_sync(shell, "stats")).lines
    assert summary.startswith("2 records up to position 6, 4 removed, ")


# --- the log --------------------------------------------------------------------------------------


@pytest.fixture
def log(opened: Opened, store: Path) -> Iterator[sqlite3.Connection]:
    """Give a connection to a store of twenty records."""

    async def fill() -> None:
        async with opened() as bus:
            await bus.publish_many("a", [NOTHING] * 20)

    anyio.run(fill)
    with closing(sqlite3.connect(store)) as connection:
        connection.text_factory = bytes
        yield connection


def gaps(log: sqlite3.Connection) -> list[tuple[int, int]]:
    """Read which gaps the log has."""
    return log.execute("SELECT first, last FROM gap ORDER BY first").fetchall()


def test_gaps_grow_together(log: sqlite3.Connection) -> None:
    """Those that touch are one, whatever comes first."""
    for removed in ([5, 9], [7], [6, 12, 13], [8], [7, 8]):
        remove_at(log, removed, remember_since=0)

    assert gaps(log) == [(5, 9), (12, 13)]
    assert [one.position for one in read_page(log, 0, 100).records] == [
        position for position in range(1, 21) if position not in {5, 6, 7, 8, 9, 12, 13}
    ]


def test_a_gap_at_the_begin_is_none(log: sqlite3.Connection) -> None:
    """What was removed up to there is one number, whether it came from there or reached it."""
    remove_at(log, [3, 4, 8], remember_since=0)
    remove_at(log, [1, 2], remember_since=0)
    assert (first_and_last(log), gaps(log)) == ((4, 20), [(8, 8)])
    remove_up_to(log, 7, remember_since=0)
    assert (first_and_last(log), gaps(log)) == ((8, 20), [])


def test_removing_up_to_the_middle_of_a_gap_removes_it(log: sqlite3.Connection) -> None:
    """Its rest is at the begin then."""
    remove_at(log, [5, 6, 7, 8], remember_since=0)
    remove_up_to(log, 6, remember_since=0)

    assert (first_and_last(log), gaps(log)) == ((8, 20), [])


def read_to_the_end(log: sqlite3.Connection) -> None:
    """Read page after page: what is sound comes before the damage."""
    reached = 0
    while (page := read_page(log, reached, 100)).records:
        reached = page.reached


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ([7], "position 7 is missing"),
        ([4], "position 4 is missing"),
        ([10], "position 10 is missing"),
        ([5, 6, 7], "position 7 is missing"),
        (range(1, 20), "positions 1 to 4 are missing"),
    ],
)
def test_what_was_lost_beside_a_gap_is_noticed(
    log: sqlite3.Connection, lost: Sequence[int], named: str
) -> None:
    """No gap excuses what it does not name."""
    remove_at(log, [5, 6, 8, 9], remember_since=0)
    log.executemany("DELETE FROM log WHERE position = ?", [(position,) for position in lost])

    with pytest.raises(StoreCorrupt, match=named):
        read_to_the_end(log)


@pytest.mark.parametrize(
    "damage",
    ["DELETE FROM gap", "UPDATE gap SET last = 7", "UPDATE gap SET first = 4, last = 6"],
)
def test_a_damaged_gap_excuses_nothing(log: sqlite3.Connection, damage: str) -> None:
    """Its checksum tells."""
    remove_at(log, [5, 6], remember_since=0)
    log.execute("DELETE FROM log WHERE position IN (4, 7)")
    log.execute(damage)

    with pytest.raises(StoreCorrupt, match=r"(is|are) missing"):
        read_to_the_end(log)


def test_a_position_that_comes_twice_is_noticed(log: sqlite3.Connection) -> None:
    """Where a damaged file gives records in no order, no gap can be named for that."""
    with pytest.raises(StoreCorrupt, match="position 5 is out of order"):
        check_removed(log, [(6, 4)])


# --- which limit ----------------------------------------------------------------------------------


def limit_for(topic: str, query: str) -> list[tuple[str, int]]:
    """Read a URL, and tell what it says of a topic."""
    limits = Settings.of_url(f"sqlite:///events.db?{query}").limits
    return sorted((one.name, one.most) for one in limits_of(topic, limits))


@pytest.mark.parametrize(
    ("topic", "seconds"),
    [("a.b", 1), ("a.c", 2), ("a.c.d", 3), ("x.b", 4), ("x.y", 7), ("x", 7), ("b.b.c", 7)],
)
def test_the_most_specific_pattern_decides(topic: str, seconds: int) -> None:
    """Of two where neither covers the other, the first; where none fits, what has no pattern."""
    query = "max_age.a.>=3s&max_age=7s&max_age.a.*=2s&max_age.*.b=4s&max_age.a.b=1s"

    assert limit_for(topic, query) == [("max_age", seconds)]


def test_each_limit_is_chosen_by_itself() -> None:
    """A topic may have a count by one pattern, and a size by another."""
    query = "max_count.a.>=5&max_bytes.>=1kB&max_count=9"

    assert limit_for("a.b", query) == [("max_bytes", 1000), ("max_count", 5)]
    assert limit_for("b", query) == [("max_bytes", 1000), ("max_count", 9)]


@pytest.mark.parametrize("pattern", ["a.>", "{id}.b", "käse.*", "a&b.c", "50%.>", "a=b", "a+b"])
def test_any_pattern_can_be_said_in_a_url(pattern: str) -> None:
    """Encoded where it has to be."""
    limits = Settings.of_url(f"sqlite:///events.db?max_age.{quote(pattern)}=1h").limits

    assert limits == (Limit("max_age", 3600, pattern),)


@pytest.mark.parametrize(
    ("query", "flaw"),
    [
        ("max_age.=1h", "max_age"),
        ("max_age.a..b=1h", r"max_age\.a\.\.b: "),
        ("max_age.a.#=1h", r"max_age\.a\.#: .*>"),
        ("max_age.a=1", r"max_age\.a='1': give 7d"),
        ("durability.a=full", r"no option 'durability\.a'"),
        ("max_ages.a=1h", r"no option 'max_ages\.a'"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(query: str, flaw: str) -> None:
    """With the option and what is wrong with it."""
    with pytest.raises(InvalidOption, match=flaw):
        Settings.of_url(f"sqlite:///events.db?{query}")
