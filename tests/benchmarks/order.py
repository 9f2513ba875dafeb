"""What is published: an order of six fields."""

__all__ = ("EVENT", "TOPIC", "Order")

from collections.abc import Mapping

from pydantic import BaseModel

TOPIC = "orders.created"


class Order(BaseModel):
    order_id: str
    customer: str
    total_cents: int
    currency: str
    weight: float
    is_paid: bool


EVENT: Mapping[str, object] = {
    "order_id": "o-1",
    "customer": "c-1",
    "total_cents": 990,
    "currency": "EUR",
    "weight": 0.25,
    "is_paid": True,
}
