"""Who answers requests, and who is refused."""

import threading
from typing import Any, TypedDict, cast

import anyio
import pytest
from anyio.lowlevel import checkpoint

from eventbus import (
    Context,
    ContractError,
    DuplicateSubscription,
    EventBus,
    InvalidEvent,
    InvalidOption,
    InvalidPattern,
    InvalidTopic,
    NoResponders,
    RequestTopic,
    Router,
    Topic,
    UnknownTopic,
    handles,
)
from tests.pricing import (
    APPLE,
    OFFERS,
    QUOTE,
    Question,
    Quote,
    asking,
    fail,
    three,
)
from tests.waiting import until

CLOSED = TypedDict("CLOSED", {"pricing.quote": Question})


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
