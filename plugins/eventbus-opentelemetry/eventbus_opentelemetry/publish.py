"""What is recorded of a publish, and how its context travels with the message."""

__all__ = ("PublishTelemetry",)

from functools import cached_property

from opentelemetry import propagate
from opentelemetry.context import get_current
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import SpanKind, TracerProvider

from eventbus.message import Message, Receipt
from eventbus.middleware import PublishNext
from eventbus_opentelemetry.conventions import (
    CLIENT_DURATION,
    DESTINATION_NAME,
    OPERATION_NAME,
    OPERATION_TYPE,
    SENT_MESSAGES,
    SYSTEM,
)
from eventbus_opentelemetry.envelope import carrying, described
from eventbus_opentelemetry.signals import Meanings, Operation, Signals, signals_of

MOST_TOPICS = 1000
"""Topics that names of spans and measurements tell apart; a set that grew for ever would be a leak,
here and wherever measurements are kept."""

MEANINGS = Meanings(
    duration=CLIENT_DURATION,
    duration_is="Duration of a messaging operation.",
    messages=SENT_MESSAGES,
    messages_are="Messages that publishers tried to send.",
)


class PublishTelemetry:
    """Publish middleware: a span and measurements for each message.

    The span's context goes into the message's headers, as `traceparent`, by the program's
    propagators. Its parent is the context that the headers hold already, as they do for what a
    handler publishes through its context, else the current one.

    Without providers, the ones set for the whole program when the first message is published count;
    where there are none either, messages pass as if there was no such middleware.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._providers = tracer_provider, meter_provider
        self._topics: set[str] = set()

    async def __call__(self, message: Message, call_next: PublishNext, /) -> Receipt:
        """Send the message on, with the span's context in its headers."""
        signals = self._signals
        if signals is None:
            return await call_next(message)
        with self._operation(signals, message) as operation:
            if signals.tracer is not None:
                message = carrying(message, operation.context)
            return await call_next(message)

    @cached_property
    def _signals(self) -> Signals | None:
        return signals_of(MEANINGS, *self._providers)

    def _operation(self, signals: Signals, message: Message) -> Operation:
        measured: dict[str, str | int] = {
            SYSTEM: "eventbus",
            OPERATION_NAME: "publish",
            OPERATION_TYPE: "send",
        }
        name = "publish"
        if self._is_one_of_few(message.topic):
            measured[DESTINATION_NAME] = message.topic
            name = f"publish {message.topic}"
        return Operation(
            signals,
            name,
            SpanKind.PRODUCER,
            propagate.extract(message.headers, get_current()),
            measured,
            described(message),
        )

    def _is_one_of_few(self, topic: str) -> bool:
        if topic not in self._topics and len(self._topics) < MOST_TOPICS:
            self._topics.add(topic)
        return topic in self._topics
