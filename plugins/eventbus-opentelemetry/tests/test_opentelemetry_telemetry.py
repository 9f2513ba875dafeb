"""What a bus tells OpenTelemetry, as its SDK collects it in memory."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import pytest
from anyio import get_current_task, sleep_forever
from anyio.lowlevel import checkpoint
from eventbus_opentelemetry import DeliveryTelemetry, PublishTelemetry, publish
from opentelemetry import baggage, propagate, trace
from opentelemetry import context as propagation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from eventbus import (
    Context,
    EventBus,
    InvalidEvent,
    Receipt,
    RemoteError,
    RequestTopic,
    Topic,
    plugins,
)
from eventbus.middleware import DeadLetter, Retry, Timeout

JOBS = Topic("jobs.new", int)
DONE = Topic("jobs.done", int)

Point: TypeAlias = HistogramDataPoint | NumberDataPoint


class Collected:
    """An SDK that keeps in memory what is recorded."""

    def __init__(self) -> None:
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self._exporter = InMemorySpanExporter()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)

    def bus(self, *middleware: Any) -> EventBus:
        """Make a bus that is recorded here."""
        here: dict[str, Any] = {
            "tracer_provider": self.tracer_provider,
            "meter_provider": self.meter_provider,
        }
        return EventBus(
            middleware=[DeliveryTelemetry(**here), *middleware],
            publish_middleware=[PublishTelemetry(**here)],
        )

    def spans(self, name: str) -> Sequence[ReadableSpan]:
        """Give the spans of one name, in the order they ended."""
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def span(self, name: str) -> ReadableSpan:
        """Give the one span of a name."""
        (span,) = self.spans(name)
        return span

    def measured(self, name: str) -> Mapping[str, Point]:
        """Give what was measured under a name, by destination and error."""
        data = self._reader.get_metrics_data()
        points: dict[str, Point] = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == name:
                        points |= {_label(point): point for point in metric.data.data_points}  # type: ignore[misc]  # exponential ones are not made
        return points


def _label(point: Any) -> str:
    words = ("messaging.destination.name", "messaging.destination.template", "error.type")
    return " ".join(str(point.attributes[word]) for word in words if word in point.attributes)


def attributes_of(span: ReadableSpan) -> dict[str, object]:
    """Give a span's attributes."""
    return dict(span.attributes or {})


def context_of(span: ReadableSpan) -> SpanContext:
    """Give a span's context, which one that has ended has."""
    context: SpanContext | None = span.context
    assert context is not None
    return context


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    """Ask whether one span continues another."""
    return span.parent is not None and span.parent.span_id == context_of(parent).span_id


def counts(points: Mapping[str, Point]) -> Mapping[str, float]:
    """Read how often something was measured or counted."""
    return {
        label: point.count if isinstance(point, HistogramDataPoint) else point.value
        for label, point in points.items()
    }


async def do_nothing(event: object) -> None:
    """Handle any event."""


async def fail(event: object) -> None:
    """Handle no event."""
    raise ValueError("no")


@pytest.fixture
def collected() -> Iterator[Collected]:
    """Give an SDK of this test's own."""
    collected = Collected()
    yield collected
    collected.tracer_provider.shutdown()
    collected.meter_provider.shutdown()


async def test_a_publish_is_a_span(collected: Collected) -> None:
    """Its name, kind and attributes are those of a message that is sent."""
    bus = collected.bus()

    async with bus:
        receipt = await bus.publish(JOBS, 1)

    span = collected.span("publish jobs.new")
    assert span.kind is SpanKind.PRODUCER
    assert attributes_of(span) == {
        "messaging.system": "eventbus",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "jobs.new",
        "messaging.message.id": receipt.id,
    }
    assert span.status.status_code is StatusCode.UNSET


