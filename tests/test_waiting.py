"""Waiting for the next event that fits."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from eventbus import (
    BusClosed,
    ContractError,
    EventBus,
    InvalidOption,
    InvalidPattern,
    NotStarted,
    RequestTimeout,
    Topic,
)
from eventbus.testing import ManualClock


class Order(BaseModel):
    number: int


ORDER = Topic("orders.placed", Order)


async def wait_beside(
    wait: Callable[[], Awaitable[object]], then: Callable[[], Awaitable[object]]
) -> object:
    """Begin to wait, do something then, and give what was waited for."""
    results: list[object] = []

    async def go() -> None:
        await then()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(go)  # runs when the wait begins, no earlier
        results.append(await wait())
    return results[0]


async def test_the_next_event_is_returned() -> None:
    """As its model, and what came before is not heard."""
    async with EventBus() as bus:
        await bus.publish(ORDER, Order(number=1))
        found = await wait_beside(
            lambda: bus.wait_for(ORDER), lambda: bus.publish("orders.placed", {"number": 2})
        )
        assert found == Order(number=2)
        assert bus.stats().subscriptions == {}


async def test_it_listens_before_it_waits() -> None:
    """A coroutine that has run to its first wait misses nothing."""
    async with EventBus() as bus:
        waiting = bus.wait_for("orders.*")
        steps = waiting.__await__()
        next(steps)
        assert len(bus.stats().subscriptions) == 1
        waiting.close()
        assert bus.stats().subscriptions == {}


async def test_where_passes_over_what_does_not_fit() -> None:
    """The first that fits is returned, once."""
    async with EventBus() as bus:
        found = await wait_beside(
            lambda: bus.wait_for(ORDER, where=lambda order: order.number > 2),
            lambda: bus.publish_many(ORDER, [Order(number=n) for n in range(6)]),
        )
        assert found == Order(number=3)


async def test_what_the_model_refuses_is_passed_over() -> None:
    """It does not end the wait, and is nobody's dead letter."""
    async with EventBus() as bus:
        found = await wait_beside(
            lambda: bus.wait_for("orders.*", model=Order),
            lambda: bus.publish_many("orders.placed", [{"name": "x"}, {"number": 4}]),
        )
        assert found == Order(number=4)
        assert (bus.stats().invalid, bus.stats().lost) == (1, 0)


async def test_a_pattern_without_a_model_gives_payloads_as_they_are() -> None:
    """Whatever is published."""
    async with EventBus() as bus:
        found = await wait_beside(
            lambda: bus.wait_for(">"), lambda: bus.publish("anything", {"at": "all"})
        )
        assert found == {"at": "all"}


async def test_an_error_in_where_is_raised() -> None:
    """It is the caller's own, and ends the wait."""
    async with EventBus() as bus:
        with pytest.raises(ExceptionGroup) as caught:
            await wait_beside(
                lambda: bus.wait_for(ORDER, where=lambda order: bool(1 / order.number)),
                lambda: bus.publish(ORDER, Order(number=0)),
            )
        assert caught.group_contains(ZeroDivisionError)
        assert bus.stats().subscriptions == {}


async def test_it_waits_no_longer_than_it_says(clock: ManualClock) -> None:
    """By the bus's clock; nothing is left of it."""
    async with EventBus(clock=clock) as bus, anyio.create_task_group() as tasks:
        errors: list[Exception] = []

        async def wait() -> None:
            try:
                await bus.wait_for(ORDER, timeout=2.0)
            except RequestTimeout as error:
                errors.append(error)

        tasks.start_soon(wait)
        await clock.advance(1.9)
        assert not errors
        await clock.advance(0.1)
        assert "timeout=2.0" in str(errors[0])
        assert bus.stats().subscriptions == {}


async def test_a_wait_that_was_fulfilled_leaves_no_time_out(clock: ManualClock) -> None:
    """The clock may go on."""
    async with EventBus(clock=clock) as bus:
        found = await wait_beside(
            lambda: bus.wait_for(ORDER, timeout=2.0),
            lambda: bus.publish(ORDER, Order(number=1)),
        )
        await clock.advance(5.0)
        assert found == Order(number=1)


async def test_draining_ends_the_wait() -> None:
    """With `BusClosed`, once nothing can come any more."""
    async with EventBus() as bus:
        with pytest.raises(ExceptionGroup) as caught:
            await wait_beside(lambda: bus.wait_for(ORDER, timeout=60.0), bus.drain)
        assert caught.group_contains(BusClosed, match=r"'orders\.placed'")


async def test_what_handlers_publish_while_draining_still_comes() -> None:
    """Draining finishes what was accepted first."""
    bus = EventBus()

    @bus.on("begin")
    async def begin(event: object) -> None:
        await bus.publish(ORDER, Order(number=1))

    async def begin_and_drain() -> None:
        await bus.publish("begin", {})
        await bus.drain()

    async with bus:
        assert await wait_beside(lambda: bus.wait_for(ORDER), begin_and_drain) == Order(number=1)


async def test_stopping_at_once_ends_the_wait() -> None:
    """Leaving the block by an exception leaves nobody hanging."""
    bus, errors = EventBus(), list[Exception]()

    async def wait() -> None:
        try:
            await bus.wait_for(ORDER)
        except BusClosed as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
            async with bus:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                raise ZeroDivisionError
    assert len(errors) == 1


async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    """No subscription stays."""
    async with EventBus() as bus:
        with anyio.move_on_after(0.01):
            await bus.wait_for(ORDER)
        assert bus.stats().subscriptions == {}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"model": Order, "timeout": -1}, InvalidOption),
        ({"where": "number > 1"}, InvalidOption),
    ],
)
async def test_what_cannot_be_waited_for_is_refused(options: Any, error: type[Exception]) -> None:
    """Before anything is registered."""
    async with EventBus() as bus:
        with pytest.raises(error):
            await bus.wait_for("orders.*", **options)
        assert bus.stats().subscriptions == {}


async def test_topics_and_patterns_are_checked() -> None:
    """As `subscribe` does."""
    bus = EventBus()
    with pytest.raises(NotStarted):
        await bus.wait_for(ORDER)
    async with bus:
        await bus.publish(ORDER, Order(number=1))
        with pytest.raises(InvalidPattern):
            await bus.wait_for("orders..placed")
        with pytest.raises(InvalidOption):
            await bus.wait_for(ORDER, model=Order)  # type: ignore[call-overload]  # refused at run time too
        with pytest.raises(ContractError):
            await bus.wait_for(Topic("orders.placed", int))
