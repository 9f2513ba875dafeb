"""Every order in which a few tasks can use a queue: no entry lost or doubled, nobody left asleep.

The tasks are coroutines stepped by hand, without an event loop, until every state that any order
leads to has been seen. What the queue takes from its loop, events and the current task, is handed
to it by the test.
"""

from collections import Counter, deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from types import coroutine
from typing import Any, TypeAlias, cast

import pytest

from eventbus import queue as queues
from eventbus import waiters
from eventbus.errors import BusClosed
from eventbus.queue import DeliveryQueue, Overflow
from eventbus.waiters import Waiter, wait_for_places
from tests.faults.scale import full

SIZES = range(1, full(3, small=2) + 1)


class Cancelled(BaseException):
    """A task's cancellation."""


@coroutine
def pause(event: "Event | None" = None) -> Generator["Event | None", None, None]:
    """Let another task have its turn; where there is an event, until it is set."""
    yield event


class Event:
    """An event without a loop."""

    def __init__(self) -> None:
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True

    async def wait(self) -> None:
        await pause(self)


class Task:
    """A coroutine stepped by hand, which can be cancelled while it waits."""

    current: "Task"

    def __init__(self, steps: Coroutine[Any, Any, object]) -> None:
        self._steps = steps
        self._waits_for: Event | None = None
        self._is_cancelled = False
        self._steps_made = 0
        self.is_over = False

    def has_pending_cancellation(self) -> bool:
        """As anyio's `TaskInfo`."""
        return self._is_cancelled

    @property
    def is_asleep(self) -> bool:
        """Whether it waits for what has not happened."""
        has_happened = self._waits_for is None or self._waits_for.is_set()
        return not (self.is_over or has_happened)

    @property
    def can_go_on(self) -> bool:
        """Whether it can be stepped."""
        return not self.is_over and (self._is_cancelled or not self.is_asleep)

    @property
    def state(self) -> tuple[int, bool, bool]:
        """How far it is."""
        return self._steps_made, self.is_asleep, self._is_cancelled

    def cancel(self) -> None:
        """Cancel what it waits for, whatever happens until it runs; nothing, if that has come."""
        self._is_cancelled = self.is_asleep

    def close(self) -> None:
        """End it where it is."""
        self._steps.close()

    def step(self) -> None:
        """Run until it waits again."""
        Task.current = self
        self._steps_made += 1
        try:
            if self._is_cancelled:
                self._is_cancelled = False
                self._waits_for = self._steps.throw(Cancelled())
            else:
                self._waits_for = self._steps.send(None)
        except StopIteration:
            self.is_over = True


class World:
    """A queue, the tasks that use it, and what each of them got done."""

    def __init__(self, size: int, overflow: Overflow = "block") -> None:
        self.queue: DeliveryQueue[str] = DeliveryQueue(size, overflow, new_wake_up=Event)
        self.tasks: list[Task] = []
        self.sent: list[str] = []
        self.refused: list[str] = []
        self.cancelled: list[str] = []
        self.taken: list[str] = []
        self.unsure: list[str] = []  # of a batch that was cancelled, some
        self.retried: list[str] = []

    def add(self, *steps: Coroutine[Any, Any, object]) -> "World":
        """Give it tasks."""
        self.tasks += map(Task, steps)
        return self

    # --- what its tasks do ----------------------------------------------------------------------

    async def publish(self, entries: str) -> None:
        """Publish entries, as the bus does, until cancelled."""
        for entry in entries:
            await pause()
            try:
                await self._publish(entry)
            except BusClosed:
                self.refused.append(entry)
            except Cancelled:
                self.cancelled.append(entry)
                return
            else:
                self.sent.append(entry)

    async def _publish(self, entry: str) -> None:
        if len(self.queue.items) < self.queue.limit:
            self.queue.items.append(entry)
        elif (waiter := self.queue.offer(entry)) is not None:
            await wait_for_places([waiter])

    async def publish_together(self, entries: str) -> None:
        """Publish entries as one batch."""
        await pause()
        try:
            await wait_for_places(self.queue.offer_all(entries))
        except Cancelled:
            self.unsure.extend(entries)
        else:
            self.sent.extend(entries)

    async def work(self) -> None:
        """Take entries, as a worker does, until cancelled or until there will be no more."""
        while True:
            if self.queue.items:
                self.taken.append(self._take())
                await pause()
            elif self.queue.is_finished:
                return
            else:
                try:
                    await self.queue.wait()
                except Cancelled:
                    return

    def _take(self) -> str:
        entry = self.queue.quick_take()
        if self.queue.waiters:
            self.queue.refill()
        return entry

    async def try_again(self) -> None:
        """Fail with an entry, and bring it back later."""
        await pause()
        if self.queue.items:
            entry = self._take()
            self.retried.append(entry)
            self.queue.hold()
            await pause()
            self.queue.restore(entry)

    async def cancel(self, number: int) -> None:
        """Cancel a task."""
        await pause()
        self.tasks[number].cancel()

    async def close(self) -> None:
        """Close the queue."""
        await pause()
        self.queue.close()

    async def stop(self) -> None:
        """Stop the queue, and what is in it is gone."""
        await pause()
        self.queue.stop()

    @property
    def state(self) -> object:
        """All that makes a difference to what can happen next, and to what is checked."""
        queue = self.queue
        return (
            tuple(task.state for task in self.tasks),
            (tuple(queue.items), queue.held, queue.limit, queue.is_closed),
            tuple(waiter.entry for waiter in queue.waiters),
            (frozenset(self.sent), frozenset(self.cancelled), tuple(self.taken)),
        )

    # --- what has to hold -----------------------------------------------------------------------

    def check(self) -> None:
        """Hold what is true after every step."""
        # What is to be tried again finds room in any case.
        assert self.queue.depth <= self.queue.size + len(self.retried)
        assert max(Counter(self.taken).values(), default=0) <= 1, "taken twice"

    def check_end(self) -> None:
        """Hold what is true once no task can go on."""
        asleep = [task for task in self.tasks if not task.is_over]
        assert not (asleep and self.queue.items), "somebody sleeps beside an entry"
        assert not self.queue.waiters, "a publisher waits beside free places"
        assert not (asleep and self.queue.is_closed), "somebody waits for a closed queue"
        there = {*self.taken, *self.queue.items}
        assert there <= {*self.sent, *self.unsure}, "cancelled, yet delivered"
        assert self.queue.is_closed or there >= set(self.sent), "lost"
        for publisher in ("abc", "def"):
            mine = [e for e in self.taken if e in publisher and e not in self.retried]
            assert mine == sorted(mine), "out of order"


