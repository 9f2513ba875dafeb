"""How long replies are waited for: deadlines, cancellation, and the end of the bus."""

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from inspect import signature
from typing import Any, cast
from unittest.mock import Mock

import anyio
import pytest
from anyio.lowlevel import checkpoint

from eventbus import (
    BusClosed,
    Context,
    EventBus,
    QueueFull,
    RemoteError,
    RequestTimeout,
    RequestTopic,
    dispatch,
    replies,
    requesting,
)
from eventbus.message import Message, Receipt
from eventbus.middleware import PublishNext, Retry
from eventbus.replies import Asking, Replies
from eventbus.subscription import Subscription
from eventbus.testing import ManualClock
from tests.pricing import APPLE, QUOTE, Question, Quote, asking, fail, never, three
from tests.waiting import until

# --- Deadlines ------------------------------------------------------------------------------------


async def test_a_request_waits_no_longer_than_it_says(clock: ManualClock) -> None:
    """By the bus's clock, also when shorter ones come later."""
    bus = EventBus(clock=clock, drain_timeout=0)
    bus.on(QUOTE)(never)

    async with (
        bus,
        asking(
            lambda: bus.request(QUOTE, APPLE),
            lambda: bus.request(QUOTE, APPLE, timeout=2.0),
            lambda: bus.request(QUOTE, APPLE, timeout=3),
        ) as results,
    ):
        await clock.advance(1.9)
        assert results == []
        await clock.advance(0.1)
        assert [type(one) for one in results] == [RequestTimeout]
        await clock.advance(1.0)
        assert len(results) == 2
        await clock.advance(2.0)
        assert len(results) == 3
        assert len(bus.replies) == 0


async def test_an_answered_request_leaves_no_time_out(clock: ManualClock) -> None:
    """Later ones still have theirs, in whatever order they are answered."""
    bus, released = EventBus(clock=clock, drain_timeout=0), dict[str, anyio.Event]()

    @bus.on(QUOTE)
    async def answer(question: Question) -> Quote:
        await released.setdefault(question.sku, anyio.Event()).wait()
        return Quote(cents=int(question.sku))

    def ask(number: int) -> Callable[[], Awaitable[Quote]]:
        return lambda: bus.request(QUOTE, Question(sku=str(number)), timeout=float(number))

    async with bus, asking(ask(1), ask(2), ask(3)) as results:
        await until(lambda: len(released) == 3)
        released["1"].set()
        released["3"].set()
        await until(lambda: len(results) == 2)
        await clock.advance(2.0)
        assert isinstance(results[2], RequestTimeout)


async def test_nested_requests_take_what_is_left(clock: ManualClock) -> None:
    """The smaller of its own time-out and what is left of the request that is being answered."""
    inner = RequestTopic("inner", Question, Quote)
    bus = EventBus(clock=clock, drain_timeout=0)
    errors: list[tuple[float, Exception]] = []
    begun = clock.monotonic()

    @bus.on(QUOTE)
    async def answer(question: Question) -> Quote:
        await clock.sleep(1.0)
        for seconds in (0.5, 60.0, 60.0):
            try:
                await bus.request(inner, question, timeout=seconds)
            except RequestTimeout as error:
                errors.append((clock.monotonic() - begun, error))
        return Quote(cents=1)

    bus.on(inner)(never)
    async with bus, asking(lambda: bus.request(QUOTE, APPLE, timeout=3.0)) as results:
        await clock.advance(1.0)
        await clock.advance(60.0)
    assert isinstance(results[0], RequestTimeout)
    assert [at for at, _ in errors] == pytest.approx([1.5, 3.0, 3.0])
    assert bus.stats().late_replies == 1


async def test_requests_of_a_handlers_tasks_take_what_is_left_too(clock: ManualClock) -> None:
    """While the request is answered; a task that is left behind has its own time."""
    inner = RequestTopic("inner", Question, Quote)
    bus = EventBus(clock=clock, drain_timeout=0)
    ended: dict[str, float] = {}
    begun = clock.monotonic()

    async def ask(name: str) -> None:
        try:
            await bus.request(inner, APPLE, timeout=4.0)
        except RequestTimeout:
            ended[name] = clock.monotonic() - begun

    async def ask_later(after: anyio.Event) -> None:
        await after.wait()
        await ask("left behind")

    answered = anyio.Event()
    async with anyio.create_task_group() as outer, bus:

        @bus.on(QUOTE)
        async def answer(question: Question) -> Quote:
            outer.start_soon(ask_later, answered)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, "child")
            return Quote(cents=1)

        bus.on(inner)(never)
        async with asking(lambda: bus.request(QUOTE, APPLE, timeout=1.0)):
            await clock.advance(1.0)
        answered.set()
        await clock.advance(4.0)
        await until(lambda: len(ended) == 2)
    assert ended == pytest.approx({"child": 1.0, "left behind": 5.0})


