"""What topics carry: topics as objects, schemas, the table of a bus's contracts, and what fits."""

import logging
from collections import UserDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from inspect import Parameter
from types import MappingProxyType
from typing import (
    Annotated,
    Any,
    Literal,
    NewType,
    NotRequired,
    Optional,
    TypedDict,
    Union,
    cast,
)
from typing import Mapping as TypingMapping  # noqa: UP035 - users still write it

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    create_model,
    model_validator,
)
from typing_extensions import TypeAliasType

from eventbus.contracts import Contracts, RequestTopic, Schema, Topic, fits, schema_of
from eventbus.errors import (
    ContractError,
    InvalidEvent,
    InvalidOption,
    InvalidPattern,
    InvalidTopic,
    UnknownTopic,
)


class Order(BaseModel):
    order_id: str
    total_cents: int


class RushOrder(Order):
    hours: int = 1


class OrderView(BaseModel):
    order_id: str


class Shipment(BaseModel):
    tracking: str


class Card(BaseModel):
    kind: Literal["card"] = "card"


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"


class Tree(BaseModel):
    leaf: "Leaf"


TREES = Topic("trees.planted", Tree)  # before what its model refers to is defined


class Leaf(BaseModel):
    colour: str


@dataclass
class Point:
    x: int


class Plain:
    """What pydantic knows nothing of."""


Payment = Annotated[Card | Cash, Field(discriminator="kind")]
Broken = create_model("Broken", part=(cast("Any", "Undefined"), ...))
Alias = TypeAliasType("Alias", Order | Card)


def order() -> Order:
    """Give an order."""
    return Order(order_id="o-1", total_cents=5)


def declare(models: dict[str, object]) -> Contracts:
    """Make contracts of a TypedDict written on the spot."""
    typed_dict: Any = TypedDict
    return Contracts(typed_dict("Declared", models))


def as_dict() -> dict[str, object]:
    """Give what `order` has, as a dict."""
    return {"order_id": "o-1", "total_cents": 5}


# --- Topic ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "orders created", "orders.*", "orders."])
def test_topic_name_is_checked(name: str) -> None:
    """A Topic names exactly one topic."""
    with pytest.raises(InvalidTopic):
        Topic(name, Order)


def test_topic_of_the_bus_is_refused() -> None:
    """A Topic cannot take a name that belongs to the bus."""
    with pytest.raises(InvalidTopic, match=r"'\$dlq.orders' belongs to the bus; begin"):
        Topic("$dlq.orders", Order)


@pytest.mark.parametrize("version", [0, -1, "1", 1.5])
def test_topic_version_counts_from_one(version: Any) -> None:
    """A version that is no whole number of 1 or more is refused with its value."""
    with pytest.raises(InvalidOption, match=f"version={version!r}"):
        Topic("orders.created", Order, version=version)


def test_topic_refuses_what_pydantic_cannot_validate() -> None:
    """A model that can never validate is refused where it is stated."""
    with pytest.raises(ContractError, match=r"into .*Plain; use a BaseModel class"):
        Topic("orders.created", Plain)


def test_equal_topics() -> None:
    """Topics are equal, and hash so, when name, model and version are."""
    one, other = (Topic("orders.created", Order, version=2) for _ in range(2))

    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.parametrize(
    "other",
    [
        Topic("orders.paid", Order),
        Topic("orders.created", RushOrder),
        Topic("orders.created", Order, version=2),
        "orders.created",
    ],
)
def test_unequal_topics(other: object) -> None:
    """Another name, model or version is another topic."""
    assert Topic("orders.created", Order) != other


def test_topic_is_hashable_whatever_its_model() -> None:
    """A topic can be a key even where its model's annotations cannot."""
    assert hash(Topic("orders.created", Annotated[Order, ["a list"]]))


@pytest.mark.parametrize("attribute", ["name", "model", "version", "other"])
def test_topic_is_read_only(attribute: str) -> None:
    """What a topic states cannot be changed afterwards."""
    with pytest.raises(AttributeError):
        setattr(Topic("orders.created", Order), attribute, "x")


def test_topic_shows_what_it_states() -> None:
    """The repr names the topic, the model and the version."""
    text = repr(Topic("orders.created", int))

    assert text == "Topic(name='orders.created', model=<class 'int'>, version=1)"


