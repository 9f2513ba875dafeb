"""A commit whose sync fails: nothing acknowledged is lost, and its connection is never used again.

The edge is the connection of the writer: its k-th commit fails. Every other time all of it had been
written by then, as after a failed sync nobody can tell.
"""

import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count, takewhile
from pathlib import Path
from typing import Any, TypeAlias, cast

import pytest

from eventbus import Context, EventBus, StoreError
from eventbus.transports.sqlite import clerks
from eventbus.transports.sqlite.schema import open_store
from tests.faults.hasty_clock import HastyClock
from tests.faults.scale import full

EVENTS = 25
FAILURES = full(range(1, 101), small=range(1, 51))
COMMITS_OF_START = 3

Open: TypeAlias = Callable[..., sqlite3.Connection]


class Edge:
    """Where one commit fails, and what is done with a connection after that."""

    def __init__(self, fails_at: int) -> None:
        self.commits = 0
        self.used_again = 0
        self.fails_at = fails_at

    def open(self, *arguments: Any) -> sqlite3.Connection:
        """Open a connection through the edge."""
        return cast("sqlite3.Connection", Watched(open_store(*arguments), self))


class Watched:
    """A connection, as far as the store uses it."""

    def __init__(self, connection: sqlite3.Connection, edge: Edge) -> None:
        self._connection = connection
        self._edge = edge
        self._has_failed = False

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        """Do it, or fail."""
        self._edge.used_again += self._has_failed
        if statement == "COMMIT":
            self._commit()
        return self._connection.execute(statement, *parameters)

    def _commit(self) -> None:
        edge = self._edge
        edge.commits += 1
        if edge.commits == edge.fails_at:
            self._has_failed = True
            if edge.fails_at % 2:
                self._connection.execute("COMMIT")
            raise sqlite3.OperationalError("disk I/O error")

    def close(self) -> None:
        """Close it."""
        self._connection.close()


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    """Keep what is told of failures out of the way."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


async def live(store: Path, edge: Edge) -> tuple[set[str], Counter[str]]:
    """Publish one after the other, each again where it failed, and handle all of it.

    How many commits that takes nobody can tell: it goes on until the one that fails has come.
    """
    acknowledged: set[str] = set()
    handled: Counter[str] = Counter()
    bus = EventBus(f"sqlite:///{store}", clock=HastyClock())

    @bus.on("work", name="workers", start="first", queue_size=2)
    async def handle(event: dict[str, int], context: Context[Any]) -> None:
        handled[context.message.id] += 1

    async with bus:
        for n in takewhile(lambda n: n < EVENTS or edge.commits < edge.fails_at, count()):
            try:
                await bus.publish("work", {"n": n}, id=f"m-{n}")
            except StoreError:
                await bus.publish("work", {"n": n}, id=f"m-{n}")
            acknowledged.add(f"m-{n}")
        await bus.join()
    return acknowledged, handled


async def live_on(store: Path, edge: Edge) -> tuple[set[str], Counter[str], int]:
    """Live, and where the bus could not start, start it again; tell how often that was."""
    try:
        return *await live(store, edge), 0
    except StoreError:
        assert edge.commits <= COMMITS_OF_START + 1
        return *await live(store, edge), 1


def ids_of(store: Path) -> list[str]:
    """Read the ids in the log."""
    with closing(sqlite3.connect(store)) as connection:
        return [id for (id,) in connection.execute("SELECT id FROM log")]


def unsettled(store: Path) -> int:
    """Count what is not settled."""
    with closing(sqlite3.connect(store)) as connection:
        return int(connection.execute("SELECT count(*) FROM delivery").fetchone()[0])


async def test_nothing_is_lost_when_a_commit_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever it is: all is stored once, handled, settled, and the bus goes on by itself."""
    for fails_at in FAILURES:
        store, edge = tmp_path / f"{fails_at}.db", Edge(fails_at)
        monkeypatch.setattr(clerks, "open_store", edge.open)
        acknowledged, handled, starts = await live_on(store, edge)

        assert starts == (fails_at <= COMMITS_OF_START), fails_at
        assert sorted(ids_of(store)) == sorted(acknowledged), fails_at
        assert handled.keys() == acknowledged, fails_at
        assert (edge.used_again, unsettled(store)) == (0, 0), fails_at


async def test_that_a_connection_used_again_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: where the writer does not let go of it."""
    edge = Edge(10)
    monkeypatch.setattr(clerks, "open_store", edge.open)
    disconnect, close = vars(clerks.Writer)["_disconnect"], clerks.Writer.close

    def close_at_last(writer: clerks.Writer) -> None:
        disconnect(writer)
        close(writer)

    monkeypatch.setattr(clerks.Writer, "_disconnect", keep)
    monkeypatch.setattr(clerks.Writer, "close", close_at_last)
    with pytest.raises(StoreError, match="within a transaction"):
        await live(tmp_path / "events.db", edge)

    assert edge.used_again > 0


def keep(writer: clerks.Writer) -> None:
    """Do nothing where a connection is to be given up."""
