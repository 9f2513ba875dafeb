"""What topics carry: topics as objects, and the table of a bus's contracts."""

import logging
from collections import UserDict
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NotRequired

import pytest
from pydantic import BaseModel, ValidationError
from typing_extensions import TypedDict

from eventbus.contracts import Contracts, RequestTopic, Topic
from eventbus.errors import (
    ContractError,
    InvalidEvent,
    InvalidOption,
    InvalidPattern,
    InvalidTopic,
    UnknownTopic,
)
from eventbus.schema import Schema, schema_of
from tests.models import Broken, Order, OrderView, Plain, RushOrder, Shipment, as_dict, order


class Tree(BaseModel):
    leaf: "Leaf"


TREES = Topic("trees.planted", Tree)  # before what its model refers to is defined


class Leaf(BaseModel):
    colour: str


def declare(models: dict[str, object]) -> Contracts:
    """Make contracts of a TypedDict written on the spot."""
    typed_dict: Any = TypedDict
    return Contracts(typed_dict("Declared", models))


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
    with pytest.raises(ContractError, match=r"into tests.models.Plain: Unable to .*; use a"):
        Topic("orders.created", Plain)


@pytest.mark.parametrize("one", [Topic("orders.created", Order), RequestTopic("a", int, str)])
def test_topic_is_compared_and_hashed_by_identity(one: object) -> None:
    """A publisher finds a topic as fast as Python can, for no method of its own is called."""
    assert type(one).__eq__ is object.__eq__
    assert type(one).__hash__ is object.__hash__


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
    assert Topic[Order]("orders.created", Order).validate(as_dict()) == order()


def test_topic_is_no_string() -> None:
    """A Topic never passes for the text of its name."""
    topic: object = Topic("orders.created", Order)

    assert not isinstance(topic, str)


@pytest.mark.parametrize("event", [order(), RushOrder(order_id="o-1", total_cents=5, hours=1)])
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
        "'orders.created' carries tests.models.Order, but this dict does not validate: "
        "total_cents: "
        "Field required; publish an instance of the model, or a mapping or JSON bytes that validate"
    )
    assert isinstance(caught.value.__cause__, ValidationError)


def test_invalid_event_stays_short() -> None:
    """However much is wrong, the error names the first five flaws and counts the others."""
    with pytest.raises(InvalidEvent, match=r"; 4: .* and 3 more; publish"):
        Topic("numbers.drawn", list[int]).validate(["x"] * 8)


@pytest.mark.parametrize("model", [dict, dict[str, int], Mapping, bytes, object, Any], ids=repr)
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


@pytest.mark.parametrize("name", ["pricing.*", "$reply.x"])
def test_request_topic_name_is_checked(name: str) -> None:
    """A request topic names one topic that does not belong to the bus."""
    with pytest.raises(InvalidTopic):
        RequestTopic(name, Order, Shipment)


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
    models = {"a.>": Order | Shipment, "a.*": Order, "*.b": RushOrder}
    contracts = declare(dict(list(models.items())[::step]))

    assert contracts.schema_for("a.b") == Schema(RushOrder)
    assert contracts.schema_for("a.c") == Schema(Order)
    assert contracts.schema_for("a.c.d") == Schema(Order | Shipment)


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


def test_unknown_topic_that_was_meant_as_a_pattern(shop: Contracts) -> None:
    """A wildcard within a token is none, and the error says so."""
    with pytest.raises(
        UnknownTopic, match=r"no contract names 'ord\*'; 'ord\*' is an ordinary tok"
    ):
        shop.admit("ord*")


def test_unknown_topic_like_no_other(shop: Contracts) -> None:
    """Where nothing is near, the next step is to declare it."""
    with pytest.raises(UnknownTopic, match=r"no contract names 'zzz'; add it to the contracts"):
        shop.schema_for("zzz")


def test_contract_whose_model_refers_to_nothing() -> None:
    """An incomplete model is reported before it is used."""
    with pytest.raises(ContractError, match=r"Broken cannot validate yet"):
        declare({"orders.created": Broken}).schema_for("orders.created")


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
    """The same topic is no news, nor is another object of the same name and model."""
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

    assert str(caught.value).startswith("subscription 'billing' takes tests.models.Shipment")
    assert "Order" in str(caught.value)


def test_subscription_that_fits_some_contracts_is_warned_of(
    shop: Contracts, caplog: pytest.LogCaptureFixture
) -> None:
    """Where some events will fit and others not, the others' contracts are logged."""
    refuse(shop, ["orders.>"], RushOrder)

    ((name, level, text),) = caplog.record_tuples
    assert (name, level) == ("eventbus", logging.WARNING)
    assert "'orders.created' carries tests.models.Order and 'orders.>' carries" in text
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