def test_topic_takes_its_parameter_explicitly() -> None:
    """The model may be said to a type checker once more."""
    assert Topic[Order]("orders.created", Order) == Topic("orders.created", Order)


def test_topic_is_no_string() -> None:
    """A Topic never passes for the text of its name."""
    topic: object = Topic("orders.created", Order)

    assert not isinstance(topic, str)


@pytest.mark.parametrize("event", [order(), RushOrder(order_id="o-1", total_cents=5)])
def test_topic_passes_instances(event: Order) -> None:
    """An instance of the model, or of a subclass, is the event itself."""
    assert Topic("orders.created", Order).validate(event) is event


@pytest.mark.parametrize(
    "data", [as_dict(), UserDict(as_dict()), b'{"order_id": "o-1", "total_cents": 5}']
)
def test_topic_makes_events(data: object) -> None:
    """Mappings and JSON bytes that validate become events."""
    assert Topic("orders.created", Order).validate(data) == order()


@pytest.mark.parametrize("data", [{}, b"{", b"[]", "o-1", 5, None, object(), OrderView])
def test_topic_refuses_what_does_not_validate(data: object) -> None:
    """What is no instance, no mapping and no JSON of the model is no event."""
    with pytest.raises(InvalidEvent):
        Topic("orders.created", Order).validate(data)


def test_topic_refuses_models_of_another_class() -> None:
    """A publisher's model must be the contract's, even where its fields would do."""
    with pytest.raises(InvalidEvent):
        Topic("orders.created", OrderView).validate(order())


def test_invalid_event_says_what_is_wrong() -> None:
    """The error names the topic, the model, the field and the next step."""
    with pytest.raises(InvalidEvent) as caught:
        Topic("orders.created", Order).validate({"order_id": "o-1"})

    assert str(caught.value) == (
        "a dict published to 'orders.created' is no valid tests.test_contracts.Order: total_cents: "
        "Field required; publish an instance of the model, or a mapping or JSON bytes that validate"
    )
    assert isinstance(caught.value.__cause__, ValidationError)


def test_invalid_event_stays_short() -> None:
    """However much is wrong, the error names the first five flaws and counts the others."""
    with pytest.raises(InvalidEvent, match=r"; 4: .* and 3 more; publish"):
        Topic("numbers.drawn", list[int]).validate(["x"] * 8)


@pytest.mark.parametrize("model", [dict, dict[str, int], Mapping, bytes, object, Any])
def test_raw_topic_takes_what_is_published(model: Any) -> None:
    """A topic of raw payloads looks into none of them."""
    data = object()

    assert Topic("orders.created", model).validate(data) is data


def test_topic_before_what_its_model_refers_to() -> None:
    """A model may refer to a class that is defined after the topic."""
    assert TREES.validate({"leaf": {"colour": "red"}}) == Tree(leaf=Leaf(colour="red"))


def test_topic_whose_model_refers_to_nothing() -> None:
    """A model that is still incomplete when it is needed is named, with what it lacks."""
    with pytest.raises(ContractError, match=r"Broken cannot validate yet: name 'Undefined' is not"):
        Topic("trees.felled", Broken).validate({})


def test_request_topic_holds_what_it_is_made_of() -> None:
    """A request topic states name, request, reply, exceptions and how many may reply."""
    quote = RequestTopic("pricing.quote", Order, Shipment, raises=(KeyError,), many=True)

    assert (quote.name, quote.request, quote.reply) == ("pricing.quote", Order, Shipment)
    assert (quote.raises, quote.many) == ((KeyError,), True)


def test_request_topic_is_hashable_whatever_its_models() -> None:
    """Equal request topics are one key."""
    one, other = (RequestTopic("a", Annotated[int, ["a list"]], str) for _ in range(2))

    assert len({one, other}) == 1


@pytest.mark.parametrize("name", ["pricing.*", "$reply.x"])
def test_request_topic_name_is_checked(name: str) -> None:
    """A request topic names one topic that does not belong to the bus."""
    with pytest.raises(InvalidTopic):
        RequestTopic(name, Order, Shipment)


