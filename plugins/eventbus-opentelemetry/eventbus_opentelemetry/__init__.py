"""Traces and metrics of an event bus, by OpenTelemetry's conventions for messaging."""

__all__ = ("DeliveryTelemetry", "PublishTelemetry")

from eventbus_opentelemetry.delivery import DeliveryTelemetry
from eventbus_opentelemetry.publish import PublishTelemetry
