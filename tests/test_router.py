"""Routers: handlers in groups, under prefixes and middleware of their own, and objects' methods."""

from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from pydantic import BaseModel

from eventbus import (
    Context,
    DuplicateSubscription,
    EventBus,
    InvalidHandler,
    InvalidOption,
    InvalidPattern,
    Router,
    Topic,
    handles,
)
from eventbus.middleware import CallNext, DeadLetter, Retry
from tests.naming import name_of


class Order(BaseModel):
    order_id: str


class Parcel(BaseModel):
    weight: int


ORDER = Topic("orders.created", Order)
PARCEL = Topic("parcels.sent", Parcel)


def note(seen: list[str]) -> Callable[[object, Context[Any]], Awaitable[None]]:
    """Make a handler that notes the topics it is called for."""

    async def handler(event: object, context: Context[Any]) -> None:
        seen.append(context.message.topic)

    return handler


async def publish_all(bus: EventBus[Any], *topics: str) -> None:
    """Run the bus for one publish to each topic."""
    async with bus:
        for topic in topics:
            await bus.publish(topic, {})


# --- Prefixes -------------------------------------------------------------------------------------


async def test_a_prefix_goes_before_the_patterns() -> None:
    """A router's handlers say where they are below its prefix, wildcards and all."""
    seen: list[str] = []
    bus, orders = EventBus(), Router("orders")
    orders.on("created", "*.paid")(note(seen))
    bus.include(orders)

    await publish_all(bus, "created", "orders.created", "orders.eu.paid", "eu.paid")

    assert seen == ["orders.created", "orders.eu.paid"]


async def test_a_router_without_a_prefix_leaves_patterns_alone() -> None:
    """Grouping alone is reason enough for one."""
    seen: list[str] = []
    bus, router = EventBus(), Router()
    router.on("orders.created")(note(seen))
    bus.include(router)

    await publish_all(bus, "orders.created")

    assert seen == ["orders.created"]


async def test_prefixes_nest() -> None:
    """Outer before inner, the prefixes given to `include` among them."""
    seen: list[str] = []
    bus, shop, orders = EventBus(), Router("shop"), Router("orders")
    orders.on("created")(note(seen))
    shop.include(orders, prefix="v2")
    bus.include(shop, prefix="eu")

    await publish_all(bus, "eu.shop.v2.orders.created", "shop.orders.created")

    assert seen == ["eu.shop.v2.orders.created"]


async def test_a_prefix_may_capture() -> None:
    """A prefix is a pattern; its captures are the handlers'."""
    seen: list[object] = []
    bus, router = EventBus(), Router("{region}.orders")

    @router.on("{kind}")
    async def handler(event: object, context: Context[object]) -> None:
        seen.append(context.captures)

    bus.include(router)
    await publish_all(bus, "eu.orders.paid")

    assert seen == [{"region": "eu", "kind": "paid"}]


async def test_topics_name_themselves() -> None:
    """No prefix of any router moves a Topic."""
    seen: list[str] = []
    bus, shop, orders = EventBus(), Router("shop"), Router("orders")
    orders.on(ORDER)(note(seen))
    shop.include(orders)
    bus.include(shop, prefix="eu")

    async with bus:
        await bus.publish(ORDER, Order(order_id="o-1"))

    assert seen == ["orders.created"]


@pytest.mark.parametrize("prefix", ["a.>", "a..b", "a b", ".", 1], ids=repr)
def test_a_prefix_that_cannot_be_is_refused(prefix: Any) -> None:
    """At once where the router is made, or at the first handler below it."""
    with pytest.raises(InvalidPattern):
        Router(prefix).on("created")(note([]))


@pytest.mark.parametrize("prefix", ["a.>", "a..b", "a b"])
def test_a_prefix_of_an_inclusion_that_cannot_be_is_refused(prefix: str) -> None:
    """The same words are wrong where a router is included."""
    router = Router("orders")
    router.on("created")(note([]))

    with pytest.raises(InvalidPattern):
        EventBus().include(router, prefix=prefix)


# --- Connected for good ---------------------------------------------------------------------------


async def test_a_router_is_live() -> None:
    """Handlers that come after the inclusion count, at any depth, also while the bus runs."""
    seen: list[str] = []
    bus, shop, orders = EventBus(), Router("shop"), Router("orders")
    bus.include(shop)
    shop.include(orders)
    orders.on("created")(note(seen))

    async with bus:
        await bus.publish("shop.orders.created", {})
        orders.on("paid")(note(seen))
        await bus.publish("shop.orders.paid", {})

    assert sorted(seen) == ["shop.orders.created", "shop.orders.paid"]