# --- Schema ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [order(), RushOrder(order_id="o-1", total_cents=5)])
def test_schema_passes_instances(payload: object) -> None:
    """An instance of the model, or of a subclass, comes back as it is."""
    assert Schema(Order).validate(payload) is payload


@pytest.mark.parametrize(
    "payload",
    [
        as_dict(),
        MappingProxyType(as_dict()),
        UserDict(as_dict()),
        b'{"order_id": "o-1", "total_cents": 5}',
        RushOrder(order_id="o-1", total_cents=5),
    ],
)
def test_schema_makes_instances(payload: object) -> None:
    """Mappings, JSON bytes and models of another class become instances."""

    class Other(BaseModel):
        order_id: str
        total_cents: int

    assert Schema(Other).validate(payload) == Other(order_id="o-1", total_cents=5)


@pytest.mark.parametrize("payload", [{}, b"{", 5, None, object(), Shipment(tracking="t")])
def test_schema_refuses_with_pydantics_error(payload: object) -> None:
    """What the model refuses is pydantic's to explain."""
    with pytest.raises(ValidationError):
        Schema(Order).validate(payload)


def test_schema_leaves_instances_alone() -> None:
    """Validators of the model do not see what is an instance already."""

    class Guarded(BaseModel):
        x: int

        @model_validator(mode="before")
        @classmethod
        def _only_dicts(cls, data: dict[str, int]) -> dict[str, int]:
            return {"x": data["x"]}

    class Derived(Guarded):
        pass

    payload = Derived.model_validate({"x": 1})

    assert Schema(Guarded).validate(payload) is payload


def test_strict_model_takes_any_mapping() -> None:
    """To a strict model too a mapping is as good as a dict."""

    class Strict(BaseModel):
        model_config = ConfigDict(strict=True)
        x: int

    assert Schema(Strict).validate(MappingProxyType({"x": 1})) == Strict(x=1)


def test_schema_reads_other_models_by_attribute() -> None:
    """Another model's attributes fill a field by the field's name, for all its alias."""

    class Aliased(BaseModel):
        order: str = Field(alias="order_id")
        total_cents: int = Field(alias="totalCents")

    assert Schema(Aliased).validate(order()) == Aliased(order_id="o-1", totalCents=5)


def test_schema_reads_nested_models_by_attribute() -> None:
    """Models of another class inside a model are read the same way."""

    class Basket(BaseModel):
        orders: list[Order]

    class BasketView(BaseModel):
        orders: list[OrderView]

    view = BasketView(orders=[OrderView(order_id="o-1")])

    assert Schema(BasketView).validate(Basket(orders=[order()])) == view


def test_aliases_alone_name_the_keys_of_a_mapping() -> None:
    """A mapping is wire data, whose keys are the aliases."""

    class Aliased(BaseModel):
        order: str = Field(alias="orderId")

    assert Schema(Aliased).validate({"orderId": "o-1"}) == Aliased(orderId="o-1")
    with pytest.raises(ValidationError):
        Schema(Aliased).validate({"order": "o-1"})


@pytest.mark.parametrize("form", [Card | Cash, Payment, Union[Card, Cash], Optional[Cash]])  # noqa: UP007, UP045 - users still write it
@pytest.mark.parametrize("payload", [{"kind": "cash"}, b'{"kind": "cash"}', Cash()])
def test_schema_of_a_union(form: Any, payload: object) -> None:
    """A union, with a discriminator or without, takes what one of its members takes."""
    assert Schema(form).validate(payload) == Cash()


def test_schema_of_a_union_passes_instances() -> None:
    """An instance of a member comes back as it is."""
    payload = Cash()

    assert Schema(Payment).validate(payload) is payload


@pytest.mark.parametrize(
    ("form", "payload", "made"),
    [
        (int, 5, 5),
        (int, b"5", 5),
        (list[int], b"[1, 2]", [1, 2]),
        (Point, {"x": 1}, Point(1)),
        (Point, MappingProxyType({"x": 1}), Point(1)),
        (RootModel[list[int]], [1], RootModel[list[int]]([1])),
        (None, None, None),
    ],
)
def test_schema_of_what_is_no_model(form: Any, payload: object, made: object) -> None:
    """Whatever pydantic validates can be a model."""
    assert Schema(form).validate(payload) == made


