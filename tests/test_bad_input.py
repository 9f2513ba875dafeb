"""What a user gets wrong: told at the earliest moment, with the value and the next step.

The same for deliveries: what cannot be handled is a dead letter that says why, and the bus goes on.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, TypedDict, cast

import anyio
import pytest
from pydantic import BaseModel, Field

from eventbus import (
    Context,
    ContractError,
    EventBus,
    InvalidEvent,
    InvalidHandler,
    InvalidOption,
    InvalidPattern,
    InvalidTopic,
    Router,
    Topic,
    UnknownTopic,
    handles,
)
from eventbus.middleware import DeadLetter, Filter, Retry, Timeout
from tests.naming import name_of


class Order(BaseModel):
    order_id: str


class Parcel(BaseModel):
    weight: int


class Letter(Parcel):
    stamp: str


ORDER = Topic("orders.created", Order)


def nothing(event: object) -> None:
    """Do nothing with an event."""


async def fates(bus: EventBus[Any], *payloads: object) -> list[str]:
    """Publish payloads to a bus that keeps dead letters; say what became of them."""
    async with bus:
        for payload in payloads:
            await bus.publish("numbers", payload)  # type: ignore[call-overload] # any payload
    return [f"{one.error_type}: {one.error}" for one in reversed(await bus.dead_letters())]


# --- Topics and patterns --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    ["", ".", "a..b", "a b", "a\n", "a.>.b", "#", "a.+", "**", "a.{}", "x" * 300, 1, None],
)
def test_what_is_no_pattern_is_refused_when_a_handler_is_decorated(pattern: Any) -> None:
    """Before there is a function, in `on`, `handles`, `subscribe` and routers alike."""
    doors: list[Callable[..., object]] = [
        EventBus().on,
        Router().on,
        handles,
        EventBus().subscribe,
    ]
    for door in doors:
        with pytest.raises(InvalidPattern):
            door(pattern)


@pytest.mark.parametrize("name", ["", "a..b", "orders.*", "a.{id}", "$dlq.x", "a b", 1, None])
def test_what_is_no_topic_is_refused_when_it_is_named(name: Any) -> None:
    """A `Topic` that cannot be published to never comes to be."""
    with pytest.raises(InvalidTopic):
        Topic(name, Order)


def test_a_wildcard_of_another_broker_names_the_right_one() -> None:
    """Who comes from MQTT or AMQP reads what to write here."""
    with pytest.raises(InvalidPattern, match="'>'"):
        EventBus().on("orders.#")


@pytest.mark.parametrize("patterns", [(ORDER, "orders.*"), ("orders.*", ORDER)], ids=str)
def test_topics_and_text_do_not_mix(patterns: Any) -> None:
    """What the model would be, nobody could say; the error says to register twice."""
    for door in (EventBus().on, Router().on, handles, EventBus().subscribe):
        with pytest.raises(InvalidPattern, match="twice"):
            cast("Any", door)(*patterns)


def test_no_pattern_at_all_is_refused() -> None:
    """A handler of nothing would never run."""
    for door in (EventBus().on, Router().on, handles, EventBus().subscribe):
        with pytest.raises(InvalidPattern, match="at least one"):
            cast("Any", door)()


# --- Options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "flaw"),
    [
        ({"concurency": 2}, r"'concurency'.*did you mean 'concurrency'\?"),
        ({"retries": 2}, "'retries'"),
        ({"delay": 1}, "'delay'"),
        ({"ack": "never"}, "ack='never'"),
        ({"durable": "yes"}, "durable='yes'.*True"),
        ({"start": "now"}, r"start='now'.*did you mean 'new'\?"),
        ({"start": True}, "start=True"),
        ({"start": datetime(2026, 1, 1)}, "start=.*time zone"),  # noqa: DTZ001 - that is the flaw
        ({"ack_wait": 0}, "ack_wait=0"),
        ({"ack_wait": "1s"}, "ack_wait='1s'"),
        ({"overflow": "drop"}, r"overflow='drop'.*'drop_newest', 'drop_oldest'"),
        ({"overflow": "blok"}, r"did you mean 'block'\?"),
        ({"overflow": ["block"]}, r"overflow=\['block'\]"),
        ({"invalid": "ignore"}, "invalid='ignore'.*'dead_letter', 'skip'"),
        ({"queue_size": 0}, "queue_size=0"),
        ({"queue_size": -1}, "queue_size=-1"),
        ({"queue_size": True}, "queue_size=True"),
        ({"queue_size": 1.5}, r"queue_size=1\.5"),
        ({"queue_size": "9"}, "queue_size='9'"),
        ({"max_deliveries": None}, "max_deliveries=None"),
        ({"invalid": None}, "invalid=None"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"concurrency": -3}, "concurrency=-3"),
        ({"concurrency": True}, "concurrency=True"),
        ({"concurrency": float("inf")}, "concurrency=inf"),
        ({"max_deliveries": 0}, "max_deliveries=0"),
        ({"where": "event.total > 0"}, "where='event.total > 0'"),
        ({"key": "order_id"}, "key='order_id'"),
        ({"name": ""}, "name ''"),
        ({"name": "a b"}, "name 'a b'.*' '"),
        ({"name": "a..b"}, r"name 'a\.\.b'"),
        ({"name": "x" * 200}, "128"),
        ({"name": 5}, "name 5"),
        ({"group": "a/b"}, "'a/b'"),
        ({"name": "a", "group": "b"}, "'a'.*'b'"),
        ({"middleware": [Retry]}, r"Retry\(\.\.\.\)"),
        ({"middleware": ["retry"]}, "'retry'"),
        ({"middleware": [None]}, "None"),
        ({"middleware": Retry()}, "middleware=.*list"),
        ({"middleware": 5}, "middleware=5"),
    ],
    ids=name_of,
)
def test_an_option_that_cannot_be_is_refused_by_on(option: Any, flaw: str) -> None:
    """Before there is a function: with the word, the value, and what would do."""
    with pytest.raises(InvalidOption, match=flaw):
        EventBus().on("orders.*", **option)
    with pytest.raises(InvalidOption, match=flaw):
        Router().on(ORDER, **option)
    with pytest.raises(InvalidOption, match=flaw):
        handles(ORDER, **option)


@pytest.mark.parametrize(
    ("option", "flaw"),
    [
        ({"queue_size": 0}, "queue_size=0"),
        ({"queue_size": True}, "queue_size=True"),
        ({"threads": 0}, "threads=0"),
        ({"threads": -1}, "threads=-1"),
        ({"threads": 1.5}, r"threads=1\.5"),
        ({"overflow": "drop"}, "overflow='drop'"),
        ({"drain_timeout": -1}, "drain_timeout=-1"),
        ({"drain_timeout": float("nan")}, "drain_timeout=nan"),
        ({"drain_timeout": "30"}, "drain_timeout='30'"),
        ({"drain_timeout": None}, "drain_timeout=None"),
        ({"middleware": [DeadLetter]}, r"DeadLetter\(\.\.\.\)"),
        ({"middleware": [1]}, "middleware=1"),
        ({"middleware": Retry()}, "middleware=.*list"),
        ({"publish_middleware": [Filter]}, "Filter"),
        ({"publish_middleware": [1]}, "publish_middleware=1"),
        ({"publish_middleware": nothing}, "publish_middleware=.*list"),
    ],
    ids=name_of,
)
def test_an_option_that_cannot_be_is_refused_by_the_bus(option: Any, flaw: str) -> None:
    """Before anything runs."""
    with pytest.raises(InvalidOption, match=flaw):
        EventBus(**option)


@pytest.mark.parametrize(
    ("make", "flaw"),
    [
        (lambda: Retry(attempts=0), "attempts=0"),
        (lambda: Retry(attempts=-1), "attempts=-1"),
        (lambda: Retry(initial=-1), "initial=-1"),
        (lambda: Retry(initial=10, maximum=5), "maximum=5"),
        (lambda: Retry(factor=0.5), r"factor=0\.5"),
        (lambda: Timeout(0), "0"),
        (lambda: Timeout(-1), "-1"),
        (lambda: Timeout(float("nan")), "nan"),
    ],
    ids=["no attempts", "-1 attempts", "initial", "maximum", "factor", "0 s", "-1 s", "nan"],
)
def test_a_policy_that_cannot_be_is_refused(make: Callable[[], object], flaw: str) -> None:
    """Where it is made, not where it would act."""
    with pytest.raises(InvalidOption, match=flaw):
        make()


@pytest.mark.parametrize(
    ("option", "flaw"),
    [
        ({"kee": "k"}, r"'kee'.*did you mean 'key'\?"),
        ({"dealy": 5.0}, "'dealy'.*did you mean 'delay'"),
        ({"reply_to": "x"}, "'reply_to'"),
        ({"key": 5}, "key=5"),
        ({"key": ""}, "key=''"),
        ({"key": "a\x00b"}, r"key='a\\x00b'"),
        ({"key": "a\nb"}, r"key='a\\nb'"),
        ({"key": "\ud800"}, "key="),
        ({"key": "x" * 256}, "255"),
        ({"key": "é" * 128}, "255"),
        ({"id": 5}, "id=5"),
        ({"id": ""}, "id=''"),
        ({"id": "a\x1bb"}, r"id='a\\x1bb'"),
        ({"id": "x" * 129}, "128"),
        ({"headers": {"a": 1}}, "'a'.*1"),
        ({"headers": {"a": "x\ny"}}, r"'a'.*'x\\ny'"),
        ({"headers": {"a": "\x7f"}}, r"'a'.*'\\x7f'"),
        ({"headers": {"a b": "x"}}, "'a b'"),
        ({"headers": {"": "x"}}, "name ''"),
        ({"headers": {"ä": "x"}}, "'ä'"),
        ({"headers": {1: "x"}}, "name 1"),
        ({"headers": {"x" * 65: "x"}}, "64"),
        ({"headers": {f"h{n}": "x" for n in range(65)}}, "65 headers.*64"),
        ({"headers": {"a": "x" * 20_000}}, "bytes.*16384"),
        ({"headers": "tenant"}, "headers='tenant'"),
        ({"headers": ["tenant"]}, r"headers=\['tenant'\]"),
        ({"headers": 5}, "headers=5"),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_an_option_that_cannot_travel_is_refused_by_publish(option: Any, flaw: str) -> None:
    """By all that publish, before anything is enqueued."""
    seen: list[object] = []
    errors: list[str] = []
    bus = EventBus()
    bus.on("orders.*")(seen.append)

    @bus.on("begin")
    async def handler(event: object, context: Context[object]) -> None:
        with pytest.raises(InvalidOption, match=flaw) as caught:
            await context.publish("orders.created", {}, **option)
        errors.append(str(caught.value))

    async with bus:
        with pytest.raises(InvalidOption, match=flaw):
            await bus.publish("orders.created", {}, **option)
        with pytest.raises(InvalidOption, match=flaw):
            bus.publish_nowait("orders.created", {}, **option)
        await bus.publish("begin", {})

    assert seen == []
    assert len(errors) == 1


async def test_what_can_travel_just_passes() -> None:
    """The bounds themselves are allowed: lengths, letters, an empty header."""
    bus = EventBus()
    bus.on("orders.*")(nothing)

    async with bus:
        receipt = await bus.publish(
            "orders.created",
            {},
            key="é" * 127,
            id="x" * 128,
            headers={f"Header_{n}-": "" for n in range(63)} | {"x" * 64: "ünïcode ✓"},
        )

    assert receipt.matched == 1


# --- Handlers -------------------------------------------------------------------------------------


def no_event() -> None:
    """Take nothing."""


def three(event: object, context: object, more: object) -> None:
    """Take more than there is."""


def needs_keyword(event: object, *, tenant: str) -> None:
    """Take what nobody gives."""


def context_first(context: Context[Order], event: Order) -> None:
    """Take both the wrong way round."""


async def generator(event: object) -> Any:
    """Yield, where nobody would iterate."""
    yield event


@pytest.mark.parametrize(
    ("handler", "flaw"),
    [
        (no_event, "no_event.*no event"),
        (three, "three.*event, context, more"),
        (needs_keyword, "needs_keyword.*'tenant'"),
        (context_first, "context_first.*event comes first"),
        (generator, "generator"),
        (Order, "Order.*class"),
        (5, "5"),
        (None, "None"),
        ("handler", "'handler'"),
    ],
    ids=name_of,
)
def test_what_cannot_be_a_handler_is_refused_when_decorated(handler: Any, flaw: str) -> None:
    """With its name and what is wrong with it, whatever says the model."""
    bus = EventBus()
    with pytest.raises(InvalidHandler, match=flaw):
        bus.on(ORDER)(handler)
    with pytest.raises(InvalidHandler, match=flaw):
        bus.on("orders.*")(handler)
    assert bus.stats().subscriptions == {}


def test_an_annotation_that_cannot_be_resolved_is_refused() -> None:
    """The error says which one, and both ways out."""

    async def handler(event: Any) -> None: ...

    handler.__annotations__["event"] = "Missing"

    with pytest.raises(InvalidHandler, match=r"handler.*'event'.*Missing.*model="):
        EventBus().on("orders.*")(handler)


def test_an_annotation_that_cannot_be_resolved_does_not_matter_where_a_model_is_given() -> None:
    """The annotation is not needed then."""

    async def handler(event: Any) -> None: ...

    handler.__annotations__["event"] = "Missing"

    bus = EventBus()
    bus.on("orders.*", model=Order)(handler)
    bus.on(ORDER)(handler)

    assert len(bus.stats().subscriptions) == 2


def test_a_model_pydantic_cannot_use_is_refused() -> None:
    """A class without fields to validate is no model."""

    class Plain:
        pass

    with pytest.raises(ContractError, match="Plain"):
        EventBus().on("orders.*", model=Plain)(nothing)


def test_a_handler_of_another_model_is_refused() -> None:
    """What would fail with each event fails when it is registered."""

    async def handler(event: Parcel) -> None: ...

    with pytest.raises(InvalidHandler, match=r"handler.*Parcel.*Order"):
        EventBus().on(ORDER)(handler)  # type: ignore[arg-type] # is refused by types too


# --- Contracts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "contracts", [{"orders.created": Order}, dict, Order, 5, "Shop", TypedDict], ids=name_of
)
def test_contracts_that_are_no_typed_dict_are_refused(contracts: Any) -> None:
    """With the value and an example."""
    with pytest.raises(ContractError, match="TypedDict"):
        EventBus(contracts=contracts)


def test_overlapping_contracts_of_unrelated_models_are_refused() -> None:
    """Nobody could say what a topic under both carries."""
    shop = TypedDict("shop", {"orders.*": Order, "*.created": Parcel})

    with pytest.raises(ContractError, match=r"'orders\.\*'.*Order.*'\*\.created'.*Parcel"):
        EventBus(contracts=shop)


def test_overlapping_contracts_of_related_models_are_allowed() -> None:
    """A narrower pattern may say more."""
    shop = TypedDict("shop", {"parcels.>": Parcel, "parcels.letters.*": Letter})

    EventBus(contracts=shop)


def test_a_contract_for_no_pattern_is_refused() -> None:
    """A key that cannot be one is said to be that."""
    shop = TypedDict("shop", {"a..b": Order})

    with pytest.raises(InvalidPattern, match=r"a\.\.b"):
        EventBus(contracts=shop)


async def test_an_unknown_topic_in_a_closed_world_is_refused() -> None:
    """In every way to name one, with the nearest that is known."""
    shop = TypedDict("shop", {"orders.created": Order})
    bus = EventBus(contracts=shop)
    wrong = "orders.craeted"

    with pytest.raises(UnknownTopic, match=r"orders\.craeted.*did you mean 'orders\.created'"):
        bus.on(wrong)(nothing)
    with pytest.raises(UnknownTopic):
        bus.on(Topic(wrong, Order))(nothing)
    async with bus:
        with pytest.raises(UnknownTopic):
            await bus.publish(wrong, {"order_id": "o-1"})
        with pytest.raises(UnknownTopic):
            await bus.publish(Topic(wrong, Order), Order(order_id="o-1"))
        with pytest.raises(UnknownTopic):
            bus.publish_nowait(wrong, {"order_id": "o-1"})
        with pytest.raises(UnknownTopic):
            await bus.publish_many(wrong, [{"order_id": "o-1"}])


async def test_an_unknown_topic_published_by_a_handler_fails_its_delivery() -> None:
    """The mistake is the handler's, and shows as its dead letter."""
    shop = TypedDict("shop", {"orders.created": Order})
    bus: EventBus[Any] = EventBus(contracts=shop, middleware=[DeadLetter()])

    @bus.on("orders.created")
    async def handler(event: object, context: Context[object]) -> None:
        await context.publish("orders.craeted", {})

    async with bus:
        await bus.publish("orders.created", {"order_id": "o-1"})

    (letter,) = await bus.dead_letters()
    assert letter.error_type == "UnknownTopic"
    assert "did you mean 'orders.created'" in letter.error


