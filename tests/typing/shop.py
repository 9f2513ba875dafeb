"""What the other files here talk about: a few models, their topics and a bus."""

from pydantic import BaseModel

from eventbus import EventBus, Topic


class Created(BaseModel):
    order_id: str


class CreatedAbroad(Created):
    country: str


class Shipped(BaseModel):
    parcel: str


class Paid(BaseModel):
    cents: int


CREATED = Topic("orders.created", Created)
SHIPPED = Topic("orders.shipped", Shipped)
PAID = Topic("orders.paid", Paid)
EITHER = Topic("orders.either", Created | Shipped)

bus = EventBus()
