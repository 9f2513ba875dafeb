"""`DeadLetter(sequenced=True)`: what comes behind a dead letter of its key waits for it."""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from eventbus import Context, EventBus, UnsupportedByTransport
from eventbus.bus_logger import BusLogger
from eventbus.middleware import DeadLetter, Retry
from eventbus.transports.base import Released
from eventbus.transports.sqlite import letters
from eventbus.transports.sqlite.sequence import Behind
from eventbus.transports.sqlite.settlements import Settlements
from eventbus.transports.sqlite.survey import survey
from tests.waiting import until

SEQUENCED = DeadLetter(sequenced=True)
CONCURRENCY = pytest.mark.parametrize("concurrency", [1, 4])


class Work:
    """A bus on the store with one durable handler, what that was given, and what it refuses."""

    def __init__(self, store: Path, query: str = "", **options: Any) -> None:
        self.store = store
        self.bus = EventBus(f"sqlite:///{store}{query}", middleware=[SEQUENCED])
        self.handled: list[int] = []
        self.refused: set[int] = set()
        options = {"name": "workers", "start": "first"} | options
        self.bus.on("work", model=dict[str, int], **options)(self.handle)

    async def handle(self, event: Mapping[str, int], context: Context[Any]) -> None:
        """Handle an event, or refuse it."""
        if event["n"] in self.refused:
            raise ConnectionError(event["n"])
        self.handled.append(event["n"])

    async def publish(self, numbers: Sequence[int], key: str | None = None) -> None:
        """Publish numbers in one transaction, so that they are handled as if at once."""
        with closing(sqlite3.connect(self.store)) as connection, connection:
            for n in numbers:
                await self.bus.publish("work", {"n": n}, key=key, connection=connection)

    async def waiting(self) -> int:
        """Tell how many wait for the one dead letter there is."""
        (letter,) = await self.bus.dead_letters()
        return letter.waiting


@pytest.fixture
def work(store: Path) -> Work:
    """Give such a bus."""
    return Work(store)


