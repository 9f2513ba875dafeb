"""What wraps handlers and publishes: scopes, order, and the middleware that comes with the bus."""

import logging
from functools import partial
from typing import Any

import anyio
import pytest

from eventbus import (
    Context,
    EventBus,
    InvalidEvent,
    InvalidOption,
    Message,
    Receipt,
    Router,
    Topic,
)
from eventbus.middleware import (
    CallNext,
    DeadLetter,
    Filter,
    Log,
    Middleware,
    Policy,
    PublishMiddleware,
    PublishNext,
    Retry,
    Timeout,
)
from eventbus.testing import ManualClock

JOBS = Topic("jobs", int)


class Diary:
    """What happened, in order, written by the middleware and handlers it makes."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    def layer(self, name: str) -> Middleware:
        """Make a middleware that notes when it begins and ends."""

        async def note(context: Context[Any], call_next: CallNext) -> object:
            self.entries.append(f"{name} begins")
            try:
                return await call_next(context)
            finally:
                self.entries.append(f"{name} ends")

        return note

    def publish_layer(self, name: str) -> PublishMiddleware:
        """Make a publish middleware that notes when it begins and ends."""

        async def note(message: Message, call_next: PublishNext) -> Receipt:
            self.entries.append(f"{name} begins")
            receipt = await call_next(message)
            self.entries.append(f"{name} ends")
            return receipt

        return note

    async def handle(self, event: int) -> None:
        """Handle an event."""
        self.entries.append(f"handler {event}")


class Counting:
    """A middleware that is an object, as those with options are."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self, context: Context[Any], call_next: CallNext) -> object:
        self.count += 1
        return await call_next(context)


# --- Scopes and order -----------------------------------------------------------------------------


async def test_scopes_nest_from_the_bus_to_the_handler() -> None:
    """Those of the bus are outermost, then the router's, then the handler's; each list in order."""
    diary = Diary()
    bus = EventBus(middleware=[diary.layer("bus"), diary.layer("bus too")])
    outer = Router(middleware=[diary.layer("outer")])
    inner = Router(middleware=[diary.layer("inner")])
    inner.on(JOBS, middleware=[diary.layer("own"), diary.layer("own too")])(diary.handle)
    outer.include(inner)
    bus.include(outer)
    async with bus:
        await bus.publish(JOBS, 1)

    names = ["bus", "bus too", "outer", "inner", "own", "own too"]
    assert diary.entries == [
        *(f"{name} begins" for name in names),
        "handler 1",
        *(f"{name} ends" for name in reversed(names)),
    ]


async def test_a_routers_middleware_wraps_its_own_handlers_alone() -> None:
    """Handlers beside it are not concerned."""
    diary = Diary()
    bus = EventBus()
    router = Router(middleware=[diary.layer("router")])
    router.on("inside", model=int)(diary.handle)
    bus.on("outside", model=int)(diary.handle)
    bus.include(router)
    async with bus:
        await bus.publish(Topic("outside", int), 1)
        await bus.join()
        await bus.publish(Topic("inside", int), 2)

    assert diary.entries == ["handler 1", "router begins", "handler 2", "router ends"]


async def test_middleware_wraps_every_attempt(clock: ManualClock) -> None:
    """Also the second one, as it did the first."""
    counting = Counting()
    bus = EventBus(clock=clock, middleware=[Retry(attempts=3), counting])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        raise ValueError

    async with bus:
        await bus.publish(JOBS, 1)
        await clock.advance(60.0)

    assert counting.count == 3


async def test_middleware_wraps_sync_handlers() -> None:
    """What runs in a thread is wrapped as well."""
    diary = Diary()
    bus = EventBus(middleware=[diary.layer("bus")])

    @bus.on(JOBS)
    def handle(event: int) -> None:
        diary.entries.append("handler")

    async with bus:
        await bus.publish(JOBS, 1)

    assert diary.entries == ["bus begins", "handler", "bus ends"]


async def test_middleware_sees_the_delivery_and_what_the_handler_returns() -> None:
    """It has the context, and may take or replace the result, which nobody else looks at."""
    seen: list[object] = []

    async def look(context: Context[Any], call_next: CallNext) -> object:
        seen.append((context.event, context.subscription, context.attempt))
        seen.append(await call_next(context))
        return None

    bus = EventBus(middleware=[look])

    @bus.on(JOBS, name="jobs")
    async def handle(event: int) -> str:
        return f"result {event}"

    async with bus:
        await bus.publish(JOBS, 1)

    assert seen == [(1, "jobs", 1), "result 1"]


