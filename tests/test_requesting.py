"""What is asked, of whom: one responder, many, or nobody."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

import anyio
import pytest

from eventbus import (
    BusClosed,
    Context,
    DuplicateSubscription,
    EventBus,
    InvalidOption,
    InvalidTopic,
    NoResponders,
    NotStarted,
    Topic,
)
from eventbus.message import Message, Receipt
from eventbus.middleware import Filter, PublishNext
from eventbus.testing import ManualClock
from tests.pricing import APPLE, OFFERS, QUOTE, Question, Quote, asking, is_pear, three
from tests.waiting import until


def asks_for_pear(context: Context[Question]) -> bool:
    """Ask a context the same."""
    return is_pear(context.event)


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
