"""Who is subscribed: the names they get, and the contracts they are held to."""

import logging
from typing import Any, TypedDict

import pytest
from pydantic import BaseModel

from eventbus import (
    ContractError,
    DuplicateSubscription,
    EventBus,
    InvalidOption,
    Topic,
    UnknownTopic,
)


class Order(BaseModel):
    order_id: str


class OrderNumber(BaseModel):
    order_id: str


class Parcel(BaseModel):
    weight: int


ORDER = Topic("orders.created", Order)

Shop = TypedDict("Shop", {"orders.created": Order, "parcels.>": Parcel})


def names(bus: EventBus[Any]) -> list[str]:
    """List the subscriptions of a bus."""
    return list(bus.stats().subscriptions)


async def handle_order(event: Order) -> None:
    """Handle what these tests register."""


# --- Names ----------------------------------------------------------------------------------------


def test_a_subscription_is_named_after_its_handler() -> None:
    """Module and qualified name tell a reader of logs where to look."""
    bus = EventBus()
    bus.on(ORDER)(handle_order)

    assert names(bus) == ["tests.test_registry.handle_order"]


def test_a_local_function_leaves_out_where_it_was_made() -> None:
    """`<locals>` says nothing; what cannot be in a name becomes `_`."""
    bus = EventBus()

    @bus.on(ORDER)
    async def local(event: Order) -> None: ...

    bus.on(ORDER)(lambda event: None)

    own = "tests.test_registry.test_a_local_function_leaves_out_where_it_was_made"
    assert names(bus) == [f"{own}.local", f"{own}._lambda_"]


def test_a_default_name_that_is_taken_gets_a_number() -> None:
    """Registering one function for several patterns needs no thought about names."""
    bus = EventBus()
    for _ in range(3):
        bus.on(ORDER)(handle_order)

    own = "tests.test_registry.handle_order"
    assert names(bus) == [own, f"{own}-2", f"{own}-3"]


def test_a_default_name_avoids_explicit_ones() -> None:
    """Only explicit duplicates are refused."""
    bus = EventBus()
    bus.on(ORDER, name="tests.test_registry.handle_order")(handle_order)
    bus.on(ORDER)(handle_order)

    assert names(bus)[1] == "tests.test_registry.handle_order-2"


def test_two_explicit_equal_names_are_refused() -> None:
    """The error names the name and the way to share it."""
    bus = EventBus()
    bus.on(ORDER, name="audit")(handle_order)

    with pytest.raises(DuplicateSubscription, match=r"'audit'.*group='audit'"):
        bus.on("orders.*", name="audit")(handle_order)
    assert names(bus) == ["audit"]


def test_a_name_of_a_group_is_taken_too() -> None:
    """A group is a subscription of that name."""
    bus = EventBus()
    bus.on(ORDER, group="billing")(handle_order)

    with pytest.raises(DuplicateSubscription, match="'billing'"):
        bus.on(ORDER, name="billing")(handle_order)


def test_a_group_cannot_join_a_plain_subscription() -> None:
    """Who was named without being a group shares its messages with nobody."""
    bus = EventBus()
    bus.on(ORDER, name="billing")(handle_order)

    with pytest.raises(DuplicateSubscription, match="'billing'"):
        bus.on(ORDER, group="billing")(handle_order)


def test_name_and_group_exclude_each_other() -> None:
    """The group is the name."""
    with pytest.raises(InvalidOption, match=r"'a'.*'b'"):
        EventBus().on(ORDER, name="a", group="b")


async def test_the_name_of_an_iterator_can_be_said() -> None:
    """It shows in the statistics, and is explicit as any other."""
    async with EventBus() as bus, bus.subscribe(ORDER, name="feed"), bus.subscribe(ORDER):
        assert names(bus) == ["feed", "iterator"]
        with pytest.raises(DuplicateSubscription, match="'feed'"):
            async with bus.subscribe(ORDER, name="feed"):
                pass


# --- Contracts ------------------------------------------------------------------------------------


def test_a_topic_that_contradicts_another_is_refused_when_registered() -> None:
    """One topic carries one model."""
    bus = EventBus()
    bus.on(ORDER)(handle_order)

    with pytest.raises(ContractError, match=r"orders\.created.*Parcel.*Order"):
        bus.on(Topic("orders.created", Parcel))(lambda event: None)


def test_a_topic_that_contradicts_the_declared_contracts_is_refused_when_registered() -> None:
    """What the TypedDict says, counts from the first registration on."""
    bus = EventBus(contracts=Shop)

    with pytest.raises(ContractError, match=r"orders\.created"):
        bus.on(Topic("orders.created", Parcel))(lambda event: None)