async def test_a_request_whose_time_is_up_is_not_run(clock: ManualClock) -> None:
    """It counts as expired, no attempt, and those that wait behind it are answered."""
    bus, answered = EventBus(clock=clock), list[str]()
    release = anyio.Event()

    @bus.on(QUOTE, concurrency=1)
    async def answer(question: Question) -> Quote:
        answered.append(question.sku)
        if question.sku == "first":
            await release.wait()
        return Quote(cents=1)

    def ask(sku: str, seconds: float) -> Callable[[], Awaitable[Quote]]:
        return lambda: bus.request(QUOTE, Question(sku=sku), timeout=seconds)

    async with bus:
        async with asking(ask("first", 9.0)) as first:
            await until(lambda: answered == ["first"])
            async with asking(ask("second", 1.0), ask("third", 9.0)) as rest:
                await clock.advance(1.0)
                assert isinstance(rest[0], RequestTimeout)
                release.set()
        assert first == [Quote(cents=1)]
        await bus.join()
        stats = bus.stats()
    assert answered == ["first", "third"]
    assert (stats.expired, stats.delivered, stats.succeeded) == (1, 2, 2)
    assert stats.subscriptions[next(iter(stats.subscriptions))].expired == 1


async def test_a_retry_that_would_come_too_late_is_not_waited_for(clock: ManualClock) -> None:
    """The caller hears of the failure at once, and the next of its key has its turn."""
    bus = EventBus(clock=clock, middleware=[Retry(attempts=3, initial=2.0, jitter=False)])

    @bus.on(QUOTE, key=lambda question: "all")
    async def answer(question: Question) -> Quote:
        if question.sku == "first":
            raise ConnectionError("not yet")
        return Quote(cents=1)

    def ask(sku: str) -> Callable[[], Awaitable[Quote]]:
        return lambda: bus.request(QUOTE, Question(sku=sku), timeout=2.0)

    async with bus, asking(ask("first"), ask("second")) as results:
        await clock.settle()
        assert len(results) == 2
    error = next(one for one in results if isinstance(one, RemoteError))
    assert (error.text, error.retryable) == ("not yet", True)
    assert Quote(cents=1) in results
    assert (bus.stats().retried, bus.stats().expired) == (0, 0)


@pytest.mark.parametrize("hold", [False, True])
async def test_retries_go_on_as_long_as_one_can_come_in_time(
    clock: ManualClock, hold: bool
) -> None:
    """Then the last failure is told, however many attempts were left."""
    retry = Retry(attempts=9, initial=1.0, factor=2.0, jitter=False, hold=hold)
    bus = EventBus(clock=clock, middleware=[retry])

    @bus.on(QUOTE)
    async def answer(question: Question, context: Context[Question]) -> Quote:
        raise ConnectionError(f"attempt {context.attempt}")

    async with bus, asking(lambda: bus.request(QUOTE, APPLE, timeout=5.0)) as results:
        await clock.advance(2.9)
        assert results == []
        await clock.advance(0.1)
        (error,) = results
    assert isinstance(error, RemoteError)
    assert error.text == "attempt 3"


async def test_what_is_published_is_retried_whatever_its_time(clock: ManualClock) -> None:
    """Nobody hears of a failure there: it expires in its queue."""
    bus = EventBus(clock=clock, middleware=[Retry(attempts=2, initial=2.0, jitter=False)])
    bus.on(QUOTE)(fail)

    async with bus:
        await bus.publish("pricing.quote", APPLE, expires=1.0)
        await clock.advance(2.0)
        await bus.join()
    assert (bus.stats().retried, bus.stats().expired) == (1, 1)


async def test_a_late_reply_is_dropped_and_counted(clock: ManualClock) -> None:
    """So is a late failure; nothing is left of the request."""
    bus = EventBus(clock=clock)
    release = anyio.Event()

    @bus.on(QUOTE)
    async def answer(question: Question) -> Quote:
        await release.wait()
        if question.sku == "apple":
            raise ValueError("too late")
        return Quote(cents=1)

    async with bus:
        async with asking(
            lambda: bus.request(QUOTE, APPLE, timeout=1.0),
            lambda: bus.request(QUOTE, Question(sku="pear"), timeout=1.0),
        ):
            await clock.advance(1.0)
        release.set()
        await bus.join()
        assert bus.stats().late_replies == 2
        assert len(bus.replies) == 0