@pytest.mark.parametrize(("form", "exact"), [(Order, Order), (Card | Cash, None), (Point, None)])
def test_exact_class_of_a_schema(form: Any, exact: type | None) -> None:
    """A schema tells the class whose instances need no call, where there is one."""
    assert Schema(form).exact is exact


def test_equal_schemas() -> None:
    """Schemas of equal models are equal, and hash so."""
    assert Schema(Card | Cash) == Schema(Cash | Card)
    assert hash(Schema(Card | Cash)) == hash(Schema(Cash | Card))


@pytest.mark.parametrize("other", [Schema(RushOrder), Order, None])
def test_unequal_schemas(other: object) -> None:
    """A schema of another model, or what is no schema, is not equal."""
    assert Schema(Order) != other


def test_schema_is_hashable_whatever_its_model() -> None:
    """Equal schemas are one key even where their model cannot be one."""
    form = Annotated[Order, ["a list"]]

    assert len({Schema(form), Schema(form)}) == 1


def test_schema_shows_its_model() -> None:
    """The name and the repr tell which model it is, module included."""
    assert Schema(Order).name == "tests.test_contracts.Order"
    assert repr(Schema(int)) == "Schema(int)"


def test_schema_resolves_what_was_defined_later() -> None:
    """A schema made too early works once its model can be completed, asked to or not."""

    class Early(BaseModel):
        late: "Late"

    schema, asked = Schema(Early), Schema(Early)

    class Late(BaseModel):
        x: int

    Early.model_rebuild()
    asked.complete()

    assert schema.validate({"late": {"x": 1}}) == asked.validate({"late": {"x": 1}})


def test_schema_that_cannot_be_completed() -> None:
    """Asked to complete itself, a schema names what is missing and the next step."""
    with pytest.raises(ContractError, match=r"'Undefined' is not defined.*; define what it names"):
        Schema(Broken).complete()


@pytest.mark.parametrize(
    "model",
    [
        dict,
        dict[str, int],
        Mapping,
        Mapping[str, int],
        TypingMapping,
        TypingMapping[str, Any],
        object,
        bytes,
        Any,
        Parameter.empty,
    ],
)
def test_raw_models_have_no_schema(model: object) -> None:
    """These receive the payload as it was published."""
    assert schema_of(model) is None


class Row(TypedDict):
    x: int


@pytest.mark.parametrize("model", [Order, Card | None, Row, int, list[int], dict[str, int] | int])
def test_other_models_have_a_schema(model: object) -> None:
    """Everything else is validated."""
    assert schema_of(model) == Schema(cast("Any", model))


@pytest.mark.parametrize("model", [Plain, Order | Plain, 5, list[Plain]])
def test_schema_of_what_pydantic_cannot_validate(model: object) -> None:
    """What pydantic knows nothing of is refused with the next step."""
    with pytest.raises(ContractError, match=r"pydantic cannot validate into .*; use a BaseModel"):
        schema_of(model)


# --- Contracts: declared --------------------------------------------------------------------------

Shop = TypedDict(
    "Shop",
    {
        "orders.created": Order,
        "orders.rush.*": RushOrder,
        "orders.>": Order,
        "audit.*": "Shipment",
        "raw.{kind}": dict[str, object],
    },
)


class ByClass(TypedDict, total=False):
    orders: Order
    shipments: NotRequired[Annotated[Shipment, "a note"]]


@pytest.fixture
def shop() -> Contracts:
    """Give the contracts of `Shop`."""
    return Contracts(Shop)


@pytest.mark.parametrize(
    ("topic", "model"),
    [
        ("orders.created", Order),
        ("orders.paid", Order),
        ("orders.rush.created", RushOrder),
        ("audit.login", Shipment),
    ],
)
def test_declared_contract_of_a_topic(shop: Contracts, topic: str, model: object) -> None:
    """A topic carries what its own entry says, or that of the pattern with the narrowest model."""
    assert shop.schema_for(topic) == schema_of(model)


def test_declared_raw_contract(shop: Contracts) -> None:
    """A topic declared to be raw is known, and nothing is looked at."""
    assert shop.schema_for("raw.bytes") is None


def test_exact_beats_pattern_of_unrelated_model() -> None:
    """An entry for one topic may say something else than the pattern around it."""
    contracts = declare({"orders.*": Order, "orders.sent": Shipment})

    assert contracts.schema_for("orders.sent") == Schema(Shipment)


