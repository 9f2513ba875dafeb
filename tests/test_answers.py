"""What comes back: replies and failures."""

import logging
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from pydantic import BaseModel

from eventbus import (
    Context,
    ContractError,
    EventBus,
    InvalidEvent,
    RemoteError,
    RequestTopic,
    Router,
)
from eventbus.middleware import CallNext, DeadLetter, Retry, Timeout
from eventbus.testing import ManualClock
from tests.pricing import (
    APPLE,
    QUOTE,
    Question,
    Quote,
    asking,
    fail,
    never,
    three,
)


class OutOfStock(Exception):
    """Says more than it hands on as `args`, as errors of applications do."""

    def __init__(self, sku: str, left: int, where: object = None) -> None:
        super().__init__(f"{left} of {sku} left")
        self.sku = sku
        self.left = left
        self.where = where


# --- What is answered -----------------------------------------------------------------------------


async def test_a_reply_becomes_the_model() -> None:
    """A mapping that validates will do, as a payload would."""
    bus = EventBus()

    @bus.on(QUOTE)
    async def answer(question: Question) -> Quote:
        return cast("Quote", {"cents": "12"})

    async with bus:
        assert await bus.request(QUOTE, APPLE) == Quote(cents=12)


@pytest.mark.parametrize("reply", [None, 5, {"cents": "many"}, APPLE])
async def test_a_wrong_reply_is_a_failure_of_the_responder(reply: object) -> None:
    """The caller hears of it, in words that hold no values."""
    bus = EventBus()

    @bus.on(QUOTE)
    async def answer(question: Question) -> Quote:
        return cast("Quote", reply)

    async with bus:
        with pytest.raises(RemoteError, match="return an instance") as caught:
            await bus.request(QUOTE, APPLE)
    assert caught.value.type == "InvalidEvent"
    assert "many" not in str(caught.value)
    assert bus.stats().failed == 1


async def test_a_raw_reply_passes_as_it_is() -> None:
    """With `dict`, `object` and their like nothing is looked at."""
    bus = EventBus()

    @bus.on("raw", reply=object)
    async def answer(question: object) -> object:
        return bus

    async with bus:
        assert await bus.request("raw", {}, reply=object) is bus


async def test_nothing_can_be_a_reply() -> None:
    """A request may be answered by its having been handled."""
    done, bus = RequestTopic("orders.ship", Question, None), EventBus()

    @bus.on(done)
    async def ship(question: Question) -> None: ...

    async with bus:
        assert await bus.request(done, APPLE) is None  # type: ignore[func-returns-value]  # that is it


async def test_another_model_than_asked_for_is_told_apart() -> None:
    """Caller and responder of a string may disagree: the caller hears of it."""
    bus = EventBus()
    bus.on("pricing.quote", model=Question, reply=Quote)(three)

    async with bus:
        assert await bus.request("pricing.quote", APPLE, reply=object) == Quote(cents=3)
        with pytest.raises(ContractError, match="state one model"):
            await bus.request("pricing.quote", APPLE, reply=Question)


async def test_middleware_may_change_a_reply() -> None:
    """What the outermost layer returns is the reply, called or not."""

    async def double(context: Context[Any], call_next: CallNext) -> object:
        reply = cast("Quote", await call_next(context))
        return Quote(cents=2 * reply.cents)

    async def remember(context: Context[Any], call_next: CallNext) -> object:
        return Quote(cents=50) if context.event.sku == "known" else await call_next(context)

    bus = EventBus(middleware=[double])
    bus.on(QUOTE, middleware=[remember])(three)

    async with bus:
        assert await bus.request(QUOTE, APPLE) == Quote(cents=6)
        assert await bus.request(QUOTE, Question(sku="known")) == Quote(cents=100)


async def test_what_a_responder_publishes_goes_out_before_its_reply() -> None:
    """And if that fails, so does the attempt."""
    bus, order = EventBus(), list[str]()

    @bus.on("quoted")
    async def note(event: object) -> None:
        order.append("quoted")

    @bus.on(QUOTE)
    async def answer(question: Question, context: Context[Question]) -> Quote:
        await context.publish("quoted", {}, require=question.sku == "apple")
        if question.sku == "pear":
            await context.publish("nowhere", {}, require=True)
        return Quote(cents=1)

    async with bus:
        await bus.request(QUOTE, APPLE)
        assert bus.stats().published == 2
        with pytest.raises(RemoteError, match="NoSubscribers"):
            await bus.request(QUOTE, Question(sku="pear"))


