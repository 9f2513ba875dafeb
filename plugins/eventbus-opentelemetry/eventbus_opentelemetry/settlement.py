"""What is recorded of a settlement that a handler decides itself."""

__all__ = ("record_settlement",)

from opentelemetry.trace import SpanKind, Tracer

from eventbus.settling import Acked, Rejected, RetryAsked, Verdict
from eventbus_opentelemetry.conventions import OPERATION_NAME, OPERATION_TYPE
from eventbus_opentelemetry.signals import Operation

WORDS: dict[type[Verdict], str] = {Acked: "ack", RetryAsked: "retry", Rejected: "reject"}
"""What the bus calls what a handler decides."""


def record_settlement(tracer: Tracer, delivery: Operation, verdict: Verdict) -> None:
    """Record a verdict as a span within its delivery; it is carried out right after that."""
    word = WORDS[type(verdict)]
    _, _, destination = delivery.name.partition(" ")
    says = {OPERATION_NAME: word, OPERATION_TYPE: "settle"}
    attributes = {**delivery.measured, **delivery.described, **says}
    span = tracer.start_span(
        f"{word} {destination}", delivery.context, kind=SpanKind.CLIENT, attributes=attributes
    )
    span.end()
