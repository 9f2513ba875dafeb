"""What is published: an order of six fields, and one with its customer and line items."""

__all__ = ("EVENT", "NESTED", "TOPIC", "Event", "NestedOrder", "Order")

from collections.abc import Mapping
from typing import TypeAlias

from pydantic import BaseModel

TOPIC = "orders.created"

Event: TypeAlias = Mapping[str, object] | BaseModel


class Order(BaseModel):
    order_id: str
    customer: str
    total_cents: int
    currency: str
    weight: float
    is_paid: bool


class Customer(BaseModel):
    name: str
    email: str
    is_company: bool


class LineItem(BaseModel):
    sku: str
    quantity: int
    price_cents: int


class NestedOrder(BaseModel):
    order_id: str
    customer: Customer
    items: list[LineItem]
    currency: str


EVENT: Mapping[str, object] = {
    "order_id": "o-1",
    "customer": "c-1",
    "total_cents": 990,
    "currency": "EUR",
    "weight": 0.25,
    "is_paid": True,
}

NESTED: Mapping[str, object] = {
    "order_id": "o-1",
    "customer": {"name": "Ada", "email": "ada@example.org", "is_company": False},
    "items": [
        {"sku": "tea", "quantity": 2, "price_cents": 345},
        {"sku": "pot", "quantity": 1, "price_cents": 1990},
        {"sku": "cup", "quantity": 4, "price_cents": 275},
    ],
    "currency": "EUR",
}