async def test_middleware_that_fails_is_a_failure() -> None:
    """Before the handler or after it, its error is the delivery's."""

    async def fail_before(context: Context[Any], call_next: CallNext) -> object:
        raise LookupError("before")

    async def fail_after(context: Context[Any], call_next: CallNext) -> object:
        await call_next(context)
        raise LookupError("after")

    diary = Diary()
    bus = EventBus(middleware=[DeadLetter()])
    bus.on(JOBS, middleware=[fail_before])(diary.handle)
    bus.on(JOBS, middleware=[fail_after])(diary.handle)
    async with bus:
        await bus.publish(JOBS, 1)
        await bus.join()
        letters = await bus.dead_letters()

    assert sorted(letter.error for letter in letters) == ["after", "before"]
    assert (diary.entries, bus.stats().failed) == (["handler 1"], 2)


async def test_middleware_may_swallow_an_error() -> None:
    """What it does not raise again has not failed."""

    async def forgive(context: Context[Any], call_next: CallNext) -> object:
        try:
            return await call_next(context)
        except ValueError:
            return None

    bus = EventBus(middleware=[forgive])

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        raise ValueError

    async with bus:
        await bus.publish(JOBS, 1)

    assert (bus.stats().succeeded, bus.stats().failed) == (1, 0)


async def test_not_going_on_leaves_the_handler_out() -> None:
    """A delivery cut short is filtered: neither succeeded nor failed."""
    diary = Diary()

    async def cut_short(context: Context[Any], call_next: CallNext) -> object:
        return None

    bus = EventBus(middleware=[diary.layer("outer"), cut_short, diary.layer("inner")])
    bus.on(JOBS)(diary.handle)
    async with bus:
        await bus.publish(JOBS, 1)
    stats = bus.stats()

    assert diary.entries == ["outer begins", "outer ends"]
    assert (stats.filtered, stats.succeeded, stats.failed) == (1, 0, 0)


@pytest.mark.parametrize("wrong", [3, "log", None, Log, Retry, object()])
def test_what_is_no_middleware_is_refused(wrong: Any) -> None:
    """At the bus, a router or a handler; a class is told from an object of it."""
    for accept in (EventBus, Router, partial(EventBus().on, "jobs")):
        with pytest.raises(InvalidOption, match=r"middleware=.*: give "):
            accept(middleware=[wrong])


def test_what_comes_with_the_bus_is_middleware() -> None:
    """Policies and middleware are what they say they are."""
    middleware: list[Middleware] = [Log(), Filter(lambda _: True)]
    policies: list[Policy] = [Retry(), Timeout(1.0), DeadLetter()]

    assert [policy.policy for policy in policies] == ["retry", "timeout", "dead_letter"]
    assert all(callable(layer) for layer in middleware)


# --- Policies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
async def test_the_place_of_a_policy_does_not_matter(clock: ManualClock, first: bool) -> None:
    """Before other middleware or after it, a policy acts on the whole attempt."""
    diary = Diary()
    policies: list[Middleware | Policy] = [Retry(attempts=2), DeadLetter()]
    layers: list[Middleware | Policy] = [diary.layer("layer")]
    bus = EventBus(clock=clock, middleware=policies + layers if first else layers + policies)

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        raise ValueError

    async with bus:
        await bus.publish(JOBS, 1)
        await clock.advance(60.0)

    assert diary.entries == ["layer begins", "layer ends"] * 2
    assert bus.stats().dead_lettered == 1


async def test_the_innermost_policy_replaces_the_outer(clock: ManualClock) -> None:
    """The handler's own counts, then its router's, then that of the bus."""
    attempts: list[str] = []
    bus = EventBus(clock=clock, middleware=[Retry(attempts=2)])
    router = Router(middleware=[Retry(attempts=3)])

    async def of_the_bus(event: int) -> None:
        attempts.append("bus")
        raise ValueError

    async def of_the_router(event: int) -> None:
        attempts.append("router")
        raise ValueError

    async def own(event: int) -> None:
        attempts.append("own")
        raise ValueError

    bus.on(JOBS)(of_the_bus)
    router.on(JOBS)(of_the_router)
    router.on(JOBS, middleware=[Retry(attempts=1)])(own)
    bus.include(router)
    async with bus:
        await bus.publish(JOBS, 1)
        await clock.advance(600.0)

    assert {name: attempts.count(name) for name in attempts} == {"bus": 2, "router": 3, "own": 1}


async def test_replacing_one_policy_leaves_the_others() -> None:
    """A handler with a `Retry` of its own still has the bus's `DeadLetter`."""
    bus = EventBus(middleware=[DeadLetter(), Retry(attempts=5)])

    @bus.on(JOBS, middleware=[Retry(attempts=1)])
    async def handle(event: int) -> None:
        raise ValueError

    async with bus:
        await bus.publish(JOBS, 1)

    assert (bus.stats().delivered, bus.stats().dead_lettered) == (1, 1)


