"""The bounded queue: its order, its policies, its wake-ups, and what cancellation leaves behind."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from unittest.mock import Mock

import anyio
import pytest
from anyio import CancelScope
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eventbus import BusClosed, Context, EventBus, QueueFull, Topic
from eventbus.activity import Activity
from eventbus.queue import DeliveryQueue, Overflow
from eventbus.testing import ManualClock
from eventbus.waiters import Waiter, wait_for_places

Queue = DeliveryQueue[int]

JOBS = Topic("jobs", int)

OVERFLOWS: Sequence[Overflow] = ("block", "fail", "drop_newest", "drop_oldest", "latest")


def by_tens(entry: int) -> str | None:
    """Give the key of an entry in these tests: its tens, and none below ten."""
    return str(entry // 10) if entry >= 10 else None


async def publish(queue: Queue, *entries: int) -> None:
    """Do what a publisher does: put what fits, and wait together for the rest."""
    await wait_for_places(queue.offer_all(entries))


def fill(queue: Queue, *entries: int) -> None:
    """Put entries for which there is room."""
    assert queue.offer_all(entries) == []


def drain(queue: Queue) -> list[int]:
    """Take until there is nothing left, letting waiting publishers move up on the way."""
    taken: list[int] = []
    while queue.items:
        taken.append(queue.take_nowait())
    return taken


class Gate:
    """A handler that notes each event, and stands still until it is opened."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.lagged: list[int] = []
        self._opened = anyio.Event()

    async def __call__(self, event: int, context: Context[int]) -> None:
        self.seen.append(event)
        self.lagged.append(context.lagged)
        await self._opened.wait()

    def open(self) -> None:
        """Let this event and all later ones pass."""
        self._opened.set()


# --- First in, first out --------------------------------------------------------------------------


async def test_entries_come_out_as_they_went_in() -> None:
    """A queue with room is first in, first out."""
    queue = Queue(5)
    fill(queue, 1, 2)
    fill(queue, 3)

    assert drain(queue) == [1, 2, 3]


async def test_a_publisher_waits_while_the_queue_is_full(clock: ManualClock) -> None:
    """It goes on as soon as one place is free, with its entry in it."""
    queue = Queue(2)
    fill(queue, 1, 2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish, queue, 3)
        await clock.settle()

        assert (len(queue.waiters), list(queue.items)) == (1, [1, 2])

        queue.take_nowait()

    assert list(queue.items) == [2, 3]


async def test_nobody_overtakes_a_waiting_publisher(clock: ManualClock) -> None:
    """Who comes while another waits stands behind it, whatever is taken meanwhile."""
    queue = Queue(2)
    offered: list[int] = []
    taken: list[int] = []

    async def publish_next(publisher: int) -> None:
        for count in range(6):
            offered.append(entry := 10 * publisher + count)
            await publish(queue, entry)

    async with anyio.create_task_group() as tasks:
        for publisher in range(4):
            tasks.start_soon(publish_next, publisher)
        while len(taken) < 24:
            await clock.settle()
            taken.append(queue.take_nowait())

    assert taken == offered


async def test_there_is_no_short_way_past_a_waiting_publisher(clock: ManualClock) -> None:
    """While one waits the limit of the short way is nothing, so that newcomers queue up."""
    queue = Queue(1)
    fill(queue, 1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish, queue, 2)
        await clock.settle()

        assert (queue.limit, queue.has_room_for([3])) == (0, False)

        tasks.cancel_scope.cancel()

    assert queue.limit == 1


async def test_who_leaves_from_the_middle_of_the_line_is_gone(clock: ManualClock) -> None:
    """Publishers that give up leave nothing behind, also while others wait before them."""
    queue = Queue(1)
    fill(queue, 1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish, queue, 2)
        await clock.settle()
        async with anyio.create_task_group() as impatient:
            impatient.start_soon(publish, queue, 3)
            await clock.settle()
            impatient.cancel_scope.cancel()

        assert [waiter.entry for waiter in queue.waiters] == [2]

        tasks.cancel_scope.cancel()


