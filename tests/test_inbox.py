"""The inbox between threads and the loop: bounded, in order, and woken no more than needed."""

from collections.abc import Callable
from threading import Thread

import anyio
import pytest
from anyio.lowlevel import checkpoint

from eventbus import BusClosed, DeadlockError
from eventbus._loop import wake_up_type
from eventbus.activity import Activity
from eventbus.inbox import Inbox


class Desk:
    """An inbox whose wake-ups the test delivers by hand."""

    def __init__(self, size: int = 4) -> None:
        self.wake_ups: list[Callable[[], object]] = []
        self.activity = Activity()
        self.inbox = Inbox[int](size, self.activity, self.wake_ups.append, wake_up_type())

    def deliver(self) -> None:
        """Let the loop have its wake-ups."""
        while self.wake_ups:
            self.wake_ups.pop()()

    def puts(self, *items: int) -> Thread:
        """Put items in from a thread of their own."""

        def put() -> None:
            for item in items:
                self.inbox.put(item)

        thread = Thread(target=put)
        thread.start()
        return thread


async def test_what_threads_put_in_is_taken_in_its_order() -> None:
    """All of it at once."""
    desk = Desk()
    desk.puts(1, 2, 3).join()

    assert await desk.inbox.take() == [1, 2, 3]


async def test_many_items_need_one_wake_up() -> None:
    """Until the loop has found nothing more; then the next one needs another."""
    desk, wake_ups = Desk(), list[int]()

    def count() -> None:
        wake_ups.append(len(desk.wake_ups))
        desk.deliver()

    async with anyio.create_task_group() as tasks:
        desk.puts(1, 2, 3).join()
        count()
        await desk.inbox.take()
        desk.puts(4).join()
        count()
        await desk.inbox.take()
        tasks.start_soon(desk.inbox.take)
        while not desk.inbox.is_parked:
            await checkpoint()
        desk.puts(5, 6).join()
        count()

    assert wake_ups == [1, 0, 1]


async def test_who_waits_for_items_is_woken() -> None:
    """By the wake-up that the first of them sends."""
    desk, taken = Desk(), list[int]()

    async def take() -> None:
        taken.extend(await desk.inbox.take())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        desk.puts(1, 2).join()
        desk.deliver()

    assert taken == [1, 2]


async def test_a_thread_waits_while_the_inbox_is_full() -> None:
    """And goes on when the loop has taken what was in it."""
    desk = Desk(size=2)
    thread = desk.puts(1, 2, 3, 4, 5)
    taken: list[int] = []
    most = 0
    while len(taken) < 5:
        batch = await desk.inbox.take() if desk.inbox.has_items else ()
        most = max(most, len(batch))
        taken.extend(batch)
    thread.join()

    assert taken == [1, 2, 3, 4, 5]
    assert most <= 2


async def test_what_is_in_it_or_in_hand_is_activity() -> None:
    """From when the loop has looked until it has been dealt with."""
    desk, idle, item, states = Desk(), anyio.Event(), 0, list[bool]()

    async def wait_idle() -> None:
        await desk.activity.wait_idle()
        idle.set()

    async with anyio.create_task_group() as tasks:
        desk.puts(1).join()
        desk.inbox.look()
        tasks.start_soon(wait_idle)
        await anyio.wait_all_tasks_blocked()
        states.append(idle.is_set())
        (item,) = await desk.inbox.take()
        await anyio.wait_all_tasks_blocked()
        states.append(idle.is_set())
        desk.inbox.done(1)
        tasks.start_soon(desk.inbox.take)
        await idle.wait()
        desk.inbox.close()

    assert (item, states) == (1, [False, False])


async def test_a_closed_inbox_refuses() -> None:
    """Also the threads that wait for room in it, and who waits for items gets none."""
    desk = Desk(size=1)
    errors: list[type[Exception]] = []

    def put() -> None:
        try:
            desk.inbox.put(1)
            desk.inbox.put(2)
        except BusClosed as error:
            errors.append(type(error))

    thread = Thread(target=put)
    thread.start()
    while not desk.inbox.waiting:
        await checkpoint()
    desk.inbox.close()
    thread.join()
    late = Thread(target=put)
    late.start()
    late.join()

    assert errors == [BusClosed, BusClosed]
    assert await desk.inbox.take() == ()
    assert desk.inbox.stop() == 1


async def test_it_closes_only_when_nothing_is_left() -> None:
    """Neither in it nor in hand."""
    desk = Desk()
    desk.puts(1).join()
    answers = [desk.inbox.close_if_empty()]
    await desk.inbox.take()
    answers.append(desk.inbox.close_if_empty())
    desk.inbox.done(1)
    answers.append(desk.inbox.close_if_empty())

    assert answers == [False, False, True]
    assert desk.inbox.is_closed


async def test_what_is_left_when_it_stops_is_counted() -> None:
    """What is in it, and what was taken but went nowhere."""
    desk = Desk()
    desk.puts(1, 2).join()
    await desk.inbox.take()
    desk.inbox.done(1)
    desk.puts(3, 4).join()

    assert desk.inbox.stop() == 3
    assert desk.inbox.stop() == 0
    await desk.activity.wait_idle()


async def test_a_loop_that_has_ended_is_a_closed_bus() -> None:
    """Nobody would ever take what is put in."""

    def fail(function: Callable[[], object]) -> None:
        raise RuntimeError("Event loop is closed")

    inbox = Inbox[int](4, Activity(), fail, wake_up_type())

    with pytest.raises(BusClosed, match="before it drains or closes"):
        await anyio.to_thread.run_sync(inbox.put, 1)


async def test_the_loops_own_thread_may_not_wait_for_itself() -> None:
    """So it may not put anything in."""
    desk = Desk()

    with pytest.raises(DeadlockError, match="publish_nowait"):
        desk.inbox.put(1)
