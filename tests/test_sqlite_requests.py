"""Requests over a store: who is asked, what it costs, and what is left behind."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import AsyncMock

import anyio
import pytest
from pydantic import BaseModel

from eventbus import (
    BusClosed,
    Context,
    EventBus,
    InvalidEvent,
    NoResponders,
    RequestTimeout,
    RequestTopic,
)
from eventbus.answers import Failure, Kind, WrittenReply, read_answer, write_answer
from eventbus.middleware import DeadLetter
from eventbus.testing import ManualClock
from eventbus.transports.sqlite import requests
from tests.waiting import until

Opened: TypeAlias = Callable[..., EventBus]


class Question(BaseModel):
    n: int


class Answer(BaseModel):
    n: int


ASK = RequestTopic("numbers.next", Question, Answer)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a store that is not there yet."""
    return tmp_path / "events.db"


@pytest.fixture
def opened(path: Path) -> Opened:
    """Give what makes a bus on the store."""

    def open_bus(**options: Any) -> EventBus:
        return EventBus(f"sqlite:///{path}", **options)

    return open_bus


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Look into a store."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def respond(bus: EventBus, **options: Any) -> list[Any]:
    """Register a responder; give the list of the messages it gets."""
    messages: list[Any] = []

    @bus.on(ASK, **options)
    async def answer(question: Question, context: Context[Question]) -> Answer:
        messages.append(context.message)
        return Answer(n=question.n + 1)

    return messages


async def test_a_request_is_a_record_that_says_where_and_until_when(
    opened: Opened, path: Path
) -> None:
    """Others hear it, as they do in memory; it belongs to a conversation."""
    asking, answering = opened(), opened()
    messages = respond(answering, name="responder")
    heard: list[Any] = []
    asking.on(">", model=object)(heard.append)
    async with answering, asking:
        await asking.request(ASK, Question(n=1))
        await asking.join()

    ((session,),) = rows(path, "SELECT seq FROM sqlite_sequence WHERE name = 'session'")
    (message,) = messages
    assert (message.reply_to, heard) == (f"$reply.{session}.1", [{"n": 1}])
    assert message.expires_at is not None
    assert rows(path, "SELECT topic FROM log") == [("numbers.next",)]


async def test_a_caller_hears_of_a_refusal_that_is_passed_over(opened: Opened) -> None:
    """With `invalid="skip"` nothing else becomes of the request, but nobody waits in vain."""
    bus = opened(middleware=[DeadLetter()])
    bus.on("numbers.next", model=Question, reply=Answer, invalid="skip")(AsyncMock())
    async with bus:
        with pytest.raises(InvalidEvent, match="refuses the request"):
            await bus.request("numbers.next", {"n": "many"}, reply=Answer, timeout=30.0)
        assert await bus.dead_letters() == []


async def test_nothing_is_left_behind(opened: Opened, path: Path) -> None:
    """Replies are removed soon after they were read, and who answers is forgotten with its bus."""
    asking, answering = opened(), opened()
    respond(answering)
    async with answering, asking:
        for n in range(5):
            await asking.request(ASK, Question(n=n))
        there = rows(path, "SELECT name, pattern FROM responder")
        await until(lambda: rows(path, "SELECT * FROM reply") == [])

    assert [pattern for _, pattern in there] == ["numbers.next"]
    assert rows(path, "SELECT * FROM responder") == []


async def test_a_request_nobody_answers_is_not_stored(opened: Opened, path: Path) -> None:
    """It would be worth nothing to whoever came later."""
    async with opened() as bus:
        with pytest.raises(NoResponders):
            await bus.request(ASK, Question(n=1))

    assert rows(path, "SELECT * FROM log") == []


async def test_a_request_whose_time_is_up_is_not_answered(
    opened: Opened, path: Path, clock: ManualClock
) -> None:
    """A responder that comes later counts it as expired, and is done with it."""
    begun = anyio.Event()
    first, asking = opened(clock=clock), opened(clock=clock)

    @first.on(ASK, name="responder", concurrency=1)
    async def never(question: Question) -> Answer:
        begun.set()
        await anyio.sleep_forever()
        return Answer(n=0)

    async def ask(n: int) -> None:
        with pytest.raises(RequestTimeout):
            await asking.request(ASK, Question(n=n))

    async with asking, anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            async with first:
                for n in range(3):
                    group.start_soon(ask, n)
                await begun.wait()
                await until(lambda: len(rows(path, "SELECT 1 FROM log")) == 3)
                scope.cancel()
        await clock.advance(10)
    later = opened(clock=clock)
    messages = respond(later, name="responder")
    async with later:
        await later.join()
        stats = later.stats()

    assert (messages, stats.expired, rows(path, "SELECT * FROM delivery")) == ([], 3, [])


