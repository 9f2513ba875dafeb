"""A bus knows the class of its contracts."""

from collections.abc import Sequence
from typing import Any, TypedDict, assert_type

from eventbus import BusStats, EventBus, FailedDelivery, SubscriptionStats
from tests.typing.shop import Created, Shipped

Shop = TypedDict("Shop", {"orders.created": Created, "parcels.>": Shipped})
Other = TypedDict("Other", {"orders.created": Shipped})

shop = EventBus[Shop](contracts=Shop)
assert_type(shop, EventBus[Shop])
inferred: EventBus[Shop] = EventBus(contracts=Shop)
open_world: EventBus = EventBus()
assert_type(open_world, EventBus[Any])

contradicts = EventBus[Shop](contracts=Other)  # expect-error
mistaken: EventBus[Other] = shop  # expect-error
no_class = EventBus[Shop](contracts={"orders.created": Created})  # expect-error


async def entered() -> None:
    async with shop as running:
        assert_type(running, EventBus[Shop])


async def looked_at() -> None:
    stats = shop.stats()
    assert_type(stats, BusStats)
    assert_type(stats.delivered, int)
    assert_type(stats.subscriptions["audit"], SubscriptionStats)
    assert_type(stats.subscriptions["audit"].oldest_age, float)
    assert_type(await shop.dead_letters("audit", limit=5, before="d-1"), list[FailedDelivery])
    assert_type(await shop.redrive("audit", ids=["d-1"]), int)
    assert_type(await shop.purge_dead_letters(ids=("d-1",)), int)
    ids: Sequence[str] = [letter.id for letter in await shop.dead_letters()]
    await shop.redrive(ids=ids)
    await shop.redrive(ids=[1])  # expect-error
    await shop.dead_letters(1)  # expect-error
    stats.delivered = 0  # expect-error
    late = stats.late  # expect-error


async def ended(handler_name: str) -> None:
    await shop.unsubscribe(handler_name)
    await shop.unsubscribe(looked_at)
    await shop.unsubscribe(1)  # expect-error