def test_declared_by_class() -> None:
    """A TypedDict written as a class declares too, whatever it requires."""
    contracts = Contracts(ByClass)

    assert contracts.schema_for("orders") == Schema(Order)
    assert contracts.schema_for("shipments") == Schema(Annotated[Shipment, "a note"])


@pytest.mark.parametrize("step", [1, -1], ids=["wide first", "narrow first"])
def test_narrowest_model_governs_whatever_the_order(step: int) -> None:
    """Of several patterns that match, the narrowest model governs, however they are listed."""
    models = {"a.>": Order | Card, "a.*": Order, "*.b": RushOrder}
    contracts = declare(dict(list(models.items())[::step]))

    assert contracts.schema_for("a.b") == Schema(RushOrder)
    assert contracts.schema_for("a.c") == Schema(Order)
    assert contracts.schema_for("a.c.d") == Schema(Order | Card)


def test_model_governs_over_raw() -> None:
    """Where one pattern is raw, the other's model is narrower."""
    contracts = declare({"a.>": dict[str, object], "a.*": Order})

    assert contracts.schema_for("a.b") == Schema(Order)


def test_overlapping_patterns_with_unrelated_models_are_refused() -> None:
    """Two patterns that match one topic cannot promise different things of it."""
    with pytest.raises(ContractError) as caught:
        declare({"orders.*": Order, "*.created": Shipment})

    for named in ("'orders.*'", "'*.created'", "Order", "Shipment"):
        assert named in str(caught.value)


def test_disjoint_patterns_may_have_unrelated_models() -> None:
    """Patterns that match no topic in common have nothing to agree on."""
    contracts = declare({"orders.*": Order, "shipments.*": Shipment})

    assert contracts.schema_for("shipments.sent") == Schema(Shipment)


@pytest.mark.parametrize("declared", [Order, dict, {"orders.created": Order}, "Shop"])
def test_declared_must_be_a_typed_dict(declared: Any) -> None:
    """Anything else is refused with what to write."""
    with pytest.raises(ContractError, match=r"is not a TypedDict class; write contracts=TypedDict"):
        Contracts(declared)


def test_declared_key_must_be_a_pattern() -> None:
    """Keys are topics and patterns."""
    with pytest.raises(InvalidPattern):
        declare({"orders..created": Order})


def test_declared_key_must_not_belong_to_the_bus() -> None:
    """The bus's own topics have no contract."""
    with pytest.raises(ContractError, match=r"'\$dlq.orders' belongs to the bus"):
        declare({"$dlq.orders": Order})


def test_declared_model_must_be_defined() -> None:
    """A forward reference to nothing is named."""
    with pytest.raises(ContractError, match=r"names 'Undefined', which is not defined; define"):
        declare({"orders.created": "Undefined"})


def test_declared_model_must_be_usable() -> None:
    """A model that pydantic cannot validate into is refused where it is declared."""
    with pytest.raises(ContractError, match=r"Plain"):
        declare({"orders.created": Plain})


# --- Contracts: closed and open worlds ------------------------------------------------------------


def test_closed_world(shop: Contracts) -> None:
    """Declared contracts close the world; without them it is open."""
    assert shop.is_closed
    assert not Contracts().is_closed


def test_unknown_topic_in_a_closed_world() -> None:
    """A topic that nothing declares is refused with the nearest that is known."""
    contracts = declare({"orders.created": Order, "audit.*": Shipment})

    with pytest.raises(UnknownTopic) as caught:
        contracts.schema_for("orders.craeted")

    assert str(caught.value) == (
        "no contract names 'orders.craeted'; did you mean 'orders.created'?"
    )


def test_unknown_topic_like_no_other(shop: Contracts) -> None:
    """Where nothing is near, the next step is to declare it."""
    with pytest.raises(UnknownTopic, match=r"no contract names 'zzz'; add it to the contracts"):
        shop.schema_for("zzz")


def test_topics_of_the_bus_are_exempt(shop: Contracts) -> None:
    """What belongs to the bus needs no contract, as a topic or as a pattern."""
    assert shop.schema_for("$dlq.billing") is None
    shop.admit("$dlq.>")


