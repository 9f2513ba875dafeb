"""A request takes what its topic asks and gives what it answers; responders the other way."""

from typing import assert_type

from pydantic import BaseModel

from eventbus import Context, EventBus, RemoteError, RequestTopic, Router, handles
from tests.typing.shop import CREATED, Created, CreatedAbroad, Paid, Shipped, bus


class Quote(BaseModel):
    cents: int


QUOTE = RequestTopic("pricing.quote", Created, Quote, raises=[KeyError, ValueError])
OFFERS = RequestTopic("pricing.offers", Created, Quote, many=True)
EITHER = RequestTopic("pricing.either", Created | Shipped, Quote | None)

assert_type(QUOTE, RequestTopic[Created, Quote])
other_answer: RequestTopic[Created, Paid] = QUOTE  # expect-error
other_request: RequestTopic[CreatedAbroad, Quote] = QUOTE  # expect-error
no_exception = RequestTopic("pricing.quote", Created, Quote, raises=["KeyError"])  # expect-error
text: str = QUOTE  # expect-error


# --- Asking ---------------------------------------------------------------------------------------


async def ask(other: EventBus) -> None:
    created = Created(order_id="o-1")
    assert_type(await bus.request(QUOTE, created), Quote)
    assert_type(await bus.request(QUOTE, created, timeout=1), Quote)
    assert_type(await other.request(EITHER, Shipped(parcel="p-1")), Quote | None)
    await bus.request(QUOTE, CreatedAbroad(order_id="o-1", country="pt"))
    await bus.request(QUOTE, Shipped(parcel="p-1"))  # expect-error
    await bus.request(QUOTE, {"order_id": "o-1"})  # expect-error
    await bus.request(QUOTE, created, reply=Quote)  # expect-error
    await bus.request(QUOTE, created, timeout="soon")  # expect-error
    await bus.request(QUOTE, created, key="o-1")  # expect-error
    await bus.request(QUOTE)  # expect-error
    await bus.request(CREATED, created)  # expect-error
    paid: Paid = await bus.request(QUOTE, created)  # expect-error


async def ask_by_text() -> None:
    assert_type(await bus.request("pricing.quote", {"order_id": "o-1"}, reply=Quote), Quote)
    assert_type(await bus.request("pricing.count", b"{}", reply=int), int)
    assert_type(await bus.request("pricing.quote", {}, reply=Quote | None), Quote | None)
    await bus.request("pricing.quote", {})  # expect-error
    await bus.request("pricing.quote", 1, reply=Quote)  # expect-error


async def ask_many() -> None:
    created = Created(order_id="o-1")
    assert_type(await bus.request_many(OFFERS, created), list[Quote])
    await bus.request_many(OFFERS, created, max_replies=2, timeout=0.1)
    await bus.request_many(OFFERS, Shipped(parcel="p-1"))  # expect-error
    await bus.request_many("pricing.offers", {})  # expect-error
    await bus.request_many(OFFERS, created, max_replies="all")  # expect-error


# --- Answering ------------------------------------------------------------------------------------


@bus.on(QUOTE)
async def answers(question: Created) -> Quote:
    return Quote(cents=1)


@bus.on(QUOTE, group="pricing", concurrency=2, where=lambda question: question.order_id != "")
async def answers_with_context(question: Created, context: Context[Created]) -> Quote:
    assert_type(context.event, Created)
    return Quote(cents=1)


@bus.on(QUOTE)
def answers_at_once(question: Created) -> Quote:
    return Quote(cents=1)


@bus.on(EITHER)
async def answers_one_of_two(question: Created | Shipped) -> Quote | None:
    return None


@bus.on(QUOTE)
async def answers_anything_of_its_base(question: BaseModel) -> Quote:
    return Quote(cents=1)


@bus.on(QUOTE)  # expect-error
async def other_reply(question: Created) -> Paid:
    return Paid(cents=1)


@bus.on(QUOTE)  # expect-error
async def no_reply(question: Created) -> None: ...


@bus.on(QUOTE)  # expect-error
def other_reply_at_once(question: Created) -> int:
    return 1


@bus.on(QUOTE)  # expect-error
async def other_question(question: Shipped) -> Quote:
    return Quote(cents=1)


@bus.on(QUOTE)  # expect-error
async def other_context(question: Created, context: Context[Shipped]) -> Quote:
    return Quote(cents=1)


@bus.on(QUOTE, where=lambda question: question.parcel)  # expect-error
async def other_where(question: Created) -> Quote:
    return Quote(cents=1)


bus.on(QUOTE, max_deliveries=2)  # expect-error
bus.on(QUOTE, model=Created)  # expect-error
bus.on(QUOTE, OFFERS)  # expect-error


@bus.on("pricing.*", model=Created, reply=Quote)
async def answers_text(question: Created) -> Quote:
    return Quote(cents=1)


@bus.on("stock.*", reply=int)
async def answers_annotated(question: Created, context: Context[Created]) -> int:
    return 1


@bus.on(CREATED, reply=Quote)
async def answers_topic(question: Created) -> Quote:
    return Quote(cents=1)


@bus.on("pricing.*", model=Created, reply=Quote)  # expect-error
async def text_other_reply(question: Created) -> Paid:
    return Paid(cents=1)


@bus.on("stock.*", reply=int)  # expect-error
async def annotated_other_reply(question: Created) -> str:
    return ""


@bus.on(CREATED, reply=Quote)  # expect-error
async def topic_other_reply(question: Created) -> Paid:
    return Paid(cents=1)


router = Router()


@router.on(QUOTE)
async def routed(question: Created) -> Quote:
    return Quote(cents=1)


class Pricing:
    @handles(QUOTE)
    async def quote(self, question: Created) -> Quote:
        return Quote(cents=1)

    @handles("pricing.*", model=Created, reply=Quote)
    def text(self, question: Created, context: Context[Created]) -> Quote:
        return Quote(cents=1)

    @handles("stock.*", reply=int)
    async def stock(self, question: Created) -> int:
        return 1

    @handles(QUOTE)  # expect-error
    async def other_reply(self, question: Created) -> Paid:
        return Paid(cents=1)

    @handles(QUOTE)  # expect-error
    async def other_question(self, question: Shipped) -> Quote:
        return Quote(cents=1)

    @handles("stock.*", reply=int)  # expect-error
    async def other_stock(self, question: Created) -> str:
        return ""


async def functions_come_back(pricing: Pricing) -> None:
    created = Created(order_id="o-1")
    assert_type(await answers(created), Quote)
    assert_type(answers_at_once(created), Quote)
    assert_type(await pricing.quote(created), Quote)
    assert_type(await answers_annotated, int)  # expect-error


# --- Waiting --------------------------------------------------------------------------------------


async def wait() -> None:
    assert_type(await bus.wait_for(CREATED), Created)
    assert_type(await bus.wait_for("orders.*", model=Created | Shipped), Created | Shipped)
    assert_type(await bus.wait_for("orders.*"), object)
    await bus.wait_for(CREATED, where=lambda event: event.order_id == "o-1", timeout=1.0)
    await bus.wait_for(CREATED, where=lambda event: event.parcel == "p-1")  # expect-error
    await bus.wait_for(CREATED, model=Created)  # expect-error
    await bus.wait_for(CREATED, "orders.*")  # expect-error
    await bus.wait_for()  # expect-error


def failures(error: RemoteError) -> None:
    assert_type(error.type, str)
    assert_type(error.text, str)
    assert_type(error.retryable, bool)
