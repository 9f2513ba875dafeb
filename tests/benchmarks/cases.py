"""Everything that is measured, by the names the rows of the table use."""

__all__ = ("CASES",)

from collections.abc import Mapping

from eventbus import Context
from eventbus.middleware import DeadLetter, Filter, Retry, Timeout
from tests.benchmarks import floors, latency, memory, throughput
from tests.benchmarks.measure import Case
from tests.benchmarks.throughput import pass_on, with_middleware


def lets_through(context: Context[object]) -> bool:
    """Be the predicate of a `Filter` that holds nothing back."""
    return True


CASES: Mapping[str, Case] = {
    "A": Case(floors.bare_await),
    "F": Case(floors.queue_and_await),
    "V": Case(floors.bare_validator),
    "one": Case(throughput.fan_out(1)),
    "one, trio": Case(throughput.fan_out(1), backend="trio"),
    "ten": Case(throughput.fan_out(10), 1_000),
    "ten, trio": Case(throughput.fan_out(10), 1_000, backend="trio"),
    "batches": Case(throughput.in_batches),
    "Retry": Case(with_middleware(Retry())),
    "DeadLetter": Case(with_middleware(DeadLetter())),
    "Timeout": Case(with_middleware(Timeout(5.0))),
    "where": Case(throughput.with_where),
    "Filter": Case(with_middleware(Filter(lets_through))),
    "layer": Case(with_middleware(pass_on)),
    "five layers": Case(with_middleware(*[pass_on] * 5)),
    "model": Case(throughput.fan_out_of_models(1)),
    "ten of a model": Case(throughput.fan_out_of_models(10), 1_000),
    "everything": Case(throughput.everything_on),
    "latency of a queue": Case(floors.parked_queue_latency, 1_000),
    "latency": Case(latency.one_in_flight, 1_000),
    "flood": Case(latency.behind_a_flood, 100),
    "flood, trio": Case(latency.behind_a_flood, 100, backend="trio"),
    "unused": Case(memory.unused_subscription, 1_000),
    "idle": Case(memory.idle_subscription, 1_000),
}
