"""Where spans and measurements go, and the recording of one operation."""

__all__ = ("Meanings", "Operation", "Signals", "signals_of")

from collections.abc import Mapping
from contextvars import Token
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeAlias

from opentelemetry import context as propagation
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Counter, Histogram, MeterProvider
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from eventbus.clock import stopwatch
from eventbus_opentelemetry.conventions import DURATION_BUCKETS, ERROR_TYPE

SCOPE = "eventbus_opentelemetry"

Attributes: TypeAlias = Mapping[str, str | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meanings:
    """What one side of the bus records, in the words of the conventions."""

    duration: str
    duration_is: str
    messages: str
    messages_are: str


@dataclass(frozen=True, slots=True)
class Signals:
    """Where spans and measurements go; None for what nobody collects."""

    tracer: Tracer | None
    duration: Histogram | None
    messages: Counter | None


def signals_of(
    meanings: Meanings, tracers: TracerProvider | None, meters: MeterProvider | None
) -> Signals | None:
    """Find where to record, with these providers or else the program's; None if nowhere."""
    tracers = tracers or trace.get_tracer_provider()
    meters = meters or metrics.get_meter_provider()
    tracer = tracers.get_tracer(SCOPE) if _records(tracers) else None
    signals = Signals(tracer if _records(tracer) else None, *_instruments(meanings, meters))
    return None if signals == Signals(None, None, None) else signals


def _instruments(
    meanings: Meanings, meters: MeterProvider
) -> tuple[Histogram | None, Counter | None]:
    meter = meters.get_meter(SCOPE) if _records(meters) else None
    if meter is None or not _records(meter):
        return None, None
    duration = meter.create_histogram(
        meanings.duration,
        unit="s",
        description=meanings.duration_is,
        explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
    )
    messages = meter.create_counter(
        meanings.messages, unit="{message}", description=meanings.messages_are
    )
    return duration, messages


def _records(thing: object) -> bool:
    """Tell a provider, tracer or meter that records from the API's own, which only stand in."""
    return not type(thing).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


@dataclass(slots=True)
class Operation:
    """One operation, from entering to leaving it: a span, current meanwhile, and measurements.

    `measured` are the attributes of few values, which measurements have too; `described` those of
    the span alone.
    """

    signals: Signals
    name: str
    kind: SpanKind
    parent: Context
    measured: Attributes
    described: Attributes
    links: tuple[Link, ...] = ()
    context: Context = field(init=False)
    _span: Span | None = field(init=False, default=None)
    _token: Token[Context] | None = field(init=False, default=None)
    _begin: float = field(init=False, default=0.0)

    def __enter__(self) -> Self:
        self.context = self.parent
        if self.signals.tracer is not None:
            self._span = self.signals.tracer.start_span(
                self.name,
                self.parent,
                kind=self.kind,
                attributes={**self.measured, **self.described},
                links=self.links,
            )
            self.context = trace.set_span_in_context(self._span, self.parent)
            self._token = propagation.attach(self.context)
        self._begin = stopwatch()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        seconds = stopwatch() - self._begin
        if self._token is not None:
            propagation.detach(self._token)
        failure = {} if kind is None else {ERROR_TYPE: kind.__qualname__}
        self._measure(seconds, {**self.measured, **failure})
        if self._span is not None:
            if error is not None:
                self._span.set_attributes(failure)
                self._span.record_exception(error)
                self._span.set_status(Status(StatusCode.ERROR, str(error) or None))
            self._span.end()

    def _measure(self, seconds: float, attributes: Attributes) -> None:
        if self.signals.duration is not None:
            self.signals.duration.record(seconds, attributes, self.context)
        if self.signals.messages is not None:
            self.signals.messages.add(1, attributes, self.context)
