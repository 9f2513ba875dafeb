"""When a delivery is settled: by itself, before the handler runs, or by what is said about it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Literal

import anyio
import pytest

from eventbus import Ack, AlreadySettled, Context, EventBus, InvalidOption, Topic
from eventbus.middleware import CallNext, DeadLetter, Filter, Middleware, Policy, Retry, Timeout
from eventbus.testing import ManualClock

JOBS = Topic("jobs", int)
AUTO_AND_MANUAL: list[Ack] = ["auto", "manual"]

Say = Callable[[Context[int]], Awaitable[None]]


async def ack(context: Context[int]) -> None:
    """Settle it as done."""
    await context.ack()


async def retry(context: Context[int]) -> None:
    """Have it come again in five seconds."""
    await context.retry(5.0)


async def reject(context: Context[int]) -> None:
    """Give it up."""
    await context.reject("worn out")


async def say_nothing(context: Context[int]) -> None:
    """Leave it at that."""


class Saying:
    """A handler that says what it was told to, attempt after attempt, the last one from then on."""

    def __init__(self, *says: Say) -> None:
        self.attempts: list[int] = []
        self._says = says

    async def handle(self, event: int, context: Context[int]) -> None:
        """Say what is to be said at this attempt."""
        self.attempts.append(context.attempt)
        await self._says[min(len(self.attempts), len(self._says)) - 1](context)


def figures(bus: EventBus) -> dict[str, int]:
    """Read what became of deliveries, but for what is nought."""
    stats = bus.stats()
    words = ("succeeded", "failed", "retried", "dead_lettered", "lost", "filtered", "abandoned")
    return {word: figure for word in words if (figure := getattr(stats, word))}


# --- Manually -------------------------------------------------------------------------------------


async def test_what_is_acked_is_done() -> None:
    """It succeeded, and does not come again."""
    handler = Saying(ack)
    bus = EventBus()
    bus.on(JOBS, ack="manual")(handler.handle)
    async with bus:
        await bus.publish_many(JOBS, [1, 2])

    assert (handler.attempts, figures(bus)) == ([1, 1], {"succeeded": 2})


@pytest.mark.parametrize("mode", AUTO_AND_MANUAL)
async def test_retry_brings_another_attempt_when_it_is_due(clock: ManualClock, mode: Ack) -> None:
    """Not sooner; the attempt that asked for it has failed."""
    handler = Saying(retry, ack)
    bus = EventBus(clock=clock)
    bus.on(JOBS, ack=mode)(handler.handle)
    async with bus:
        await bus.publish(JOBS, 1)
        await clock.advance(4.9)
        assert handler.attempts == [1]
        await clock.advance(0.1)
        assert handler.attempts == [1, 2]

    assert figures(bus) == {"succeeded": 1, "failed": 1, "retried": 1}


async def test_retry_is_at_once_unless_told_otherwise() -> None:
    """Its delay is nothing by default."""

    async def retry_now(context: Context[int]) -> None:
        await context.retry()

    handler = Saying(retry_now, retry_now, ack)
    bus = EventBus()
    bus.on(JOBS, ack="manual")(handler.handle)
    async with bus:
        await bus.publish(JOBS, 1)
        await bus.join()

    assert handler.attempts == [1, 2, 3]


@pytest.mark.parametrize("mode", AUTO_AND_MANUAL)
@pytest.mark.parametrize(
    ("policies", "attempts"),
    [([], 4), ([Retry(attempts=2)], 2), ([Retry(attempts=9)], 4)],
    ids=["no Retry", "Retry(2)", "Retry(9)"],
)
async def test_retries_asked_for_are_bounded(
    clock: ManualClock, mode: Ack, policies: list[Policy], attempts: int
) -> None:
    """By the attempts of `Retry`, and by `max_deliveries` in any case; then it is given up on."""
    handler = Saying(retry)
    bus = EventBus(clock=clock, middleware=[DeadLetter(), *policies])
    bus.on(JOBS, ack=mode, max_deliveries=4)(handler.handle)
    async with bus:
        await bus.publish(JOBS, 1)
        await clock.advance(600.0)
        (letter,) = await bus.dead_letters()

    assert handler.attempts == list(range(1, attempts + 1))
    assert (letter.attempts, letter.error_type, letter.traceback) == (attempts, "RetryAsked", "")
    assert "retry(5.0)" in letter.error


async def test_the_last_attempt_is_known_to_its_handler(clock: ManualClock) -> None:
    """Where a verdict is expected, it is the one after which `retry` gives up."""
    last: list[bool] = []

    async def note(context: Context[int]) -> None:
        last.append(context.last_attempt)
        await context.retry()

    bus = EventBus(clock=clock)
    bus.on(JOBS, ack="manual", max_deliveries=3)(Saying(note).handle)
    async with bus:
        await bus.publish(JOBS, 1)
        await bus.join()

    assert last == [False, False, True]


@pytest.mark.parametrize("mode", AUTO_AND_MANUAL)
async def test_what_is_rejected_is_a_dead_letter_with_its_reason(mode: Ack) -> None:
    """At once, whatever `Retry` says, and with no traceback, as there is no error."""
    handler = Saying(reject)
    bus = EventBus(middleware=[DeadLetter(), Retry(attempts=5)])
    bus.on(JOBS, ack=mode)(handler.handle)
    async with bus:
        await bus.publish(JOBS, 1)
        await bus.join()
        (letter,) = await bus.dead_letters()

    assert (letter.error_type, letter.error, letter.traceback) == ("Rejected", "worn out", "")
    assert (handler.attempts, figures(bus)) == ([1], {"failed": 1, "dead_lettered": 1})


async def test_what_is_rejected_is_lost_where_no_dead_letters_are_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged with its reason."""
    bus = EventBus()
    bus.on(JOBS, ack="manual")(Saying(reject).handle)
    async with bus:
        await bus.publish(JOBS, 1)

    assert figures(bus) == {"failed": 1, "lost": 1}
    assert "worn out" in caplog.text
    assert "Traceback" not in caplog.text


