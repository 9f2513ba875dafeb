"""The figures of buses as Prometheus reads them.

Every figure is read when Prometheus asks, from `bus.stats()`: counting costs a bus nothing more.
Label values are names of buses and subscriptions alone, so there are as many series as
subscriptions; those of a subscription end with it.
"""

__all__ = ("BusCollector",)

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from eventbus import BusStats, EventBus, InvalidOption, SubscriptionStats
from eventbus_prometheus.durations import Durations

OF_A_BUS = {
    "published": "Messages that were accepted.",
    "unmatched": "Messages that no subscription wanted.",
    "late_replies": "Replies that nobody waited for any more.",
}
"""What `bus.stats()` counts for a bus, and what it means."""

OF_A_SUBSCRIPTION = {
    "delivered": "Attempts started.",
    "succeeded": "Attempts that succeeded.",
    "failed": "Attempts that failed.",
    "retried": "Attempts that are followed by another one.",
    "dead_lettered": "Messages given up on and kept as dead letters.",
    "lost": "Messages given up on and not kept.",
    "dropped": "Messages dropped because the queue was full.",
    "expired": "Messages left out because their time had passed.",
    "invalid": "Messages whose payload the model refused.",
    "filtered": "Messages held back by where= or by middleware.",
    "abandoned": "Messages not handled because the bus ended.",
}
"""What it counts for each subscription."""

STATES = {
    "in_flight": "Handlers running.",
    "queue_depth": "Messages queued, waiting for a retry, or set aside behind their key.",
    "queue_size": "Places in the queue.",
    "lag": "Messages in the queue, and those that blocked publishers hold, in this process.",
    "oldest_age": "Seconds since the oldest message in the queue was published, 0 without one.",
}
"""What can be seen of each subscription at the moment."""

Watched = Mapping[str, tuple[EventBus[Any], Durations | None]]


class BusCollector:
    """Collects the figures of buses; register it at a registry, once.

    Collect in the thread of the buses' event loop, as an ASGI app served there does.

    Example:
        >>> durations = Durations()
        >>> bus = EventBus(middleware=[durations], name="shop")
        >>> REGISTRY.register(BusCollector(bus, durations))
    """

    def __init__(self, bus: EventBus[Any], durations: Durations | None = None) -> None:
        self._watched: dict[str, tuple[EventBus[Any], Durations | None]] = {}
        self.watch(bus, durations)

    def watch(self, bus: EventBus[Any], durations: Durations | None = None) -> None:
        """Collect the figures of one more bus.

        Raises:
            InvalidOption: Another bus of that name, or with these durations, is watched already.
        """
        if bus.name in self._watched:
            raise InvalidOption(
                f"a bus called {bus.name!r} is watched already: name each, as EventBus(name='shop')"
            )
        if durations is not None and any(durations is one for _, one in self._watched.values()):
            raise InvalidOption(f"the Durations of bus {bus.name!r} are another's: give it its own")
        self._watched[bus.name] = bus, durations

    def collect(self) -> Iterable[Metric]:
        """Read all figures."""
        return _families(self._watched)

    def describe(self) -> Iterable[Metric]:
        """Name what is collected, so that a registry refuses to have it twice."""
        return _families({})


def _families(watched: Watched) -> Iterator[Metric]:
    stats = {name: bus.stats() for name, (bus, _) in watched.items()}
    return chain(_of_buses(stats), _of_subscriptions(stats), [_durations(watched, stats)])


def _of_buses(stats: Mapping[str, BusStats]) -> Iterator[Metric]:
    for figure, meaning in OF_A_BUS.items():
        family = CounterMetricFamily(f"eventbus_{figure}", meaning, labels=("bus",))
        for bus, read in stats.items():
            family.add_metric((bus,), getattr(read, figure, 0))
        yield family


def _of_subscriptions(stats: Mapping[str, BusStats]) -> Iterator[Metric]:
    each = [(bus, one) for bus, read in stats.items() for one in read.subscriptions.values()]
    labels = ("bus", "subscription")
    for figure, meaning in OF_A_SUBSCRIPTION.items():
        yield _filled(
            CounterMetricFamily(f"eventbus_{figure}", meaning, labels=labels), figure, each
        )
    for figure, meaning in STATES.items():
        unit = "_seconds" if figure == "oldest_age" else ""
        name = f"eventbus_{figure}{unit}"
        yield _filled(GaugeMetricFamily(name, meaning, labels=labels), figure, each)


def _filled(
    family: CounterMetricFamily | GaugeMetricFamily,
    figure: str,
    each: Iterable[tuple[str, SubscriptionStats]],
) -> Metric:
    for bus, stats in each:
        family.add_metric((bus, stats.name), getattr(stats, figure, 0))
    return family


def _durations(watched: Watched, stats: Mapping[str, BusStats]) -> Metric:
    family = HistogramMetricFamily(
        "eventbus_handler_duration_seconds",
        "Seconds that attempts took, by how they ended.",
        labels=("bus", "subscription", "outcome"),
    )
    for name, (_, durations) in watched.items():
        if durations is None:
            continue
        bounds = [*map(str, durations.buckets), "+Inf"]
        for tally in durations.read(stats[name].subscriptions):
            labels = (name, tally.subscription, tally.outcome)
            family.add_metric(
                labels, list(zip(bounds, tally.cumulated, strict=True)), tally.seconds
            )
    return family