# --- Filter ---------------------------------------------------------------------------------------


async def test_a_filter_lets_through_what_its_predicate_accepts() -> None:
    """What it holds back counts as filtered, not as succeeded."""
    diary = Diary()
    bus = EventBus(middleware=[Filter(lambda context: context.event % 2 == 0)])
    bus.on(JOBS)(diary.handle)
    async with bus:
        await bus.publish_many(JOBS, range(5))
    stats = bus.stats()

    assert diary.entries == ["handler 0", "handler 2", "handler 4"]
    assert (stats.succeeded, stats.filtered, stats.failed) == (3, 2, 0)


async def test_where_holds_back_as_a_filter_does() -> None:
    """It counts the same, and needs no context."""
    diary = Diary()
    bus = EventBus()
    bus.on(JOBS, where=lambda event: event > 2)(diary.handle)
    async with bus:
        await bus.publish_many(JOBS, range(5))
    stats = bus.stats()

    assert diary.entries == ["handler 3", "handler 4"]
    assert (stats.succeeded, stats.filtered) == (2, 3)


async def test_a_failing_predicate_fails_the_attempt() -> None:
    """Its exception is the delivery's."""
    bus = EventBus(middleware=[DeadLetter(), Filter(lambda context: context.event / 0 > 1)])
    bus.on(JOBS)(Diary().handle)
    async with bus:
        await bus.publish(JOBS, 1)
        await bus.join()

        assert [letter.error_type for letter in await bus.dead_letters()] == ["ZeroDivisionError"]


async def test_a_filter_can_be_called_as_any_middleware() -> None:
    """One that is wrapped by somebody else's middleware works the same."""
    diary = Diary()
    even = Filter(lambda context: context.event % 2 == 0)

    async def delegate(context: Context[Any], call_next: CallNext) -> object:
        return await even(context, call_next)

    bus = EventBus(middleware=[delegate])
    bus.on(JOBS)(diary.handle)
    async with bus:
        await bus.publish_many(JOBS, range(4))

    assert diary.entries == ["handler 0", "handler 2"]
    assert bus.stats().filtered == 2


def test_a_filter_needs_a_function() -> None:
    """Anything else is refused where it is made."""
    wrong: Any = "even"

    with pytest.raises(InvalidOption, match="Filter\\('even'\\): give a function of the context"):
        Filter(wrong)


# --- Log ------------------------------------------------------------------------------------------