async def test_a_delivery_is_a_span_in_the_trace_of_its_publish(collected: Collected) -> None:
    """It is the child of the publish, and linked to it."""
    bus = collected.bus()

    @bus.on(JOBS, name="worker")
    async def work(job: int) -> None: ...

    async with bus:
        receipt = await bus.publish(JOBS, 1)

    publish, process = collected.span("publish jobs.new"), collected.span("process jobs.new")
    assert process.kind is SpanKind.CONSUMER
    assert is_child(process, publish)
    assert [link.context.span_id for link in process.links] == [context_of(publish).span_id]
    assert attributes_of(process) == {
        "messaging.system": "eventbus",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "jobs.new",
        "messaging.destination.subscription.name": "worker",
        "messaging.message.id": receipt.id,
        "messaging.eventbus.attempt": 1,
    }


async def test_the_context_travels_in_the_headers(collected: Collected) -> None:
    """Whoever reads the message, in whatever process, can go on in its trace."""
    bus = collected.bus()
    headers: dict[str, str] = {}

    @bus.on(JOBS)
    async def work(job: int, context: Context[int]) -> None:
        headers.update(context.message.headers)

    async with bus:
        await bus.publish(JOBS, 1, headers={"user": "ann"})

    context = context_of(collected.span("publish jobs.new"))
    ids = f"{context.trace_id:032x}-{context.span_id:016x}"
    assert headers == {"user": "ann", "traceparent": f"00-{ids}-{context.trace_flags:02x}"}


async def test_baggage_and_the_state_of_the_trace_travel_too(collected: Collected) -> None:
    """What the program's propagators write reaches the handler's own spans and calls."""
    bus = collected.bus()
    heard: list[object] = []

    @bus.on(JOBS)
    async def work(job: int) -> None:
        heard.append(baggage.get_baggage("tenant"))
        heard.append(trace.get_current_span().get_span_context().trace_state.get("vendor"))

    begun = {"traceparent": f"00-{1:032x}-{2:016x}-01", "tracestate": "vendor=7"}
    token = propagation.attach(baggage.set_baggage("tenant", "blue"))
    try:
        async with bus:
            await bus.publish(JOBS, 1, headers=begun)
    finally:
        propagation.detach(token)

    assert heard == ["blue", "7"]


async def test_a_publish_belongs_to_what_goes_on_around_it(collected: Collected) -> None:
    """A request that publishes has the publish, and what follows from it, in its trace."""
    bus = collected.bus()
    tracer = collected.tracer_provider.get_tracer("shop")

    async with bus:
        with tracer.start_as_current_span("checkout"):
            await bus.publish(JOBS, 1)

    assert is_child(collected.span("publish jobs.new"), collected.span("checkout"))


async def test_a_delivery_does_not_belong_to_the_start_of_the_bus(collected: Collected) -> None:
    """A message that came without a trace begins one."""
    bus = EventBus(middleware=[DeliveryTelemetry(tracer_provider=collected.tracer_provider)])
    tracer = collected.tracer_provider.get_tracer("shop")

    @bus.on(JOBS)
    async def work(job: int) -> None: ...

    with tracer.start_as_current_span("program"):
        async with bus:
            await bus.publish(JOBS, 1)

    process = collected.span("process jobs.new")
    assert process.parent is None
    assert not process.links


async def test_what_a_handler_publishes_goes_on_in_its_trace(collected: Collected) -> None:
    """From publish to delivery, publish and delivery, each span is the child of the one before."""
    bus = collected.bus()

    @bus.on(JOBS)
    async def work(job: int, context: Context[int]) -> None:
        await context.publish(DONE, job)

    @bus.on(DONE)
    async def note(job: int) -> None: ...

    async with bus:
        first = await bus.publish(JOBS, 1)

    names = ["publish jobs.new", "process jobs.new", "publish jobs.done", "process jobs.done"]
    spans = [collected.span(name) for name in names]
    assert all(is_child(later, earlier) for earlier, later in pairwise(spans))
    assert attributes_of(spans[2])["messaging.message.conversation_id"] == first.id


