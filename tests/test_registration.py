"""What is said when a handler is registered, and what it becomes."""

from inspect import Parameter
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from eventbus import Context, EventBus, InvalidHandler, InvalidOption, InvalidPattern, Topic
from eventbus.middleware import DeadLetter, Retry
from eventbus.queue import Overflow
from eventbus.registration import (
    HANDLER_OPTIONS,
    SUBSCRIBE_OPTIONS,
    Invalid,
    Registration,
    check_options,
    patterns_of,
)


class Order(BaseModel):
    order_id: str


class OrderAbroad(Order):
    country: str


class Parcel(BaseModel):
    weight: int


ORDER = Topic("orders.created", Order)
PARCEL = Topic("parcels.sent", Parcel)


async def take_order(event: Order) -> None:
    """Take what the tests register."""


def of_text(*patterns: str, model: object = Order, **options: Any) -> Registration:
    """Register the handler above for text patterns."""
    begun = Registration.begin(patterns, model, options)  # type: ignore[arg-type] # any options
    return begun.of(take_order)


# --- Patterns -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "token"),
    [("ord*", "ord*"), ("orders.pl*ced", "pl*ced"), ("a>.b", "a>"), ("orders.o-{id}", "o-{id}")],
)
def test_a_wildcard_within_a_token_is_warned_of(
    pattern: str, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is text there, which is seldom meant: one line says so, and names the right form."""
    EventBus().on(pattern, model=Order)(take_order)

    (line,) = caplog.messages
    assert f"in the pattern '{pattern}' '{token}' is an ordinary token" in line
    assert "as in 'orders.*'" in line


@pytest.mark.parametrize("pattern", ["orders.*", "orders.>", "{region}.placed", "c++", "a{b"])
def test_ordinary_patterns_go_without_a_word(
    pattern: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whole tokens are wildcards, and other characters are nobody's concern."""
    EventBus().on(pattern, model=Order)(take_order)

    assert caplog.messages == []


async def test_who_waits_or_reads_is_warned_too(caplog: pytest.LogCaptureFixture) -> None:
    """`wait_for` and `subscribe` take patterns as `on` does."""
    async with EventBus() as bus:
        with pytest.raises(TimeoutError):
            await bus.wait_for("ord*", timeout=0)
        async with bus.subscribe("ord*"):
            pass

    assert [line.count("'ord*'") for line in caplog.messages] == [2, 2]


def test_models_are_named_in_one_way() -> None:
    """By module and name, as pydantic and Python's own help do."""
    with pytest.raises(InvalidHandler) as caught:
        EventBus().on(PARCEL)(take_order)  # type: ignore[arg-type]  # what is tried

    here = "tests.test_registration"
    assert f"takes {here}.Order, but is registered for {here}.Parcel" in str(caught.value)


# --- The handler comes back -----------------------------------------------------------------------


def test_the_handler_comes_back_unchanged() -> None:
    """A decorated function is the function itself, to be called and tested as it is."""

    async def handler(event: Order) -> None: ...

    assert EventBus().on(ORDER)(handler) is handler


def test_a_handler_may_be_registered_several_times() -> None:
    """Each registration is a subscription of its own."""
    bus = EventBus()

    @bus.on(ORDER)
    @bus.on("orders.old", model=Order)
    async def handler(event: Order) -> None: ...

    assert len(bus.stats().subscriptions) == 2


# --- Patterns -------------------------------------------------------------------------------------


def test_text_patterns_keep_their_order_and_lose_their_doubles() -> None:
    """A pattern said twice is said once."""
    assert patterns_of(["b.*", "a", "b.*"]) == (("b.*", "a"), ())


def test_topics_bring_their_names_and_themselves() -> None:
    """What a Topic states is needed later, for its contract."""
    assert patterns_of([ORDER, PARCEL]) == (("orders.created", "parcels.sent"), (ORDER, PARCEL))


@pytest.mark.parametrize(
    "patterns", [[], [ORDER, "orders.*"], ["orders.*", ORDER], [1], [Order], [None], [["a"]], [{}]]
)
def test_what_is_no_pattern_is_refused(patterns: list[object]) -> None:
    """None at all, a mixture, and anything that is neither text nor Topic."""
    with pytest.raises(InvalidPattern):
        patterns_of(patterns)


# --- Models ---------------------------------------------------------------------------------------


def test_a_topic_says_its_model() -> None:
    """The handler of one topic gets that topic's model."""
    begun = Registration.begin([ORDER], Parameter.empty, {})

    assert begun.model is Order


def test_several_topics_say_a_union() -> None:
    """The handler of several topics gets any of their models, each once."""
    begun = Registration.begin([ORDER, PARCEL, ORDER], Parameter.empty, {})

    assert set(get_args(begun.model)) == {Order, Parcel}


def test_topics_of_any_kind_of_model_go_together() -> None:
    """A union is made of whatever pydantic can validate."""
    numbers, raw = Topic("numbers", list[int]), Topic("raw", dict[str, Any])
    begun = Registration.begin([ORDER, numbers, raw], Parameter.empty, {})

    assert set(get_args(begun.model)) == {Order, list[int], dict[str, Any]}


def test_a_topic_takes_no_model_beside_its_own() -> None:
    """Two statements about one thing could differ."""
    with pytest.raises(InvalidOption, match=r"model=.*Parcel.*Topic"):
        Registration.begin([ORDER], Parcel, {})


def test_the_annotation_says_the_model_if_nothing_else_does() -> None:
    """Without `model=` the handler's own word counts."""
    begun = Registration.begin(["orders.*"], Parameter.empty, {})

    assert begun.of(take_order).model is Order


def test_a_model_given_counts_more_than_the_annotation() -> None:
    """A handler annotated with a base gets the model that was said."""
    assert of_text("orders.*", model=OrderAbroad).model is OrderAbroad


def test_a_handler_annotated_with_another_model_is_refused() -> None:
    """What a type checker would say is said at run time too, with both names."""
    with pytest.raises(InvalidHandler, match=r"take_order.*Order.*Parcel"):
        of_text("orders.*", model=Parcel)


def test_a_handler_annotated_with_a_subclass_is_refused() -> None:
    """It would get events that are no such thing."""

    async def handler(event: OrderAbroad) -> None: ...

    with pytest.raises(InvalidHandler, match="OrderAbroad"):
        EventBus().on(ORDER)(handler)  # type: ignore[arg-type] # is refused by types too


@pytest.mark.parametrize("annotation", [object, Any, BaseModel, Order | Parcel, "Order"], ids=str)
def test_a_handler_may_be_annotated_with_more_than_it_gets(annotation: Any) -> None:
    """Bases, unions and text annotations are the type checker's affair."""

    async def handler(event: Any) -> None: ...

    handler.__annotations__ = {"event": annotation}

    assert Registration.begin([ORDER], Parameter.empty, {}).of(handler).model is Order


# --- Scopes ---------------------------------------------------------------------------------------


def test_a_prefix_goes_before_text() -> None:
    """Each pattern moves below the prefix."""
    assert of_text("created", "*.paid").within("orders", ()).patterns == (
        "orders.created",
        "orders.*.paid",
    )


def test_a_prefix_leaves_topics_alone() -> None:
    """A Topic names itself."""
    begun = Registration.begin([ORDER], Parameter.empty, {})

    assert begun.within("shop", ()).patterns == ("orders.created",)


def test_a_prefix_that_makes_no_pattern_is_refused() -> None:
    """What does not fit together is said with the whole text."""
    with pytest.raises(InvalidPattern, match=r"'orders\.>\.created'"):
        of_text("created").within("orders.>", ())


def test_outer_middleware_comes_first() -> None:
    """Of the scopes around a handler the outermost is the first in the list."""
    inner, outer = Retry(), DeadLetter()

    assert of_text("a", middleware=[inner]).within("", [outer]).middleware == (outer, inner)


def test_an_object_s_name_goes_before_the_handler_s() -> None:
    """The subscriptions of two objects of one class can be told apart."""
    default, explicit = of_text("a").named("billing"), of_text("a", name="bill").named("billing")

    assert default.options == {"name": "billing.take_order"}
    assert explicit.options == {"name": "billing.bill"}


def test_an_object_s_name_leaves_groups_alone() -> None:
    """The group is shared on purpose."""
    assert of_text("a", group="bill").named("billing").options == {"group": "bill"}


# --- Options --------------------------------------------------------------------------------------


def test_every_option_of_on_is_known() -> None:
    """The words of the signature are the words that are checked."""
    assert {
        "ack",
        "ack_wait",
        "concurrency",
        "durable",
        "group",
        "invalid",
        "key",
        "max_deliveries",
        "middleware",
        "name",
        "overflow",
        "queue_size",
        "replay",
        "start",
        "where",
    } == HANDLER_OPTIONS
    assert HANDLER_OPTIONS - {"ack", "concurrency", "group", "middleware"} == SUBSCRIBE_OPTIONS


@pytest.mark.parametrize("overflow", get_args(Overflow))
def test_every_overflow_word_can_be_said(overflow: str) -> None:
    """What the type allows, the check does."""
    check_options({"overflow": overflow}, HANDLER_OPTIONS, "on")


@pytest.mark.parametrize("invalid", get_args(Invalid))
def test_every_word_for_invalid_payloads_can_be_said(invalid: str) -> None:
    """What the type allows, the check does."""
    check_options({"invalid": invalid}, HANDLER_OPTIONS, "on")


def test_an_option_that_is_none_was_not_said() -> None:
    """Who passes on a setting that may be missing needs no `if`."""
    unsaid = dict.fromkeys(
        ("name", "group", "where", "key", "concurrency", "queue_size", "overflow")
    )

    assert of_text("a", **unsaid).options == {}


def test_the_second_parameter_is_the_context() -> None:
    """A registration knows how its handler wants to be called."""

    def with_context(event: Order, context: Context[Order]) -> None: ...

    begun = Registration.begin([ORDER], Parameter.empty, {})
    alone, both = begun.of(take_order).shape, begun.of(with_context).shape

    assert alone is not None
    assert both is not None
    assert (alone.takes_context, alone.is_async) == (False, True)
    assert (both.takes_context, both.is_async) == (True, False)
