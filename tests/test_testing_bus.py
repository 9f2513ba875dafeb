"""What `TestBus` tells a test, and what it lets fail."""

import inspect
import re
from traceback import extract_tb

import pytest
from pydantic import BaseModel

from eventbus import Context, EventBus, EventBusError, InvalidOption, SystemClock, Topic
from eventbus.middleware import DeadLetter, Retry
from eventbus.testing import BusOptions, TestBus, VirtualClock


class Order(BaseModel):
    order_id: str
    cents: int = 0


ORDER = Topic("orders.placed", Order)

# What an application has: a bus of its module, and functions that publish through it.
app = EventBus(name="shop", middleware=[DeadLetter(), Retry(attempts=3, initial=0.0)])


@app.on(ORDER, name="billing")
async def bill(order: Order, context: Context[Order]) -> None:
    """Answer an order with an invoice."""
    await context.publish("invoices.written", {"order_id": order.order_id})


async def place_order(order_id: str) -> None:
    """Publish as an application does: through its own bus."""
    await app.publish(ORDER, Order(order_id=order_id))


# --- what was published ---------------------------------------------------------------------------


async def test_published_lists_messages_in_order_as_they_were_published() -> None:
    """Payloads are what the publisher gave, though handlers get their JSON."""
    async with TestBus() as bus:
        await bus.publish(ORDER, order := Order(order_id="o-1"))
        await bus.publish("orders.paid", {"order_id": "o-1"}, key="o-1")

    assert [(one.topic, one.payload) for one in bus.published] == [
        ("orders.placed", order),
        ("orders.paid", {"order_id": "o-1"}),
    ]
    assert bus.published[1].key == "o-1"


async def test_payloads_go_through_json_by_default() -> None:
    """A test finds what only a durable transport would have found in production."""
    received: list[object] = []
    async with TestBus() as bus:
        bus.on("orders.*", model=dict[str, object])(received.append)
        await bus.publish(ORDER, Order(order_id="o-1"))

    assert received == [{"order_id": "o-1", "cents": 0}]


async def test_assert_published_gives_what_fits() -> None:
    """By topic, by pattern, by `Topic` with its model, and by number."""
    async with TestBus() as bus:
        await bus.publish(ORDER, Order(order_id="o-1", cents=5))
        await bus.publish(ORDER.name, {"order_id": "o-2"})

    assert len(bus.assert_published("orders.placed")) == 2
    assert len(bus.assert_published("orders.>", times=2)) == 2
    assert bus.assert_published("invoices.*", times=0) == []
    [cheap] = bus.assert_published(ORDER, where=lambda order: order.cents == 0)
    assert cheap.payload == {"order_id": "o-2"}


async def reported(topic: Topic[Order] | str, times: int | None = None, most: int = 9) -> str:
    """Publish two orders, and give what is said of a check that they fail."""
    async with TestBus() as bus:
        await bus.publish(ORDER, Order(order_id="o-1", cents=1))
        await bus.publish(ORDER, Order(order_id="o-2", cents=2))

    def is_cheap(order: Order) -> bool:
        return order.cents < most

    with pytest.raises(AssertionError) as caught:  # noqa: PT012 - one call, for the type checkers
        if isinstance(topic, str):
            bus.assert_published(topic, times=times)
        else:
            bus.assert_published(topic, times=times, where=is_cheap)
    return str(caught.value)


async def test_assert_published_says_what_there_was_instead() -> None:
    """Who reads the failure knows what to mend without running it again."""
    assert await reported("invoices.*") == (
        "at least 1 message should have been published to 'invoices.*', and 0 fitted; "
        "published was to 'orders.placed' (2)"
    )
    assert await reported(ORDER, times=1) == (
        "1 message should have been published to 'orders.placed', and 2 fitted; these did: "
        "Order(order_id='o-1', cents=1); Order(order_id='o-2', cents=2)"
    )
    assert (await reported("orders.>", times=0)).startswith("0 messages should")
    assert await reported(ORDER, most=2, times=2) == (
        "2 messages should have been published to 'orders.placed', and 1 fitted; `where` refused "
        "Order(order_id='o-2', cents=2)"
    )