async def test_a_handler_that_is_not_async_publishes_in_its_trace_too(collected: Collected) -> None:
    """Its thread sees the span as the current one."""
    bus = collected.bus()
    current: list[int] = []

    @bus.on(JOBS)
    def work(job: int, context: Context[int]) -> None:
        current.append(trace.get_current_span().get_span_context().span_id)
        context.publish_nowait(DONE, job)

    async with bus:
        await bus.publish(JOBS, 1)

    process = collected.span("process jobs.new")
    assert current == [context_of(process).span_id]
    assert is_child(collected.span("publish jobs.done"), process)


async def test_a_publish_that_does_not_wait_is_recorded(collected: Collected) -> None:
    """Recording never waits, so that `publish_nowait` can be had with it."""
    bus = collected.bus()
    bus.on(JOBS)(do_nothing)

    async with bus:
        bus.publish_nowait(JOBS, 1)

    assert is_child(collected.span("process jobs.new"), collected.span("publish jobs.new"))


async def test_what_is_published_for_later_can_be_cancelled(collected: Collected) -> None:
    """The receipt is one of the message as it travels, and a later delivery is in its trace."""
    bus = collected.bus()
    receipts: list[Receipt] = []

    @bus.on(JOBS)
    async def work(job: int, context: Context[int]) -> None:
        receipts.append(await context.publish(DONE, 1, delay=3600))
        await context.publish(DONE, 2, delay=0.001)

    bus.on(DONE)(do_nothing)

    async with bus:
        receipts.append(await bus.publish(DONE, 3, delay=3600))
        await bus.publish(JOBS, 1)
        while not collected.spans("process jobs.done"):
            await checkpoint()
        cancelled = [receipt.cancel() for receipt in receipts]

    assert cancelled == [True, True]
    assert is_child(collected.span("process jobs.done"), collected.spans("publish jobs.done")[-1])


async def test_a_failed_attempt_tells_its_error(collected: Collected) -> None:
    """Each attempt is a span of its own, and only the failed one says so."""
    bus = collected.bus(Retry(attempts=2, initial=0.0))

    @bus.on(JOBS)
    async def work(job: int, context: Context[int]) -> None:
        if not context.last_attempt:
            raise ValueError("not yet")

    async with bus:
        await bus.publish(JOBS, 1)

    first, second = collected.spans("process jobs.new")
    assert attributes_of(first)["error.type"] == "ValueError"
    assert (first.status.status_code, first.status.description) == (StatusCode.ERROR, "not yet")
    assert [event.name for event in first.events] == ["exception"]
    assert "error.type" not in attributes_of(second)
    assert [attributes_of(one)["messaging.eventbus.attempt"] for one in (first, second)] == [1, 2]


async def test_an_attempt_that_is_cancelled_ends_its_span(collected: Collected) -> None:
    """No span stays open when time is up."""
    bus = collected.bus(Timeout(0.01))

    @bus.on(JOBS)
    async def work(job: int) -> None:
        await sleep_forever()

    async with bus:
        await bus.publish(JOBS, 1)

    span = collected.span("process jobs.new")
    assert span.status.status_code is StatusCode.ERROR
    assert attributes_of(span)["error.type"] in {"CancelledError", "Cancelled"}


async def test_a_refused_publish_tells_its_error(collected: Collected) -> None:
    """What the publisher gets raised, the span names."""
    bus = collected.bus()
    bus.on(JOBS)(do_nothing)

    async with bus:
        with pytest.raises(InvalidEvent):
            await bus.publish("jobs.new", {"no": "number"})

    assert attributes_of(collected.span("publish jobs.new"))["error.type"] == "InvalidEvent"