def test_open_world_knows_no_unknown_topic() -> None:
    """Without declared contracts any topic may be published and subscribed to."""
    contracts = Contracts()

    assert contracts.schema_for("anything.at.all") is None
    contracts.admit("anything.*")


@pytest.mark.parametrize("pattern", ["orders.created", "orders.*", ">", "audit.login", "*.rush.>"])
def test_pattern_that_overlaps_a_contract_is_admitted(shop: Contracts, pattern: str) -> None:
    """A pattern may be narrower, equal or wider than what is declared."""
    shop.admit(pattern)


def test_pattern_that_overlaps_no_contract_is_refused(shop: Contracts) -> None:
    """A pattern that can match no declared topic is refused with the nearest."""
    with pytest.raises(
        UnknownTopic, match=r"no contract names 'audits.\*'; did you mean 'audit.\*'"
    ):
        shop.admit("audits.*")


# --- Contracts: learned ---------------------------------------------------------------------------


def test_learned_topic_is_a_contract() -> None:
    """A Topic states what its name carries, and only that."""
    contracts = Contracts()

    assert contracts.learn(Topic("orders.created", Order))
    assert contracts.schema_for("orders.created") == Schema(Order)
    assert contracts.schema_for("orders.paid") is None


def test_learning_again_changes_nothing() -> None:
    """The same topic, or an equal one, is no news."""
    contracts, topic = Contracts(), Topic("orders.created", Order)
    contracts.learn(topic)

    assert not contracts.learn(topic)
    assert not contracts.learn(Topic("orders.created", Order))


@pytest.mark.parametrize("model", [Shipment, RushOrder, Order | None])
def test_learning_another_model_is_refused(model: Any) -> None:
    """One name carries one model, and the error names both."""
    contracts = Contracts()
    contracts.learn(Topic("orders.created", Order))

    with pytest.raises(ContractError, match=r"'orders.created' carries .*, but .*\.Order; state"):
        contracts.learn(Topic("orders.created", model))

    assert contracts.schema_for("orders.created") == Schema(Order)


@pytest.mark.parametrize("name", ["orders.created", "orders.paid"])
def test_learning_what_is_declared(shop: Contracts, name: str) -> None:
    """A Topic may repeat what is declared of its name, or of a pattern around it."""
    shop.learn(Topic(name, Order))

    assert shop.schema_for(name) == Schema(Order)


def test_learning_narrows_a_declared_pattern(shop: Contracts) -> None:
    """Under a pattern a Topic may say more about its own name."""
    shop.learn(Topic("orders.express", RushOrder))

    assert shop.schema_for("orders.express") == Schema(RushOrder)


@pytest.mark.parametrize(
    "topic",
    [
        Topic("orders.created", RushOrder),
        Topic("orders.paid", Shipment),
        Topic("orders.paid", Order | None),
        Topic("audit.login", dict[str, object]),
    ],
    ids=repr,
)
def test_learning_a_contradiction_is_refused(shop: Contracts, topic: Topic[Any]) -> None:
    """A Topic cannot widen or replace what is declared."""
    with pytest.raises(ContractError, match=f"Topic {topic.name!r} carries"):
        shop.learn(topic)


def test_learning_the_unknown_is_refused(shop: Contracts) -> None:
    """In a closed world a Topic adds no name."""
    with pytest.raises(UnknownTopic, match=r"'shipments.sent'"):
        shop.learn(Topic("shipments.sent", Shipment))


# --- Contracts: misfits ---------------------------------------------------------------------------


def refuse(
    contracts: Contracts, patterns: Sequence[str], model: object, *, silent: bool = False
) -> None:
    """Offer a subscription."""
    contracts.refuse_misfits("billing", patterns, schema_of(model), silent=silent)


@pytest.mark.parametrize(
    ("pattern", "model"),
    [
        ("orders.created", Order),
        ("orders.created", OrderView),
        ("orders.created", Order | Shipment),
        ("orders.created", dict),
        ("raw.bytes", Order),
        (">", object),
        ("orders.rush.new", RushOrder),
        ("orders.rush.*", RushOrder),
        ("unheard.of", Order),
    ],
)
@pytest.mark.parametrize("silent", [False, True])
def test_fitting_subscription_passes_in_silence(
    shop: Contracts,
    caplog: pytest.LogCaptureFixture,
    pattern: str,
    model: object,
    silent: bool,
) -> None:
    """What fits all the contracts that govern its topics, or meets none, is neither of both."""
    refuse(shop, [pattern], model, silent=silent)

    assert not caplog.records


