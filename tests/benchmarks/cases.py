"""Everything that is measured, by the names the rows of the table use."""

__all__ = ("CASES",)

from collections.abc import Mapping

from eventbus import Context
from eventbus.middleware import (
    Correlate,
    DeadLetter,
    Deduplicate,
    Filter,
    Retry,
    Throttle,
    Timeout,
)
from tests.benchmarks import floors, latency, later, memory, requests, threads, throughput
from tests.benchmarks.measure import Case, Sample, added
from tests.benchmarks.throughput import pass_on, with_middleware


def lets_through(context: Context[object]) -> bool:
    """Be the predicate of a `Filter` that holds nothing back."""
    return True


def layers(count: int) -> Sample:
    """Make the case of so many middleware of the user's."""
    return with_middleware(*[pass_on] * count)


one = throughput.fan_out(1)
ten = throughput.fan_out(10)

CASES: Mapping[str, Case] = {
    "A": Case(floors.bare_await),
    "F": Case(floors.queue_and_await),
    "V": Case(floors.bare_validator),
    "one": Case(one),
    "one, trio": Case(one, backend="trio"),
    "ten": Case(ten, 1_000),
    "ten, trio": Case(ten, 1_000, backend="trio"),
    "batches": Case(throughput.in_batches),
    "added by Retry": Case(added(by=with_middleware(Retry()), to=one)),
    "added by DeadLetter": Case(added(by=with_middleware(DeadLetter()), to=one)),
    "added by Timeout": Case(added(by=with_middleware(Timeout(5.0)), to=one)),
    "added by where": Case(added(by=throughput.with_where, to=one)),
    "added by Filter": Case(added(by=with_middleware(Filter(lets_through)), to=one)),
    "added by Throttle": Case(added(by=with_middleware(Throttle(1_000_000)), to=one)),
    "added by Deduplicate": Case(added(by=with_middleware(Deduplicate()), to=one)),
    "added by a key": Case(added(by=throughput.with_keys_remembered, to=one)),
    "added by Correlate": Case(added(by=with_middleware(Correlate()), to=one)),
    "added by a layer": Case(added(by=layers(1), to=one)),
    "added by four more": Case(added(by=layers(5), to=layers(1))),
    "added by a model": Case(added(by=throughput.fan_out_of_models(1), to=one)),
    "added by a model to ten": Case(added(by=throughput.fan_out_of_models(10), to=ten), 1_600),
    "everything": Case(throughput.everything_on),
    "R": Case(floors.queue_and_future, 1_000),
    "request": Case(requests.round_trips, 1_000),
    "latency of a queue": Case(floors.parked_queue_latency, 1_000),
    "latency": Case(latency.one_in_flight, 1_000),
    "flood": Case(latency.behind_a_flood, 100),
    "flood, trio": Case(latency.behind_a_flood, 100, backend="trio"),
    "scheduled": Case(later.scheduled_and_handled),
    "from a thread": Case(threads.published_from_a_thread, 20_000),
    "from a thread, trio": Case(threads.published_from_a_thread, 20_000, backend="trio"),
    "called from a thread": Case(threads.called_from_a_thread, 400),
    "called from a thread, trio": Case(threads.called_from_a_thread, 400, backend="trio"),
    "bytes, scheduled": Case(later.bytes_scheduled, 1_000),
    "bytes, unused": Case(memory.unused_subscription, 1_000),
    "bytes, idle": Case(memory.idle_subscription, 1_000),
}