# --- As JSON --------------------------------------------------------------------------------------


class Payment(BaseModel, strict=True):
    """A reply that is not the same in JSON as in Python."""

    at: datetime
    parts: tuple[int, ...]


PAID = datetime(2024, 5, 17, 8, 30, tzinfo=UTC)
PAY = RequestTopic("orders.pay", Question, Payment, many=True)


async def test_a_reply_goes_through_json() -> None:
    """Where payloads do: the caller's is equal to the responder's, and not the same."""
    bus, given = EventBus("memory://?codec=json"), list[Quote]()

    @bus.on(QUOTE)
    async def answer(question: Question) -> Quote:
        given.append(Quote(cents=3))
        return given[0]

    async with bus:
        reply = await bus.request(QUOTE, APPLE)
    assert reply == given[0]
    assert reply is not given[0]


async def test_a_reply_is_read_by_the_model_as_json_is() -> None:
    """A strict model, which takes no text for a date, takes its own JSON back."""
    bus = EventBus("memory://?codec=json")

    @bus.on(PAY)
    async def pay(question: Question) -> Payment:
        return Payment(at=PAID, parts=(1, 2))

    async with bus:
        assert await bus.request_many(PAY, APPLE) == [Payment(at=PAID, parts=(1, 2))]


async def test_a_reply_without_a_model_is_what_json_holds() -> None:
    """As a handler of `dict` gets it, and as a caller gets it who asks for no model."""
    bus = EventBus("memory://?codec=json")

    @bus.on("raw", reply=object)
    async def answer(question: object) -> object:
        return {"at": PAID, "parts": (1, 2)}

    @bus.on("orders.pay", reply=Payment)
    async def pay(question: object) -> Payment:
        return Payment(at=PAID, parts=(1, 2))

    as_json = {"at": "2024-05-17T08:30:00Z", "parts": [1, 2]}
    async with bus:
        assert await bus.request("raw", {}, reply=object) == as_json
        assert await bus.request("orders.pay", {}, reply=dict[str, object]) == as_json
        with pytest.raises(ContractError, match="answers with dict: cents"):
            await bus.request("orders.pay", {}, reply=Quote)


async def test_nothing_goes_through_json_too() -> None:
    """It is `null` there."""
    done, bus = RequestTopic("orders.ship", Question, None), EventBus("memory://?codec=json")

    @bus.on(done)
    async def ship(question: Question) -> None: ...

    async with bus:
        assert await bus.request(done, APPLE) is None  # type: ignore[func-returns-value]  # that is it


async def test_a_reply_that_cannot_be_json_is_a_failure_of_the_responder() -> None:
    """The caller hears of it, and what was published with it is dropped."""
    bus = EventBus("memory://?codec=json")

    @bus.on("raw", reply=object)
    async def answer(question: object, context: Context[object]) -> object:
        await context.publish("answered", {})
        return bus

    async with bus:
        with pytest.raises(RemoteError, match="cannot be JSON"):
            await bus.request("raw", {}, reply=object)
    assert (bus.stats().published, bus.stats().failed) == (1, 1)


# --- Failures -------------------------------------------------------------------------------------


async def test_a_failure_reaches_the_caller_as_text() -> None:
    """With the type's name, its text, and whether it is worth asking again."""
    bus = EventBus(middleware=[Retry(attempts=1, never=KeyError)])

    @bus.on(QUOTE)
    async def answer(question: Question) -> Quote:
        raise {"key": KeyError, "value": ValueError}[question.sku](question.sku)

    async with bus:
        with pytest.raises(RemoteError, match=r"'pricing\.quote'.*ValueError: value") as caught:
            await bus.request(QUOTE, Question(sku="value"))
        assert (caught.value.type, caught.value.text) == ("ValueError", "value")
        assert caught.value.retryable
        with pytest.raises(RemoteError) as caught:
            await bus.request(QUOTE, Question(sku="key"))
        assert (caught.value.type, caught.value.retryable) == ("KeyError", False)
    assert caught.value.__cause__ is None


