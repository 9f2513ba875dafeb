"""What `Deduplicate` takes for the same, for how long, and what becomes of what comes again."""

import gc
from collections.abc import Hashable
from contextlib import suppress
from datetime import timedelta
from typing import Any
from weakref import ref

import anyio
import pytest
from anyio.lowlevel import checkpoint

from eventbus import Context, EventBus, InvalidOption, Topic
from eventbus.middleware import (
    CallNext,
    DeadLetter,
    Deduplicate,
    Filter,
    Middleware,
    Retry,
    Timeout,
)
from eventbus.testing import ManualClock

JOBS = Topic("jobs", int)


class Workshop:
    """A handler that notes what it does, and fails as often as it was told to."""

    def __init__(self, *, failures: int = 0) -> None:
        self.done: list[int] = []
        self.failures = failures

    async def handle(self, event: int) -> None:
        """Do a job."""
        if self.failures:
            self.failures -= 1
            raise ConnectionError
        self.done.append(event)


def itself(event: int) -> int:
    """Be a key: the number."""
    return event


# --- What is the same -----------------------------------------------------------------------------


async def test_what_has_the_id_of_another_is_handled_once() -> None:
    """The second is filtered; what has another id is another message."""
    workshop = Workshop()
    bus = EventBus(middleware=[Deduplicate()])
    bus.on(JOBS)(workshop.handle)
    async with bus:
        for number, name in enumerate(["a", "b", "a", "c", "b"]):
            await bus.publish(JOBS, number, id=name)
    stats = bus.stats()

    assert workshop.done == [0, 1, 3]
    assert (stats.delivered, stats.succeeded, stats.filtered) == (5, 3, 2)


async def test_messages_without_an_id_of_their_own_are_all_different() -> None:
    """Equal payloads are no duplicates, and ids that are read are made to be unlike."""
    workshop = Workshop()

    async def read_id(context: Context[Any], call_next: CallNext) -> object:
        assert context.message.id
        return await call_next(context)

    bus = EventBus(middleware=[read_id, Deduplicate()])
    bus.on(JOBS)(workshop.handle)
    async with bus:
        await bus.publish_many(JOBS, [1, 1, 1])

    assert workshop.done == [1, 1, 1]


async def test_a_key_of_the_event_tells_what_is_the_same() -> None:
    """Then ids do not matter."""
    workshop = Workshop()
    bus = EventBus(middleware=[Deduplicate(key=lambda event: event % 3)])
    bus.on(JOBS)(workshop.handle)
    async with bus:
        for number in range(5):
            await bus.publish(JOBS, number, id="same")

    assert workshop.done == [0, 1, 2]


async def test_no_key_is_like_no_other() -> None:
    """Where the function gives None, nothing is held back."""
    workshop = Workshop()
    bus = EventBus(middleware=[Deduplicate(key=lambda _: None)])
    bus.on(JOBS)(workshop.handle)
    async with bus:
        await bus.publish_many(JOBS, [1, 1])

    assert workshop.done == [1, 1]


@pytest.mark.parametrize("given", [KeyError("key"), []], ids=["raises", "not hashable"])
async def test_a_key_that_cannot_be_told_fails_the_attempt(given: Any) -> None:
    """As the `key=` of a subscription does."""

    def key(event: int) -> Hashable:
        if isinstance(given, Exception):
            raise given
        return cast_to_hashable(given)

    bus = EventBus(middleware=[DeadLetter(), Deduplicate(key=key)])
    bus.on(JOBS)(Workshop().handle)
    async with bus:
        await bus.publish(JOBS, 1)
        await bus.join()
        (letter,) = await bus.dead_letters()

    assert letter.error_type in {"KeyError", "TypeError"}


def cast_to_hashable(value: Any) -> Hashable:
    """Say what is not true, as users do whom no checker watches."""
    hashable: Hashable = value
    return hashable


