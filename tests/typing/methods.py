"""`handles` checks a method as `on` checks a function, and leaves it a method."""

from typing import assert_type

from eventbus import Context, handles
from tests.typing.shop import CREATED, SHIPPED, Created, Shipped, bus


class Billing:
    @handles(CREATED)
    async def bill(self, event: Created) -> None: ...

    @handles(CREATED, name="note", concurrency=2)
    def note(self, event: Created, context: Context[Created]) -> int:
        return context.attempt

    @handles("orders.*", model=Created | Shipped)
    async def either(self, event: Created | Shipped) -> None: ...

    @handles(CREATED)
    @handles("orders.old", model=Created)
    async def twice(self, event: Created) -> None: ...

    @handles("orders.*")
    async def inferred(self, event: Created) -> None: ...

    @handles("orders.*")
    async def inferred_with_context(self, event: Created, context: Context[Created]) -> None: ...

    @handles(CREATED, SHIPPED)
    async def two_topics(self, event: Created | Shipped) -> None: ...

    @handles(CREATED)  # expect-error
    async def other(self, event: Shipped) -> None: ...

    @handles("orders.*", model=Created)  # expect-error
    async def other_model(self, event: Shipped) -> None: ...

    @handles(CREATED)  # expect-error
    async def other_context(self, event: Created, context: Context[Shipped]) -> None: ...

    @handles(CREATED, SHIPPED)  # expect-error
    async def one_of_two(self, event: Created) -> None: ...

    @handles(CREATED)  # expect-error
    async def no_event(self) -> None: ...

    @handles(CREATED, concurency=2)  # expect-error
    async def misspelt(self, event: Created) -> None: ...

    @handles(CREATED, where=lambda event: event.parcel)  # expect-error
    async def wrong_where(self, event: Created) -> None: ...


billing = Billing()
bus.include(billing, name="billing")
bus.on(CREATED)(billing.bill)
bus.on(SHIPPED)(billing.bill)  # expect-error


async def methods_stay_methods(created: Created, context: Context[Created]) -> None:
    await billing.bill(created)
    assert_type(billing.note(created, context), int)
    await billing.bill(Shipped(parcel="p-1"))  # expect-error