async def test_a_responder_is_retried_before_it_fails(clock: ManualClock) -> None:
    """The caller waits meanwhile, and hears of the last failure, or gets the reply."""
    bus = EventBus(clock=clock, middleware=[Retry(attempts=3, initial=0.5, jitter=False)])
    attempts: list[int] = []

    @bus.on(QUOTE)
    async def answer(question: Question, context: Context[Question]) -> Quote:
        attempts.append(context.attempt)
        if question.sku == "apple" or context.attempt < 2:
            raise ConnectionError(f"attempt {context.attempt}")
        return Quote(cents=context.attempt)

    async with bus, asking(lambda: bus.request(QUOTE, APPLE)) as results:
        await clock.advance(0.5)
        assert not results
        await clock.advance(1.0)
        error = results[0]
    assert isinstance(error, RemoteError)
    assert (error.text, error.retryable) == ("attempt 3", True)
    assert attempts == [1, 2, 3]
    async with bus, asking(lambda: bus.request(QUOTE, Question(sku="pear"))) as results:
        await clock.advance(0.5)
    assert results == [Quote(cents=2)]


async def test_a_declared_exception_arrives_as_itself() -> None:
    """Arguments and attributes that JSON carries are there; `__init__` is not called again."""
    topic = RequestTopic("pricing.quote", Question, Quote, raises=(LookupError, OutOfStock))
    bus = EventBus()

    @bus.on(topic)
    async def answer(question: Question) -> Quote:
        if question.sku == "key":
            raise KeyError("key", object(), ("a", 1))
        raise OutOfStock(question.sku, 2, where=bus)

    async with bus:
        with pytest.raises(OutOfStock, match="2 of apple left") as caught:
            await bus.request(topic, APPLE)
        assert (caught.value.sku, caught.value.left) == ("apple", 2)
        assert not hasattr(caught.value, "where")
        with pytest.raises(LookupError) as lookup:
            await bus.request(topic, Question(sku="key"))
    assert type(lookup.value) is LookupError  # a subclass arrives as what was declared
    assert lookup.value.args[0] == "key"
    assert lookup.value.args[1].startswith("<object")
    assert lookup.value.args[2] == ["a", 1]


async def test_a_declared_exception_that_cannot_be_made_arrives_as_text() -> None:
    """A class that wants more than its arguments does not hide what happened."""

    class Stubborn(Exception):
        def __new__(cls, first: str, second: str) -> "Stubborn":
            return super().__new__(cls, first)

        def __init__(self, first: str, second: str) -> None:
            super().__init__(first)

    topic = RequestTopic("pricing.quote", Question, Quote, raises=[Stubborn])
    bus = EventBus()

    @bus.on(topic)
    async def answer(question: Question) -> Quote:
        raise Stubborn("one", "two")

    async with bus:
        with pytest.raises(RemoteError, match="Stubborn: one"):
            await bus.request(topic, APPLE)


async def test_a_failed_request_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """With its traceback, as the caller has none; a declared exception without."""
    topic = RequestTopic("pricing.quote", Question, Quote, raises=(LookupError,))
    bus = EventBus()

    @bus.on(topic)
    async def answer(question: Question) -> Quote:
        raise (LookupError if question.sku == "apple" else ValueError)(question.sku)

    caplog.set_level(logging.INFO, "eventbus")
    async with bus:
        with pytest.raises(LookupError):
            await bus.request(topic, APPLE)
        with pytest.raises(RemoteError):
            await bus.request(topic, Question(sku="pear"))
    agreed, failed = caplog.records
    assert (agreed.levelname, agreed.exc_info) == ("INFO", None)
    assert failed.levelname == "ERROR"
    assert failed.exc_info
    assert "its caller is told" in failed.getMessage()


async def test_a_failed_request_is_no_dead_letter() -> None:
    """The caller knows: the bus's `DeadLetter` is not asked, and nothing is lost."""
    bus = EventBus(middleware=[DeadLetter()])
    bus.on(QUOTE)(fail)

    async with bus:
        with pytest.raises(RemoteError):
            await bus.request(QUOTE, APPLE)
        assert await bus.dead_letters() == []
        await bus.publish("pricing.quote", APPLE)  # of this nobody is told
        await bus.join()
        stats = bus.stats()
    assert (stats.failed, stats.lost, stats.dead_lettered) == (2, 0, 1)


