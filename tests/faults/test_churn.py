"""Handlers join and leave a group, publishers wait and give up: each event has one end."""

import random
from collections.abc import Sequence
from contextlib import suppress
from unittest.mock import Mock

import anyio
import pytest
from anyio import CancelScope
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from eventbus import EventBus, QueueFull, Topic
from eventbus.middleware import Retry
from eventbus.queue import DeliveryQueue, Overflow
from eventbus.waiters import Waiter
from tests.faults.scale import full

SEEDS = full(4_000, small=20)
STEPS = 40
HANG = 3_000  # turns that no such program takes
OVERFLOWS: Sequence[Overflow] = ("block", "fail", "drop_newest", "drop_oldest", "latest")

JOBS = Topic("jobs", int)
RETRY = Retry(attempts=3, initial=0.0)


def key_of(event: int) -> str:
    """Give an event's key: one of three."""
    return str(event % 3)


class Worker:
    """A handler that takes its time, and sometimes fails."""

    def __init__(self, churn: "Churn") -> None:
        self._churn = churn

    async def __call__(self, event: int) -> None:
        for _ in range(self._churn.draw.randrange(4)):
            await checkpoint()
        if self._churn.draw.random() < 0.1:
            raise ValueError(event)
        self._churn.handled.append(event)


class Churn:
    """A group whose handlers come and go, and its publishers."""

    def __init__(self, overflow: Overflow, seed: int) -> None:
        self.draw = random.Random(seed)
        self.handled: list[int] = []
        self.accepted = 0
        self.bus = EventBus()
        self._overflow: Overflow = overflow
        self._is_keyed = self.draw.random() < 0.5
        self._size = self.draw.randint(1, 4)
        self._members: list[Worker] = []
        self._is_over = False
        self._join()

    async def run(self) -> bool:
        """Live for some steps, and wait until all is handled; False if that does not come."""
        with CancelScope() as scope:
            async with self.bus, anyio.create_task_group() as tasks:
                tasks.start_soon(self._live)
                for _ in range(HANG):
                    await checkpoint()
                    if self._is_over:
                        break
                else:
                    scope.cancel()
        return self._is_over

    @property
    def ends(self) -> int:
        """How many events have come to an end."""
        stats = self.bus.stats()
        return len(self.handled) + stats.dropped + stats.lost

    async def _live(self) -> None:
        async with anyio.create_task_group() as publishers:
            for _ in range(STEPS):
                await self._step(publishers)
        await self.bus.join()
        self._is_over = True

    async def _step(self, publishers: TaskGroup) -> None:
        step = self.draw.choice(["publish"] * 4 + ["join", "leave", "turn"])
        if step == "publish":
            publishers.start_soon(self._publish, self.draw.choice([1, 3, HANG]))
        elif step == "join":
            self._join()
        elif step == "leave" and len(self._members) > 1:
            await self.bus.unsubscribe(self._members.pop(self.draw.randrange(len(self._members))))
        else:
            await checkpoint()

    def _join(self) -> None:
        member = Worker(self)
        self._members.append(member)
        self.bus.on(
            JOBS,
            group="group",
            concurrency=self.draw.randint(1, 3),
            queue_size=self._size,
            overflow=self._overflow,
            key=key_of if self._is_keyed else None,
            middleware=[RETRY],
        )(member)

    async def _publish(self, patience: int) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._give_up, tasks.cancel_scope, patience)
            with suppress(QueueFull):
                await self.bus.publish(JOBS, self.draw.randrange(100))
                self.accepted += 1
            tasks.cancel_scope.cancel()

    async def _give_up(self, scope: CancelScope, patience: int) -> None:
        for _ in range(patience):
            await checkpoint()
        scope.cancel()


async def run_all(overflow: Overflow) -> Sequence[Churn]:
    """Run all programs, whatever becomes of them."""
    churns = [Churn(overflow, seed) for seed in range(SEEDS)]
    for churn in churns:
        await churn.run()
    return churns


@pytest.mark.parametrize("overflow", OVERFLOWS)
async def test_each_event_has_one_end(overflow: Overflow) -> None:
    """What was accepted is handled, dropped or lost, once, and what was given up is not."""
    for seed in range(SEEDS):
        churn = Churn(overflow, seed)

        assert (await churn.run(), churn.ends) == (True, churn.accepted), seed
        assert churn.bus.stats().succeeded == len(churn.handled), seed


async def test_control_without_a_look_at_its_publisher_an_event_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Events whose publishers have given up would be handled now and then."""
    monkeypatch.setattr(Waiter, "is_gone", Mock(return_value=False))

    assert any(churn.ends > churn.accepted for churn in await run_all("block"))


async def test_control_places_of_those_who_left_trip_others_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Were a member still expected after it left, publishers would try to start it."""
    monkeypatch.setattr(DeliveryQueue, "remove_unstarted", Mock())

    with pytest.raises(ExceptionGroup):
        await run_all("block")