async def test_draining_answers_no_new_requests(opened: Opened) -> None:
    """Who asks then is told at once that nobody does."""
    asking, answering = opened(), opened()
    respond(answering)
    async with asking, answering:
        await asking.request(ASK, Question(n=1))
        await answering.drain()
        await until_refused(asking)


async def until_refused(bus: EventBus) -> None:
    """Ask until nobody answers any more."""
    with anyio.fail_after(20):
        while True:
            try:
                await bus.request(ASK, Question(n=1), timeout=0.2)
            except NoResponders:
                return
            except RequestTimeout:
                pass


async def test_who_waits_when_its_bus_closes_is_told(opened: Opened) -> None:
    """The reply that comes for it later is for nobody."""
    is_over = anyio.Event()
    answering = opened()

    @answering.on(ASK)
    async def answer(question: Question) -> Answer:
        await is_over.wait()
        return Answer(n=1)

    told: list[str] = []

    async def ask(bus: EventBus) -> None:
        try:
            await bus.request(ASK, Question(n=1))
        except BusClosed as error:
            told.append(str(error))

    async with answering, anyio.create_task_group() as group:
        async with opened() as asking:
            group.start_soon(ask, asking)
            await until(lambda: bool(answering.stats().in_flight))
        is_over.set()
        await answering.join()

    assert len(told) == 1


async def test_a_dead_letter_sent_again_is_answered_to_nobody(opened: Opened) -> None:
    """It goes whatever its time was."""
    is_broken = True
    bus = opened()

    @bus.on(ASK, name="responder", middleware=[DeadLetter()])
    async def answer(question: Question) -> Answer:
        if is_broken:
            raise ValueError("no")
        return Answer(n=question.n)

    async with bus:
        with pytest.raises(Exception, match="no"):
            await bus.request(ASK, Question(n=1), timeout=0.5)
        await anyio.sleep(0.6)
        is_broken = False
        assert await bus.redrive("responder") == 1
        await bus.join()
        stats = bus.stats()

    assert (stats.succeeded, stats.expired, stats.late_replies) == (1, 0, 0)


async def test_an_expired_dead_letter_is_sent_again(opened: Opened) -> None:
    """As in memory: who asks for it wants it."""
    heard: list[object] = []
    bus = opened(middleware=[DeadLetter()])

    @bus.on("bells", name="ear")
    async def hear(event: dict[str, int]) -> None:
        heard.append(event)
        if len(heard) == 1:
            raise ValueError("no")

    async with bus:
        await bus.publish("bells", {"n": 1}, expires=0.2)
        await bus.join()
        await anyio.sleep(0.25)
        await bus.redrive()
        await bus.join()

    assert heard == [{"n": 1}] * 2


async def test_a_responder_cannot_run_sql_with_its_acknowledgement(opened: Opened) -> None:
    """The reply goes out by itself; so it is refused, and who asked is told."""
    bus = opened()

    @bus.on(ASK, name="responder")
    async def answer(question: Question, context: Context[Question]) -> Answer:
        context.transaction.execute("SELECT 1")
        return Answer(n=1)

    async with bus:
        with pytest.raises(Exception, match="it answers requests"):
            await bus.request(ASK, Question(n=1))


async def test_a_process_that_died_is_no_responder(opened: Opened, path: Path) -> None:
    """Also before anybody has cleaned up after it."""
    async with opened() as bus:
        with closing(sqlite3.connect(path)) as connection:
            (session,) = connection.execute(
                "INSERT INTO session (place, process, beat) "
                "SELECT place, 999999999, 0 FROM session RETURNING id"
            ).fetchone()
            requests.announce(connection, session, "gone", [ASK.name], is_shared=True)
            connection.commit()
            found = requests.elsewhere(connection, 0, ASK.name)
        with pytest.raises(NoResponders):
            await bus.request(ASK, Question(n=1))

    assert len(found) == 0


@pytest.mark.parametrize(
    "answer",
    [
        WrittenReply(b'{"n":1}', {"n": 1}),
        WrittenReply(b"\xff\x00", b"\xff\x00"),
        Failure(kind=Kind.DECLINED, type="responder", text=""),
        Failure(
            type="Sold", text="o-1", declared="m.Sold", arguments=("o-1", 2), attributes={"n": 1}
        ),
    ],
)
def test_answers_travel_as_text(answer: WrittenReply | Failure) -> None:
    """And come back as they were."""
    assert read_answer(write_answer(answer)) == answer