@pytest.mark.parametrize("pattern", ["orders.created", "orders.*", "orders.rush.*"])
@pytest.mark.parametrize("silent", [False, True])
def test_subscription_that_fits_no_contract_is_refused(
    shop: Contracts,
    pattern: str,
    silent: bool,
) -> None:
    """A handler that could only fail is refused, naming it, its model and the contracts."""
    with pytest.raises(ContractError) as caught:
        refuse(shop, [pattern], Shipment, silent=silent)

    assert str(caught.value).startswith(
        "subscription 'billing' takes tests.test_contracts.Shipment"
    )
    assert "Order" in str(caught.value)


def test_subscription_that_fits_some_contracts_is_warned_of(
    shop: Contracts, caplog: pytest.LogCaptureFixture
) -> None:
    """Where some events will fit and others not, the others' contracts are logged."""
    refuse(shop, ["orders.>"], RushOrder)

    ((name, level, text),) = caplog.record_tuples
    assert (name, level) == ("eventbus", logging.WARNING)
    assert "'orders.created' carries tests.test_contracts.Order and 'orders.>' carries" in text
    assert "orders.rush" not in text


def test_warning_can_be_silenced(shop: Contracts, caplog: pytest.LogCaptureFixture) -> None:
    """A subscription that skips what is invalid expects some not to fit."""
    refuse(shop, ["orders.>"], RushOrder, silent=True)

    assert not caplog.records


def test_all_patterns_of_a_subscription_count_together(
    shop: Contracts, caplog: pytest.LogCaptureFixture
) -> None:
    """It is enough to fit a contract of one of the patterns; each misfit is named once."""
    refuse(shop, ["orders.created", "audit.*", "audit.login"], Order)

    assert caplog.text.count("'audit.*' carries") == 1


def test_learned_topics_count_for_misfits() -> None:
    """In an open world the known topics are the contracts."""
    contracts = Contracts()
    contracts.learn(Topic("orders.created", Order))

    with pytest.raises(ContractError):
        refuse(contracts, ["orders.*"], Shipment)


def test_subscription_with_an_incomplete_model_is_refused() -> None:
    """A model that cannot validate is reported before the first event."""
    with pytest.raises(ContractError, match=r"Undefined"):
        refuse(Contracts(), ["orders.*"], Broken)


# --- What fits ------------------------------------------------------------------------------------


class Colour(StrEnum):
    RED = "red"


class Child(BaseModel):
    name: str


class Family(BaseModel):
    child: Child
    others: list[Child]
    by_name: dict[str, Child]


class ChildView(BaseModel):
    name: str


class Name(BaseModel):
    name: int


class List1(BaseModel):
    value: int
    next: "List1 | None" = None


class Chain1(BaseModel):
    value: int
    next: "Chain1 | None"


class Chain2(BaseModel):
    value: int
    next: "Chain2 | None"


def needs(annotation: Any) -> type[BaseModel]:
    """Make a model that requires a `value` of that type."""
    return create_model("Needs", value=(annotation, ...))


@pytest.mark.parametrize(
    ("model", "contract"),
    [
        (Order, Order),
        (Order, RushOrder),
        (Order | Shipment, Order),
        (Annotated[Order, "a note"], Order),
        (Order, Annotated[Order, "a note"]),
        (Payment, Card),
        (Card | Cash | None, Payment),
        (Order, RushOrder | Order),
        (Alias, Order),
        (dict, Order),
        (object, Order),
        (Parameter.empty, Order),
        (Order, dict),
        (float, int),
        (list[Order], list[RushOrder]),
        (None, None),
        (Row, Row),
    ],
)
def test_fits(model: object, contract: object) -> None:
    """The model itself, a base, a union that holds it, and whatever is raw."""
    assert fits(model, contract)


