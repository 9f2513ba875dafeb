"""What a store tells of itself and its durable subscriptions."""

from pathlib import Path

import anyio
import pytest

from eventbus import EventBus
from eventbus.middleware import DeadLetter, Retry
from eventbus.plugins import transport
from eventbus.testing import ManualClock
from eventbus.transports.figures import KeepsFigures, StoreFigures, SubscriptionFigures
from eventbus.transports.sqlite import survey
from tests.gate import Gate
from tests.waiting import until


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Give the URL of a store that is not there yet."""
    return f"sqlite:///{tmp_path}/events.db"


async def figures_of(url: str, clock: ManualClock) -> StoreFigures:
    """Ask a store for its figures, from outside."""
    async with transport(url, clock) as asked:
        assert isinstance(asked, KeepsFigures)
        return await asked.figures()


async def only_subscription(url: str, clock: ManualClock) -> SubscriptionFigures:
    """Ask a store for the figures of its one subscription."""
    (one,) = (await figures_of(url, clock)).subscriptions
    return one


async def fail(event: object) -> None:
    """Fail."""
    raise ValueError("no")


async def leave_behind(url: str, clock: ManualClock, *topics: str) -> None:
    """Publish after the one subscription has ended."""
    bus = EventBus(url, clock=clock)
    bus.on("orders.*", name="books")(fail)
    async with bus:
        pass
    async with EventBus(url, clock=clock) as late:
        for topic in topics:
            await late.publish(topic, {})


async def test_a_new_store_is_empty(url: str, clock: ManualClock) -> None:
    """What has no records begins at position 1, and who asks has it open."""
    figures = await figures_of(url, clock)

    assert (figures.first, figures.last, figures.buses, figures.dead_letters) == (1, 0, 1, 0)
    assert figures.size > 0
    assert figures.subscriptions == []


async def test_what_is_not_read_yet_is_lag(url: str, clock: ManualClock) -> None:
    """Of what lies ahead counts only what the patterns match, and the oldest of that has an age."""
    await leave_behind(url, clock, "parcels", "orders.placed", "orders.paid")
    await clock.advance(60.0)

    one = await only_subscription(url, clock)
    assert (one.name, one.patterns, one.lag, one.in_flight) == ("books", ["orders.*"], 2, 0)
    assert one.passed == 0
    assert one.oldest_age == pytest.approx(60.0)


async def test_beyond_what_is_counted_all_is_lag(
    url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at a subscription that is far behind does not read the whole log."""
    monkeypatch.setattr(survey, "MOST_COUNTED", 2)
    await leave_behind(url, clock, "parcels", "orders.placed", "parcels", "parcels")

    assert (await only_subscription(url, clock)).lag == 3


async def test_what_a_process_has_is_in_flight(url: str, clock: ManualClock) -> None:
    """What is claimed is lag until it is settled, and then it is passed."""
    gate = Gate()
    bus = EventBus(url, clock=clock)
    bus.on("orders", name="books")(gate)
    async with bus:
        await bus.publish("orders", {"n": 1})
        await gate.entered.wait()
        one = await only_subscription(url, clock)
        assert (one.lag, one.in_flight, one.retrying, one.passed) == (1, 1, 0, 0)
        gate.opened.set()
        await bus.join()

    one = await only_subscription(url, clock)
    assert (one.lag, one.in_flight, one.passed, one.oldest_age) == (0, 0, 1, 0.0)


async def test_what_failed_is_retrying(url: str, clock: ManualClock) -> None:
    """A delivery that waits for its next attempt shows."""
    bus = EventBus(url, clock=clock, middleware=[Retry(attempts=2, initial=60.0, jitter=False)])
    bus.on("orders", name="books")(fail)
    async with bus:
        await bus.publish("orders", {})
        with anyio.fail_after(20):
            while not bus.stats().retried:  # noqa: ASYNC110 - there is no event for it
                await anyio.sleep(0.01)
        one = await only_subscription(url, clock)
        assert (one.lag, one.retrying) == (1, 1)


async def test_a_bus_tells_of_what_it_has_itself(url: str, clock: ManualClock) -> None:
    """A retry that waits in the file since before a restart is lag there, and none of the bus."""
    bus = EventBus(url, clock=clock, middleware=[Retry(attempts=2, initial=60.0, jitter=False)])
    bus.on("orders", name="books")(fail)

    def waits() -> bool:
        return bus.stats().retried == bus.stats().subscriptions["books"].lag == 1

    async with bus:
        await bus.publish("orders", {})
        await until(waits)
    async with bus:
        await clock.advance(30.0)
        one = await only_subscription(url, clock)
        assert (one.lag, one.in_flight, one.retrying) == (1, 0, 1)
        assert bus.stats().subscriptions["books"].lag == 0


async def test_dead_letters_are_counted(url: str, clock: ManualClock) -> None:
    """Each belongs to its subscription, and to the store; sent again it is lag, of its own age."""
    bus = EventBus(url, clock=clock, middleware=[DeadLetter()])
    bus.on("orders", name="books")(fail)
    bus.on("orders")(fail)
    async with bus:
        await bus.publish("orders", {})
        await bus.join()
    figures = await figures_of(url, clock)
    assert figures.dead_letters == 2
    assert [one.dead_letters for one in figures.subscriptions] == [1]

    async with EventBus(url, clock=clock) as later:
        await later.redrive("books")
    await clock.advance(5.0)
    one = await only_subscription(url, clock)
    assert (one.dead_letters, one.lag) == (0, 1)
    assert one.oldest_age == pytest.approx(5.0)
