"""Asking and answering: requests, their replies, failures and deadlines."""

import logging
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypedDict, cast

import anyio
import pytest
from anyio.lowlevel import checkpoint
from pydantic import BaseModel

from eventbus import (
    BusClosed,
    Context,
    ContractError,
    DuplicateSubscription,
    EventBus,
    InvalidEvent,
    InvalidOption,
    InvalidPattern,
    InvalidTopic,
    NoResponders,
    NotStarted,
    QueueFull,
    RemoteError,
    RequestTimeout,
    RequestTopic,
    Router,
    Topic,
    UnknownTopic,
    handles,
    replies,
)
from eventbus.message import Message, Receipt
from eventbus.middleware import CallNext, DeadLetter, Filter, PublishNext, Retry, Timeout
from eventbus.testing import ManualClock


class Question(BaseModel):
    sku: str


class Quote(BaseModel):
    cents: int


class OutOfStock(Exception):
    """Says more than it hands on as `args`, as errors of applications do."""

    def __init__(self, sku: str, left: int, where: object = None) -> None:
        super().__init__(f"{left} of {sku} left")
        self.sku = sku
        self.left = left
        self.where = where


QUOTE = RequestTopic("pricing.quote", Question, Quote)
OFFERS = RequestTopic("pricing.offers", Question, Quote, many=True)
APPLE = Question(sku="apple")
CLOSED = TypedDict("CLOSED", {"pricing.quote": Question})


async def three(question: Question) -> Quote:
    """Answer."""
    return Quote(cents=3)


async def never(question: Question) -> Quote:
    """Never answer."""
    await anyio.sleep_forever()
    raise AssertionError("unreachable")


async def fail(question: Question) -> Quote:
    """Fail."""
    raise ValueError(f"no {question.sku} today")


def is_pear(question: Question) -> bool:
    """Ask for the one thing some responders have."""
    return question.sku == "pear"


def asks_for_pear(context: Context[Question]) -> bool:
    """Ask a context the same."""
    return is_pear(context.event)


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for a state."""
    with anyio.fail_after(10):
        while not is_so():
            await checkpoint()


@asynccontextmanager
async def asking(*calls: Callable[[], Awaitable[object]]) -> AsyncGenerator[list[object]]:
    """Ask beside the block, and end it when all have their result: a reply or an error."""
    results: list[object] = []

    async def note(call: Callable[[], Awaitable[object]]) -> None:
        try:
            results.append(await call())
        except Exception as error:  # noqa: BLE001 - what it is, the test looks at
            results.append(error)

    async with anyio.create_task_group() as tasks:
        for call in calls:
            tasks.start_soon(note, call)
        yield results


# --- Who answers ----------------------------------------------------------------------------------


async def test_a_responder_answers() -> None:
    """What the handler of a request topic returns is the caller's."""
    bus = EventBus()
    bus.on(QUOTE)(three)

    async with bus:
        assert await bus.request(QUOTE, APPLE) == Quote(cents=3)


async def test_a_responder_may_be_a_plain_function() -> None:
    """It runs in a worker thread, and its reply comes back to the loop."""
    bus = EventBus()
    threads: list[int] = []

    @bus.on(QUOTE)
    def answer(question: Question, context: Context[Question]) -> Quote:
        threads.append(threading.get_ident())
        return Quote(cents=len(context.event.sku))

    async with bus:
        assert await bus.request(QUOTE, APPLE) == Quote(cents=5)
    assert threads != [threading.get_ident()]


async def test_a_string_with_reply_makes_a_responder_too() -> None:
    """Patterns answer whatever they match; both sides name the model."""
    bus = EventBus()

    @bus.on("pricing.*", model=Question, reply=Quote)
    async def answer(question: Question) -> Quote:
        return Quote(cents=1)

    @bus.on("stock.{sku}", reply=int)
    async def count(question: dict[str, str], context: Context[dict[str, str]]) -> int:
        return len(context.captures["sku"])

    async with bus:
        assert await bus.request("pricing.any", {"sku": "x"}, reply=Quote) == Quote(cents=1)
        assert await bus.request("stock.pear", {}, reply=int) == 4