@pytest.mark.parametrize(
    ("payload", "flaw"),
    [
        ({"order": "o-1"}, "order_id.*[Ff]ield required"),
        ({"order_id": 1}, "order_id.*valid string"),
        (b"{", "JSON"),
        (b"\xff", "JSON|UTF|utf"),
        (Parcel(weight=1), "Parcel"),
        (None, "NoneType"),
        (5, "int"),
    ],
    ids=name_of,
)
async def test_a_payload_against_its_contract_is_the_publishers_error(
    payload: Any, flaw: str
) -> None:
    """With topic, model, and what is wrong; nothing is delivered."""
    async with EventBus() as bus:
        with pytest.raises(InvalidEvent, match=r"orders\.created.*Order") as caught:
            await bus.publish(ORDER, payload)
    caught.match(flaw)


# --- Deliveries -----------------------------------------------------------------------------------


async def test_a_raising_handler_is_a_dead_letter_and_harms_nobody() -> None:
    """Neither the publisher, nor the next message, nor other subscriptions notice."""
    seen: list[object] = []
    bus = EventBus(middleware=[DeadLetter()])
    bus.on("numbers")(seen.append)

    @bus.on("numbers")
    async def fails(event: dict[str, int]) -> None:
        raise KeyError(event["n"])

    assert await fates(bus, {"n": 1}, {"n": 2}) == ["KeyError: 1", "KeyError: 2"]
    assert seen == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("word", ["where", "key"])