async def test_a_router_may_be_included_twice() -> None:
    """Under two prefixes, and in two buses: each inclusion is a subscription of its own."""
    seen: list[str] = []
    first, second, router = EventBus(), EventBus(), Router("orders")
    router.on("created")(note(seen))
    first.include(router, prefix="eu")
    first.include(router, prefix="us")
    second.include(router)

    await publish_all(first, "eu.orders.created", "us.orders.created")
    await publish_all(second, "orders.created")

    assert sorted(seen) == ["eu.orders.created", "orders.created", "us.orders.created"]
    assert len(first.stats().subscriptions) == 2


async def test_a_router_included_twice_in_the_same_place_delivers_twice() -> None:
    """Nobody guesses that it was not meant."""
    seen: list[str] = []
    bus, router = EventBus(), Router()
    router.on("orders.created")(note(seen))
    bus.include(router)
    bus.include(router)

    await publish_all(bus, "orders.created")

    assert seen == ["orders.created"] * 2


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_router_cannot_include_itself(depth: int) -> None:
    """Directly or by way of others, there would be no end of handlers."""
    chain = [Router(f"r{number}") for number in range(depth + 1)]
    for outer, inner in pairwise(chain):
        outer.include(inner)

    with pytest.raises(InvalidOption, match=f"Router\\('r{0}'\\)"):
        chain[-1].include(chain[0])


def test_a_bus_is_no_router() -> None:
    """What cannot be included is said to be that."""
    with pytest.raises(InvalidHandler):
        EventBus().include(EventBus())


async def test_the_handler_comes_back_from_a_router() -> None:
    """A router's decorator gives the function back, as the bus's does."""

    async def handler(event: object) -> None: ...

    assert Router().on("orders.*")(handler) is handler


def test_a_router_shows_its_prefix() -> None:
    """Messages about it name it."""
    assert repr(Router("orders")) == "Router('orders')"


# --- Middleware -----------------------------------------------------------------------------------


def layer(name: str, seen: list[str]) -> Any:
    """Make middleware that notes that it ran."""

    async def middleware(context: Context[Any], call_next: CallNext) -> object:
        seen.append(name)
        return await call_next(context)

    return middleware


async def test_middleware_of_routers_nests() -> None:
    """Bus, outer router, inner router, handler: outermost first."""
    seen: list[str] = []
    bus = EventBus(middleware=[layer("bus", seen)])
    shop = Router(middleware=[layer("shop", seen)])
    orders = Router(middleware=[layer("orders", seen)])
    orders.on("orders.*", middleware=[layer("handler", seen)])(note([]))
    shop.include(orders)
    bus.include(shop)

    await publish_all(bus, "orders.created")

    assert seen == ["bus", "shop", "orders", "handler"]


async def test_middleware_of_a_router_is_its_own() -> None:
    """Handlers elsewhere do not meet it."""
    seen: list[str] = []
    bus = EventBus()
    router = Router(middleware=[layer("router", seen)])
    router.on("orders.created")(note([]))
    bus.include(router)
    bus.on("orders.created")(note([]))

    await publish_all(bus, "orders.created")

    assert seen == ["router"]


async def test_the_innermost_policy_replaces_the_outer() -> None:
    """A router's `Retry` counts for its handlers, the bus's for all others."""
    attempts: list[str] = []
    bus = EventBus(middleware=[DeadLetter(), Retry(attempts=2, initial=0)])
    router = Router(middleware=[Retry(attempts=4, initial=0)])

    async def fails(event: object, context: Context[object]) -> None:
        attempts.append(context.subscription)
        raise ValueError("no")

    bus.on("orders.*", name="bus")(fails)
    router.on("orders.*", name="router")(fails)
    bus.include(router)

    await publish_all(bus, "orders.created")

    assert (attempts.count("bus"), attempts.count("router")) == (2, 4)


# --- Methods --------------------------------------------------------------------------------------