async def test_nothing_published_is_said_so() -> None:
    """An empty list of topics reads as one."""
    async with TestBus() as bus:
        pass

    with pytest.raises(AssertionError, match="published was to no topic"):
        bus.assert_published("orders.*")


async def test_what_is_refused_was_not_published() -> None:
    """Only what reached the queues counts."""
    async with TestBus() as bus:
        with pytest.raises(EventBusError):
            await bus.publish("orders.placed", {"order": object()})

    assert bus.published == []


# --- failures that are made -----------------------------------------------------------------------


async def test_fail_lets_a_handler_fail_so_often() -> None:
    """Injected failures take the way of real ones: retried, and counted as attempts."""
    handled: list[int] = []
    async with TestBus(middleware=[Retry(attempts=3, initial=0.0)]) as bus:

        @bus.on("a")
        async def handle(event: object, context: Context[object]) -> None:
            handled.append(context.attempt)

        bus.fail(handle, times=2, error=ConnectionError("closed"))
        await bus.publish("a", {})
        await bus.join()

    assert handled == [3]
    assert bus.attempts(handle) == 3
    assert bus.stats().retried == 2


async def test_fail_without_a_number_goes_on_until_it_is_ended() -> None:
    """By the subscription's name, with an error of its own."""
    async with TestBus(middleware=[DeadLetter()]) as bus:

        @bus.on("a", name="billing")
        def handle(event: object) -> None: ...

        bus.fail("billing")
        for _ in range(3):
            await bus.publish("a", {})
        await bus.join()
        bus.fail("billing", times=0)
        await bus.publish("a", {})

    assert {repr(one.error) for one in bus.failures} == {"RuntimeError('the test lets it fail')"}
    assert (len(bus.failures), bus.attempts("billing"), bus.attempts(handle)) == (3, 4, 4)


async def test_what_is_not_subscribed_cannot_fail_nor_be_counted() -> None:
    """A misspelt name would make a test pass for nothing."""
    async with TestBus() as bus:
        for ask in (bus.fail, bus.attempts, bus.assert_failed):
            with pytest.raises(InvalidOption, match="'biling' is not subscribed"):
                ask("biling")
        bus.on("a", name="billing")(print)
        with pytest.raises(InvalidOption, match="times=-1"):
            bus.fail("billing", times=-1)


async def test_attempts_are_told_of_what_has_left() -> None:
    """A handler that was unsubscribed has still been called."""
    async with TestBus() as bus:

        @bus.on("a", name="a")
        async def handler(event: object) -> None: ...

        await bus.publish("a", {})
        await bus.unsubscribe(handler)

        assert (bus.attempts("a"), bus.attempts(handler)) == (1, 1)


# --- failures that happen -------------------------------------------------------------------------


async def fail_unexpectedly(*models: type[BaseModel]) -> None:
    """Run a test with a handler that fails, and others whose model refuses the payload."""
    async with TestBus() as bus:

        @bus.on("a", name="billing")
        async def handle(event: object) -> None:
            raise KeyError("k")

        for model in models:
            bus.on("a", model=model)(lambda _: None)
        await bus.publish("a", {})


async def test_a_failure_nobody_expected_is_raised_in_the_end() -> None:
    """The handler's own error is the cause, with its traceback."""
    with pytest.raises(AssertionError, match="billing gave up on 'a' after 1 attempt") as caught:
        await fail_unexpectedly()

    cause = caught.value.__cause__
    assert isinstance(cause, KeyError)
    assert extract_tb(cause.__traceback__)[-1].name == "handle"


async def test_several_failures_are_raised_as_a_group() -> None:
    """None hides another; a payload that a model refuses is one of them."""
    with pytest.raises(AssertionError) as caught:
        await fail_unexpectedly(Order)

    group = caught.value.__cause__
    assert group is not None
    assert re.search(r"\(2 sub-exceptions\)$", str(group))