async def test_publishers_move_up_together_as_places_come_free(clock: ManualClock) -> None:
    """A place given up lets the first of them in, and each further one the next."""
    queue = Queue(2)
    queue.hold()
    queue.hold()
    async with anyio.create_task_group() as tasks:
        for entry in (1, 2, 3):
            tasks.start_soon(publish, queue, entry)
            await clock.settle()
        queue.release()
        queue.release()
        await clock.settle()

        assert (list(queue.items), len(queue.waiters)) == ([1, 2], 1)

        tasks.cancel_scope.cancel()


async def test_a_batch_beyond_the_room_waits_for_the_rest(clock: ManualClock) -> None:
    """What fits goes in at once, the others follow in their order."""
    queue = Queue(2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish, queue, 1, 2, 3, 4)
        await clock.settle()

        assert list(queue.items) == [1, 2]
        assert drain(queue) == [1, 2, 3, 4]


# --- What counts as full --------------------------------------------------------------------------


async def test_a_place_held_is_a_place_taken() -> None:
    """What waits elsewhere for its turn counts against the size."""
    queue = Queue(2, "drop_newest")
    queue.hold()
    fill(queue, 1, 2)

    assert (queue.depth, queue.dropped, drain(queue)) == (2, 1, [1])


async def test_a_restored_entry_comes_next() -> None:
    """It takes back the place held for it, at the front."""
    queue = Queue(3)
    fill(queue, 1, 2)
    queue.take_nowait()
    queue.hold()
    queue.restore(1)

    assert (queue.held, drain(queue)) == (0, [1, 2])


async def test_an_entry_put_back_finds_room_even_in_a_full_queue() -> None:
    """What was taken and not handled is never lost for want of room."""
    queue = Queue(1, "drop_newest")
    fill(queue, 1)
    queue.take_nowait()
    fill(queue, 2)
    queue.hold()
    queue.restore(1)

    assert (queue.dropped, drain(queue)) == (0, [1, 2])


# --- Policies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", OVERFLOWS)
async def test_every_policy_takes_what_there_is_room_for(overflow: Overflow) -> None:
    """Up to its size, no queue waits, refuses or drops."""
    queue = Queue(3, overflow, key_of=str)
    fill(queue, 1, 2, 3)

    assert (queue.dropped, drain(queue)) == (0, [1, 2, 3])


async def test_drop_newest_loses_what_comes_too_late() -> None:
    """What is queued stays; each entry beyond is counted."""
    queue = Queue(2, "drop_newest")
    fill(queue, 1, 2, 3, 4, 5)

    assert (queue.dropped, drain(queue)) == (3, [1, 2])


async def test_drop_oldest_loses_what_has_waited_longest() -> None:
    """The newest are queued; each that made way is counted."""
    queue = Queue(2, "drop_oldest")
    fill(queue, 1, 2, 3, 4, 5)

    assert (queue.dropped, drain(queue)) == (3, [4, 5])


async def test_drop_oldest_never_drops_what_waits_for_its_retry() -> None:
    """Where every place is held there is nothing older to drop: the new one goes."""
    queue = Queue(1, "drop_oldest")
    queue.hold()
    fill(queue, 1)

    assert (queue.dropped, queue.held, drain(queue)) == (1, 1, [])


async def test_latest_replaces_in_place() -> None:
    """A newer entry of a key takes the turn of the older, which is counted as dropped."""
    queue = Queue(5, "latest", key_of=by_tens)
    fill(queue, 10, 20, 30, 21, 11)

    assert (queue.dropped, drain(queue)) == (2, [11, 21, 30])


async def test_latest_gives_entries_without_a_key_one_slot() -> None:
    """They replace one another as those of a key do."""
    queue = Queue(5, "latest", key_of=by_tens)
    fill(queue, 1, 10, 2, 3)

    assert (queue.dropped, drain(queue)) == (2, [3, 10])


async def test_latest_keeps_both_once_the_older_is_taken() -> None:
    """What runs is no longer there to be replaced."""
    queue = Queue(5, "latest", key_of=by_tens)
    fill(queue, 10)

    assert queue.take_nowait() == 10

    fill(queue, 11)

    assert (queue.dropped, drain(queue)) == (0, [11])


async def test_latest_makes_a_new_key_wait_while_all_slots_are_taken(clock: ManualClock) -> None:
    """With as many keys as places the publisher waits, and then has its turn."""
    queue = Queue(2, "latest", key_of=by_tens)
    fill(queue, 10, 20)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish, queue, 30)
        await clock.settle()

        assert (len(queue.waiters), queue.dropped) == (1, 0)
        assert drain(queue) == [10, 20, 30]