class Billing:
    """An object with handlers of all shapes."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @handles(ORDER)
    async def bill(self, event: Order) -> None:
        self.seen.append(f"bill {event.order_id}")

    @handles("parcels.*", model=Parcel)
    def weigh(self, event: Parcel, context: Context[Parcel]) -> None:
        self.seen.append(f"weigh {context.event.weight}")

    @handles("invoices.*")
    @handles("receipts.*")
    async def file(self, event: dict[str, str]) -> None:
        self.seen.append(f"file {event['number']}")

    async def nothing(self, event: Order) -> None:
        self.seen.append("nothing")


async def test_an_object_s_marked_methods_are_handlers() -> None:
    """Bound to it, in every shape, for each mark; unmarked methods are left alone."""
    billing, bus = Billing(), EventBus()
    bus.include(billing)

    async with bus:
        await bus.publish(ORDER, Order(order_id="o-1"))
        await bus.publish("parcels.sent", {"weight": 5})
        await bus.publish("invoices.sent", {"number": "1"})
        await bus.publish("receipts.sent", {"number": "2"})

    assert sorted(billing.seen) == ["bill o-1", "file 1", "file 2", "weigh 5"]


def test_the_subscriptions_of_an_object_are_named_after_its_methods() -> None:
    """Without a name the class tells them apart, with one the name does."""
    bus = EventBus()
    bus.include(Billing())
    bus.include(Billing(), name="eu")

    own = "tests.test_router.Billing"
    assert list(bus.stats().subscriptions) == [
        f"{own}.bill",
        f"{own}.weigh",
        f"{own}.file",
        f"{own}.file-2",
        "eu.bill",
        "eu.weigh",
        "eu.file",
        "eu.file-2",
    ]


async def test_an_object_is_included_under_a_prefix() -> None:
    """Text patterns move, Topics do not."""
    billing, bus = Billing(), EventBus()
    bus.include(billing, prefix="shop")

    async with bus:
        await bus.publish("shop.parcels.sent", {"weight": 5})
        await bus.publish("parcels.sent", {"weight": 6})
        await bus.publish(ORDER, Order(order_id="o-1"))

    assert sorted(billing.seen) == ["bill o-1", "weigh 5"]


async def test_marks_are_inherited() -> None:
    """A subclass has its base's handlers, and its own word for those it overrides."""

    class Careful(Billing):
        async def bill(self, event: Order) -> None:
            self.seen.append("careful")

        @handles("more.*")
        async def more(self, event: object) -> None:
            self.seen.append("more")

    careful, bus = Careful(), EventBus()
    bus.include(careful)

    async with bus:
        await bus.publish("parcels.sent", {"weight": 5})
        await bus.publish("more.work", {})

    assert sorted(careful.seen) == ["more", "weigh 5"]


async def test_an_overridden_method_without_a_mark_is_no_handler() -> None:
    """Who overrides a handler says again that it is one."""

    class Silent(Billing):
        async def bill(self, event: Order) -> None:
            self.seen.append("silent")

    silent, bus = Silent(), EventBus()
    bus.include(silent)

    async with bus:
        await bus.publish(ORDER, Order(order_id="o-1"))

    assert silent.seen == []


def test_a_marked_method_is_still_a_method() -> None:
    """The mark changes nothing for who calls it."""
    assert Billing.bill.__name__ == "bill"


def test_properties_of_an_object_are_not_touched() -> None:
    """Looking for handlers runs no code of the object."""

    class Touchy:
        @property
        def secret(self) -> str:
            raise AssertionError("touched")

        @handles(ORDER)
        async def bill(self, event: Order) -> None: ...

    EventBus().include(Touchy())


@pytest.mark.parametrize("thing", [object(), 1, "router", None, print], ids=name_of)
def test_what_has_no_handlers_cannot_be_included(thing: object) -> None:
    """The error names it, and says how to mark methods."""
    with pytest.raises(InvalidHandler, match="@handles"):
        EventBus().include(thing)


def test_what_is_no_method_cannot_be_marked() -> None:
    """A built-in function keeps no mark."""
    with pytest.raises(InvalidHandler, match="print"):
        handles(ORDER)(print)


@pytest.mark.parametrize("name", ["a b", "", "a..b", "a/b"], ids=repr)
def test_a_name_for_an_object_that_cannot_be_is_refused(name: str) -> None:
    """It goes before the names of its subscriptions."""
    with pytest.raises(InvalidOption):
        EventBus().include(Billing(), name=name)


def test_two_objects_under_one_name_are_two_of_a_name() -> None:
    """What is said explicitly cannot be said twice."""
    bus = EventBus()
    bus.include(Billing(), name="eu")

    with pytest.raises(DuplicateSubscription, match=r"'eu\.bill'"):
        bus.include(Billing(), name="eu")
