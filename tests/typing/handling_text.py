"""A handler of text patterns takes what `model=` says, or else what it says itself."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, assert_type

from pydantic import BaseModel, Field

from eventbus import Context
from tests.typing.shop import Created, Paid, Shipped, bus


class Card(BaseModel):
    kind: Literal["card"]


class Cash(BaseModel):
    kind: Literal["cash"]


Payment = Annotated[Card | Cash, Field(discriminator="kind")]


# --- With a model ---------------------------------------------------------------------------------


@bus.on("orders.*", model=Created)
async def one(event: Created) -> None: ...


@bus.on("orders.created", "orders.*.created", model=Created)
def one_with_context(event: Created, context: Context[Created]) -> None: ...


@bus.on("orders.*", model=Created | Shipped)
async def union(event: Created | Shipped) -> None: ...


@bus.on("orders.*", model=Created | Shipped)
async def union_with_context(event: Created | Shipped, context: Context[Created | Shipped]) -> None:
    assert_type(context.event, Created | Shipped)


@bus.on("payments.*", model=Annotated[Card | Cash, Field(discriminator="kind")])
async def discriminated(event: Card | Cash) -> None: ...


@bus.on("orders.*", model=list[int])
async def no_class(event: list[int]) -> None: ...


@bus.on("orders.*", model=Created)  # expect-error
async def other(event: Shipped) -> None: ...


@bus.on("orders.*", model=Created)  # expect-error
async def other_context(event: Created, context: Context[Shipped]) -> None: ...


@bus.on("orders.*", model=Created | Shipped)  # expect-error
async def part_of_union(event: Created) -> None: ...


@bus.on("payments.*", model=Annotated[Card | Cash, Field(discriminator="kind")])  # expect-error
async def part_of_discriminated(event: Card) -> None: ...


@bus.on("orders.*", model=Created)  # expect-error
async def raw(event: dict[str, Any]) -> None: ...


bus.on("orders.*", model=1)  # expect-error
bus.on("orders.*", 1, model=Created)  # expect-error
bus.on(b"orders.*", model=Created)  # expect-error


# --- Without: the annotation says it --------------------------------------------------------------


@bus.on("orders.*")
async def inferred(event: Created) -> None: ...


@bus.on("orders.*")
async def inferred_with_context(event: Created, context: Context[Created]) -> None:
    assert_type(context.event, Created)


@bus.on("orders.*", "payments.*")
async def inferred_union(event: Created | Paid) -> None: ...


@bus.on("orders.*")
def inferred_sync(event: Created) -> int:
    return 1


@bus.on("orders.*")  # expect-error
async def nothing() -> None: ...


@bus.on("orders.*")  # expect-error
async def three(event: Created, context: Context[Created], more: int) -> None: ...


bus.on("orders.*")(lambda event: repr(event))
bus.on("orders.*")(lambda event: event.order_id)  # expect-error


async def functions_come_back(created: Created) -> None:
    await inferred(created)
    assert_type(inferred_sync(created), int)
    await inferred(Shipped(parcel="p-1"))  # expect-error


# --- Raw: as published ----------------------------------------------------------------------------


@bus.on("orders.*")
async def as_dict(event: dict[str, Any]) -> None: ...


@bus.on("orders.*")
async def as_mapping(event: Mapping[str, object], context: Context[Mapping[str, object]]) -> None:
    assert_type(context.event, Mapping[str, object])


@bus.on("orders.*")
async def as_object(event: object) -> None: ...


@bus.on("orders.*")
async def as_bytes(event: bytes) -> None: ...


@bus.on("orders.*")
async def as_any(event: Any, context: Context[Any]) -> None: ...