async def test_latest_replaces_a_known_key_in_a_full_queue() -> None:
    """A key that has its slot needs no room."""
    queue = Queue(2, "latest", key_of=by_tens)
    fill(queue, 10, 20, 11)

    assert (queue.dropped, drain(queue)) == (1, [11, 20])


async def test_latest_has_room_for_what_replaces() -> None:
    """Of a batch, only the keys that have no slot yet need one, each once."""
    queue = Queue(2, "latest", key_of=by_tens)
    fill(queue, 10)

    assert queue.has_room_for([11, 20, 21, 12])
    assert not queue.has_room_for([20, 30])


async def test_latest_lets_nobody_overtake_who_waits(clock: ManualClock) -> None:
    """While a new key waits, a newer entry of a known key waits behind it."""
    queue = Queue(1, "latest", key_of=by_tens)
    fill(queue, 10)
    async with anyio.create_task_group() as tasks:
        for entry in (20, 11):
            assert not queue.has_room_for([entry])
            tasks.start_soon(publish, queue, entry)
            await clock.settle()

        assert drain(queue) == [10, 20, 11]


async def test_latest_forgets_a_retry_that_a_newer_entry_has_replaced() -> None:
    """An entry that comes back where its key has a newer one is dropped, and its place freed."""
    queue = Queue(3, "latest", key_of=by_tens)
    queue.hold()
    fill(queue, 11)
    queue.restore(10)

    assert (queue.dropped, queue.held, drain(queue)) == (1, 0, [11])


async def test_a_replaced_retry_lets_a_waiting_publisher_in(clock: ManualClock) -> None:
    """The place such an entry gives up goes to who waits for one."""
    queue = Queue(2, "latest", key_of=by_tens)
    queue.hold()
    fill(queue, 11)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish, queue, 20)
        await clock.settle()
        queue.restore(10)
        await clock.settle()

        assert (list(queue.items), len(queue.waiters)) == ([11, 20], 0)

        tasks.cancel_scope.cancel()


# --- A model of it --------------------------------------------------------------------------------


@dataclass
class Model:
    """The queue as one would explain it: a list, a waiting line, and places held."""

    size: int
    overflow: Overflow
    items: list[int] = field(default_factory=list[int])
    line: list[int] = field(default_factory=list[int])
    held: int = 0
    dropped: int = 0

    @property
    def has_room(self) -> bool:
        return len(self.items) + self.held < self.size

    def publish(self, entry: int) -> None:
        """Let an entry in, line it up, or drop something."""
        if not self.line and (self.has_room or self.older(entry) is not None):
            self.admit(entry)
        elif self.overflow in {"block", "latest"}:
            self.line.append(entry)
        else:
            self.dropped += 1
            if self.overflow == "drop_oldest" and self.items:
                self.items[:] = [*self.items[1:], entry]

    def admit(self, entry: int) -> None:
        """Replace the older entry of its key, or join the end."""
        older = self.older(entry)
        if older is None:
            self.items.append(entry)
        else:
            self.items[older] = entry
            self.dropped += 1

    def older(self, entry: int) -> int | None:
        """Find the entry that this one replaces."""
        keys = [by_tens(item) for item in self.items] if self.overflow == "latest" else []
        return keys.index(by_tens(entry)) if by_tens(entry) in keys else None

    def move_up(self) -> None:
        """Let in who waits, in order, as far as there is room."""
        while self.line and (self.has_room or self.older(self.line[0]) is not None):
            self.admit(self.line.pop(0))

    def restore(self, entry: int) -> None:
        """Bring a held entry back to the front, unless a newer one has its slot."""
        self.held -= 1
        if self.older(entry) is None:
            self.items.insert(0, entry)
        else:
            self.dropped += 1
        self.move_up()