async def test_a_topic_with_reply_makes_a_responder_too() -> None:
    """A plain `Topic` says what is asked, `reply=` what is answered."""
    asked, bus = Topic("pricing.quote", Question), EventBus()

    @bus.on(asked, reply=Quote)
    async def answer(question: Question) -> Quote:
        return Quote(cents=1)

    async with bus:
        assert await bus.request(QUOTE, APPLE) == Quote(cents=1)


async def test_methods_and_routers_answer() -> None:
    """`handles` and `Router.on` make responders as `EventBus.on` does."""

    class Shop:
        @handles(QUOTE)
        async def quote(self, question: Question) -> Quote:
            return Quote(cents=2)

        @handles("old.quote", reply=Quote)
        async def old(self, question: Question) -> Quote:
            return Quote(cents=1)

    router, bus = Router("stock"), EventBus()

    @router.on("count", reply=int)
    def count(question: Question) -> int:
        return 7

    bus.include(Shop())
    bus.include(router)
    async with bus:
        assert await bus.request(QUOTE, APPLE) == Quote(cents=2)
        assert await bus.request("old.quote", APPLE, reply=Quote) == Quote(cents=1)
        assert await bus.request("stock.count", APPLE, reply=int) == 7


async def test_what_other_handlers_return_is_ignored() -> None:
    """An auditor hears the request and answers nothing, though it is first."""
    bus, heard = EventBus(), list[object]()

    @bus.on(">")
    async def audit(event: object) -> Quote:
        heard.append(event)
        return Quote(cents=-1)

    @bus.on("pricing.quote")
    async def listen(question: Question) -> Quote:
        return Quote(cents=-2)

    bus.on(QUOTE)(three)
    async with bus:
        assert await bus.request(QUOTE, APPLE) == Quote(cents=3)
    assert heard == [APPLE]


async def test_a_published_message_is_handled_and_answers_nobody() -> None:
    """A responder hears what is merely published on its topic."""
    bus, heard = EventBus(), list[Question]()

    @bus.on(QUOTE)
    async def answer(question: Question) -> Quote:
        heard.append(question)
        return cast("Quote", "this is looked at by nobody")

    async with bus:
        await bus.publish("pricing.quote", APPLE)
    assert heard == [APPLE]
    assert bus.stats().failed == bus.stats().late_replies == 0


async def test_16_requests_are_answered_at_once() -> None:
    """That is a responder's concurrency unless it says otherwise."""
    bus, running = EventBus(), {"now": 0, "most": 0}
    release = anyio.Event()

    @bus.on(QUOTE)
    async def answer(question: Question) -> Quote:
        running["now"] += 1
        running["most"] = max(running.values())
        await release.wait()
        running["now"] -= 1
        return Quote(cents=0)

    async with bus, asking(*[lambda: bus.request(QUOTE, APPLE)] * 20) as results:
        await until(lambda: running["now"] == 16)
        await anyio.wait_all_tasks_blocked()
        release.set()
        await until(lambda: len(results) == 20)
    assert running["most"] == 16


async def test_concurrency_can_be_said() -> None:
    """One at a time, if that is asked for."""
    bus = EventBus()
    bus.on(QUOTE, concurrency=1)(three)

    async with bus:
        await bus.request(QUOTE, APPLE)
        assert bus.stats().in_flight == 0
    with pytest.raises(InvalidOption, match="concurrency=0"):
        bus.on(QUOTE, concurrency=0)


async def test_a_thousand_requests_each_get_their_own_reply() -> None:
    """None is mixed up, and nothing is left."""
    bus, results = EventBus(), dict[int, Quote]()

    @bus.on("square", reply=Quote)
    async def square(number: dict[str, int]) -> Quote:
        await checkpoint()
        return Quote(cents=number["n"] ** 2)

    async def ask(number: int) -> None:
        results[number] = await bus.request("square", {"n": number}, reply=Quote, timeout=60.0)

    async with bus:
        async with anyio.create_task_group() as tasks:
            for number in range(1_000):
                tasks.start_soon(ask, number)
        assert len(bus.replies) == 0
    assert results == {n: Quote(cents=n * n) for n in range(1_000)}


