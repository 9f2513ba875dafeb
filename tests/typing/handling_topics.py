"""A handler of a topic takes the topic's model, and a context of it if it wants one."""

from typing import Any, assert_type

from pydantic import BaseModel

from eventbus import Context, Router
from tests.typing.shop import CREATED, PAID, SHIPPED, Created, CreatedAbroad, Paid, Shipped, bus


@bus.on(CREATED)
async def takes_event(event: Created) -> None: ...


@bus.on(CREATED)
async def takes_both(event: Created, context: Context[Created]) -> None:
    assert_type(context.event, Created)


@bus.on(CREATED)
def sync_event(event: Created) -> None: ...


@bus.on(CREATED)
def sync_both(event: Created, context: Context[Created]) -> None: ...


@bus.on(CREATED)
async def takes_base(event: BaseModel) -> None: ...


@bus.on(CREATED)
async def takes_object(event: object, context: Context[object]) -> None: ...


@bus.on(CREATED)
async def base_context(event: Created, context: Context[BaseModel]) -> None: ...


@bus.on(CREATED)
async def any_context(event: Created, context: Context[Any]) -> None: ...


@bus.on(CREATED)
async def returns_something(event: Created) -> int:
    return 1


@bus.on(CREATED)  # expect-error
async def other_event(event: Shipped) -> None: ...


@bus.on(CREATED)  # expect-error
async def subclass_event(event: CreatedAbroad) -> None: ...


@bus.on(CREATED)  # expect-error
async def other_context(event: Created, context: Context[Shipped]) -> None: ...


@bus.on(CREATED)  # expect-error
async def subclass_context(event: Created, context: Context[CreatedAbroad]) -> None: ...


@bus.on(CREATED)  # expect-error
async def no_context(event: Created, context: str) -> None: ...


@bus.on(CREATED)  # expect-error
async def context_first(context: Context[Created], event: Created) -> None: ...


@bus.on(CREATED)  # expect-error
async def nothing() -> None: ...


@bus.on(CREATED)  # expect-error
async def three(event: Created, context: Context[Created], more: int) -> None: ...


@bus.on(CREATED)  # expect-error
async def keyword_needed(event: Created, *, tenant: str) -> None: ...


@bus.on(CREATED)
async def keyword_with_default(event: Created, *, tenant: str = "a") -> None: ...


bus.on(CREATED)(1)  # expect-error
bus.on(CREATED)(other_function := None)  # expect-error
bus.on(CREATED)(lambda event: event.order_id)
bus.on(CREATED)(lambda event: event.parcel)  # expect-error


# --- The function comes back as it was ------------------------------------------------------------


async def functions_come_back(created: Created, context: Context[Created]) -> None:
    await takes_event(created)
    assert_type(await returns_something(created), int)
    await takes_both(created, context)
    await takes_event(Shipped(parcel="p-1"))  # expect-error


# --- Several topics: the union of their models ----------------------------------------------------


@bus.on(CREATED, SHIPPED)
async def two(event: Created | Shipped) -> None: ...


@bus.on(CREATED, SHIPPED)
async def two_with_context(event: Created | Shipped, context: Context[Created | Shipped]) -> None:
    assert_type(context.event, Created | Shipped)


@bus.on(CREATED, SHIPPED, PAID)
async def all_three(event: Created | Shipped | Paid) -> None: ...


@bus.on(CREATED, SHIPPED)
async def more_than_two(event: Created | Shipped | Paid) -> None: ...


@bus.on(CREATED, SHIPPED)
async def two_as_base(event: BaseModel) -> None: ...


@bus.on(CREATED, SHIPPED)  # expect-error
async def first_alone(event: Created) -> None: ...


@bus.on(CREATED, SHIPPED)  # expect-error
async def second_alone(event: Shipped) -> None: ...


@bus.on(CREATED, SHIPPED, PAID)  # expect-error
async def two_of_three(event: Created | Shipped) -> None: ...


@bus.on(CREATED, SHIPPED)  # expect-error
async def context_of_one(event: Created | Shipped, context: Context[Created]) -> None: ...


# --- What cannot be combined ----------------------------------------------------------------------

bus.on(CREATED, "orders.shipped")  # expect-error
bus.on("orders.shipped", CREATED)  # expect-error
bus.on(CREATED, model=Created)  # expect-error
bus.on()  # expect-error
bus.on(Created)  # expect-error


# --- Routers register alike -----------------------------------------------------------------------

router = Router("orders", middleware=())


@router.on(CREATED)
async def routed(event: Created, context: Context[Created]) -> None: ...


@router.on(CREATED)  # expect-error
async def routed_other(event: Shipped) -> None: ...


@router.on("created", model=Created)  # expect-error
async def routed_text(event: Shipped) -> None: ...


router.include(Router("eu"), prefix="europe")
router.include(bus)  # expect-error
bus.include(router, prefix="shop")
Router(1)  # expect-error
Router("orders", prefix="shop")  # expect-error