class QueueMachine(RuleBasedStateMachine):
    """Does the same to the queue and to its model, and compares after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.holding: list[int] = []

    @initialize(size=st.integers(1, 4), overflow=st.sampled_from(OVERFLOWS))
    def begin(self, size: int, overflow: Overflow) -> None:
        self.queue = Queue(size, overflow, key_of=by_tens)
        self.model = Model(size, overflow)
        self.waiters: list[Waiter[int]] = []

    @rule(entries=st.lists(st.integers(0, 39), max_size=5))
    def publish(self, entries: list[int]) -> None:
        self.waiters += self.queue.offer_all(entries)
        for entry in entries:
            self.model.publish(entry)

    @precondition(lambda self: self.model.items)
    @rule(keeps=st.booleans())
    def take(self, *, keeps: bool) -> None:
        entry = self.queue.take_nowait()
        assert entry == self.model.items.pop(0)
        self.model.move_up()
        if keeps:
            self.holding.append(entry)
            self.queue.hold()
            self.model.held += 1

    @precondition(lambda self: self.holding)
    @rule(again=st.booleans())
    def end_hold(self, *, again: bool) -> None:
        entry = self.holding.pop(0)
        if again:
            self.queue.restore(entry)
            self.model.restore(entry)
        else:
            self.queue.release()
            self.model.held -= 1
            self.model.move_up()

    @precondition(lambda self: self.model.line)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        waiting = data.draw(st.sampled_from(list(self.queue.waiters)))
        position = self.queue.waiters.index(waiting)
        waiting.withdraw()
        del self.model.line[position]
        self.model.move_up()

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def withdraw_again(self, data: st.DataObject) -> None:
        """Withdraw what has moved up or was withdrawn already, which changes nothing."""
        waiter = data.draw(st.sampled_from(self.waiters))
        if waiter not in self.queue.waiters:
            waiter.withdraw()

    @invariant()
    def counts_agree(self) -> None:
        assert self.queue.depth == len(self.model.items) + self.model.held
        assert [waiter.entry for waiter in self.queue.waiters] == self.model.line
        assert self.queue.dropped == self.model.dropped

    @invariant()
    def the_short_way_is_open_only_where_there_is_room(self) -> None:
        if len(self.queue.items) < self.queue.limit:
            assert self.model.has_room
            assert not self.model.line

    def teardown(self) -> None:
        if hasattr(self, "model"):
            while self.model.items:
                self.take(keeps=False)


async def test_the_queue_does_what_its_model_does() -> None:
    """Publishing, taking, holding, restoring and giving up in any order, for every policy."""
    run_state_machine_as_test(
        QueueMachine, settings=settings(max_examples=100, stateful_step_count=30, deadline=None)
    )


# --- Race: a lost wake-up -------------------------------------------------------------------------


class HastyQueue(DeliveryQueue[int]):
    """Sets its limit to its size when a publisher leaves, without a look at who is parked."""

    def leave_line(self, waiter: Waiter[int]) -> None:
        super().leave_line(waiter)
        self.limit = self.size


async def loses_a_wake_up(queue: Queue, clock: ManualClock) -> bool:
    """Park the worker between a publisher's cancellation and its leaving, then publish again."""
    fill(queue, 1)
    blocked, parked = CancelScope(), CancelScope()

    async def publish_and_give_up() -> None:
        with blocked:
            await publish(queue, 2)
        await publish(queue, 3)
        await clock.settle()
        parked.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish_and_give_up)
        await clock.settle()
        blocked.cancel()  # and before that publisher runs again:
        queue.take_nowait()
        with parked:
            await queue.wait()
    return parked.cancelled_caught


async def test_a_publisher_that_leaves_last_takes_no_wake_up_along(clock: ManualClock) -> None:
    """A worker that parked meanwhile is still woken for what comes next."""
    assert not await loses_a_wake_up(Queue(1), clock)


async def test_control_a_limit_raised_in_haste_loses_a_wake_up(clock: ManualClock) -> None:
    """Were the limit not worked out anew, the worker would sleep on beside a queued entry."""
    assert await loses_a_wake_up(HastyQueue(1), clock)


# --- Race: cancelled, but delivered ---------------------------------------------------------------


def look_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo the protection: nobody sees that a publisher is being cancelled until it has run."""
    kind = type(anyio.get_current_task())  # each loop has its own
    monkeypatch.setattr(kind, "has_pending_cancellation", Mock(return_value=False))


async def delivers_what_was_cancelled(clock: ManualClock) -> bool:
    """Cancel a blocked publisher, and free a place before it runs again."""
    queue = Queue(1)
    fill(queue, 1)
    blocked = CancelScope()

    async def publish_and_give_up() -> None:
        with blocked:
            await publish(queue, 2)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish_and_give_up)
        await clock.settle()
        blocked.cancel()
        queue.take_nowait()
    assert blocked.cancelled_caught
    return 2 in queue.items


async def test_what_a_publisher_gave_up_is_not_delivered(clock: ManualClock) -> None:
    """A place that comes free after the cancellation goes to somebody else."""
    assert not await delivers_what_was_cancelled(clock)


async def test_control_without_a_look_at_the_publisher_it_is_delivered(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were only those skipped that have run since, the entry would go out."""
    look_away(monkeypatch)

    assert await delivers_what_was_cancelled(clock)