async def test_a_topic_that_contradicts_is_refused_when_published_to() -> None:
    """A publisher's Topic is held against what is known, too."""
    async with EventBus() as bus:
        await bus.publish(ORDER, Order(order_id="o-1"))
        with pytest.raises(ContractError, match=r"orders\.created"):
            await bus.publish(Topic("orders.created", Parcel), Parcel(weight=1))


async def test_a_handler_that_fits_no_contract_is_refused_at_the_start() -> None:
    """All is known then; a handler whose every event would be refused is a mistake."""
    bus = EventBus()
    bus.on("orders.*", model=Parcel, name="mistaken")(lambda event: None)
    bus.on(ORDER)(handle_order)

    with pytest.raises(ContractError, match=r"'mistaken'.*Parcel.*orders\.created.*Order"):
        async with bus:
            pass


async def test_a_refused_start_can_be_mended() -> None:
    """After the mistake is gone the same bus starts."""
    bus = EventBus()
    bus.on("orders.*", model=Parcel, name="mistaken")(lambda event: None)
    bus.on(ORDER)(handle_order)
    with pytest.raises(ContractError):
        async with bus:
            pass

    await bus.unsubscribe("mistaken")
    async with bus:
        await bus.publish(ORDER, Order(order_id="o-1"))

    assert bus.stats().succeeded == 1


async def test_a_handler_that_fits_no_contract_is_refused_at_once_while_running() -> None:
    """After the start there is nothing to wait for, and nothing stays of the refused one."""
    bus = EventBus()
    bus.on(ORDER)(handle_order)

    async with bus:
        with pytest.raises(ContractError, match="'mistaken'"):
            bus.on("orders.*", model=Parcel, name="mistaken")(lambda event: None)
        receipt = await bus.publish(ORDER, Order(order_id="o-1"))

    assert receipt.matched == 1
    assert "mistaken" not in names(bus)


async def test_a_handler_fits_by_its_fields() -> None:
    """Another class is good enough where the contract's model fills its fields."""
    seen: list[object] = []
    bus = EventBus()
    bus.on(ORDER)(handle_order)
    bus.on("orders.*", model=OrderNumber)(seen.append)

    async with bus:
        await bus.publish(ORDER, Order(order_id="o-1"))

    assert seen == [OrderNumber(order_id="o-1")]


async def test_a_handler_that_fits_some_contracts_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A wide pattern meets topics of other models; the log says so before it happens."""
    bus = EventBus(contracts=Shop)
    bus.on(">", model=Order, name="wide")(handle_order)

    async with bus:
        pass

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "'wide'" in record.getMessage()
    assert "parcels.>" in record.getMessage()


async def test_who_skips_what_does_not_fit_is_not_warned(caplog: pytest.LogCaptureFixture) -> None:
    """`invalid="skip"` says that it is meant."""
    bus = EventBus(contracts=Shop)
    bus.on(">", model=Order, invalid="skip")(handle_order)

    async with bus:
        pass

    assert caplog.records == []


@pytest.mark.parametrize("pattern", ["orders.craeted", "order.*", "invoices.>"])
def test_a_pattern_that_meets_no_contract_is_refused_in_a_closed_world(pattern: str) -> None:
    """With `contracts=` a handler that could never get anything is a mistake."""
    bus = EventBus(contracts=Shop)

    with pytest.raises(UnknownTopic, match=pattern):
        bus.on(pattern)(lambda event: None)
    assert names(bus) == []


async def test_a_closed_world_knows_its_topics_and_patterns() -> None:
    """Everything declared may be published and handled, and nothing else."""
    seen: list[object] = []
    bus = EventBus(contracts=Shop)
    bus.on("orders.created")(seen.append)
    bus.on("parcels.*")(seen.append)
    bus.on(">")(seen.append)

    async with bus:
        await bus.publish("orders.created", {"order_id": "o-1"})
        await bus.publish("parcels.sent", {"weight": 1})
        with pytest.raises(UnknownTopic, match=r"did you mean 'orders\.created'"):
            await bus.publish("orders.craeted", {"order_id": "o-1"})

    assert len(seen) == 4


async def test_the_bus_s_own_topics_are_in_every_world() -> None:
    """A closed world does not close the eyes to dead letters."""
    bus = EventBus(contracts=Shop)
    bus.on("$dlq.>")(lambda event: None)

    async with bus:
        pass


async def test_an_iterator_is_held_to_the_contracts() -> None:
    """`subscribe` is no way around them."""
    async with EventBus(contracts=Shop) as bus:
        with pytest.raises(UnknownTopic):
            async with bus.subscribe("orders.craeted"):
                pass
        with pytest.raises(ContractError):
            async with bus.subscribe("orders.created", model=Parcel):
                pass
    assert names(bus) == []
