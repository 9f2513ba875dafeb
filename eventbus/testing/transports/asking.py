"""Who asks gets the answer, or is told why there is none."""

__all__ = ("Asking",)

from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from eventbus.bus import EventBus
from eventbus.contracts import RequestTopic
from eventbus.errors import InvalidEvent, NoResponders, RemoteError, RequestTimeout
from eventbus.testing.transports.store import Sizes, Store, needs


class Question(BaseModel):
    """What is asked."""

    n: int


class Doubled(BaseModel):
    """What is answered."""

    n: int


DOUBLE = RequestTopic("jobs.double", Question, Doubled, raises=(OverflowError,))
POLL = RequestTopic("jobs.poll", Question, Doubled, many=True)


class Asking(Sizes):
    """Who asks gets the answer, or is told why there is none."""

    @needs("requests")
    async def test_a_request_is_answered(self, store: Store) -> None:
        """With the reply to it and to no other, however many are asked at once."""
        bus = store.bus()
        _respond(bus)
        found: dict[int, int] = {}
        async with bus, anyio.create_task_group() as group:

            async def ask(n: int) -> None:
                reply = await bus.request(DOUBLE, Question(n=n), timeout=store.patience)
                found[n] = reply.n

            for n in range(20):
                group.start_soon(ask, n)

        assert found == {n: 2 * n for n in range(20)}

    @needs("requests")
    async def test_a_failure_reaches_who_asked(self, store: Store) -> None:
        """As what the topic declares, else as text; what the model refuses is an error at once."""
        bus = store.bus()
        _respond(bus)
        async with bus:
            with pytest.raises(OverflowError, match="100"):
                await bus.request(DOUBLE, Question(n=100), timeout=store.patience)
            with pytest.raises(RemoteError, match="ZeroDivisionError"):
                await bus.request(DOUBLE, Question(n=-1), timeout=store.patience)
            with pytest.raises(InvalidEvent):
                await bus.request("jobs.double", {"n": "x"}, reply=Doubled, timeout=store.patience)

    @needs("requests")
    async def test_nobody_there_is_told_at_once(self, store: Store) -> None:
        """Before there is a responder, and when there is none any more."""
        bus = store.bus()
        async with bus:
            with anyio.fail_after(store.patience / 2):
                with pytest.raises(NoResponders):
                    await bus.request(DOUBLE, Question(n=1), timeout=store.patience)
                handler = _respond(bus)
                await bus.request(DOUBLE, Question(n=1), timeout=store.patience)
                await bus.unsubscribe(handler)
                with pytest.raises(NoResponders):
                    await bus.request(DOUBLE, Question(n=1), timeout=store.patience)

    @needs("requests")
    async def test_a_reply_that_is_late_is_counted(self, store: Store) -> None:
        """Who asked was told that the time is up."""
        has_begun, is_over, bus = anyio.Event(), anyio.Event(), store.bus()

        @bus.on(DOUBLE)
        async def answer(question: Question) -> Doubled:
            has_begun.set()
            await is_over.wait()
            return Doubled(n=0)

        async with bus:
            for seconds in (0.1, 1.0, 5.0):  # on a busy machine the first may expire on its way
                with pytest.raises(RequestTimeout):
                    await bus.request(DOUBLE, Question(n=1), timeout=seconds)
                if has_begun.is_set():
                    break
            is_over.set()
            await store.join(bus)
            with anyio.fail_after(store.patience):
                while not bus.stats().late_replies:  # noqa: ASYNC110 - nothing tells of it
                    await anyio.sleep(0.01)

    @needs("requests", "cross_process")
    async def test_another_bus_answers(self, store: Store) -> None:
        """A shared name answers once, whoever has it; who goes is not asked any more."""
        bus, others = store.bus(), [store.bus(), store.bus()]
        for other in others:
            _respond(other, group="doublers")
        async with bus:
            async with others[0], others[1]:
                replies = [
                    (await bus.request(DOUBLE, Question(n=n), timeout=store.patience)).n
                    for n in range(self.cycles)
                ]
                with pytest.raises(OverflowError, match="100"):
                    await bus.request(DOUBLE, Question(n=100), timeout=store.patience)
            with pytest.raises(NoResponders):
                await bus.request(DOUBLE, Question(n=1), timeout=store.patience)

        assert replies == [2 * n for n in range(self.cycles)]
        assert bus.stats().late_replies == 0

    @needs("requests", "cross_process")
    async def test_many_buses_answer_one_request(self, store: Store) -> None:
        """As many as there are; it is known when all have."""
        buses = [store.bus() for _ in range(3)]
        for number, bus in enumerate(buses):
            _poll(bus, number)
        async with buses[0], buses[1], buses[2]:
            with anyio.fail_after(store.patience):
                replies = await buses[0].request_many(
                    POLL, Question(n=10), timeout=2 * store.patience
                )

        assert sorted(one.n for one in replies) == [10, 11, 12]


def _respond(bus: EventBus[Any], group: str | None = None) -> Any:
    async def double(question: Question) -> Doubled:
        if question.n >= 100:
            raise OverflowError(f"{question.n}")
        return Doubled(n=2 * question.n // (1 if question.n >= 0 else 0))

    bus.on(DOUBLE, group=group)(double)
    return double


def _poll(bus: EventBus[Any], number: int) -> None:
    @bus.on(POLL)
    async def answer(question: Question) -> Doubled:
        return Doubled(n=question.n + number)