async def test_a_pattern_names_what_many_topics_share(collected: Collected) -> None:
    """Names of spans stay few: a topic that holds an id is told by its span alone."""
    bus = collected.bus()
    bus.on("orders.{id}.paid", "orders.>", model=object)(do_nothing)

    async with bus:
        await bus.publish("orders.o-1.paid", {})
        await bus.publish("orders.o-1.sent", {})

    first = attributes_of(collected.span("process orders.{id}.paid"))
    assert first["messaging.destination.template"] == "orders.{id}.paid"
    assert first["messaging.destination.name"] == "orders.o-1.paid"
    assert collected.spans("process orders.>")


async def test_a_dead_letter_is_named_by_the_topic_it_came_from(collected: Collected) -> None:
    """A handler of dead letters gets the message as it was published."""
    bus = collected.bus(DeadLetter())
    bus.on(JOBS, name="worker")(fail)
    bus.on("$dlq.worker", name="undertaker", model=object)(do_nothing)

    async with bus:
        await bus.publish(JOBS, 1)

    names = "messaging.destination.subscription.name"
    spans = collected.spans("process jobs.new")
    assert [attributes_of(span)[names] for span in spans] == ["worker", "undertaker"]


@pytest.mark.parametrize("word", ["ack", "retry", "reject"])
async def test_what_a_handler_settles_itself_is_a_span(collected: Collected, word: str) -> None:
    """It belongs to the delivery, and says what was decided."""
    bus = collected.bus()

    @bus.on(JOBS, ack="manual", max_deliveries=1)
    async def work(job: int, context: Context[int]) -> None:
        if word == "ack":
            await context.ack()
        elif word == "retry":
            await context.retry()
        else:
            await context.reject("no")

    async with bus:
        await bus.publish(JOBS, 1)

    process, settle = collected.span("process jobs.new"), collected.span(f"{word} jobs.new")
    assert settle.kind is SpanKind.CLIENT
    assert is_child(settle, process)
    said = {"messaging.operation.name": word, "messaging.operation.type": "settle"}
    assert attributes_of(settle) == attributes_of(process) | said


@pytest.mark.parametrize("ack", ["auto", "first"])
async def test_what_the_bus_settles_is_no_span(
    collected: Collected, ack: Literal["auto", "first"]
) -> None:
    """It would say no more than the delivery does."""
    bus = collected.bus()
    bus.on(JOBS, ack=ack)(do_nothing)

    async with bus:
        await bus.publish(JOBS, 1)

    assert not collected.spans("ack jobs.new")


async def test_a_verdict_of_an_attempt_that_failed_is_no_span(collected: Collected) -> None:
    """An error after it takes it back."""
    bus = collected.bus()

    @bus.on(JOBS, ack="manual")
    async def work(job: int, context: Context[int]) -> None:
        await context.ack()
        raise ValueError("after all")

    async with bus:
        await bus.publish(JOBS, 1)

    assert not collected.spans("ack jobs.new")


async def test_publishers_are_measured(collected: Collected) -> None:
    """How many messages were sent, where to, how it ended, and how long each took."""
    bus = collected.bus()
    bus.on(JOBS)(do_nothing)

    async with bus:
        await bus.publish_many(JOBS, [1, 2])
        with pytest.raises(InvalidEvent):
            await bus.publish("jobs.new", {"no": "number"})

    sent = collected.measured("messaging.client.sent.messages")
    took = collected.measured("messaging.client.operation.duration")
    assert counts(sent) == counts(took) == {"jobs.new": 2, "jobs.new InvalidEvent": 1}
    assert dict(sent["jobs.new"].attributes or {}) == {
        "messaging.system": "eventbus",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "jobs.new",
    }


async def test_handlers_are_measured(collected: Collected) -> None:
    """How many attempts there were, where, how they ended, and how long each took."""
    bus = collected.bus()
    bus.on("jobs.*", name="worker", model=int)(fail)
    bus.on(JOBS, name="watcher")(do_nothing)

    async with bus:
        await bus.publish(JOBS, 1)

    consumed = collected.measured("messaging.client.consumed.messages")
    took = collected.measured("messaging.process.duration")
    assert counts(consumed) == counts(took) == {"jobs.new": 1, "jobs.* ValueError": 1}
    assert dict(consumed["jobs.new"].attributes or {}) == {
        "messaging.system": "eventbus",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "jobs.new",
        "messaging.destination.subscription.name": "watcher",
    }


