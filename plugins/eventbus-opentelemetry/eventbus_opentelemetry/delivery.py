"""What is recorded of a delivery."""

__all__ = ("DeliveryTelemetry",)

from functools import cached_property
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context as TraceContext
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Link, SpanKind, TracerProvider

from eventbus.context import Context, verdict_on
from eventbus.middleware import CallNext
from eventbus.topics import matches
from eventbus_opentelemetry.conventions import (
    ATTEMPT,
    CONSUMED_MESSAGES,
    DESTINATION_NAME,
    DESTINATION_TEMPLATE,
    OPERATION_NAME,
    OPERATION_TYPE,
    PROCESS_DURATION,
    SUBSCRIPTION_NAME,
    SYSTEM,
)
from eventbus_opentelemetry.envelope import carrying, described
from eventbus_opentelemetry.settlement import record_settlement
from eventbus_opentelemetry.signals import Meanings, Operation, Signals, signals_of

MEANINGS = Meanings(
    duration=PROCESS_DURATION,
    duration_is="Duration of processing a message.",
    messages=CONSUMED_MESSAGES,
    messages_are="Messages that were delivered to a handler, once per attempt.",
)


class DeliveryTelemetry:
    """Middleware: a span and measurements for each attempt of a handler.

    The span's parent is the context that came in the message's headers, and it is linked to it;
    a message without one begins a trace. What the handler publishes through its context goes on in
    that trace. Where the handler settles the delivery itself, that is a span too.

    Without providers, the ones set for the whole program when the first message comes count; where
    there are none either, handlers run as if there was no such middleware.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._providers = tracer_provider, meter_provider

    async def __call__(self, context: Context[Any], call_next: CallNext, /) -> object:
        """Run the handler within a span."""
        return await self.bind(call_next)(context)

    def bind(self, call_next: CallNext) -> CallNext:
        """Link into a chain; into none, where nobody collects what would be recorded."""
        signals = self._signals
        if signals is None:
            return call_next
        return lambda context: _process(signals, context, call_next)

    @cached_property
    def _signals(self) -> Signals | None:
        return signals_of(MEANINGS, *self._providers)


async def _process(signals: Signals, context: Context[Any], call_next: CallNext) -> object:
    is_settled = verdict_on(context) is not None
    with _operation(signals, context) as operation:
        result = await call_next(context)
        if signals.tracer is not None:
            # Carried out when all middleware is done, and with it the span that they belong to.
            if context.outbox:
                context.outbox = [carrying(one, operation.context) for one in context.outbox]
            verdict = verdict_on(context)
            if verdict is not None and not is_settled:
                record_settlement(signals.tracer, operation, verdict)
        return result


def _operation(signals: Signals, context: Context[Any]) -> Operation:
    message = context.message
    # Not the current context: it is the one in which the bus was started.
    parent = propagate.extract(message.headers, TraceContext())
    creation = trace.get_current_span(parent).get_span_context()
    destination = _destination(context)
    return Operation(
        signals,
        f"process {next(iter(destination.values()))}",
        SpanKind.CONSUMER,
        parent,
        {
            SYSTEM: "eventbus",
            OPERATION_NAME: "process",
            OPERATION_TYPE: "process",
            SUBSCRIPTION_NAME: context.subscription,
            **destination,
        },
        {**described(message), ATTEMPT: context.attempt},
        (Link(creation),) if creation.is_valid else (),
    )


def _destination(context: Context[Any]) -> dict[str, str | int]:
    """Name where a message went by few values: by the pattern, where a topic is one of many."""
    topic = context.message.topic
    for pattern in context.origin.patterns:
        if pattern != topic and matches(pattern, topic):
            return {DESTINATION_TEMPLATE: pattern}
    return {DESTINATION_NAME: topic}