async def test_handlers_of_one_group_share_the_requests() -> None:
    """Each request is answered by one of them."""
    bus = EventBus()
    bus.on(QUOTE, group="pricing", concurrency=1)(three)

    @bus.on(QUOTE, group="pricing", concurrency=1)
    async def also(question: Question) -> Quote:
        return Quote(cents=3)

    async with bus, asking(*[lambda: bus.request(QUOTE, APPLE)] * 10) as results:
        await until(lambda: len(results) == 10)
    assert results == [Quote(cents=3)] * 10
    assert bus.stats().delivered == 10


# --- Who is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["pricing.quote", "pricing.*", ">", "pricing.{what}"])
def test_a_second_responder_is_refused(pattern: str) -> None:
    """Where two would answer one topic, the second is told when it registers."""
    bus = EventBus()
    bus.on(QUOTE, name="first")(three)

    with pytest.raises(DuplicateSubscription, match=r"'first'.*group="):
        bus.on(pattern, model=Question, reply=Quote)(three)

    other = EventBus()
    other.on(pattern, model=Question, reply=Quote)(three)
    with pytest.raises(DuplicateSubscription):
        other.on(QUOTE)(three)


async def test_a_refused_responder_leaves_nothing_behind() -> None:
    """The first goes on alone, and the name is free."""
    bus = EventBus()
    bus.on(QUOTE)(three)
    with pytest.raises(DuplicateSubscription):
        bus.on(QUOTE, name="second")(fail)
    bus.on("other", name="second", reply=Quote)(three)

    async with bus:
        assert await bus.request(QUOTE, APPLE) == Quote(cents=3)
        assert len(bus.stats().subscriptions) == 2


async def test_a_responder_can_follow_another() -> None:
    """Once the first is unsubscribed, its topic is free."""
    bus = EventBus()
    bus.on("pricing.>", model=Question, reply=Quote)(fail)

    async with bus:
        await bus.unsubscribe(fail)
        with pytest.raises(NoResponders):
            await bus.request(QUOTE, APPLE)
        bus.on(QUOTE)(three)
        assert await bus.request(QUOTE, APPLE) == Quote(cents=3)
        await bus.unsubscribe(three)
        bus.on(QUOTE)(three)


def test_a_group_agrees_on_its_replies() -> None:
    """A handler with other replies, or with none, cannot join."""
    bus = EventBus()
    bus.on("pricing.quote", model=Question, reply=Quote, group="pricing")(three)

    with pytest.raises(InvalidOption, match="differs in reply"):
        bus.on("pricing.quote", model=Question, group="pricing")(three)


@pytest.mark.parametrize(
    "options", [{"model": Question}, {"reply": Quote}, {"invalid": "skip"}, {"max_deliveries": 2}]
)
def test_a_request_topic_says_all_itself(options: dict[str, Any]) -> None:
    """Options that contradict it, or mean nothing to a responder, are refused."""
    with pytest.raises(InvalidOption):
        cast("Any", EventBus()).on(QUOTE, **options)


def test_one_request_topic_at_a_time() -> None:
    """Two would need two kinds of replies."""
    with pytest.raises(InvalidPattern, match="register twice"):
        cast("Any", EventBus()).on(QUOTE, OFFERS)


@pytest.mark.parametrize(
    "other",
    [
        Topic("pricing.quote", Quote),
        RequestTopic("pricing.quote", Quote, Quote),
        RequestTopic("pricing.quote", Question, Question),
        RequestTopic("pricing.quote", Question, Quote, many=True),
    ],
)
def test_request_topics_are_contracts(other: Any) -> None:
    """Whoever states something else about the name is refused."""
    bus = EventBus()
    bus.on(QUOTE, group="pricing")(three)

    with pytest.raises(ContractError, match=r"pricing\.quote"):
        bus.on(other)(cast("Any", print))