Make: TypeAlias = Callable[[int], World]


def see_every_state(make: Make, size: int) -> int:
    """Run the tasks of a world in each order that leads to something new; give how many states."""
    seen: set[object] = set()
    prefix: list[int] | None = []
    while prefix is not None:
        world = make(size)
        try:
            prefix = _next_order(_run(world, prefix, seen))
        finally:
            for task in world.tasks:
                task.close()
    return len(seen)


def _run(world: World, prefix: Sequence[int], seen: set[object]) -> list[tuple[int, int]]:
    """Follow an order and then the first choice each time; give the choices, and of how many."""
    choices: list[tuple[int, int]] = []
    while able := [task for task in world.tasks if task.can_go_on]:
        chosen = prefix[len(choices)] if len(choices) < len(prefix) else 0
        choices.append((chosen, len(able)))
        able[chosen].step()
        world.check()
        state = world.state
        if state in seen and len(choices) >= len(prefix):
            return choices
        seen.add(state)
    world.check_end()
    return choices


def _next_order(choices: list[tuple[int, int]]) -> list[int] | None:
    while choices and choices[-1][0] + 1 == choices[-1][1]:
        choices.pop()
    if not choices:
        return None
    *prefix, last = (chosen for chosen, _ in choices)
    return [*prefix, last + 1]


@pytest.fixture(autouse=True)
def _without_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "Event", Event)
    monkeypatch.setattr(waiters, "Event", Event)
    monkeypatch.setattr(waiters, "checkpoint", pause)
    monkeypatch.setattr(waiters, "get_current_task", lambda: Task.current)


def world_of(*names: str, overflow: Overflow = "block") -> Make:
    """Say which tasks a world has, as the methods that they call, with an argument or without."""

    def make(size: int) -> World:
        world = World(size, overflow)
        for name in names:
            verb, *arguments = name.split()
            given = [int(one) if one.isdigit() else one for one in arguments]
            world.add(cast("Callable[..., Any]", getattr(world, verb))(*given))
        return world

    return make


WORLDS: Sequence[tuple[str, ...]] = [
    ("publish abc", "publish d", "work"),
    *full([("publish abc", "publish def", "work")], small=[]),
    ("publish ab", "publish d", "cancel 0", "work"),
    ("publish_together abc", "publish d", "work"),
    ("publish_together abc", "cancel 0", "work"),
    ("publish abc", "work", "work"),
    ("publish ab", "work", "work", "cancel 1"),
    ("publish abc", "work", "close"),
    ("publish ab", "publish d", "work", "close"),
    ("publish abc", "work", "stop"),
    ("publish ab", "cancel 0", "work", "close"),
    ("publish abc", "try_again", "work"),
    ("publish ab", "try_again", "work", "close"),
    ("publish ab", "publish d", "try_again", "work"),
    ("publish ab", "try_again", "cancel 0", "work"),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tasks", WORLDS, ids=", ".join)
def test_every_order_of_few_tasks(tasks: tuple[str, ...], size: int) -> None:
    """Each entry is taken once or was not accepted, in order, and who can go on does."""
    assert see_every_state(world_of(*tasks), size) > 10


# --- Controls -------------------------------------------------------------------------------------


def leave_in_haste(queue: DeliveryQueue[str], waiter: Waiter[str]) -> None:
    """Take a publisher out of the line without a look at who is parked."""
    if waiter in queue.waiters:
        cast("deque[Waiter[str]]", queue.waiters).remove(waiter)
    queue.limit = queue.size


def nothing(*_: object) -> bool:
    """Do nothing, and say no."""
    return False


@pytest.mark.parametrize(
    ("owner", "protection", "without", "tasks"),
    [
        (DeliveryQueue, "leave_line", leave_in_haste, ("publish ab", "publish d", "cancel 0")),
        (DeliveryQueue, "_unpark", nothing, ("publish ab", "work", "cancel 1")),
        (DeliveryQueue, "wake_all", nothing, ("publish ab", "close")),
        (DeliveryQueue, "refill", nothing, ("publish ab",)),
        (Waiter, "is_gone", nothing, ("publish ab", "cancel 0")),
        (Waiter, "withdraw", nothing, ("publish ab", "cancel 0")),
    ],
)
def test_control_without_its_protection_an_order_fails(
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    protection: str,
    without: Callable[..., object],
    tasks: tuple[str, ...],
) -> None:
    """Whatever may go wrong between two tasks does so in some order."""
    monkeypatch.setattr(owner, protection, without)

    with pytest.raises(AssertionError):
        see_every_state(world_of(*tasks, "work"), 1)