async def test_a_raising_function_of_the_event_is_that_delivery_s_failure(word: str) -> None:
    """It is retried and given up on as if the handler had raised it."""
    seen: list[object] = []
    bus = EventBus(middleware=[DeadLetter()])

    def key_of(event: Any) -> Any:
        return event["k"]

    options: Any = {word: key_of, "concurrency": 2}
    bus.on("numbers", **options)(seen.append)

    assert await fates(bus, {"n": 1}, {"k": "yes"}) == ["KeyError: 'k'"]
    assert seen == [{"k": "yes"}]


async def test_a_key_that_is_no_text_is_that_delivery_s_failure() -> None:
    """The error names the subscription and the value."""
    bus = EventBus(middleware=[DeadLetter()])

    def number_of(event: Any) -> Any:
        return event["n"]

    bus.on("numbers", name="keyed", key=number_of, concurrency=2)(nothing)

    (fate,) = await fates(bus, {"n": 5})

    assert fate.startswith("InvalidOption")
    assert "'keyed'" in fate
    assert "5" in fate


async def test_raising_middleware_is_that_delivery_s_failure() -> None:
    """What a middleware raises is treated as the handler's error."""

    async def refusing(context: Context[Any], call_next: object) -> object:
        raise PermissionError(context.message.topic)

    bus = EventBus(middleware=[refusing, DeadLetter()])
    bus.on("numbers")(nothing)

    assert await fates(bus, {"n": 1}) == ["PermissionError: numbers"]