async def test_each_subscription_remembers_for_itself() -> None:
    """One object for the whole bus, or for two, keeps no message from another handler."""
    workshops = [Workshop(), Workshop(), Workshop()]
    deduplicate = Deduplicate()
    bus, other = EventBus(middleware=[deduplicate]), EventBus(middleware=[deduplicate])
    bus.on(JOBS)(workshops[0].handle)
    bus.on(JOBS)(workshops[1].handle)
    other.on(JOBS)(workshops[2].handle)
    async with bus, other:
        for _ in range(2):
            await bus.publish(JOBS, 1, id="a")
            await other.publish(JOBS, 1, id="a")

    assert [workshop.done for workshop in workshops] == [[1], [1], [1]]


async def test_members_of_a_group_remember_together() -> None:
    """Whoever handled it."""
    workshop = Workshop()
    bus = EventBus(middleware=[Deduplicate()])
    for _ in range(3):
        bus.on(JOBS, group="workers")(workshop.handle)
    async with bus:
        for _ in range(6):
            await bus.publish(JOBS, 1, id="a")

    assert workshop.done == [1]


async def test_it_may_be_called_by_another_middleware() -> None:
    """As any middleware."""
    workshop = Workshop()
    deduplicate = Deduplicate()

    async def delegate(context: Context[Any], call_next: CallNext) -> object:
        return await deduplicate(context, call_next)

    bus = EventBus(middleware=[delegate])
    bus.on(JOBS)(workshop.handle)
    async with bus:
        for _ in range(2):
            await bus.publish(JOBS, 1, id="a")

    assert workshop.done == [1]


# --- For how long ---------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [60, timedelta(minutes=1)])
async def test_the_same_is_new_after_its_window(
    clock: ManualClock, window: float | timedelta
) -> None:
    """The time counts from the success; what was held back does not prolong it."""
    workshop = Workshop()
    bus = EventBus(clock=clock, middleware=[Deduplicate(window=window)])
    bus.on(JOBS)(workshop.handle)
    async with bus:
        for number in range(5):
            await bus.publish(JOBS, number, id="a")
            await clock.advance(30.0 if number else 29.9)

    assert workshop.done == [0, 3]


async def test_no_more_is_remembered_than_it_may_cost(clock: ManualClock) -> None:
    """The last `size` for certain, and nothing that is older than twice as many."""
    workshop = Workshop()
    bus = EventBus(clock=clock, middleware=[Deduplicate(key=itself, size=10)])
    bus.on(JOBS)(workshop.handle)
    async with bus:
        await bus.publish_many(JOBS, range(100))
        await bus.join()
        workshop.done.clear()
        await bus.publish_many(JOBS, range(90, 100))
        await bus.join()
        assert workshop.done == []
        await bus.publish_many(JOBS, range(80))

    assert workshop.done == list(range(80))


async def test_what_runs_is_remembered_however_many_come(clock: ManualClock) -> None:
    """A long attempt is not forgotten for many short ones beside it."""
    done: list[int] = []
    bus = EventBus(clock=clock, middleware=[Deduplicate(key=itself, size=2)])

    @bus.on(JOBS, concurrency=3)
    async def handle(event: int) -> None:
        await clock.sleep(float(event == 0))
        done.append(event)

    async with bus:
        await bus.publish(JOBS, 0)
        await bus.publish_many(JOBS, range(1, 20))
        await clock.settle()
        await bus.publish(JOBS, 0)
        await clock.advance(5.0)

    assert sorted(done) == list(range(20))


async def test_memory_outlives_the_run_but_not_the_subscription() -> None:
    """A bus started again still knows; who subscribes anew begins anew."""
    workshop = Workshop()
    bus = EventBus(middleware=[Deduplicate()])
    bus.on(JOBS, name="jobs")(workshop.handle)
    for _ in range(2):
        async with bus:
            await bus.publish(JOBS, 1, id="a")
    assert workshop.done == [1]
    async with bus:
        await bus.unsubscribe("jobs")
        bus.on(JOBS, name="jobs")(workshop.handle)
        await bus.publish(JOBS, 1, id="a")

    assert workshop.done == [1, 1]


