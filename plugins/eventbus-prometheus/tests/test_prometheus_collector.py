"""What Prometheus reads of a bus, as its own parser understands it."""

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from anyio import Event
from eventbus_prometheus import BusCollector, Durations, durations
from eventbus_prometheus.collector import OF_A_BUS, OF_A_SUBSCRIPTION, STATES
from prometheus_client import CollectorRegistry, asgi, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from eventbus import BusStats, Context, EventBus, InvalidOption, SubscriptionStats, Topic, plugins
from eventbus.middleware import CallNext, DeadLetter, Filter, Retry
from eventbus.testing import ManualClock

JOBS = Topic("jobs", int)


class Page:
    """A registry of a test's own, and the page that it serves."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Read the page as Prometheus does."""
        text = generate_latest(self.registry).decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                yield sample.name, dict(sample.labels), sample.value

    def value(self, name: str, **labels: str) -> float:
        """Read the one sample of a name that has these labels."""
        (found,) = [
            value
            for sample, its_labels, value in self.samples()
            if sample == name and labels.items() <= its_labels.items()
        ]
        return found

    def labels(self, name: str, label: str) -> set[str]:
        """Name what a label stands for in the samples of a name."""
        return {labels[label] for sample, labels, _ in self.samples() if sample == name}


@pytest.fixture
def page() -> Page:
    """Give a page of this test's own."""
    return Page()


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock that moves only when the test says so."""
    return ManualClock()


async def do_nothing(event: object) -> None:
    """Handle any event."""


async def fail(event: object) -> None:
    """Handle no event."""
    raise ValueError("no")


async def test_what_is_counted_can_be_read(page: Page) -> None:
    """Each figure of the statistics stands under its name."""
    bus = EventBus(name="shop", middleware=[DeadLetter(), Retry(attempts=2, initial=0.0)])
    page.registry.register(BusCollector(bus))
    bus.on(JOBS, name="good", where=lambda job: job > 1)(do_nothing)
    bus.on(JOBS, name="bad")(fail)

    async with bus:
        await bus.publish_many(JOBS, [1, 2])
        await bus.publish("elsewhere", {})
        await bus.join()

        assert page.value("eventbus_published_total", bus="shop") == 3
        assert page.value("eventbus_unmatched_total", bus="shop") == 1
        assert page.value("eventbus_succeeded_total", subscription="good") == 1
        assert page.value("eventbus_filtered_total", subscription="good") == 1
        assert page.value("eventbus_delivered_total", subscription="bad") == 4
        assert page.value("eventbus_failed_total", subscription="bad") == 4
        assert page.value("eventbus_retried_total", subscription="bad") == 2
        assert page.value("eventbus_dead_lettered_total", subscription="bad", bus="shop") == 2


async def test_what_waits_can_be_read(page: Page, clock: ManualClock) -> None:
    """Depth, size, lag and age of a queue, and what is running."""
    bus = EventBus(clock=clock)
    page.registry.register(BusCollector(bus))
    begun, may_end = Event(), Event()

    @bus.on(JOBS, name="slow", queue_size=8)
    async def wait(job: int) -> None:
        begun.set()
        await may_end.wait()

    async with bus:
        await bus.publish(JOBS, 1)
        await begun.wait()
        await bus.publish(JOBS, 2)
        await clock.advance(5.0)
        await bus.publish(JOBS, 3)

        assert page.value("eventbus_in_flight", subscription="slow") == 1
        assert page.value("eventbus_queue_depth", subscription="slow") == 2
        assert page.value("eventbus_queue_size", subscription="slow") == 8
        assert page.value("eventbus_lag", subscription="slow") == 2
        assert page.value("eventbus_oldest_age_seconds", subscription="slow") == 5
        may_end.set()


def test_every_figure_is_collected() -> None:
    """What the statistics count can be watched; what this eventbus does not count yet is 0."""
    of_a_bus = {one.name for one in fields(BusStats)} - {"subscriptions"}
    of_a_subscription = {one.name for one in fields(SubscriptionStats)} - {"name"}

    assert of_a_subscription <= OF_A_SUBSCRIPTION.keys() | STATES.keys()
    assert of_a_bus <= OF_A_BUS.keys() | of_a_subscription


async def test_durations_are_told_by_outcome(page: Page) -> None:
    """What succeeded, what failed, and what another middleware held back."""
    measured = Durations(buckets=[0.001, 60])
    only_odd = Filter(lambda context: context.event % 2 == 1)
    bus = EventBus(name="shop", middleware=[measured, only_odd])
    page.registry.register(BusCollector(bus, measured))
    bus.on(JOBS, name="good")(do_nothing)
    bus.on(JOBS, name="bad")(fail)

    async with bus:
        await bus.publish_many(JOBS, [1, 2, 3])

    name = "eventbus_handler_duration_seconds"
    counts = {
        (who, how): page.value(f"{name}_count", subscription=who, outcome=how)
        for who, how in [("good", "succeeded"), ("good", "filtered"), ("bad", "failed")]
    }
    assert counts == {("good", "succeeded"): 2, ("good", "filtered"): 1, ("bad", "failed"): 2}
    good = {"subscription": "good", "outcome": "succeeded", "bus": "shop"}
    buckets = [page.value(f"{name}_bucket", le=bound, **good) for bound in ("60.0", "+Inf")]
    assert buckets == [2, 2]
    assert 0 < page.value(f"{name}_sum", **good) < 120


async def test_what_a_handler_rejects_has_failed(page: Page) -> None:
    """The outcome is what the statistics count, though nothing was raised."""
    measured = Durations()
    bus = EventBus(middleware=[measured])
    page.registry.register(BusCollector(bus, measured))

    @bus.on(JOBS, ack="manual")
    async def judge(job: int, context: Context[int]) -> None:
        await (context.ack() if job else context.reject("nothing to do"))

    async with bus:
        await bus.publish_many(JOBS, [0, 1])

    assert page.labels("eventbus_handler_duration_seconds_count", "outcome") == {
        "succeeded",
        "failed",
    }
    assert page.value("eventbus_failed_total") == 1


async def test_a_duration_falls_into_the_buckets_above_it(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket holds what took no longer than its bound, the next what took longer, too."""
    times = iter([0.0, 1.0, 10.0, 12.0, 20.0, 24.0])
    monkeypatch.setattr(durations, "stopwatch", lambda: next(times))
    measured = Durations(buckets=(1, 2))
    bus = EventBus(middleware=[measured])
    page.registry.register(BusCollector(bus, measured))
    bus.on(JOBS)(do_nothing)

    async with bus:
        await bus.publish_many(JOBS, [1, 2, 3])

    name = "eventbus_handler_duration_seconds"
    assert [page.value(f"{name}_bucket", le=le) for le in ("1.0", "2.0", "+Inf")] == [1, 2, 3]
    assert page.value(f"{name}_sum") == 7