@pytest.mark.parametrize("payload", [b"no JSON", b"", {"weight": "heavy"}, 5, None, "text", []])
async def test_a_payload_the_model_refuses_is_a_dead_letter(payload: Any) -> None:
    """Without a contract anything may be published; who cannot take it says why."""
    bus = EventBus(middleware=[DeadLetter(), Retry(attempts=3)])
    bus.on("numbers", model=Parcel)(nothing)

    (fate,) = await fates(bus, payload)

    assert fate.startswith("ValidationError")
    assert bus.stats().retried == 0


async def test_a_model_whose_validator_breaks_makes_a_dead_letter() -> None:
    """Even an error that pydantic does not know is the delivery's, not the publisher's."""

    class Broken(BaseModel):
        n: Annotated[int, Field(gt=0)]

        def model_post_init(self, context: object, /) -> None:
            raise ZeroDivisionError("a bug of the model")

    bus = EventBus(middleware=[DeadLetter()])
    bus.on("numbers", model=Broken)(nothing)

    assert await fates(bus, {"n": 1}) == ["ZeroDivisionError: a bug of the model"]


async def test_a_sync_function_returning_a_coroutine_fails() -> None:
    """What would never run is not counted as handled."""
    ran: list[object] = []

    async def forgotten(event: object) -> None:
        ran.append(event)

    bus = EventBus(middleware=[DeadLetter()])
    bus.on("numbers", name="lambda")(lambda event: forgotten(event))

    (fate,) = await fates(bus, {"n": 1})

    assert fate.startswith("InvalidHandler")
    assert "register the async function itself" in fate
    assert (ran, bus.stats().succeeded) == ([], 0)