def rows(store: Path, table: str) -> int:
    """Count the rows of a table."""
    with closing(sqlite3.connect(store)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@CONCURRENCY
async def test_later_ones_of_its_key_wait(store: Path, concurrency: int) -> None:
    """Those fetched with it, those published later; other keys go on, and those without one."""
    work = Work(store, concurrency=concurrency)
    work.refused = {2}
    async with work.bus:
        await work.publish([1, 2, 3, 4], "a")
        await work.publish([10, 11], "b")
        await work.publish([20, 21])
        await work.bus.join()
        await work.publish([5], "a")
        await work.publish([12], "b")
        await work.bus.join()
        assert sorted(work.handled) == [1, 10, 11, 12, 20, 21]
        assert await work.waiting() == 3

    stats = work.bus.stats()
    assert (stats.delivered, stats.failed, stats.dead_lettered, stats.lost) == (7, 1, 1, 0)


@CONCURRENCY
async def test_sent_again_it_lets_them_go_on_in_order(store: Path, concurrency: int) -> None:
    """Once it has succeeded; what is published meanwhile comes behind."""
    work = Work(store, concurrency=concurrency)
    work.refused = {1}
    async with work.bus:
        await work.publish([1, 2, 3], "a")
        await work.bus.join()
        assert work.handled == []
        work.refused.clear()
        assert await work.bus.redrive() == 1
        await work.publish([4, 5], "a")
        await until(lambda: len(work.handled) == 5)
        await work.publish([6], "a")
        await until(lambda: len(work.handled) == 6)
        assert await work.bus.dead_letters() == []

    assert work.handled == [1, 2, 3, 4, 5, 6]
    assert (rows(store, "waiting"), rows(store, "delivery")) == (0, 0)


async def test_refused_again_it_still_holds_them_back(work: Work) -> None:
    """However often."""
    work.refused = {1}
    async with work.bus:
        await work.publish([1, 2], "a")
        await work.bus.join()
        for _ in range(2):
            assert await work.bus.redrive() == 1
            await work.bus.join()
            assert await work.waiting() == 1
        work.refused.clear()
        await work.bus.redrive()
        await until(lambda: work.handled == [1, 2])


async def test_the_next_that_fails_holds_the_rest_back(work: Work) -> None:
    """One letter of a key at a time."""
    work.refused = {1, 3}
    async with work.bus:
        await work.publish([1, 2, 3, 4], "a")
        await work.bus.join()
        work.refused = {3}
        await work.bus.redrive()
        await until(lambda: work.handled == [1, 2])
        await work.bus.join()
        assert await work.waiting() == 1
        work.refused.clear()
        await work.bus.redrive()
        await until(lambda: work.handled == [1, 2, 3, 4])


@pytest.mark.parametrize("way_out", ["redrive", "purge_dead_letters"])
async def test_whoever_joins_the_bus_waits_for_what_goes_on(work: Work, way_out: str) -> None:
    """With the letter sent again, or without it."""
    work.refused = {1}
    async with work.bus:
        await work.publish([1, 2, 3], "a")
        await work.bus.join()
        work.refused.clear()
        assert await getattr(work.bus, way_out)() == 1
        await work.bus.join()

    assert work.handled == ([1, 2, 3] if way_out == "redrive" else [2, 3])


async def test_they_wait_in_the_store(store: Path) -> None:
    """A restart changes nothing, nor does a letter sent again while nobody is there."""
    first = Work(store)
    first.refused = {1}
    async with first.bus:
        await first.publish([1, 2, 3], "a")
        await first.bus.join()
    second = Work(store)
    async with second.bus:
        await second.publish([4], "a")
        await second.bus.join()
        assert (second.handled, await second.waiting()) == ([], 3)
    async with EventBus(f"sqlite:///{store}") as other:
        assert await other.redrive() == 1
    async with second.bus:
        await until(lambda: second.handled == [1, 2, 3, 4])


async def test_other_processes_leave_them_waiting(store: Path) -> None:
    """Whichever member of a group has given the letter up."""
    first, second = Work(store, name=None, group="g"), Work(store, name=None, group="g")
    first.refused = second.refused = {1}
    async with first.bus, second.bus:
        await first.publish([1, 2], "a")
        await first.publish([10], "b")
        await until(lambda: first.handled + second.handled == [10])
        await until(lambda: rows(store, "waiting") == 1)
        await second.publish([3], "a")
        await until(lambda: rows(store, "waiting") == 2)
        first.refused.clear()
        second.refused.clear()
        await second.bus.redrive()
        await until(lambda: sorted(first.handled + second.handled) == [1, 2, 3, 10])


async def test_the_key_is_that_of_the_subscription(store: Path) -> None:
    """`key=` decides, as for order; a letter sent again keeps it."""
    work = Work(store, key=parity)
    work.refused = {1}
    async with work.bus:
        await work.publish([1, 2, 3, 4, 5], "the same")
        await work.bus.join()
        assert (work.handled, await work.waiting()) == ([2, 4], 2)
        work.refused.clear()
        await work.bus.redrive()
        await until(lambda: work.handled == [2, 4, 1, 3, 5])


async def test_a_refused_payload_holds_them_back_too(store: Path) -> None:
    """It is a dead letter of its key like any other."""
    work = Work(store)
    async with work.bus:
        await work.bus.publish("work", b"\xff", key="a")
        await work.publish([2, 3], "a")
        await work.publish([10], "b")
        await until(lambda: work.handled == [10])
        await work.bus.join()
        assert await work.waiting() == 2
        await work.bus.purge_dead_letters()
        await until(lambda: work.handled == [10, 2, 3])


async def test_a_retry_that_succeeds_holds_nothing_back(store: Path) -> None:
    """Only what is given up on does."""
    failed: list[int] = []
    bus = EventBus(f"sqlite:///{store}", middleware=[SEQUENCED, Retry(attempts=3, initial=0.001)])
    handled: list[int] = []

    @bus.on("work", name="workers")
    async def handle(event: dict[str, int], context: Context[Any]) -> None:
        if context.attempt < 3:
            failed.append(event["n"])
            raise ConnectionError
        handled.append(event["n"])

    async with bus:
        for n in range(3):
            await bus.publish("work", {"n": n}, key="a")
        await bus.join()

    assert (handled, failed) == ([0, 1, 2], [0, 0, 1, 1, 2, 2])


async def test_what_is_to_wait_is_kept_until_that_is_written() -> None:
    """Where a commit fails, it is not given back: it could be handled before the letter is kept."""
    handed_in: list[object] = []
    desk: Any = SimpleNamespace(submit=handed_in.append)  # and it is never done
    settlements = Settlements(desk, lambda connection, endings: None, "audit", BusLogger())
    settlements.add((1, 1, Released(), Behind("a", [2, 3])))
    settlements.add((7, 1, Released(), None))

    assert sorted(settlements.unwritten()) == [1, 2, 3, 7]


async def test_that_they_would_not_wait(store: Path) -> None:
    """Control: a plain `DeadLetter`, of the handler's own scope, lets them pass."""
    work = Work(store, middleware=[DeadLetter()])
    work.refused = {1}
    async with work.bus:
        await work.publish([1, 2, 3], "a")
        await work.bus.join()
        assert (work.handled, await work.waiting()) == ([2, 3], 0)


async def test_what_waits_counts_as_lag(store: Path, work: Work) -> None:
    """Whoever watches a store sees it."""
    work.refused = {1}
    async with work.bus:
        await work.publish([1, 2, 3], "a")
        await work.bus.join()
        with closing(sqlite3.connect(store, isolation_level=None)) as connection:
            figures = survey(connection, 0.0)

    assert [(one.lag, one.in_flight) for one in figures.subscriptions] == [(2, 0)]


async def test_no_limit_passes_over_a_letter_that_is_waited_for(
    store: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest letters go when there are too many, but not these."""
    monkeypatch.setattr(letters, "MOST_KEPT", 1)
    work.refused = {1, 2, 3, 4, 5}
    async with work.bus:
        for n, key in ((1, "a"), (2, "b"), (3, None), (4, None), (5, None)):
            await work.publish([n], key)
        await work.bus.join()
        kept = [letter.message.position for letter in await work.bus.dead_letters()]

    assert kept == [5, 2, 1]


async def test_retention_counts_what_it_removes_of_them(store: Path) -> None:
    """What was waiting is lost, as is what was not read."""
    work = Work(store)
    work.refused = {1}
    async with work.bus:
        await work.publish([1, 2, 3], "a")
        await work.bus.join()
    async with EventBus(f"sqlite:///{store}?max_count=1"):
        await until(lambda: rows(store, "log") == 1)

    with closing(sqlite3.connect(store)) as connection:
        assert connection.execute("SELECT lost FROM meta").fetchone() == (1,)
    assert rows(store, "waiting") == 1


async def test_nothing_waits_for_a_letter_that_could_not_be_kept(store: Path) -> None:
    """As retention has removed its message while it was handled."""
    work = Work(store)
    work.refused = {1}
    has_begun, may_fail = anyio.Event(), anyio.Event()

    async def wait(context: Context[Any], call_next: Any) -> object:
        has_begun.set()
        await may_fail.wait()
        return await call_next(context)

    bus = EventBus(f"sqlite:///{store}", middleware=[SEQUENCED, wait])
    bus.on("work", model=dict[str, int], name="workers", start="first")(work.handle)
    async with bus:
        await bus.publish_many("work", [{"n": 0}])
        for n in (1, 2, 3):
            await bus.publish("work", {"n": n}, key="a")
        await has_begun.wait()
        async with EventBus(f"sqlite:///{store}?max_count=2"):
            await until(lambda: rows(store, "log") == 2)
        may_fail.set()
        await until(lambda: work.handled == [0, 2, 3])


async def test_what_is_forgotten_waits_no_more(store: Path, work: Work) -> None:
    """A subscription takes with it what it has not handled."""
    work.refused = {1}
    async with work.bus:
        await work.publish([1, 2], "a")
        await work.bus.join()
        await work.bus.unsubscribe("workers")
        await work.bus.forget("workers")

    assert rows(store, "waiting") == 0


@pytest.mark.parametrize("options", [{}, {"name": "books", "durable": False}, {"name": None}])
async def test_where_nothing_waits_in_a_file_it_is_refused(
    store: Path, options: dict[str, Any]
) -> None:
    """When the bus starts, in a sentence that names the way out."""
    url = f"sqlite:///{store}" if options else "memory://"
    bus = EventBus(url, middleware=[SEQUENCED])
    bus.on("work", model=object, **options)(ignore)

    with pytest.raises(UnsupportedByTransport, match=r"sequenced=True\), but .* or DeadLetter\(\)"):
        await bus.__aenter__()


async def test_who_has_no_dead_letters_is_not_asked(store: Path) -> None:
    """Iterators, and who listens to dead letters, go with a bus whose handlers are sequenced."""
    work = Work(store)
    work.refused = {1}
    shown: list[Mapping[str, int]] = []

    @work.bus.on("$dlq.workers")
    async def look(event: dict[str, int]) -> None:
        shown.append(event)

    async with work.bus, work.bus.subscribe("work", model=dict[str, int]) as events:
        await work.publish([1], "a")
        with anyio.fail_after(20):
            assert await anext(aiter(events)) == {"n": 1}
        await until(lambda: shown == [{"n": 1}])


def parity(event: Mapping[str, int]) -> str:
    """Tell whether the number of an event is odd."""
    return str(event["n"] % 2)


async def ignore(event: object) -> None:
    """Do nothing."""