async def test_failures_that_were_asserted_or_injected_are_not_raised() -> None:
    """What a test has asked for is no surprise."""
    async with TestBus(middleware=[DeadLetter()]) as bus:

        @bus.on("a", name="billing")
        async def handle(event: object) -> None:
            raise ConnectionError("closed")

        await bus.publish("a", {})
        await bus.join()
        [failure] = bus.assert_failed(handle, ConnectionError)
        bus.fail("billing")
        await bus.publish("a", {})

    assert failure.delivery.attempts == 1
    assert str(failure) == "billing gave up on 'a' after 1 attempt: ConnectionError: closed"


async def test_assert_failed_says_what_failed_instead() -> None:
    """Another error, or another number of them, is told with what there was."""
    async with TestBus(raise_failures=False) as bus:

        @bus.on("a", name="billing")
        async def handle(event: object) -> None:
            raise KeyError("k")

        with pytest.raises(AssertionError, match=r"billing should .* 1 delivery .*: none"):
            bus.assert_failed(handle)
        await bus.publish("a", {})
        await bus.join()
        with pytest.raises(AssertionError, match=r"with ValueError, .* KeyError: 'k'"):
            bus.assert_failed("billing", ValueError)
        with pytest.raises(AssertionError, match=r"2 deliveries .* and 1 fitted"):
            bus.assert_failed("billing", times=2)


async def test_the_error_of_the_test_itself_is_not_covered() -> None:
    """Leaving by an exception raises that one, whatever handlers did."""

    async def test() -> None:
        async with TestBus() as bus:
            bus.on("a", model=Order)(lambda _: None)
            await bus.publish("a", {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await test()


# --- the bus of an application --------------------------------------------------------------------


async def test_around_watches_the_bus_of_an_application() -> None:
    """Code that publishes through its own bus is seen, started and drained by the block."""
    async with TestBus.around(app) as test:
        test.fail(bill, times=1)
        await place_order("o-1")
        await app.join()

        assert test.attempts("billing") == 2
        test.assert_published(ORDER, times=1, where=lambda order: order.order_id == "o-1")
        test.assert_published("invoices.written", times=1)

    assert not app.is_running
    assert app.probes == ()


async def test_around_joins_a_bus_that_runs_already() -> None:
    """Its owner goes on with it; what was published in the block is handled by its end."""
    async with app:
        async with TestBus.around(app) as test:
            await place_order("o-1")
        test.assert_published("invoices.written", times=1)
        await place_order("o-2")

        assert app.is_running

    assert len(test.published) == 2


async def test_around_lends_a_clock_to_a_bus_that_has_none() -> None:
    """Backoff then waits in the loop's time; afterwards the bus has its own again."""
    before = app.clock
    async with TestBus.around(app):
        assert isinstance(app.clock, VirtualClock)

    assert app.clock is before
    own = VirtualClock()
    bus = EventBus(clock=own)
    async with TestBus.around(bus):
        assert bus.clock is own


@pytest.mark.parametrize("is_raised", [True, False])
async def test_around_raises_failures_unless_told_otherwise(is_raised: bool) -> None:
    """As a `TestBus` does at its end."""
    bus = EventBus()
    bus.on("a", model=Order)(lambda _: None)
    raised = False
    try:
        async with TestBus.around(bus, raise_failures=is_raised):
            await bus.publish("a", {})
    except AssertionError:
        raised = True

    assert raised is is_raised


# --- what it is -----------------------------------------------------------------------------------


def test_it_takes_all_that_the_bus_takes() -> None:
    """An option of `EventBus` that it does not hand on would be missing in tests."""
    taken = set(inspect.signature(EventBus).parameters)

    assert taken == {"url", "clock", *BusOptions.__annotations__}


def test_it_is_no_test() -> None:
    """Pytest leaves the class alone, in every module that imports it."""
    assert not TestBus.__test__
    assert issubclass(TestBus, EventBus)
    assert isinstance(EventBus().clock, SystemClock)