async def test_a_line_is_logged_per_attempt(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It says what was handled by whom, how it ended, and which attempt it was."""
    caplog.set_level(logging.INFO, logger="eventbus")
    bus = EventBus(clock=clock, middleware=[Retry(attempts=2), Log()])

    @bus.on(JOBS, name="jobs-handler")
    async def handle(event: int, context: Context[int]) -> None:
        if context.attempt == 1:
            raise ValueError

    async with bus:
        await bus.publish(JOBS, 1)
        await clock.advance(60.0)

    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert len(lines) == 2
    assert lines[0].startswith("jobs failed by jobs-handler, attempt 1, in ")
    assert lines[1].startswith("jobs handled by jobs-handler, attempt 2, in ")


async def test_what_is_logged_stands_in_fields_too(caplog: pytest.LogCaptureFixture) -> None:
    """Structured handlers find topic, subscription, attempt and duration, at the chosen level."""
    caplog.set_level(logging.DEBUG, logger="eventbus")
    bus = EventBus(middleware=[Log(level=logging.DEBUG)])
    bus.on(JOBS, name="jobs-handler")(Diary().handle)
    async with bus:
        await bus.publish(JOBS, 1)

    fields: Any = next(record for record in caplog.records if record.levelno == logging.DEBUG)
    assert (fields.topic, fields.subscription, fields.attempt) == ("jobs", "jobs-handler", 1)
    assert fields.milliseconds >= 0.0


async def test_the_payload_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """It may be secret."""
    caplog.set_level(logging.DEBUG)
    bus = EventBus(middleware=[Log()])

    @bus.on("accounts.created")
    async def handle(event: object) -> None: ...

    async with bus:
        await bus.publish("accounts.created", {"password": "hunter2"})

    assert "accounts.created handled by" in caplog.text
    assert "hunter2" not in caplog.text


async def test_a_cancelled_attempt_is_logged(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An attempt that ran out of time has its line as well, and stays a failure."""
    caplog.set_level(logging.INFO, logger="eventbus")
    bus = EventBus(clock=clock, middleware=[Log(), Timeout(1.0)])

    @bus.on(JOBS, name="jobs-handler")
    async def handle(event: int) -> None:
        await anyio.sleep_forever()

    async with bus:
        await bus.publish(JOBS, 1)
        await clock.advance(2.0)

    assert "jobs failed by jobs-handler, attempt 1" in caplog.text
    assert bus.stats().failed == 1


# --- Publish middleware ---------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["publish", "publish_nowait", "publish_many"])
async def test_publish_middleware_wraps_every_publish(way: str) -> None:
    """In its order, outermost first, whichever way the message is published."""
    diary = Diary()
    bus = EventBus(publish_middleware=[diary.publish_layer("outer"), diary.publish_layer("inner")])
    async with bus:
        match way:
            case "publish":
                await bus.publish(JOBS, 1)
            case "publish_nowait":
                bus.publish_nowait(JOBS, 1)
            case _:
                await bus.publish_many(JOBS, [1])

    assert diary.entries == ["outer begins", "inner begins", "inner ends", "outer ends"]


@pytest.mark.parametrize("nowait", [True, False])
async def test_publish_middleware_may_change_the_message(nowait: bool) -> None:
    """Handlers get what it passed on: payload, headers, and also another topic."""
    seen: list[Message] = []

    async def redirect(message: Message, call_next: PublishNext) -> Receipt:
        changed = message.replace(topic="redirected", payload=2, headers={"from": message.topic})
        return await call_next(changed)

    bus = EventBus(publish_middleware=[redirect])

    @bus.on("redirected", model=int)
    async def handle(event: int, context: Context[int]) -> None:
        seen.append(context.message)
        assert event == 2

    async with bus:
        receipt = bus.publish_nowait(JOBS, 1) if nowait else await bus.publish(JOBS, 1)

    assert [dict(message.headers) for message in seen] == [{"from": "jobs"}]
    assert (receipt.topic, receipt.matched, receipt.id) == ("redirected", 1, seen[0].id)
    assert bus.stats().succeeded == 1


@pytest.mark.parametrize("nowait", [True, False])
async def test_publish_middleware_may_refuse(nowait: bool) -> None:
    """What it raises reaches the publisher, and nobody gets the message."""
    diary = Diary()

    async def refuse(message: Message, call_next: PublishNext) -> Receipt:
        raise PermissionError(message.topic)

    bus = EventBus(publish_middleware=[refuse])
    bus.on(JOBS)(diary.handle)
    async with bus:
        with pytest.raises(PermissionError, match="jobs"):
            _ = bus.publish_nowait(JOBS, 1) if nowait else await bus.publish(JOBS, 1)

    assert (diary.entries, bus.stats().published) == ([], 0)


async def test_publish_middleware_may_wait(clock: ManualClock) -> None:
    """A publish takes as long as what wraps it."""
    diary = Diary()

    async def dawdle(message: Message, call_next: PublishNext) -> Receipt:
        await clock.sleep(5.0)
        return await call_next(message)

    bus = EventBus(clock=clock, publish_middleware=[dawdle])
    bus.on(JOBS)(diary.handle)
    async with bus, anyio.create_task_group() as tasks:
        tasks.start_soon(bus.publish, JOBS, 1)
        await clock.advance(4.0)

        assert diary.entries == []

        await clock.advance(1.0)

    assert diary.entries == ["handler 1"]


async def test_publish_middleware_that_waits_refuses_to_publish_without_waiting(
    clock: ManualClock,
) -> None:
    """The error names it, nothing was delivered, and what it began was cleaned up."""
    diary = Diary()

    async def dawdle(message: Message, call_next: PublishNext) -> Receipt:
        try:
            await clock.sleep(5.0)
        finally:
            diary.entries.append("cleaned up")
        return await call_next(message)

    bus = EventBus(clock=clock, publish_middleware=[dawdle])
    bus.on(JOBS)(diary.handle)
    async with bus:
        with pytest.raises(InvalidOption, match=r"publish_nowait cannot wait, but .*dawdle does"):
            bus.publish_nowait(JOBS, 1)

    assert diary.entries == ["cleaned up"]
    assert clock.sleeping == 0


async def test_what_publish_middleware_passes_on_is_checked() -> None:
    """A payload it broke is refused as one the publisher broke."""

    async def break_it(message: Message, call_next: PublishNext) -> Receipt:
        return await call_next(message.replace(payload="text"))

    bus = EventBus(publish_middleware=[break_it])
    async with bus:
        with pytest.raises(InvalidEvent, match="'jobs' carries int"):
            await bus.publish(JOBS, 1)

    assert bus.stats().published == 0


@pytest.mark.parametrize("wrong", [3, None, Counting])
def test_what_is_no_publish_middleware_is_refused(wrong: Any) -> None:
    """The bus says what it wants instead."""
    with pytest.raises(InvalidOption, match=r"publish_middleware=.*: give async functions"):
        EventBus(publish_middleware=[wrong])