async def test_the_wait_for_room_counts(clock: ManualClock) -> None:
    """A request that waits for a full queue ends in time, and is in no queue then."""
    bus = EventBus(clock=clock, drain_timeout=0)
    bus.on(QUOTE, name="slow", concurrency=1, queue_size=1)(never)

    async with bus, asking(*[lambda: bus.request(QUOTE, APPLE, timeout=2.0)] * 3) as results:
        await clock.settle()
        assert bus.stats().subscriptions["slow"].lag == 2
        await clock.advance(2.0)
        assert [type(one) for one in results] == [RequestTimeout] * 3
        assert bus.stats().subscriptions["slow"].lag == 1


async def test_the_wait_of_publish_middleware_counts(clock: ManualClock) -> None:
    """Whatever it waits for."""

    async def dawdle(message: Message, call_next: PublishNext) -> Receipt:
        await clock.sleep(60.0)
        return await call_next(message)

    bus = EventBus(clock=clock, publish_middleware=[dawdle])
    bus.on(QUOTE)(three)

    async with bus, asking(lambda: bus.request(QUOTE, APPLE, timeout=2.0)) as results:
        await clock.advance(2.0)
        assert isinstance(results[0], RequestTimeout)


async def test_a_queue_that_refuses_refuses_requests() -> None:
    """As it does a publish."""
    bus = EventBus(drain_timeout=0)
    bus.on(QUOTE, concurrency=1, queue_size=1, overflow="fail")(never)

    async with bus, asking(*[lambda: bus.request(QUOTE, APPLE, timeout=0.1)] * 3) as results:
        await until(lambda: bool(results))
    assert isinstance(results[0], QueueFull)


