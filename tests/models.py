"""Models that fit one another, and some that do not, for the tests about fitting."""

__all__ = (
    "Broken",
    "Card",
    "Cash",
    "Order",
    "OrderView",
    "Payment",
    "Plain",
    "Point",
    "Row",
    "RushOrder",
    "Shipment",
    "as_dict",
    "order",
)

from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, Field, create_model
from typing_extensions import TypedDict


class Order(BaseModel):
    order_id: str
    total_cents: int


class RushOrder(Order):
    hours: int


class OrderView(BaseModel):
    order_id: str


class Shipment(BaseModel):
    tracking: str


class Card(BaseModel):
    kind: Literal["card"] = "card"


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"


@dataclass
class Point:
    x: int


class Row(TypedDict):
    x: int


class Plain:
    """What pydantic knows nothing of."""


Payment = Annotated[Card | Cash, Field(discriminator="kind")]
Broken = create_model("Broken", part=(cast("Any", "Undefined"), ...))


def order() -> Order:
    """Give an order."""
    return Order(order_id="o-1", total_cents=5)


def as_dict() -> dict[str, object]:
    """Give what `order` has, as a dict."""
    return {"order_id": "o-1", "total_cents": 5}