async def test_durations_have_the_buckets_of_the_conventions(collected: Collected) -> None:
    """Dashboards made for any messaging system fit."""
    bus = collected.bus()

    async with bus:
        await bus.publish(JOBS, 1)

    (point,) = collected.measured("messaging.client.operation.duration").values()
    assert isinstance(point, HistogramDataPoint)
    assert point.explicit_bounds == (
        *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
    )
    assert 0 < point.sum < 5


async def test_the_topics_that_are_told_apart_are_bounded(
    collected: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that makes topics of ids fills neither the memory nor the store of measurements."""
    monkeypatch.setattr(publish, "MOST_TOPICS", 2)
    bus = collected.bus()

    async with bus:
        for number in (1, 2, 3, 4, 1):
            await bus.publish(f"orders.{number}", {})

    sent = collected.measured("messaging.client.sent.messages")
    assert counts(sent) == {"orders.1": 2, "orders.2": 1, "": 2}
    others = [
        attributes_of(span)["messaging.destination.name"] for span in collected.spans("publish")
    ]
    assert others == ["orders.3", "orders.4"]


async def test_spans_and_measurements_can_be_had_alone() -> None:
    """A program that collects only one of them gets it, and carries no context without spans."""
    collected = Collected()
    only_spans = DeliveryTelemetry(tracer_provider=collected.tracer_provider)
    only_sums = PublishTelemetry(meter_provider=collected.meter_provider)
    bus = EventBus(middleware=[only_spans], publish_middleware=[only_sums])
    headers: list[object] = []

    @bus.on(JOBS)
    async def work(job: int, context: Context[int]) -> None:
        headers.append(context.message.headers)

    async with bus:
        await bus.publish(JOBS, 1)

    assert headers == [{}]
    assert collected.spans("process jobs.new")
    assert not collected.spans("publish jobs.new")
    assert collected.measured("messaging.client.sent.messages")
    assert not collected.measured("messaging.client.consumed.messages")


async def test_a_worker_is_not_replaced_for_the_spans_it_has_had(collected: Collected) -> None:
    """What becomes current for a delivery is not seen by the next, without a new task for each."""
    bus = collected.bus()
    tasks: set[int] = set()

    @bus.on(JOBS)
    async def work(job: int) -> None:
        tasks.add(get_current_task().id)

    async with bus:
        await bus.publish_many(JOBS, range(10))

    assert len(tasks) == 1
    assert len(collected.spans("process jobs.new")) == 10


async def test_the_plugin_is_found_by_its_name(collected: Collected) -> None:
    """The two sides have one name, each in the group of its argument."""
    here: dict[str, object] = {"tracer_provider": collected.tracer_provider}
    bus = EventBus(
        middleware=[plugins.middleware("opentelemetry", **here)],
        publish_middleware=[plugins.publish_middleware("opentelemetry", **here)],
    )
    bus.on(JOBS)(do_nothing)

    async with bus:
        await bus.publish(JOBS, 1)

    assert is_child(collected.span("process jobs.new"), collected.span("publish jobs.new"))


# --- where nobody collects ------------------------------------------------------------------------


def forbid_all_of_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each call that makes or measures something fail the test."""

    def never(*arguments: object, **options: object) -> None:
        pytest.fail("OpenTelemetry was called")

    for kind in (trace.Tracer, trace.NoOpTracer, trace.ProxyTracer):
        monkeypatch.setattr(kind, "start_span", never)
    for name in ("inject", "extract"):
        monkeypatch.setattr(propagate, name, never)
    for name in ("attach", "detach"):
        monkeypatch.setattr(propagation, name, never)


@pytest.mark.parametrize("switched_off", [False, True], ids=["no SDK", "SDK switched off"])
async def test_without_an_sdk_nothing_is_called(
    switched_off: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A span that does nothing costs as much as ten handlers: so there is none."""
    here: dict[str, Any] = {}
    if switched_off:
        monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
        collected = Collected()
        here = {
            "tracer_provider": collected.tracer_provider,
            "meter_provider": collected.meter_provider,
        }
    bus = EventBus(
        middleware=[DeliveryTelemetry(**here)], publish_middleware=[PublishTelemetry(**here)]
    )
    forbid_all_of_the_api(monkeypatch)
    headers: list[object] = []

    @bus.on(JOBS)
    async def work(job: int, context: Context[int]) -> None:
        headers.append(context.message.headers)

    async with bus:
        await bus.publish_many(JOBS, [1, 2])

    assert headers == [{}, {}]


async def test_a_call_of_the_api_would_be_seen(
    collected: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail."""
    forbid_all_of_the_api(monkeypatch)
    bus = collected.bus()

    async with bus:
        with pytest.raises(pytest.fail.Exception):
            await bus.publish(JOBS, 1)


async def test_without_an_sdk_a_handler_is_called_as_if_there_was_no_middleware() -> None:
    """Not even a function of ours stands in between."""

    async def handler(context: Context[Any]) -> object:
        return "handled"

    telemetry = DeliveryTelemetry()

    assert telemetry.bind(handler) is handler
    assert await telemetry(Context[int](), handler) == "handled"


async def test_a_request_and_its_answer_are_one_trace(collected: Collected) -> None:
    """Its span, its responder's, and those of what the responder asks and publishes meanwhile."""
    bus = collected.bus()
    sizes = RequestTopic("jobs.size", int, int)
    weights = RequestTopic("jobs.weight", int, int)

    @bus.on(sizes)
    async def tell_size(job: int, context: Context[int]) -> int:
        await context.publish(DONE, job)
        return await bus.request(weights, job) + 1

    @bus.on(weights)
    def tell_weight(job: int) -> int:
        return 2 * job

    async with bus:
        with collected.tracer_provider.get_tracer("caller").start_as_current_span("call"):
            assert await bus.request(sizes, 3) == 7

    chain = ["call", "publish jobs.size", "process jobs.size", "publish jobs.weight"]
    spans = [collected.span(name) for name in [*chain, "process jobs.weight"]]
    assert all(is_child(span, parent) for parent, span in pairwise(spans))
    assert is_child(collected.span("publish jobs.done"), collected.span("process jobs.size"))
    assert len({context_of(span).trace_id for span in spans}) == 1


async def test_a_request_of_nobody_begins_a_trace(collected: Collected) -> None:
    """Two requests one after the other have nothing in common, whoever answers them."""
    bus = collected.bus()
    sizes = RequestTopic("jobs.size", int, int)

    @bus.on(sizes, concurrency=1)
    async def tell_size(job: int) -> int:
        return job

    async with bus:
        await bus.request(sizes, 1)
        await bus.request(sizes, 2)

    answered = collected.spans("process jobs.size")
    assert len({context_of(span).trace_id for span in answered}) == 2
    assert all(map(is_child, answered, collected.spans("publish jobs.size")))


async def test_an_answer_that_fails_is_the_responders_error(collected: Collected) -> None:
    """The request was sent, and its caller hears; the span of the attempt says why."""
    bus = collected.bus()
    sizes = RequestTopic("jobs.size", int, int)

    @bus.on(sizes)
    async def tell_size(job: int) -> int:
        raise ValueError("no")

    async with bus:
        with pytest.raises(RemoteError):
            await bus.request(sizes, 1)

    asked, answered = collected.span("publish jobs.size"), collected.span("process jobs.size")
    assert is_child(answered, asked)
    assert asked.status.status_code is StatusCode.UNSET
    assert answered.status.status_code is StatusCode.ERROR
    assert attributes_of(answered)["error.type"] == "ValueError"