@pytest.mark.parametrize(
    ("model", "contract"),
    [
        (Shipment, Order),
        (Order, Order | None),
        (Card, Payment),
        (Card | Cash, Order),
        (int, float),
        (int, str),
        (Point, Order),
        (Row, Order),
        (Order, Row),
        (list[Order], list[Shipment]),
        (tuple[int], tuple[int, int]),
    ],
)
def test_misfits(model: object, contract: object) -> None:
    """What some event of the contract would not pass."""
    assert not fits(model, contract)


@pytest.mark.parametrize(
    ("needed", "given"),
    [
        (int, int),
        (int, bool),
        (float, int),
        (object, Order),
        (Any, int),
        (int, Any),
        (int | None, int),
        (int | str | None, int | None),
        (Order, RushOrder),
        (OrderView, Order),
        (list[OrderView], list[Order]),
        (Sequence[int], list[int]),
        (list, list[int]),
        (dict[str, float], dict[str, int]),
        (tuple[int, ...], tuple[int, ...]),
        (str, Literal["a", "b"]),
        (Literal["a", "b"], Literal["a"]),
        (str, Colour),
        (str, NewType("UserId", str)),
        (Annotated[int, Field(gt=0)], int),
        (date, datetime),
    ],
)
def test_assignable_field_fits(needed: Any, given: Any) -> None:
    """A required field is satisfied by one of an assignable type."""
    assert fits(needs(needed), needs(given))


@pytest.mark.parametrize(
    ("needed", "given"),
    [
        (int, str),
        (int, float),
        (int, int | None),
        (RushOrder, Shipment),
        (Shipment, Order),
        (list[int], list[str]),
        (list[int], dict[int, int]),
        (Literal["a"], str),
        (Literal["a"], Literal["a", "b"]),
        (int, Literal["a"]),
        (Row, Order),
    ],
)
def test_unassignable_field_does_not_fit(needed: Any, given: Any) -> None:
    """A required field is not satisfied by one whose values it would refuse."""
    assert not fits(needs(needed), needs(given))


def test_only_required_fields_count() -> None:
    """A field with a default may be absent, and a further one is no matter."""

    class View(BaseModel):
        order_id: str
        note: str = ""

    assert fits(View, Order)


def test_absent_field_does_not_fit() -> None:
    """A required field that the contract's model lacks can never be filled."""
    assert not fits(Order, OrderView)


def test_nested_models_fit_by_their_fields() -> None:
    """Models inside models are read by attribute too, so that they need not be the same."""
    view = create_model(
        "View",
        child=(ChildView, ...),
        others=(list[ChildView], ...),
        by_name=(dict[str, Child], ...),
    )

    assert fits(view, Family)
    assert not fits(create_model("View", child=(Name, ...)), Family)


def test_models_that_contain_themselves() -> None:
    """Comparing them ends, and finds what is wrong inside."""
    assert fits(Chain1, Chain2)
    assert not fits(Chain1, List1.__base__ and Name)


@pytest.mark.parametrize(
    "field",
    [
        Field(alias="order_id"),
        Field(validation_alias="order_id"),
        Field(validation_alias=AliasChoices(AliasPath("x", 0), "order_id")),
    ],
)
def test_alias_names_an_attribute(field: Any) -> None:
    """A field is filled from the attribute that its alias names, and fits so."""
    view = create_model("View", value=(str, field))

    assert fits(view, Order)
    assert Schema(view).validate(order()).model_dump() == {"value": "o-1"}


def test_field_name_names_an_attribute_beside_the_alias() -> None:
    """A field is filled from the attribute of its own name where the alias names none."""
    view = create_model("View", order_id=(str, Field(alias="orderId")))

    assert fits(view, Order)
    assert Schema(view).validate(order()).model_dump() == {"order_id": "o-1"}


def test_alias_comes_before_the_name() -> None:
    """Where attributes of both names are there, the alias's is read, and must fit."""
    view = create_model("View", order_id=(str, Field(alias="total_cents")))

    assert not fits(view, Order)
    with pytest.raises(ValidationError):
        Schema(view).validate(order())


def test_fits_completes_models() -> None:
    """Models that refer to what was defined after them are compared as they are now."""

    class Early(BaseModel):
        late: "Late"

    class Late(BaseModel):
        x: int

    Early.model_rebuild()

    assert fits(Early, needs(int)) is False
    assert fits(create_model("View", late=(Late, ...)), Early)
