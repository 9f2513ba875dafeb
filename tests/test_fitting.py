"""What fits: which models take every event of a contract, and which relate."""

from collections.abc import Sequence
from datetime import date, datetime
from enum import StrEnum
from inspect import Parameter
from typing import Annotated, Any, Literal, NewType

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, Field, ValidationError, create_model
from typing_extensions import TypeAliasType

from eventbus.fitting import fits
from eventbus.schema import Schema
from tests.models import (
    Card,
    Cash,
    Order,
    OrderView,
    Payment,
    Point,
    Row,
    RushOrder,
    Shipment,
    order,
)

Alias = TypeAliasType("Alias", Order | Card)


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


class Chain(BaseModel):
    value: int
    next: "Chain | None"


class SameChain(BaseModel):
    value: int
    next: "SameChain | None"


class OtherLink(BaseModel):
    value: str
    next: "OtherLink | None"


class OtherChain(BaseModel):
    value: int
    next: OtherLink | None


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
        (Shipment | None, Order),
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
    ids=repr,
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


@pytest.mark.parametrize("given", [int, int | None, Literal[1, "a"], Any])
def test_optional_field_fits_where_something_passes(given: Any) -> None:
    """A field with a default does no harm as long as the contract's can fill it at times."""
    assert fits(create_model("Takes", value=(int, 0)), needs(given))


@pytest.mark.parametrize("given", [str, str | None, Literal["a", "b"]])
def test_optional_field_does_not_fit_where_nothing_passes(given: Any) -> None:
    """A field with a default is no help where the contract's would be refused each time."""
    assert not fits(create_model("Takes", value=(int, 0)), needs(given))


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
    """Comparing them ends, and still sees what is wrong inside."""
    assert fits(Chain, SameChain)
    assert not fits(Chain, OtherChain)


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


class Early(BaseModel):
    late: "Late"


class Late(BaseModel):
    x: int


def test_fits_completes_models() -> None:
    """Models that refer to what was defined after them are compared as they are now."""
    assert fits(create_model("View", late=(Late, ...)), Early)
    assert not fits(create_model("View", late=(Order, ...)), Early)