async def test_an_ended_subscription_leaves_the_page(page: Page) -> None:
    """Subscriptions that come and go are no leak, neither here nor where series are kept."""
    measured = Durations()
    bus = EventBus(middleware=[measured])
    page.registry.register(BusCollector(bus, measured))
    bus.on(JOBS, name="lasting")(do_nothing)

    async with bus:
        for number in range(5):
            bus.on(JOBS, name=f"passing-{number}")(do_nothing)
            await bus.publish(JOBS, number)
            await bus.unsubscribe(f"passing-{number}")
        await bus.join()

        for name in ("eventbus_succeeded_total", "eventbus_handler_duration_seconds_count"):
            assert page.labels(name, "subscription") == {"lasting"}


async def test_durations_that_nobody_reads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a collector nobody tells that a subscription has ended: the oldest goes."""
    monkeypatch.setattr(durations, "MOST_KEPT", 2)
    measured = Durations()
    bus = EventBus(middleware=[measured])

    async with bus:
        for number in range(4):
            bus.on(JOBS, name=f"passing-{number}")(do_nothing)
            await bus.publish(JOBS, number)
            await bus.unsubscribe(f"passing-{number}")

    kept = measured.read([f"passing-{number}" for number in range(4)])
    assert [tally.subscription for tally in kept] == ["passing-2", "passing-3"]


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "a{b}", "ü, €"], ids=ascii)
async def test_a_bus_may_have_any_name(page: Page, name: str) -> None:
    """Label values are escaped: what was written is what is read."""
    bus = EventBus(name=name)
    page.registry.register(BusCollector(bus))

    async with bus:
        await bus.publish(JOBS, 1)

    assert page.labels("eventbus_published_total", "bus") == {name}


async def test_several_buses_stand_side_by_side(page: Page) -> None:
    """One collector tells them apart by their names."""
    shop, till = EventBus(name="shop"), EventBus(name="till")
    collector = BusCollector(shop)
    collector.watch(till)
    page.registry.register(collector)

    async with shop, till:
        await till.publish(JOBS, 1)

    assert page.value("eventbus_published_total", bus="shop") == 0
    assert page.value("eventbus_published_total", bus="till") == 1


def test_buses_that_could_not_be_told_apart_are_refused() -> None:
    """Two samples of one name and label would make the whole page unreadable."""
    measured = Durations()
    collector = BusCollector(EventBus(name="shop"), measured)

    with pytest.raises(InvalidOption, match=r"'shop' is watched already.*name="):
        collector.watch(EventBus(name="shop"))
    with pytest.raises(InvalidOption, match="'till' are another's"):
        collector.watch(EventBus(name="till"), measured)


def test_a_registry_has_one_collector(page: Page) -> None:
    """Registering a second one is an error at once, not a page with each figure twice."""
    page.registry.register(BusCollector(EventBus(name="shop")))

    with pytest.raises(ValueError, match="eventbus_published"):
        page.registry.register(BusCollector(EventBus(name="till")))


@pytest.mark.parametrize("buckets", [(), (0,), (-1, 1), (1, 1), (2, 1), (1, math.nan)], ids=str)
def test_bounds_that_do_not_rise_are_refused(buckets: tuple[float, ...]) -> None:
    """A histogram of them would be nonsense."""
    with pytest.raises(InvalidOption, match=r"buckets=.*rise"):
        Durations(buckets=buckets)


async def test_the_page_is_served_on_either_loop(page: Page) -> None:
    """The client's own ASGI app is all it takes, in the loop that runs the bus."""
    bus = EventBus(name="shop")
    page.registry.register(BusCollector(bus))
    app: Any = vars(asgi)["make_asgi_app"](page.registry)  # its types are unfinished
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async with bus:
        await bus.publish(JOBS, 1)
        await app({"type": "http", "headers": [], "query_string": b""}, receive, send)

    assert sent[0]["status"] == 200
    assert b'eventbus_published_total{bus="shop"} 1.0' in sent[1]["body"]


async def test_the_middleware_is_found_by_its_name() -> None:
    """Its options are those of the class."""
    found = plugins.middleware("prometheus", buckets=(1, 2))

    assert isinstance(found, Durations)
    assert found.buckets == (1, 2)


async def test_the_middleware_lets_results_and_errors_pass() -> None:
    """What stands around it sees the handler as it is."""
    seen: list[object] = []

    async def watch(context: Context[Any], call_next: CallNext) -> object:
        try:
            result = await call_next(context)
        except ValueError as error:
            seen.append(str(error))
            raise
        seen.append(result)
        return result

    bus = EventBus(middleware=[watch, Durations()])

    @bus.on(JOBS)
    async def double(job: int) -> int:
        if not job:
            raise ValueError("nothing to do")
        return 2 * job

    async with bus:
        await bus.publish_many(JOBS, [4, 0])

    assert seen == [8, "nothing to do"]
