"""Schemas: what validates into a model, and which models need none."""

from collections import UserDict
from collections.abc import Mapping
from inspect import Parameter
from types import MappingProxyType
from typing import Annotated, Any, Optional, Union, cast
from typing import Mapping as TypingMapping  # noqa: UP035 - users still write it

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from eventbus.errors import ContractError
from eventbus.schema import Schema, schema_of
from tests.models import (
    Broken,
    Card,
    Cash,
    Order,
    OrderView,
    Payment,
    Plain,
    Point,
    Row,
    RushOrder,
    Shipment,
    as_dict,
    order,
)


@pytest.mark.parametrize("payload", [order(), RushOrder(order_id="o-1", total_cents=5, hours=1)])
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
        RushOrder(order_id="o-1", total_cents=5, hours=1),
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


@pytest.mark.parametrize("payload", [{}, {"order_id": 5, "total_cents": 5}])
def test_bare_validator_refuses_with_pydantics_error(payload: dict[str, object]) -> None:
    """What the model refuses is refused without a detour too."""
    with pytest.raises(ValidationError):
        Schema(Order).validate_dict(payload)


def test_bare_validator_is_bound_once() -> None:
    """From the first dict on, the validator is an attribute of the schema."""
    schema = Schema(Order)

    assert schema.validate_dict(as_dict()) == order()
    assert vars(schema)["validate_dict"] is schema.validate_dict


def test_bare_validator_is_bound_with_the_first_payload() -> None:
    """A schema made too early is bound to the completed model."""

    class Sooner(BaseModel):
        late: "Later"

    schema = Schema(Sooner)

    class Later(BaseModel):
        x: int

    Sooner.model_rebuild()

    assert schema.validate_dict({"late": {"x": 1}}) == Sooner(late=Later(x=1))


def test_schema_never_validates_instances_again() -> None:
    """An instance is passed on even where pydantic, asked to, would make another of it."""

    class Again(BaseModel):
        model_config = ConfigDict(revalidate_instances="always")

    payload = Again()

    assert Schema(Again).validate(payload) is payload
    assert Schema(Again).check("orders.created", payload) is payload


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
    ids=repr,
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


def test_equal_schemas_of_noted_models() -> None:
    """A model noted twice in the same words is one, though pydantic's notes are no equals."""
    one, other = (Schema(Annotated[Card | Cash, Field(discriminator="kind")]) for _ in range(2))

    assert len({one, other}) == 1
    assert one != Schema(Card | Cash)


@pytest.mark.parametrize("other", [Schema(RushOrder), Order, None])
def test_unequal_schemas(other: object) -> None:
    """A schema of another model, or what is no schema, is not equal."""
    assert Schema(Order) != other


@pytest.mark.parametrize(
    "form",
    [Annotated[int, ["a list"]], list[Annotated[int, ["a list"]]], list[Annotated[int, Field()]]],
    ids=repr,
)
def test_schema_is_hashable_whatever_its_model(form: Any) -> None:
    """Equal schemas are one key even where their model cannot be one."""
    assert len({Schema(form), Schema(form)}) == 1


def test_schema_shows_its_model() -> None:
    """The name and the repr tell which model it is, module included."""
    assert Schema(Order).name == "tests.models.Order"
    assert repr(Schema(int)) == "Schema(int)"


def test_schema_resolves_what_was_defined_later() -> None:
    """A schema made too early works once its model can be completed, asked to or not."""

    class Sooner(BaseModel):
        late: "Later"

    schema, asked = Schema(Sooner), Schema(Sooner)

    class Later(BaseModel):
        x: int

    Sooner.model_rebuild()
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
    ids=repr,
)
def test_raw_models_have_no_schema(model: object) -> None:
    """These receive the payload as it was published."""
    assert schema_of(model) is None


@pytest.mark.parametrize("model", [Order, Card | None, Row, int, list[int], dict[str, int] | int])
def test_other_models_have_a_schema(model: object) -> None:
    """Everything else is validated."""
    assert schema_of(model) == Schema(cast("Any", model))


@pytest.mark.parametrize("model", [Plain, Order | Plain, 5, list[Plain]])
def test_schema_of_what_pydantic_cannot_validate(model: object) -> None:
    """What pydantic knows nothing of is refused with the next step."""
    with pytest.raises(ContractError, match=r"pydantic cannot validate into .*: Unable .*; use a"):
        schema_of(model)