async def test_the_bus_is_not_for_other_threads() -> None:
    """A sync handler that publishes with the bus itself is told what to use instead."""
    seen: list[object] = []
    bus = EventBus(middleware=[DeadLetter()])
    bus.on("letters")(seen.append)

    @bus.on("numbers")
    def handler(event: object) -> None:
        bus.publish_nowait("letters", {})

    (fate,) = await fates(bus, {"n": 1})

    assert fate.startswith("EventBusError")
    assert "context.publish_nowait" in fate
    assert seen == []


async def test_a_blocking_sync_handler_does_not_block_the_loop() -> None:
    """It runs in a thread, and waits there for what the loop does meanwhile."""
    bus = EventBus()
    seen: list[str] = []
    opened = anyio.Event()

    @bus.on("numbers")
    def blocking(event: object) -> None:
        anyio.from_thread.run(opened.wait)
        seen.append("blocking")

    @bus.on("numbers")
    async def quick(event: object) -> None:
        seen.append("quick")
        opened.set()

    async with bus:
        await bus.publish("numbers", {})

    assert seen == ["quick", "blocking"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio's tasks cannot be awaited
async def test_awaiting_a_task_somebody_cancelled_is_a_failure() -> None:
    """A cancellation that nobody meant for the handler ends neither worker nor bus."""
    seen: list[int] = []
    bus = EventBus(middleware=[DeadLetter()])

    @bus.on("numbers")
    async def handler(event: dict[str, int]) -> None:
        if event["n"] == 1:
            other = asyncio.ensure_future(asyncio.sleep(60))
            other.cancel()
            await other
        seen.append(event["n"])

    (fate,) = await fates(bus, {"n": 1}, {"n": 2})

    assert fate.startswith("CancelledError")
    assert seen == [2]


@pytest.mark.parametrize("anyio_backend", ["trio"])  # asyncio lets these out past all who await
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_ends_a_program_ends_it_from_a_handler(error: type[BaseException]) -> None:
    """Neither is a failure of the handler, and neither is swallowed."""
    bus = EventBus(middleware=[DeadLetter()])

    @bus.on("numbers")
    async def handler(event: object) -> None:
        raise error

    with pytest.raises(error):
        await fates(bus, {})

    assert bus.stats().dead_lettered == 0


async def test_a_message_cannot_be_changed_by_its_handlers() -> None:
    """It is shared with all the others that get it."""
    bus = EventBus(middleware=[DeadLetter()])

    @bus.on("numbers")
    async def handler(event: object, context: Context[object]) -> None:
        cast("Any", context.message).topic = "letters"

    (fate,) = await fates(bus, {})

    assert fate.startswith("AttributeError")


async def test_failures_never_print_the_payload(caplog: pytest.LogCaptureFixture) -> None:
    """What is published may be secret; a log line names the message by its id."""
    caplog.set_level(logging.DEBUG, logger="eventbus")
    bus = EventBus(middleware=[DeadLetter(), Retry(attempts=2, initial=0)])

    @bus.on("numbers")
    async def handler(event: object) -> None:
        raise ValueError("no")

    await fates(bus, {"password": "s3cret"})

    assert caplog.records
    assert "s3cret" not in caplog.text