async def test_a_request_topic_repeats_what_is_known() -> None:
    """The same may be stated twice, also by a `Topic`, and in the contracts of a closed world."""
    bus = EventBus(contracts=CLOSED)
    bus.on(Topic("pricing.quote", Question))(print)
    bus.on(QUOTE)(three)

    async with bus:
        again = RequestTopic("pricing.quote", Question, Quote)
        assert await bus.request(again, APPLE) == Quote(cents=3)
        with pytest.raises(UnknownTopic, match=r"pricing\.quote"):
            await bus.request(RequestTopic("pricing.quota", Question, Quote), APPLE)


async def test_publishing_is_held_to_a_request_topic() -> None:
    """Its request model is the contract of the topic, for `publish` too."""
    bus = EventBus()
    bus.on(QUOTE)(three)

    async with bus:
        with pytest.raises(InvalidEvent, match="sku"):
            await bus.publish("pricing.quote", {"name": "apple"})
        with pytest.raises(InvalidTopic, match=r"bus\.request"):
            await bus.publish(cast("Any", QUOTE), APPLE)


def test_raises_names_exceptions() -> None:
    """What is no exception class is refused when the topic is made."""
    with pytest.raises(InvalidOption, match="raises="):
        RequestTopic("pricing.quote", Question, Quote, raises=cast("Any", ["OutOfStock"]))


# --- What is asked --------------------------------------------------------------------------------


async def test_the_message_of_a_request_says_who_asks_until_when(clock: ManualClock) -> None:
    """It carries a reserved address of its own, and its deadline."""
    bus, messages = EventBus(clock=clock), list[Message]()

    @bus.on(QUOTE)
    async def answer(question: Question, context: Context[Question]) -> Quote:
        messages.append(context.message)
        return Quote(cents=1)

    async with bus:
        await bus.request(QUOTE, APPLE, timeout=2.5)
        await bus.request(QUOTE, APPLE)
    first, second = messages
    assert first.reply_to is not None
    assert first.reply_to.startswith("$reply.")
    assert first.reply_to != second.reply_to
    assert first.expires_at is not None
    assert (first.expires_at - first.time).total_seconds() == pytest.approx(2.5)
    assert first.replace(topic="other").reply_to == first.reply_to
    assert first.replace(topic="other").expires_at == first.expires_at


async def test_a_published_message_has_no_address() -> None:
    """Nobody asks, and it does not expire."""
    async with EventBus() as bus, bus.subscribe("a") as events:
        await bus.publish("a", {}, key="k")
        await bus.publish("a", {})
        await bus.drain()
        async for context in events.contexts():
            assert context.message.reply_to is None
            assert context.message.expires_at is None


async def test_publish_middleware_sees_requests() -> None:
    """It may change one, and hear of the receipt."""
    seen: list[int | None] = []

    async def sweeten(message: Message, call_next: PublishNext) -> Receipt:
        receipt = await call_next(message.replace(payload=Question(sku="sugar")))
        seen.append(receipt.matched)
        return receipt

    bus = EventBus(publish_middleware=[sweeten])

    @bus.on(QUOTE)
    async def answer(question: Question) -> Quote:
        return Quote(cents=len(question.sku) * 100)

    async with bus:
        assert await bus.request(QUOTE, Question(sku="ice")) == Quote(cents=500)
        with pytest.raises(NoResponders):
            await bus.request("nobody", {}, reply=Quote)
    assert seen == [1]
    assert bus.stats().published == 2


@pytest.mark.parametrize("payload", [{"sku": "apple"}, b'{"sku": "apple"}', APPLE])
async def test_requests_are_validated(payload: Any) -> None:
    """Mappings and JSON bytes become the model, as everywhere."""
    bus, heard = EventBus(), list[object]()

    @bus.on(QUOTE)
    async def answer(question: Question) -> Quote:
        heard.append(question)
        return Quote(cents=1)

    async with bus:
        await bus.request("pricing.quote", payload, reply=Quote)
    assert heard == [APPLE]