async def cancelled_in_a_storm(clock: ManualClock) -> tuple[set[int], list[int], set[int]]:
    """Cancel some of many blocked publishers while a worker makes room: who, what came, all."""
    handled: list[int] = []
    cancelled: set[int] = set()
    bus = EventBus(clock=clock)

    @bus.on(JOBS, queue_size=2)
    async def handle(event: int) -> None:
        handled.append(event)
        if not gate.is_set():  # once it is, the worker goes through all that waits in one go
            await gate.wait()

    async def publish_one(event: int, scope: CancelScope) -> None:
        with scope:
            await bus.publish(JOBS, event)
        if scope.cancelled_caught:
            cancelled.add(event)

    async with bus:
        for turn in range(30):
            gate = anyio.Event()
            scopes = {10 * turn + number: CancelScope() for number in range(8)}
            async with anyio.create_task_group() as tasks:
                for event, scope in scopes.items():
                    tasks.start_soon(publish_one, event, scope)
                await clock.settle()
                gate.set()  # the worker will run, and so will those cancelled: in any order
                for event, scope in scopes.items():
                    if event % 2:
                        scope.cancel()
            await bus.join()
    return cancelled, handled, {10 * turn + number for turn in range(30) for number in range(8)}


async def test_in_a_storm_nothing_cancelled_is_delivered(clock: ManualClock) -> None:
    """Each message is handled once or its publish was cancelled: never both, never neither."""
    cancelled, handled, published = await cancelled_in_a_storm(clock)

    assert cancelled
    assert sorted(handled) == sorted(published - cancelled)