async def test_to_forget_is_a_retry_with_a_warning(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """After a while, as `Retry` would wait, so that it does not spin."""
    handler = Saying(say_nothing, say_nothing, ack)
    bus = EventBus(clock=clock)
    bus.on(JOBS, ack="manual")(handler.handle)
    async with bus:
        await bus.publish(JOBS, 1)
        await clock.settle()
        assert handler.attempts == [1]
        await clock.advance(60.0)

    warnings = [record.getMessage() for record in caplog.records]
    assert handler.attempts == [1, 2, 3]
    assert figures(bus) == {"succeeded": 1, "failed": 2, "retried": 2}
    assert len(warnings) == 2
    assert all("no ack(), retry() or reject() before the handler" in line for line in warnings)


async def test_to_forget_waits_as_its_retry_says(clock: ManualClock) -> None:
    """Backoff and attempts are those of the policy, whatever errors it is for."""
    handler = Saying(say_nothing)
    policy = Retry(attempts=2, initial=7.0, jitter=False, on=OSError)
    bus = EventBus(clock=clock, middleware=[DeadLetter(), policy])
    bus.on(JOBS, ack="manual")(handler.handle)
    async with bus:
        await bus.publish(JOBS, 1)
        await clock.advance(6.9)
        assert handler.attempts == [1]
        await clock.advance(0.1)
        (letter,) = await bus.dead_letters()

    assert (handler.attempts, letter.error_type) == ([1, 2], "Unsettled")


@pytest.mark.parametrize("policies", [[], [Retry(attempts=3, jitter=False)]], ids=["none", "Retry"])
async def test_an_exception_fails_the_attempt_as_always(
    clock: ManualClock, policies: list[Policy]
) -> None:
    """Without `Retry` that is the end, though `retry` would bring further attempts."""

    async def fail(context: Context[int]) -> None:
        raise ValueError

    handler = Saying(fail)
    bus = EventBus(clock=clock, middleware=[DeadLetter(), *policies])
    bus.on(JOBS, ack="manual")(handler.handle)
    async with bus:
        await bus.publish(JOBS, 1)
        await clock.advance(60.0)
        (letter,) = await bus.dead_letters()

    assert handler.attempts == ([1, 2, 3] if policies else [1])
    assert letter.error_type == "ValueError"


@pytest.mark.parametrize("mode", AUTO_AND_MANUAL)
@pytest.mark.parametrize("say", [ack, retry, reject], ids=["ack", "retry", "reject"])
async def test_an_exception_after_a_verdict_is_what_counts(mode: Ack, say: Say) -> None:
    """A verdict takes effect when the handler has returned."""

    async def say_and_fail(context: Context[int]) -> None:
        await say(context)
        raise LookupError

    handler = Saying(say_and_fail)
    bus = EventBus(middleware=[DeadLetter()])
    bus.on(JOBS, ack=mode)(handler.handle)
    async with bus:
        await bus.publish(JOBS, 1)
        await bus.join()
        (letter,) = await bus.dead_letters()

    assert (letter.error_type, handler.attempts) == ("LookupError", [1])


async def test_time_that_runs_out_after_an_ack_fails_the_attempt(clock: ManualClock) -> None:
    """As any failure after a verdict does."""

    async def ack_and_hang(context: Context[int]) -> None:
        await context.ack()
        await anyio.sleep_forever()

    bus = EventBus(clock=clock, middleware=[Timeout(1.0)])
    bus.on(JOBS, ack="manual")(Saying(ack_and_hang).handle)
    async with bus:
        await bus.publish(JOBS, 1)
        await clock.advance(2.0)

    assert figures(bus) == {"failed": 1, "lost": 1}


@pytest.mark.parametrize("mode", AUTO_AND_MANUAL)
@pytest.mark.parametrize("first", [ack, retry, reject], ids=["ack", "retry", "reject"])
@pytest.mark.parametrize("second", [ack, retry, reject], ids=["ack", "retry", "reject"])
async def test_a_second_verdict_is_refused(mode: Ack, first: Say, second: Say) -> None:
    """The error names both, and the first one stands where the handler goes on."""
    errors: list[str] = []

    async def say_both(context: Context[int]) -> None:
        await first(context)
        with pytest.raises(AlreadySettled) as caught:
            await second(context)
        errors.append(str(caught.value))

    handler = Saying(say_both, ack)
    bus = EventBus(middleware=[DeadLetter()])
    bus.on(JOBS, ack=mode, max_deliveries=1)(handler.handle)
    async with bus:
        await bus.publish(JOBS, 1)

    (error,) = errors
    assert f"says {second.__name__}(" in error
    assert f"settled by {first.__name__}(" in error
    assert bus.stats().dead_lettered == (first is not ack)


async def test_a_verdict_that_comes_too_late_is_refused(clock: ManualClock) -> None:
    """Who forgets it, and says it when the handler has returned, is told."""
    kept: list[Context[int]] = []

    async def keep(context: Context[int]) -> None:
        kept.append(context)

    bus = EventBus(clock=clock)
    bus.on(JOBS, ack="manual")(Saying(keep, ack).handle)
    async with bus:
        await bus.publish(JOBS, 1)
        await clock.settle()
        with pytest.raises(AlreadySettled, match="settled by no ack"):
            await kept[0].ack()
        await clock.advance(60.0)

    assert figures(bus) == {"succeeded": 1, "failed": 1, "retried": 1}


@pytest.mark.parametrize("verdict", ["ack", "retry", "reject"])
async def test_handlers_that_are_not_async_have_their_own_words(verdict: str) -> None:
    """The same verdicts, without waiting, from their threads."""
    attempts: list[int] = []
    bus = EventBus(middleware=[DeadLetter()])

    @bus.on(JOBS, ack="manual")
    def handle(event: int, context: Context[int]) -> None:
        attempts.append(context.attempt)
        match verdict:
            case "retry" if context.attempt == 1:
                context.retry_nowait(0.0)
            case "reject":
                context.reject_nowait("worn out")
            case _:
                context.ack_nowait()

    async with bus:
        await bus.publish(JOBS, 1)
        await bus.join()

    assert attempts == ([1, 2] if verdict == "retry" else [1])
    assert bus.stats().dead_lettered == (verdict == "reject")


@pytest.mark.parametrize("delay", [-1.0, "soon", None, True])
async def test_a_delay_that_cannot_be_is_refused(delay: Any) -> None:
    """Where it is said; the delivery has no verdict by that."""

    async def retry_wrongly(context: Context[int]) -> None:
        with pytest.raises(InvalidOption, match=r"delay=.*: give seconds"):
            await context.retry(delay)
        await context.ack()

    bus = EventBus()
    bus.on(JOBS, ack="manual")(Saying(retry_wrongly).handle)
    async with bus:
        await bus.publish(JOBS, 1)

    assert figures(bus) == {"succeeded": 1}


async def test_a_reason_that_is_no_text_is_refused() -> None:
    """An exception, for instance, belongs into `str`, or is raised."""

    async def reject_wrongly(context: Context[int]) -> None:
        wrong: Any = ValueError("worn out")
        with pytest.raises(InvalidOption, match=r"reason=ValueError.*: say in text"):
            await context.reject(wrong)
        await context.ack()

    bus = EventBus()
    bus.on(JOBS, ack="manual")(Saying(reject_wrongly).handle)
    async with bus:
        await bus.publish(JOBS, 1)

    assert figures(bus) == {"succeeded": 1}


# --- By itself ------------------------------------------------------------------------------------


async def test_an_ack_changes_nothing_where_success_is_one() -> None:
    """It may be said, and saying nothing is the same."""
    bus = EventBus()
    bus.on(JOBS)(Saying(ack, say_nothing).handle)
    async with bus:
        await bus.publish_many(JOBS, [1, 2])

    assert figures(bus) == {"succeeded": 2}


# --- Before the handler runs ----------------------------------------------------------------------


async def test_what_is_settled_first_is_attempted_once(caplog: pytest.LogCaptureFixture) -> None:
    """A failure is logged and counted as lost: no retry, no dead letter."""
    attempts: list[tuple[int, bool]] = []
    bus = EventBus(middleware=[DeadLetter(), Retry(attempts=5)])

    @bus.on(JOBS, ack="first")
    async def handle(event: int, context: Context[int]) -> None:
        attempts.append((context.attempt, context.last_attempt))
        raise ValueError("broken")

    async with bus:
        await bus.publish(JOBS, 1)
        await bus.join()
        assert await bus.dead_letters() == []

    assert (attempts, figures(bus)) == ([(1, True)], {"failed": 1, "lost": 1})
    assert "lost: ack='first' settled it before" in caplog.text
    assert "ValueError: broken" in caplog.text


async def test_what_is_settled_first_needs_no_context() -> None:
    """The handler may take the event alone."""
    seen: list[int] = []
    bus = EventBus()

    @bus.on(JOBS, ack="first")
    async def handle(event: int) -> None:
        seen.append(event)

    async with bus:
        await bus.publish_many(JOBS, [1, 2])

    assert (seen, figures(bus)) == ([1, 2], {"succeeded": 2})


@pytest.mark.parametrize("say", [ack, retry, reject], ids=["ack", "retry", "reject"])
async def test_what_is_settled_first_takes_no_verdict(say: Say) -> None:
    """Middleware and handler come too late for one."""
    bus = EventBus(middleware=[DeadLetter()])

    async def say_it(context: Context[int]) -> None:
        with pytest.raises(AlreadySettled, match="nothing with ack='first'"):
            await say(context)

    bus.on(JOBS, ack="first")(Saying(say_it).handle)
    async with bus:
        await bus.publish(JOBS, 1)

    assert figures(bus) == {"succeeded": 1}


async def test_what_the_model_refuses_is_a_dead_letter_still() -> None:
    """It was refused before it could be settled."""
    bus = EventBus(middleware=[DeadLetter()])

    @bus.on("jobs", model=int, ack="first")
    async def handle(event: int) -> None: ...

    async with bus:
        await bus.publish("jobs", {})

    assert figures(bus) == {"dead_lettered": 1}


# --- What is published meanwhile ------------------------------------------------------------------


@pytest.mark.parametrize("mode", AUTO_AND_MANUAL)
@pytest.mark.parametrize("say", [ack, retry, reject], ids=["ack", "retry", "reject"])
async def test_what_is_published_goes_out_with_an_ack_alone(mode: Ack, say: Say) -> None:
    """Whether before or after the verdict was said; `retry` and `reject` drop it."""
    heard: list[object] = []

    async def publish_and_say(context: Context[int]) -> None:
        await context.publish("done", {"n": 1})
        await say(context)
        await context.publish("done", {"n": 2})

    bus = EventBus()
    bus.on("done")(heard.append)
    bus.on(JOBS, ack=mode, max_deliveries=1)(Saying(publish_and_say).handle)
    async with bus:
        await bus.publish(JOBS, 1)
        await bus.join()

    assert heard == ([{"n": 1}, {"n": 2}] if say is ack else [])


async def test_what_cannot_be_published_fails_the_attempt() -> None:
    """It is sent before the ack."""

    async def publish_and_ack(context: Context[int]) -> None:
        await context.publish("done", {}, require=True)
        await context.ack()

    bus = EventBus(middleware=[DeadLetter()])
    bus.on(JOBS, ack="manual")(Saying(publish_and_ack).handle)
    async with bus:
        await bus.publish(JOBS, 1)
        await bus.join()
        (letter,) = await bus.dead_letters()

    assert letter.error_type == "NoSubscribers"


# --- Middleware -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", AUTO_AND_MANUAL)
async def test_middleware_may_say_it_for_the_handler(mode: Ack) -> None:
    """An error that it holds back becomes a verdict."""

    async def give_up_on_value_errors(context: Context[Any], call_next: CallNext) -> object:
        try:
            await call_next(context)
        except ValueError as error:
            await context.reject(str(error))
        return None

    bus = EventBus(middleware=[DeadLetter(), Retry(attempts=5), give_up_on_value_errors])

    @bus.on(JOBS, ack=mode)
    async def handle(event: int) -> None:
        raise ValueError("no such job")

    async with bus:
        await bus.publish(JOBS, 1)
        await bus.join()
        (letter,) = await bus.dead_letters()

    assert (letter.error_type, letter.error, letter.attempts) == ("Rejected", "no such job", 1)


async def test_middleware_may_ack_every_success() -> None:
    """After the handler, as before it."""

    async def ack_success(context: Context[Any], call_next: CallNext) -> object:
        result = await call_next(context)
        await context.ack()
        return result

    bus = EventBus(middleware=[ack_success])
    bus.on(JOBS, ack="manual")(Saying(say_nothing).handle)
    async with bus:
        await bus.publish(JOBS, 1)

    assert figures(bus) == {"succeeded": 1}


async def test_middleware_may_retry_in_place_of_the_handler(clock: ManualClock) -> None:
    """What is not even handed on can come again."""
    handler = Saying(ack)

    async def wait_for_it(context: Context[Any], call_next: CallNext) -> object:
        if context.attempt > 1:
            return await call_next(context)
        await context.retry(5.0)
        return None

    bus = EventBus(clock=clock, middleware=[wait_for_it])
    bus.on(JOBS, ack="manual")(handler.handle)
    async with bus:
        await bus.publish(JOBS, 1)
        await clock.advance(5.0)

    assert (handler.attempts, figures(bus)) == ([2], {"succeeded": 1, "failed": 1, "retried": 1})


async def test_what_middleware_holds_back_needs_no_verdict() -> None:
    """Nobody was there to give one: it is filtered, and done."""
    handler = Saying(ack)
    layers: list[Middleware | Policy] = [Filter(lambda context: context.event > 1)]
    bus = EventBus(middleware=layers)
    bus.on(JOBS, ack="manual")(handler.handle)
    async with bus:
        await bus.publish_many(JOBS, [1, 2])

    assert figures(bus) == {"succeeded": 1, "filtered": 1}


# --- Order, and the end ---------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_retry_asked_for_is_not_overtaken_by_its_key(
    clock: ManualClock, concurrency: int
) -> None:
    """Others pass meanwhile, those behind it wait."""
    handled: list[int] = []
    bus = EventBus(clock=clock)

    @bus.on(JOBS, ack="manual", concurrency=concurrency, key=lambda event: str(event // 10))
    async def handle(event: int, context: Context[int]) -> None:
        if event == 10 and context.attempt == 1:
            return await context.retry(5.0)
        handled.append(event)
        return await context.ack()

    async with bus:
        await bus.publish_many(JOBS, [10, 20, 11, 12, 21])
        await clock.settle()
        assert handled == [20, 21]
        await clock.advance(5.0)

    assert handled == [20, 21, 10, 11, 12]


async def test_a_retry_asked_for_holds_the_lane_where_retry_says_so(clock: ManualClock) -> None:
    """With `Retry(hold=True)` everything behind it waits."""
    handled: list[int] = []
    bus = EventBus(clock=clock, middleware=[Retry(attempts=3, hold=True)])

    @bus.on(JOBS, ack="manual")
    async def handle(event: int, context: Context[int]) -> None:
        if event == 1 and context.attempt == 1:
            return await context.retry(5.0)
        handled.append(event)
        return await context.ack()

    async with bus:
        await bus.publish_many(JOBS, [1, 2])
        await clock.advance(4.0)
        assert handled == []
        await clock.advance(1.0)

    assert handled == [1, 2]


async def test_a_retry_due_after_the_end_is_abandoned(clock: ManualClock) -> None:
    """The bus does not wait for it, and counts it."""

    async def retry_late(context: Context[int]) -> None:
        await context.retry(60.0)

    bus = EventBus(clock=clock, drain_timeout=10.0)
    bus.on(JOBS, ack="manual")(Saying(retry_late).handle)
    async with bus:
        await bus.publish(JOBS, 1)

    assert figures(bus) == {"failed": 1, "retried": 1, "abandoned": 1}


@pytest.mark.parametrize("mode", ["auto", "first", "manual"])
async def test_a_handler_that_is_stopped_has_settled_nothing(mode: Ack) -> None:
    """Though it has said ack: neither success nor failure, but abandoned."""
    began = anyio.Event()
    bus = EventBus(middleware=[DeadLetter()])

    @bus.on(JOBS, ack=mode)
    async def handle(event: int, context: Context[int]) -> None:
        if mode != "first":
            await context.ack()
        began.set()
        await anyio.sleep_forever()

    with suppress(LookupError):
        async with bus:
            await bus.publish(JOBS, 1)
            await began.wait()
            raise LookupError

    assert figures(bus) == {"abandoned": 1}


async def test_a_group_settles_alike() -> None:
    """Its handlers share the deliveries, so one of them cannot leave it to the bus."""
    bus = EventBus()
    bus.on(JOBS, group="workers", ack="manual")(Saying(ack).handle)

    with pytest.raises(InvalidOption, match="differs in ack"):
        bus.on(JOBS, group="workers", ack="auto")(Saying(ack).handle)


@pytest.mark.parametrize("wrong", ["manually", None, True])
def test_another_way_of_settling_is_refused(wrong: Any) -> None:
    """The error names those there are."""
    with pytest.raises(InvalidOption, match=r"ack=.*: give one of 'auto', 'first', 'manual'"):
        EventBus().on(JOBS, ack=wrong)


# --- Without a handler ----------------------------------------------------------------------------


async def take_one(contexts: AsyncIterator[Context[int]]) -> None:
    """Take the next, which settles the one before."""
    await anext(contexts)


End = Literal["next", "block"]
ENDS: list[End] = ["next", "block"]


async def test_an_event_is_done_when_the_next_is_asked_for() -> None:
    """Until then it is in flight, as if a handler had it."""
    async with EventBus() as bus, bus.subscribe(JOBS) as events:
        await bus.publish_many(JOBS, [1, 2])
        await anext(events)
        assert (bus.stats().in_flight, bus.stats().succeeded) == (1, 0)
        await anext(events)
        assert (bus.stats().in_flight, bus.stats().succeeded) == (1, 1)

    assert (bus.stats().in_flight, bus.stats().succeeded) == (0, 2)


async def test_an_event_in_hand_is_abandoned_where_the_block_ends_by_an_exception() -> None:
    """It has neither succeeded nor failed."""
    bus = EventBus()
    async with bus:
        with suppress(LookupError):
            async with bus.subscribe(JOBS) as events:
                await bus.publish_many(JOBS, [1, 2])
                await anext(events)
                await anext(events)
                raise LookupError

        assert figures(bus) == {"succeeded": 1, "abandoned": 1}
        assert bus.stats().in_flight == 0


async def test_loops_in_several_tasks_have_each_their_own_in_hand() -> None:
    """That one asks for the next, settles what it had itself."""
    async with EventBus() as bus, bus.subscribe(JOBS) as events:
        await bus.publish_many(JOBS, [1, 2, 3])
        slow, quick = aiter(events), aiter(events)
        assert [await anext(slow), await anext(quick), await anext(quick)] == [1, 2, 3]
        assert (bus.stats().in_flight, bus.stats().succeeded) == (2, 1)


async def test_what_a_loop_left_in_hand_is_settled_with_the_next() -> None:
    """A loop left by `break` hands its place on, so that none add up."""
    async with EventBus() as bus, bus.subscribe(JOBS) as events:
        await bus.publish_many(JOBS, range(10))
        for _ in range(10):
            async for _event in events:
                break
        assert bus.stats().in_flight == 1


@pytest.mark.parametrize("end", ENDS)
async def test_a_verdict_of_rejection_counts_in_a_loop(end: End) -> None:
    """It is a dead letter when the next is asked for, or the block ends."""
    bus = EventBus(middleware=[DeadLetter()])
    async with bus:
        async with bus.subscribe(JOBS, name="feed") as events:
            await bus.publish_many(JOBS, [1, 2])
            contexts = events.contexts()
            await (await anext(contexts)).reject("worn out")
            assert await bus.dead_letters() == []
            if end == "next":
                await anext(contexts)
                assert len(await bus.dead_letters()) == 1
        (letter,) = await bus.dead_letters("feed")

    assert letter.error == "worn out"
    assert figures(bus) == {"failed": 1, "dead_lettered": 1} | (
        {"succeeded": 1} if end == "next" else {"abandoned": 1}
    )


async def test_a_verdict_of_retry_brings_the_event_back(clock: ManualClock) -> None:
    """When it is due, as its second attempt."""
    async with EventBus(clock=clock) as bus, bus.subscribe(JOBS) as events:
        await bus.publish_many(JOBS, [1, 2])
        seen: list[tuple[int, int]] = []

        async def read() -> None:
            async for context in events.contexts():
                seen.append((context.event, context.attempt))
                if seen == [(1, 1)]:
                    await context.retry(5.0)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await clock.advance(4.0)
            assert seen == [(1, 1), (2, 1)]
            await clock.advance(1.0)
            assert seen == [(1, 1), (2, 1), (1, 2)]
            await bus.drain()

    assert figures(bus) == {"succeeded": 2, "failed": 1, "retried": 1}


async def test_a_drained_loop_still_gets_its_retries(clock: ManualClock) -> None:
    """It ends when nothing will come any more."""
    attempts: list[int] = []
    async with EventBus(clock=clock) as bus, bus.subscribe(JOBS) as events:
        await bus.publish(JOBS, 1)
        await bus.drain()
        async for context in events.contexts():
            attempts.append(context.attempt)
            if context.attempt < 3:
                await context.retry()

    assert attempts == [1, 2, 3]


async def test_a_drained_loop_does_not_wait_for_what_comes_too_late(clock: ManualClock) -> None:
    """A retry due after the end of the bus is abandoned, and the loop ends."""
    bus = EventBus(clock=clock, drain_timeout=10.0)
    async with bus, bus.subscribe(JOBS) as events:
        await bus.publish(JOBS, 1)
        await bus.drain()
        async for context in events.contexts():
            await context.retry(60.0)

    assert figures(bus) == {"failed": 1, "retried": 1, "abandoned": 1}


@pytest.mark.parametrize("is_waiting", [True, False])
async def test_a_retry_that_the_bus_did_not_live_to_see_is_abandoned(
    clock: ManualClock, is_waiting: bool
) -> None:
    """Whether it was asked for before the bus ended or after, the loop ends."""
    attempts: list[int] = []
    bus = EventBus(clock=clock)
    began, goes_on = anyio.Event(), anyio.Event()

    async def read() -> None:
        async with bus.subscribe(JOBS) as events:
            began.set()
            async for context in events.contexts():
                attempts.append(context.attempt)
                await context.retry(5.0)
                if not is_waiting:
                    await goes_on.wait()

    async with anyio.create_task_group() as tasks:
        async with bus:
            tasks.start_soon(read)
            await began.wait()
            await bus.publish(JOBS, 1)
            await clock.settle()
        goes_on.set()

    assert attempts == [1]
    assert figures(bus) == {"failed": 1, "retried": 1, "abandoned": 1}


@pytest.mark.parametrize("end", ENDS)
async def test_what_is_published_in_a_loop_goes_out_when_it_is_done(end: End) -> None:
    """As from a handler: with the ack, not before."""
    heard: list[object] = []
    bus = EventBus()
    bus.on("done")(heard.append)
    async with bus:
        async with bus.subscribe(JOBS) as events:
            await bus.publish_many(JOBS, [1, 2])
            contexts = events.contexts()
            await (await anext(contexts)).publish("done", {"n": 1})
            await bus.join()
            assert heard == []
            if end == "next":
                await anext(contexts)
        await bus.join()

    assert heard == [{"n": 1}]


async def test_what_cannot_be_published_in_a_loop_fails_the_event() -> None:
    """It is given up on, and the loop goes on with the next."""
    async with EventBus(middleware=[DeadLetter()]) as bus, bus.subscribe(JOBS) as events:
        await bus.publish_many(JOBS, [1, 2])
        contexts = events.contexts()
        await (await anext(contexts)).publish("nowhere", {}, require=True)
        assert (await anext(contexts)).event == 2
        (letter,) = await bus.dead_letters()

    assert letter.error_type == "NoSubscribers"


async def test_a_loop_cancelled_while_it_publishes_has_settled_nothing() -> None:
    """What has gone out is not sent again, and the event is abandoned, as is what is queued."""
    goes_on = anyio.Event()
    heard: list[int] = []
    bus = EventBus()

    @bus.on("done", model=dict[str, int], queue_size=1)
    async def hear(event: dict[str, int]) -> None:
        await goes_on.wait()
        heard.append(event["n"])

    async with bus:
        with anyio.CancelScope() as scope:
            async with bus.subscribe(JOBS) as events, anyio.create_task_group() as tasks:
                await bus.publish_many(JOBS, [1, 2])
                contexts = events.contexts()
                context = await anext(contexts)
                for number in range(3):
                    await context.publish("done", {"n": number})
                tasks.start_soon(take_one, contexts)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        goes_on.set()
        await bus.join()

    assert heard == [0, 1]
    assert bus.stats().abandoned == 2


async def test_a_retry_that_was_asked_for_is_told_as_such(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is no failure in the log, and what comes at once is said to."""
    bus = EventBus()

    @bus.on("work", name="worker")
    async def handle(event: object, context: Context[object]) -> None:
        if context.attempt == 1:
            await context.retry()

    async with bus:
        await bus.publish("work", {}, id="m-1")

    assert caplog.messages == [
        "worker asks for more than attempt 1 of 20 at <Message m-1 on 'work'>, trying again at "
        "once: retry(0.0)"
    ]