async def test_what_a_bus_remembers_goes_with_it() -> None:
    """A middleware that lives on holds on to none of its subscriptions."""
    deduplicate = Deduplicate()
    bus = EventBus(middleware=[deduplicate])
    bus.on(JOBS)(Workshop().handle)
    async with bus:
        await bus.publish(JOBS, 1, id="a")
    gone = ref(bus)
    del bus
    await checkpoint()  # since Python 3.13 asyncio remembers for a turn how a task group ended
    gc.collect()

    assert gone() is None


# --- What failed ----------------------------------------------------------------------------------


async def test_a_retry_is_no_duplicate(clock: ManualClock) -> None:
    """What failed has not been handled; after its success the same is held back."""
    workshop = Workshop(failures=2)
    bus = EventBus(clock=clock, middleware=[Retry(attempts=3), Deduplicate()])
    bus.on(JOBS)(workshop.handle)
    async with bus:
        await bus.publish(JOBS, 1, id="a")
        await clock.advance(60.0)
        await bus.publish(JOBS, 2, id="a")

    assert (workshop.done, bus.stats().filtered) == ([1], 1)


async def test_a_redriven_dead_letter_is_no_duplicate() -> None:
    """It was given up on, and may succeed now."""
    workshop = Workshop(failures=1)
    bus = EventBus(middleware=[DeadLetter(), Deduplicate()])
    bus.on(JOBS)(workshop.handle)
    async with bus:
        await bus.publish(JOBS, 1, id="a")
        await bus.join()
        await bus.redrive()

    assert workshop.done == [1]


async def test_another_copy_may_succeed_where_the_first_failed(clock: ManualClock) -> None:
    """Then it is the retry of the first that comes too late."""
    workshop = Workshop(failures=1)
    bus = EventBus(clock=clock, middleware=[Retry(attempts=2, jitter=False), Deduplicate()])
    bus.on(JOBS)(workshop.handle)
    async with bus:
        await bus.publish(JOBS, 1, id="a")
        await bus.publish(JOBS, 2, id="a")
        await clock.advance(5.0)

    assert (workshop.done, bus.stats().filtered) == ([2], 1)


async def test_what_time_ran_out_for_has_not_been_handled(clock: ManualClock) -> None:
    """An attempt that was cancelled is not remembered."""
    done: list[int] = []
    bus = EventBus(clock=clock, middleware=[Deduplicate(), Timeout(1.0)])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        await clock.sleep(60.0 if event == 1 else 0.0)
        done.append(event)

    async with bus:
        await bus.publish(JOBS, 1, id="a")
        await bus.publish(JOBS, 2, id="a")
        await clock.advance(5.0)

    assert done == [2]


@pytest.mark.parametrize("way", ["retry", "middleware", "publish"])
async def test_an_attempt_that_fails_outside_the_handler_is_not_remembered(
    clock: ManualClock, way: str
) -> None:
    """By a verdict, in middleware around, or as what was published cannot be sent."""
    attempts: list[int] = []

    async def fail_at_first(context: Context[Any], call_next: CallNext) -> object:
        result = await call_next(context)
        if context.attempt == 1 and way == "middleware":
            raise ConnectionError
        return result

    bus = EventBus(
        clock=clock, middleware=[Retry(attempts=2, jitter=False), fail_at_first, Deduplicate()]
    )

    @bus.on(JOBS)
    async def handle(event: int, context: Context[int]) -> None:
        attempts.append(context.attempt)
        if context.attempt == 1 and way == "retry":
            await context.retry(1.0)
        if context.attempt == 1 and way == "publish":
            await context.publish("nowhere", {}, require=True)

    async with bus:
        await bus.publish(JOBS, 1, id="a")
        await clock.advance(5.0)

    assert attempts == [1, 2]
    assert bus.stats().succeeded == 1


async def test_what_another_middleware_held_back_has_not_been_handled() -> None:
    """The handler did not run, so the next of the same may."""
    workshop = Workshop()
    layers: list[Middleware] = [Deduplicate(), Filter(lambda context: context.event > 1)]
    bus = EventBus(middleware=layers)
    bus.on(JOBS)(workshop.handle)
    async with bus:
        for number in range(1, 4):
            await bus.publish(JOBS, number, id="a")

    assert workshop.done == [2]