async def test_control_in_a_storm_without_the_look_some_are(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storm above can find the fault."""
    look_away(monkeypatch)
    cancelled, handled, _ = await cancelled_in_a_storm(clock)

    assert cancelled.intersection(handled)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_publisher_whose_task_is_cancelled_natively_is_skipped(clock: ManualClock) -> None:
    """`Task.cancel()`, which no scope knows of, takes the entry back as well."""
    queue = Queue(1)
    fill(queue, 1)
    task = asyncio.create_task(publish(queue, 2))
    await clock.settle()

    task.cancel()
    queue.take_nowait()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert drain(queue) == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_publisher_cancelled_natively_once_it_is_in_has_published(
    clock: ManualClock,
) -> None:
    """Cancelled between its admission and its going on, its entry stays: once."""
    queue = Queue(1)
    fill(queue, 1)
    task = asyncio.create_task(publish(queue, 2))
    await clock.settle()

    queue.take_nowait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert drain(queue) == [2]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_publisher_cancelled_natively_makes_room_for_the_next(clock: ManualClock) -> None:
    """Who waits behind it moves up in its stead."""
    queue = Queue(1)
    fill(queue, 1)
    first, second = (asyncio.create_task(publish(queue, entry)) for entry in (2, 3))
    await clock.settle()

    first.cancel()
    await clock.settle()
    taken = drain(queue)
    await second

    assert taken == [1, 3]


# --- Takers ---------------------------------------------------------------------------------------


async def test_a_worker_is_started_with_the_first_entry() -> None:
    """As many as allowed, one per entry, and none before there is anything to do."""
    started: list[int] = []
    queue = Queue(9, workers=2, start_worker=lambda: started.append(len(started)))

    assert started == []

    for entry in range(4):
        fill(queue, entry)

    assert started == [0, 1]


async def test_one_entry_wakes_one_parked_worker(clock: ManualClock) -> None:
    """Those for whom there is nothing sleep on."""
    queue = Queue(5)
    awake: list[int] = []

    async def park(number: int) -> None:
        await queue.wait()
        awake.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(park, number)
        await clock.settle()
        fill(queue, 1)
        await clock.settle()

        assert len(awake) == 1

        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancelled_workers_wake_up_goes_on_to_the_next(clock: ManualClock) -> None:
    """A worker cancelled natively after it was woken, before it ran, leaves no entry unattended."""
    queue = Queue(5)

    async def work() -> int:
        await queue.wait()
        return queue.take_nowait()

    first, second = asyncio.create_task(work()), asyncio.create_task(work())
    await clock.settle()
    fill(queue, 1)
    first.cancel()

    assert await second == 1


async def test_a_closed_queue_wakes_who_waits_for_an_entry(clock: ManualClock) -> None:
    """There will never be one; parking at a closed queue does not begin at all."""
    queue = Queue(5)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(queue.wait)
        await clock.settle()
        queue.close()
    await queue.wait()

    assert queue.is_closed


async def test_a_closed_queue_with_a_retry_to_come_is_waited_at(clock: ManualClock) -> None:
    """A place held means an entry to come, even when nothing new is taken."""
    queue = Queue(5)
    queue.hold()
    queue.close()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(queue.wait)
        await clock.settle()
        queue.restore(1)

    assert drain(queue) == [1]


# --- Closing --------------------------------------------------------------------------------------


async def test_a_closed_queue_takes_nothing_more() -> None:
    """What is in it can still be taken; what comes later is not counted as dropped either."""
    queue = Queue(5)
    fill(queue, 1)
    queue.close()
    fill(queue, 2)

    assert (queue.dropped, drain(queue)) == (0, [1])


async def test_closing_lets_waiting_publishers_go_on(clock: ManualClock) -> None:
    """A subscription that ends does not fail its publishers."""
    queue = Queue(1)
    fill(queue, 1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish, queue, 2)
        await clock.settle()
        queue.close()

    assert drain(queue) == [1]


async def test_stopping_tells_waiting_publishers(clock: ManualClock) -> None:
    """A bus that stopped did not take the message, and says so."""
    queue = Queue(1)
    fill(queue, 1)

    async def be_refused() -> None:
        with pytest.raises(BusClosed, match="while this publish waited for room"):
            await publish(queue, 2)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(be_refused)
        await clock.settle()

        assert queue.stop() == 1

    assert (queue.depth, len(queue.waiters)) == (0, 0)


async def test_what_was_refused_does_not_move_up() -> None:
    """A place that comes before its publisher has run goes to the next in line."""
    queue = Queue(1)
    fill(queue, 1)
    refused, waiting = queue.offer(2), queue.offer(3)
    assert refused is not None
    assert waiting is not None

    refused.refuse(BusClosed("too late"))
    queue.take_nowait()

    assert (list(queue.items), refused.is_taken, waiting.is_taken) == ([3], False, True)


async def test_stopping_counts_what_it_forgets() -> None:
    """What is queued and what is held, each once."""
    queue = Queue(5)
    fill(queue, 1, 2)
    queue.hold()

    assert (queue.stop(), queue.stop(), queue.depth) == (3, 0, 0)


async def test_finished_is_empty_with_all_workers_gone(clock: ManualClock) -> None:
    """Waiting for the end of a queue outlasts its entries and those who take them."""
    finished: list[str] = []
    queue = Queue(5, workers=1)
    fill(queue, 1)
    queue.close()

    async def wait() -> None:
        await queue.wait_idle()
        finished.append("finished")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await clock.settle()
        queue.take_nowait()
        await clock.settle()

        assert finished == []

        queue.worker_ended()

    assert finished == ["finished"]


# --- Activity -------------------------------------------------------------------------------------


async def test_idle_is_when_no_queue_has_work(clock: ManualClock) -> None:
    """An entry queued, held or waiting for a place keeps who waits for idleness waiting."""
    activity = Activity()
    queue = Queue(1, activity=activity)
    idle = anyio.Event()
    fill(queue, 1)

    async def wait() -> None:
        await activity.wait_idle()
        idle.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish, queue, 2)
        tasks.start_soon(wait)
        for step in (queue.take_nowait, queue.hold, queue.take_nowait, queue.release):
            await clock.settle()

            assert not idle.is_set()

            step()

    assert idle.is_set()


async def test_idle_at_once_is_still_a_checkpoint() -> None:
    """Where nothing has work, waiting ends without waiting, but lets a cancellation in."""
    await Activity().wait_idle()
    with CancelScope() as scope:
        scope.cancel()
        await Activity().wait_idle()

    assert scope.cancelled_caught


# --- Through the bus ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overflow", "seen", "lagged"),
    [
        ("drop_newest", [0, 1, 2], [0, 4, 0]),
        ("drop_oldest", [0, 5, 6], [0, 4, 0]),
        ("latest", [0, 6], [0, 5]),
    ],
)
async def test_drops_are_counted_and_shown(
    clock: ManualClock, overflow: Overflow, seen: list[int], lagged: list[int]
) -> None:
    """`dropped` counts each, and the next delivery says how many since the one before."""
    gate = Gate()
    bus = EventBus(clock=clock)
    bus.on(JOBS, queue_size=2, overflow=overflow, name="jobs")(gate)
    async with bus:
        for event in range(7):
            await bus.publish(JOBS, event)
            await clock.settle()
        gate.open()
        await bus.join()

        assert (gate.seen, gate.lagged) == (seen, lagged)
        assert bus.stats().subscriptions["jobs"].dropped == sum(lagged)


async def test_latest_goes_by_the_key_of_the_message(clock: ManualClock) -> None:
    """Of each key given to `publish` the newest is kept, in the turn of its first."""
    gate = Gate()
    bus = EventBus(clock=clock)
    bus.on(JOBS, overflow="latest", name="jobs")(gate)
    async with bus:
        await bus.publish(JOBS, 0)
        await clock.settle()
        for event, key in ((1, "a"), (2, "b"), (3, "a"), (4, None), (5, "b"), (6, None)):
            await bus.publish(JOBS, event, key=key)
        gate.open()
        await bus.join()

        assert (gate.seen, bus.stats().dropped) == ([0, 3, 5, 6], 3)


async def test_what_runs_takes_no_place(clock: ManualClock) -> None:
    """With one running and the queue full, the publisher of the next waits."""
    gate = Gate()
    bus = EventBus(clock=clock)
    bus.on(JOBS, queue_size=2, name="jobs")(gate)
    async with bus, anyio.create_task_group() as tasks:
        for event in range(4):
            tasks.start_soon(bus.publish, JOBS, event)
            await clock.settle()
        stats = bus.stats().subscriptions["jobs"]

        assert (stats.in_flight, stats.queue_depth, stats.lag) == (1, 2, 3)

        gate.open()

    assert gate.seen == [0, 1, 2, 3]


async def test_blocked_publishers_are_served_in_their_order(clock: ManualClock) -> None:
    """First come, first served, through the bus as in the queue itself."""
    gate = Gate()
    bus = EventBus(clock=clock)
    bus.on(JOBS, queue_size=1)(gate)
    async with bus, anyio.create_task_group() as tasks:
        for event in range(10):
            tasks.start_soon(bus.publish, JOBS, event)
            await clock.settle()
        gate.open()

    assert gate.seen == list(range(10))


@pytest.mark.parametrize("overflow", ["block", "drop_newest", "drop_oldest", "latest"])
async def test_a_refused_publish_reaches_no_queue(clock: ManualClock, overflow: Overflow) -> None:
    """Where one queue refuses, none of any other policy gets the message."""
    refusing, other = Gate(), Gate()
    bus = EventBus(clock=clock)
    bus.on(JOBS, queue_size=5, overflow=overflow, name="other")(other)
    bus.on(JOBS, queue_size=1, overflow="fail")(refusing)
    async with bus:
        for event in range(2):
            await bus.publish(JOBS, event)
            await clock.settle()
        with pytest.raises(QueueFull, match=r"'jobs': 1 of 1 places .* overflow='fail'"):
            await bus.publish(JOBS, 2)
        refusing.open()
        other.open()
        await bus.join()

        assert (other.seen, bus.stats().subscriptions["other"].dropped) == ([0, 1], 0)
        assert (refusing.seen, bus.stats().published) == ([0, 1], 2)


async def test_a_batch_is_refused_as_a_whole(clock: ManualClock) -> None:
    """Where there is room for some of it only, no queue gets any of it."""
    refusing, other = Gate(), Gate()
    bus = EventBus(clock=clock)
    bus.on(JOBS, queue_size=2, overflow="fail")(refusing)
    bus.on(JOBS)(other)
    async with bus:
        with pytest.raises(QueueFull, match="no room for 3 on 'jobs'"):
            await bus.publish_many(JOBS, [1, 2, 3])
        await bus.publish_many(JOBS, [4, 5])
        refusing.open()
        other.open()
        await bus.join()

    assert (refusing.seen, other.seen) == ([4, 5], [4, 5])


@pytest.mark.parametrize("overflow", ["block", "fail", "latest"])
async def test_publishing_without_waiting_is_all_or_nothing(
    clock: ManualClock, overflow: Overflow
) -> None:
    """Where a queue would have to be waited for, or refuses, no other gets the message."""
    full, other = Gate(), Gate()
    bus = EventBus(clock=clock)
    bus.on(JOBS, queue_size=1, overflow=overflow, key=str)(full)
    bus.on(JOBS)(other)
    async with bus:
        for event in range(2):
            bus.publish_nowait(JOBS, event)
            await clock.settle()
        with pytest.raises(QueueFull, match=f"overflow='{overflow}'"):
            bus.publish_nowait(JOBS, 2)
        full.open()
        other.open()
        await bus.join()

    assert (full.seen, other.seen) == ([0, 1], [0, 1])


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
async def test_publishing_without_waiting_drops_where_that_is_the_policy(
    clock: ManualClock, overflow: Overflow
) -> None:
    """A queue that drops never refuses."""
    gate = Gate()
    bus = EventBus(clock=clock)
    bus.on(JOBS, queue_size=1, overflow=overflow)(gate)
    async with bus:
        for event in range(5):
            bus.publish_nowait(JOBS, event)
            await clock.settle()
        gate.open()
        await bus.join()

        assert bus.stats().dropped == 3


async def test_a_blocked_publish_enters_the_other_queues_first(clock: ManualClock) -> None:
    """Queues with room have the message while the publisher still waits for the full one."""
    full, other = Gate(), Gate()
    other.open()
    bus = EventBus(clock=clock)
    bus.on(JOBS, queue_size=1)(full)
    bus.on(JOBS)(other)
    async with bus, anyio.create_task_group() as tasks:
        for event in range(3):
            tasks.start_soon(bus.publish, JOBS, event)
            await clock.settle()

        assert (other.seen, bus.stats().published) == ([0, 1, 2], 2)

        full.open()

    assert full.seen == [0, 1, 2]


async def test_full_queues_are_waited_for_together(clock: ManualClock) -> None:
    """The one that has room again gets the message at once, whichever it is."""
    gates = [Gate(), Gate()]
    bus = EventBus(clock=clock)
    for gate in gates:
        bus.on(JOBS, queue_size=1)(gate)
    async with bus, anyio.create_task_group() as tasks:
        for event in range(3):
            tasks.start_soon(bus.publish, JOBS, event)
            await clock.settle()
        gates[1].open()
        await clock.settle()

        assert [gate.seen for gate in gates] == [[0], [0, 1, 2]]

        gates[0].open()

    assert gates[0].seen == [0, 1, 2]


async def test_a_publisher_that_waits_longer_than_draining_is_told(clock: ManualClock) -> None:
    """What never got its place was not accepted: the publisher hears that the bus closed."""
    told: list[str] = []
    bus = EventBus(clock=clock, drain_timeout=30.0)
    bus.on(JOBS, queue_size=1)(Gate())

    async def publish_one(event: int) -> None:
        try:
            await bus.publish(JOBS, event)
            told.append("accepted")
        except BusClosed:
            told.append("closed")

    async with anyio.create_task_group() as tasks, bus:
        for event in range(3):
            tasks.start_soon(publish_one, event)
            await clock.settle()
        tasks.start_soon(clock.advance, 30.0)

    assert told == ["accepted", "accepted", "closed"]


async def test_a_cancelled_publish_keeps_what_it_reached(clock: ManualClock) -> None:
    """The queues with room have the message, the full one never gets it, and none twice."""
    full, other = Gate(), Gate()
    other.open()
    bus = EventBus(clock=clock)
    bus.on(JOBS, queue_size=1)(full)
    bus.on(JOBS)(other)
    async with bus:
        async with anyio.create_task_group() as tasks:
            for event in range(3):
                tasks.start_soon(bus.publish, JOBS, event)
                await clock.settle()
            tasks.cancel_scope.cancel()
        full.open()
        await bus.join()

    assert (full.seen, other.seen) == ([0, 1], [0, 1, 2])