async def test_requests_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a most, and who comes then is told; it sends nothing."""
    monkeypatch.setattr(replies, "REQUESTS_WAITING", 2)
    bus = EventBus(drain_timeout=0)
    bus.on(QUOTE)(never)

    async with bus, asking(*[lambda: bus.request(QUOTE, APPLE, timeout=0.1)] * 3) as results:
        await until(lambda: bool(results))
        assert isinstance(results[0], QueueFull)
        assert bus.stats().published == 2


async def test_deadlines_left_behind_are_swept_out() -> None:
    """However many are answered while one waits long, few are remembered."""
    bus = EventBus(drain_timeout=0)
    bus.on(QUOTE)(three)
    bus.on("slow", model=Question, reply=Quote)(never)

    async with bus, asking(lambda: bus.request("slow", {"sku": ""}, reply=Quote, timeout=5.0)):
        await until(lambda: len(bus.replies) == 1)
        for _ in range(3_000):
            await bus.request(QUOTE, APPLE, timeout=60.0)
        assert len(cast("Any", bus.replies)._deadlines) < 1_100
        await bus.drain()


# --- Cancellation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(8))
async def test_a_cancelled_request_leaves_nothing_behind(steps: int) -> None:
    """At whatever point it is: no wait, no place, and its reply is late."""
    bus = EventBus()

    @bus.on(QUOTE)
    async def answer(question: Question) -> Quote:
        for _ in range(3):
            await checkpoint()
        return Quote(cents=1)

    async with bus:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.request, QUOTE, APPLE)
            for _ in range(steps):
                await checkpoint()
            tasks.cancel_scope.cancel()
        assert len(bus.replies) == 0
        await bus.join()
        stats = bus.stats()
        assert stats.succeeded == stats.published
        assert stats.late_replies <= stats.published
        assert await bus.request(QUOTE, APPLE) == Quote(cents=1)


async def test_a_request_cancelled_while_it_waits_for_room_is_in_no_queue() -> None:
    """Those before and behind it are not disturbed."""
    bus, heard = EventBus(), list[str]()
    release = anyio.Event()

    @bus.on(QUOTE, concurrency=1, queue_size=1)
    async def answer(question: Question) -> Quote:
        heard.append(question.sku)
        await release.wait()
        return Quote(cents=1)

    def ask(sku: str) -> Callable[[], Awaitable[Quote]]:
        return lambda: bus.request(QUOTE, Question(sku=sku))

    async with bus, asking(ask("1"), ask("2")) as results:
        await until(lambda: len(heard) == 1)
        with anyio.move_on_after(0.01):
            await bus.request(QUOTE, Question(sku="3"))
        release.set()
        await until(lambda: len(results) == 2)
        await bus.request(QUOTE, Question(sku="4"))
    assert sorted(heard) == ["1", "2", "4"]


# --- Shutdown -------------------------------------------------------------------------------------


async def test_draining_answers_what_was_accepted() -> None:
    """New requests from outside are refused; handlers may still ask."""
    inner = RequestTopic("inner", Question, Quote)
    bus = EventBus()
    release = anyio.Event()

    @bus.on(QUOTE)
    async def answer(question: Question) -> Quote:
        await release.wait()
        return await bus.request(inner, question)

    bus.on(inner)(three)
    async with bus, asking(lambda: bus.request(QUOTE, APPLE)) as results:
        await until(lambda: bus.stats().in_flight == 1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.drain)
            await until(lambda: "draining" in repr(bus))
            with pytest.raises(BusClosed):
                await bus.request(QUOTE, APPLE)
            release.set()
    assert results == [Quote(cents=3)]


async def test_who_still_waits_when_draining_gives_up_is_told() -> None:
    """Requests that could not be answered end with `BusClosed`, not only at their deadline."""
    bus = EventBus(drain_timeout=0.05)
    bus.on(QUOTE)(never)

    async with bus, asking(lambda: bus.request(QUOTE, APPLE, timeout=60.0)) as results:
        await until(lambda: bus.stats().in_flight == 1)
        await bus.drain()
        await until(lambda: bool(results))
        assert isinstance(results[0], BusClosed)
        assert len(bus.replies) == 0


async def test_stopping_at_once_tells_who_waits() -> None:
    """Leaving the block by an exception leaves no request hanging."""
    bus = EventBus()
    bus.on(QUOTE)(never)

    async with asking(lambda: bus.request(QUOTE, APPLE, timeout=60.0)) as results:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
            async with bus:
                await until(lambda: bus.stats().in_flight == 1)
                raise ZeroDivisionError
    assert isinstance(results[0], BusClosed)


async def test_a_handler_that_asks_when_the_bus_stops_is_cancelled() -> None:
    """It has neither failed nor succeeded."""
    inner = RequestTopic("inner", Question, Quote)
    bus = EventBus(drain_timeout=0.01)
    bus.on(inner)(never)

    @bus.on(QUOTE)
    async def answer(question: Question) -> Quote:
        return await bus.request(inner, question, timeout=60.0)

    async with asking(lambda: bus.request(QUOTE, APPLE, timeout=60.0)) as results, bus:
        await until(lambda: bus.stats().in_flight == 2)
    assert isinstance(results[0], BusClosed)
    assert bus.stats().failed == 0


async def test_a_bus_that_was_closed_answers_again() -> None:
    """Nothing of the first run stands in the way of the second."""
    bus = EventBus()
    bus.on(QUOTE)(three)

    for _ in range(2):
        async with bus:
            assert await bus.request(QUOTE, APPLE) == Quote(cents=3)


# --- Controls -------------------------------------------------------------------------------------


NO = Mock(return_value=False)

PROTECTIONS: list[tuple[Any, Any, str, Mock]] = [
    (test_a_request_waits_no_longer_than_it_says, Replies, "_look", Mock()),
    (test_an_answered_request_leaves_no_time_out, Replies, "_look_at", Mock()),
    (test_nested_requests_take_what_is_left, requesting, "message_here", Mock(return_value=None)),
    (test_a_request_whose_time_is_up_is_not_run, Subscription, "has_expired", NO),
    (test_a_retry_that_would_come_too_late_is_not_waited_for, dispatch, "comes_too_late", NO),
    (test_the_wait_for_room_counts, Asking, "limited", Mock(return_value=nullcontext())),
    (test_deadlines_left_behind_are_swept_out, Replies, "_sweep", Mock()),
    (test_who_still_waits_when_draining_gives_up_is_told, Replies, "end_all", Mock()),
    (test_stopping_at_once_tells_who_waits, Replies, "end_all", Mock()),
]


@pytest.mark.parametrize(("promise", "owner", "protection", "without"), PROTECTIONS)
async def test_control_without_its_protection_a_promise_is_broken(
    promise: Callable[..., Awaitable[None]],
    owner: object,
    protection: str,
    without: Mock,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is kept by something, and would be missed without it."""
    monkeypatch.setattr(owner, protection, without)
    takes_clock = "clock" in signature(promise).parameters
    with pytest.raises((AssertionError, LookupError, TimeoutError, ExceptionGroup)):
        with anyio.fail_after(1.0):
            await (promise(clock) if takes_clock else promise())