# --- Several at once ------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [True, False])
async def test_a_copy_waits_for_the_end_of_the_one_that_runs(
    clock: ManualClock, fails: bool
) -> None:
    """It is held back if that succeeds, and runs if it fails: never both at once."""
    running, most, done = 0, 0, 0
    bus = EventBus(clock=clock, middleware=[Deduplicate()])

    @bus.on(JOBS, concurrency=4)
    async def handle(event: int) -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await clock.sleep(1.0)
        running -= 1
        if fails and done == 0:
            done = 1
            raise ConnectionError
        done += 1

    async with bus:
        for number in range(4):
            await bus.publish(JOBS, number, id="a")
        await clock.advance(10.0)
    stats = bus.stats()

    assert most == 1
    assert (stats.succeeded, stats.failed, stats.filtered) == (1, int(fails), 3 - fails)


async def test_others_do_not_wait(clock: ManualClock) -> None:
    """Only what is the same."""
    done: list[int] = []
    bus = EventBus(clock=clock, middleware=[Deduplicate(key=lambda event: event % 10)])

    @bus.on(JOBS, concurrency=3)
    async def handle(event: int) -> None:
        await clock.sleep(float(event == 1))
        done.append(event)

    async with bus:
        await bus.publish_many(JOBS, [1, 11, 2, 3, 4])
        await clock.settle()
        assert done == [2, 3, 4]
        await clock.advance(1.0)

    assert done == [2, 3, 4, 1]


async def test_a_copy_waits_within_its_own_time(clock: ManualClock) -> None:
    """What it has waited, its `Timeout` counts: here too little is left for the handler."""
    done: list[int] = []
    bus = EventBus(clock=clock, middleware=[Deduplicate(), DeadLetter()])

    @bus.on(JOBS, concurrency=2, middleware=[Timeout(4.0)])
    async def handle(event: int) -> None:
        await clock.sleep(3.5 if event else 60.0)
        done.append(event)

    async with bus:
        await bus.publish(JOBS, 0, id="a")
        await clock.advance(1.0)
        await bus.publish(JOBS, 1, id="a")
        await clock.advance(20.0)
        letters = await bus.dead_letters()

    assert [letter.error_type for letter in letters] == ["HandlerTimeout"] * 2
    assert done == []


async def test_stopping_leaves_nobody_waiting(clock: ManualClock) -> None:
    """The one that runs and those that wait for it are abandoned."""
    bus = EventBus(clock=clock, middleware=[Deduplicate()])

    @bus.on(JOBS, concurrency=3)
    async def handle(event: int) -> None:
        await anyio.sleep_forever()

    with suppress(LookupError):
        async with bus:
            for number in range(3):
                await bus.publish(JOBS, number, id="a")
            await clock.settle()
            raise LookupError

    assert (bus.stats().abandoned, bus.stats().failed) == (3, 0)


async def test_a_run_that_was_stopped_is_not_taken_for_running(clock: ManualClock) -> None:
    """The next run of the bus begins with what has been handled alone."""
    done: list[int] = []
    goes_on = False
    bus = EventBus(clock=clock, middleware=[Deduplicate()])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        if not goes_on:
            await anyio.sleep_forever()
        done.append(event)

    with suppress(LookupError):
        async with bus:
            await bus.publish(JOBS, 1, id="a")
            await clock.settle()
            raise LookupError
    goes_on = True
    async with bus:
        await bus.publish(JOBS, 2, id="a")

    assert done == [2]


# --- What cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "flaw"),
    [
        ({"window": 0}, "window=0"),
        ({"window": -1.0}, r"window=-1\.0"),
        ({"window": "1h"}, "window='1h'"),
        ({"size": 0}, "size=0"),
        ({"size": 1.5}, r"size=1\.5"),
        ({"key": "id"}, "key='id'"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_is_refused(options: Any, flaw: str) -> None:
    """Where the middleware is made."""
    with pytest.raises(InvalidOption, match=flaw):
        Deduplicate(**options)