@pytest.mark.parametrize("scope", ["handler", "router"])
async def test_a_failed_request_is_a_dead_letter_where_asked(scope: str) -> None:
    """By the responder's own `DeadLetter` or its router's; the caller is told all the same."""
    own = [DeadLetter()]
    router, bus = Router(middleware=own if scope == "router" else []), EventBus()
    works = {"is_broken": True}

    @router.on(QUOTE, middleware=own if scope == "handler" else [], name="pricing")
    async def answer(question: Question) -> Quote:
        if works["is_broken"]:
            raise ValueError("broken")
        return Quote(cents=1)

    bus.include(router)
    async with bus:
        with pytest.raises(RemoteError):
            await bus.request(QUOTE, APPLE)
        (letter,) = await bus.dead_letters("pricing")
        assert letter.error_type == "ValueError"
        works["is_broken"] = False
        assert await bus.redrive("pricing") == 1
        await bus.join()
        stats = bus.stats()
    assert (stats.succeeded, stats.expired, stats.late_replies) == (1, 0, 0)


async def test_a_redriven_request_runs_after_its_deadline(clock: ManualClock) -> None:
    """Who redrives it wants it done, though nobody waits any more."""
    bus = EventBus(clock=clock)
    works = {"is_broken": True}

    @bus.on(QUOTE, middleware=[DeadLetter()])
    async def answer(question: Question) -> Quote:
        if works["is_broken"]:
            raise ValueError("broken")
        return Quote(cents=1)

    async with bus:
        with pytest.raises(RemoteError):
            await bus.request(QUOTE, APPLE)
        works["is_broken"] = False
        await clock.advance(60.0)
        await bus.redrive()
        await bus.join()
        assert bus.stats().succeeded == 1
        assert bus.stats().expired == 0


async def test_what_the_responders_model_refuses_reaches_the_caller() -> None:
    """Also where no contract does, and it is no dead letter of the bus."""
    bus = EventBus(middleware=[DeadLetter()])
    bus.on("pricing.quote", model=Question, reply=Quote)(three)

    async with bus:
        with pytest.raises(InvalidEvent, match="refuses the request: sku"):
            await bus.request("pricing.quote", {"name": "apple"}, reply=Quote)
        stats = bus.stats()
    assert (stats.invalid, stats.dead_lettered, stats.lost) == (1, 0, 0)


async def test_what_the_responders_model_refuses_is_a_dead_letter_where_asked() -> None:
    """As a failure would be."""
    bus = EventBus()
    bus.on("pricing.quote", model=Question, reply=Quote, middleware=[DeadLetter()])(three)

    async with bus:
        with pytest.raises(InvalidEvent):
            await bus.request("pricing.quote", {"name": "apple"}, reply=Quote)
        assert len(await bus.dead_letters()) == 1


async def test_a_time_limit_of_the_responder_is_a_failure() -> None:
    """`Timeout` ends the attempt, and the caller hears of that before its own time is up."""
    bus = EventBus()
    bus.on(QUOTE, middleware=[Timeout(0.05)])(never)

    async with bus:
        with pytest.raises(RemoteError) as caught:
            await bus.request(QUOTE, APPLE, timeout=30.0)
    assert caught.value.type == "HandlerTimeout"


@pytest.mark.parametrize(
    ("own", "attempts"),
    [
        pytest.param([], 1, id="of-the-bus"),
        pytest.param([Retry(attempts=2, initial=0.0)], 2, id="of-the-responder"),
    ],
)
async def test_a_declared_exception_is_an_answer(
    own: list[Retry], attempts: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The bus's `Retry` leaves it alone, and without one no line of the log is about a failure."""
    topic = RequestTopic("pricing.quote", Question, Quote, raises=[LookupError])
    bus, asked = EventBus(middleware=[Retry(attempts=5, initial=0.0)]), list[int]()

    @bus.on(topic, middleware=own)
    async def answer(question: Question, context: Context[Question]) -> Quote:
        asked.append(context.attempt)
        raise KeyError(question.sku)

    async with bus:
        with pytest.raises(LookupError):
            await bus.request(topic, APPLE)

    assert len(asked) == attempts
    assert len([one for one in caplog.records if one.levelno > logging.INFO]) == attempts - 1


async def test_a_published_event_is_retried_whatever_the_topic_declares() -> None:
    """Nobody waits for the answer, so it is a failure."""
    topic = RequestTopic("pricing.quote", Question, Quote, raises=[LookupError])
    bus, asked = EventBus(middleware=[Retry(attempts=3, initial=0.0)]), list[int]()

    @bus.on(topic)
    async def answer(question: Question, context: Context[Question]) -> Quote:
        asked.append(context.attempt)
        raise KeyError(question.sku)

    async with bus:
        await bus.publish("pricing.quote", APPLE)

    assert asked == [1, 2, 3]