@pytest.mark.parametrize(
    ("verb", "topic", "options"),
    [
        ("request", "pricing.quote", {}),
        ("request", QUOTE, {"reply": Quote}),
        ("request", QUOTE, {"timeout": -1.0}),
        ("request", QUOTE, {"timeout": float("inf")}),
        ("request", QUOTE, {"timeout": float("nan")}),
        ("request", QUOTE, {"timeout": "soon"}),
        ("request", OFFERS, {}),
        ("request", "pricing.offers", {"reply": Quote}),
        ("request_many", QUOTE, {}),
        ("request_many", OFFERS, {"max_replies": 0}),
    ],
)
async def test_what_cannot_be_asked_is_refused(
    verb: str, topic: object, options: dict[str, Any]
) -> None:
    """Each option says what it takes, and nothing is published."""
    bus = EventBus()
    bus.on(QUOTE)(three)
    bus.on(OFFERS)(three)

    async with bus:
        with pytest.raises(InvalidOption):
            await getattr(bus, verb)(topic, APPLE, **options)
        assert bus.stats().published == 0


@pytest.mark.parametrize("topic", [Topic("pricing.quote", Question), 3, [], "$reply.1", "a..b"])
async def test_what_is_no_topic_is_refused(topic: Any) -> None:
    """Neither a plain `Topic`, nor the bus's own, nor what is none at all."""
    async with EventBus() as bus:
        with pytest.raises(InvalidTopic):
            await bus.request(topic, APPLE, reply=Quote)


async def test_a_closed_bus_cannot_be_asked() -> None:
    """Before the start and after the end it says so."""
    bus = EventBus()
    with pytest.raises(NotStarted):
        await bus.request(QUOTE, APPLE)
    async with bus:
        pass
    with pytest.raises(BusClosed):
        await bus.request(QUOTE, APPLE)


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


# --- Nobody answers -------------------------------------------------------------------------------


async def test_nobody_there_is_told_at_once(clock: ManualClock) -> None:
    """No time passes, and the error names the topic."""
    async with EventBus(clock=clock) as bus:
        with pytest.raises(NoResponders, match=r"'pricing\.quote'"):
            await bus.request(QUOTE, APPLE)
        with pytest.raises(NoResponders):
            await bus.request_many(OFFERS, APPLE)
        assert len(bus.replies) == 0


async def test_who_merely_listens_hears_an_unanswered_request() -> None:
    """As with NATS, a request is a message; that nobody answers it is told to the caller."""
    bus, heard = EventBus(), list[object]()

    @bus.on(">")
    async def audit(event: object) -> None:
        heard.append(event)

    async with bus:
        with pytest.raises(NoResponders):
            await bus.request(QUOTE, APPLE)
    assert heard == [APPLE]


@pytest.mark.parametrize(
    "options",
    [
        {"where": is_pear},
        {"middleware": [Filter(asks_for_pear)]},
    ],
)
async def test_who_holds_a_request_back_does_not_answer(options: Any) -> None:
    """The caller need not wait for its time-out, and what was held back counts as filtered."""
    bus = EventBus()
    bus.on(QUOTE, name="pears", **options)(three)

    async with bus:
        with pytest.raises(NoResponders, match=r"pears.*where="):
            await bus.request(QUOTE, APPLE)
        assert await bus.request(QUOTE, Question(sku="pear")) == Quote(cents=3)
        await bus.publish("pricing.quote", APPLE)
        await bus.join()
        stats = bus.stats()
    assert (stats.filtered, stats.succeeded, stats.failed) == (2, 1, 0)


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


