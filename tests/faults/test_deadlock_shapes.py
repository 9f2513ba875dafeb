"""Handlers that publish to each other through full queues: each shape ends, or is told why not.

No time passes in these tests, so what is told is told at once.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from unittest.mock import Mock

import anyio
import pytest
from anyio import CancelScope
from anyio.lowlevel import checkpoint

from eventbus import Context, DeadlockError, EventBus, Message, Receipt, Topic, deadlocks
from eventbus.middleware import PublishNext, Retry
from eventbus.subscription import Subscription, Worker
from eventbus.testing import ManualClock
from tests.faults.scale import full
from tests.faults.shapes import Node, Shape, generate

SHAPES = 200
SHARES = 10
QUIET = 40  # turns in which whatever can move does
HANG = 10 * QUIET  # turns without any change after which nothing will ever


class Play:
    """Plays a shape, and doubts whatever a handler is told."""

    def __init__(self, shape: Shape, clock: ManualClock) -> None:
        self.begun: Counter[str] = Counter()
        self.told = 0
        self.wrongly_told: list[str] = []
        self._shape = shape
        self._is_over = False
        self._topics = {node.name: Topic(node.name, int) for node in shape.nodes}
        self._bus = EventBus(clock=clock, publish_middleware=[self._doubt])
        for node in shape.nodes:
            self._register(node)

    async def ends(self) -> bool:
        """Play until the end; False if nothing moves any more before."""
        with CancelScope() as scope:
            async with self._bus, anyio.create_task_group() as tasks:
                tasks.start_soon(self._begin)
                if not await self._comes_to_an_end():
                    scope.cancel()
        return self._is_over

    async def _begin(self) -> None:
        first = self._shape.nodes[0].name
        for _ in range(self._shape.starts):
            await self._bus.publish(self._topics[first], self._shape.hops)
        await self._bus.join()
        self._is_over = True

    async def _comes_to_an_end(self) -> bool:
        before, turns = (0, 0), 0
        while not self._is_over and turns < HANG:
            await checkpoint()
            now = (self.begun.total(), self.told)
            before, turns = now, 0 if now != before else turns + 1
        return self._is_over

    def _register(self, node: Node) -> None:
        topics, begun = [self._topics[target] for target in node.targets], self.begun

        async def pass_on(hops: int, context: Context[int]) -> None:
            begun[node.name] += 1
            for topic in topics if hops else ():
                if node.uses_context:
                    await context.publish(topic, hops - 1)
                else:
                    await self._bus.publish(topic, hops - 1)

        self._bus.on(
            *node.topics,
            model=int,
            name=node.name,
            concurrency=node.concurrency,
            queue_size=node.queue_size,
            overflow=node.overflow,
            key=str if node.is_keyed else None,
            middleware=[Retry(attempts=2, initial=0.0)] if node.is_retrying else [],
        )(pass_on)

    async def _doubt(self, message: Message, call_next: PublishNext) -> Receipt:
        """Let one that was told wait on a little, and see whether a place would have come."""
        try:
            return await call_next(message)
        except DeadlockError as error:
            self.told += 1
            before = self.begun.copy()
            for _ in range(QUIET):
                await checkpoint()
            listeners = self._shape.listeners(message.topic)
            if all(self.begun[name] > before[name] for name in listeners):
                self.wrongly_told.append(str(error))
            raise


def shapes(share: int) -> Iterator[Shape]:
    """Generate a share of the shapes."""
    return map(generate, range(share, full(10 * SHAPES, small=SHAPES), SHARES))


def handlers_that_wait(subscription: Subscription) -> Sequence[Worker]:
    """Name the workers whose handlers wait, and forget the others."""
    return [worker for worker in subscription.workers if worker.awaits]


@pytest.mark.parametrize("share", range(SHARES))
async def test_each_shape_ends_and_only_who_is_stuck_is_told(share: int) -> None:
    """Nothing hangs; who was told would still wait; where there is no circle nobody is told."""
    for shape in shapes(share):
        play = Play(shape, ManualClock())

        assert (await play.ends(), play.wrongly_told) == (True, []), shape
        assert not play.told or shape.is_circular, shape


async def test_control_without_a_look_shapes_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nobody told, some of the shapes stand still for ever."""
    monkeypatch.setattr(deadlocks, "_way_back", Mock(return_value=()))
    ends = [await Play(shape, ManualClock()).ends() for shape in shapes(0)]

    assert ends.count(False) > 2


async def test_control_a_look_that_misses_free_workers_tells_who_could_move(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Were a circle of waiting handlers enough, whoever else is free, the doubts would show it."""
    monkeypatch.setattr(Subscription, "_blockers", handlers_that_wait)
    plays = [Play(shape, ManualClock()) for shape in shapes(0)]
    for play in plays:
        await play.ends()

    assert any(play.wrongly_told for play in plays)