async def test_a_retry_whose_time_is_up_is_not_run(clock: ManualClock) -> None:
    """It lets go of its key, too."""
    bus = EventBus(clock=clock, middleware=[Retry(attempts=2, initial=2.0, jitter=False)])
    answered: list[str] = []

    @bus.on(QUOTE, key=lambda question: "all")
    async def answer(question: Question) -> Quote:
        answered.append(question.sku)
        if question.sku == "first":
            raise ValueError("not yet")
        return Quote(cents=1)

    async with (
        bus,
        asking(lambda: bus.request(QUOTE, Question(sku="first"), timeout=1.0)) as first,
    ):
        await until(lambda: answered == ["first"])
        async with asking(lambda: bus.request(QUOTE, Question(sku="second"))) as second:
            await clock.advance(1.0)
            assert isinstance(first[0], RequestTimeout)
            assert second == []
            await clock.advance(1.0)
    assert second == [Quote(cents=1)]
    assert bus.stats().expired == 1


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
    bus.on(QUOTE, concurrency=1, queue_size=1)(never)

    async with bus, asking(*[lambda: bus.request(QUOTE, APPLE, timeout=2.0)] * 3) as results:
        await clock.settle()
        assert bus.stats().subscriptions[f"{__name__}.never"].lag == 2
        await clock.advance(2.0)
        assert [type(one) for one in results] == [RequestTimeout] * 3
        assert bus.stats().subscriptions[f"{__name__}.never"].lag == 1


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


# --- Many responders ------------------------------------------------------------------------------


def offering(*cents: int) -> EventBus:
    """Make a bus with a responder per price; the negative ones never answer."""
    bus = EventBus(drain_timeout=0)

    def make(price: int) -> Callable[[Question], Awaitable[Quote]]:
        async def offer(question: Question) -> Quote:
            if price < 0:
                await anyio.sleep_forever()
            if not price:
                raise ValueError("nothing to offer")
            return Quote(cents=price)

        return offer

    for price in cents:
        bus.on(OFFERS)(cast("Any", make(price)))
    return bus


async def test_all_replies_are_gathered(clock: ManualClock) -> None:
    """It returns when all have answered, and no time passes."""
    async with offering(1, 2, 3) as bus:
        quotes = await bus.request_many(OFFERS, APPLE)
        assert sorted(quote.cents for quote in quotes) == [1, 2, 3]
        assert len(bus.replies) == 0


async def test_who_fails_is_left_out() -> None:
    """The others' replies count, and nobody waits for the one that failed."""
    async with offering(1, 0, 3) as bus:
        quotes = await bus.request_many(OFFERS, APPLE, timeout=60.0)
        assert sorted(quote.cents for quote in quotes) == [1, 3]


async def test_all_may_fail() -> None:
    """Then there are no replies, which is no error."""
    async with offering(0, 0) as bus:
        assert await bus.request_many(OFFERS, APPLE, timeout=60.0) == []


async def test_when_the_time_is_up_what_came_is_returned() -> None:
    """Who never answers costs the time-out, and no error."""
    async with offering(1, -1) as bus:
        assert await bus.request_many(OFFERS, APPLE, timeout=0.05) == [Quote(cents=1)]


async def test_as_many_as_wanted_are_enough() -> None:
    """Later ones are dropped and counted."""
    async with offering(1, 2, -1) as bus:
        quotes = await bus.request_many(OFFERS, APPLE, max_replies=1, timeout=60.0)
        assert len(quotes) == 1
        await until(lambda: bus.stats().late_replies == 1)


async def test_gathering_ends_with_the_bus() -> None:
    """As a request does."""
    bus = offering(-1)
    async with asking(lambda: bus.request_many(OFFERS, APPLE, timeout=60.0)) as results, bus:
        await until(lambda: bus.stats().in_flight == 1)
    assert isinstance(results[0], BusClosed)


async def test_gathering_passes_through_publish_middleware() -> None:
    """All responders are awaited there, too."""

    async def pass_on(message: Message, call_next: PublishNext) -> Receipt:
        return await call_next(message)

    bus = EventBus(publish_middleware=[pass_on])
    for _ in range(3):
        bus.on(OFFERS)(three)
    async with bus:
        assert await bus.request_many(OFFERS, APPLE, timeout=60.0) == [Quote(cents=3)] * 3


def test_one_of_many_and_a_single_responder_do_not_go_together() -> None:
    """A string with `reply=` wants the topic for itself."""
    bus = offering(1)
    with pytest.raises(DuplicateSubscription):
        bus.on("pricing.*", model=Question, reply=Quote)(three)
