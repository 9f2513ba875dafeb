"""The names of OpenTelemetry's conventions for messaging, as far as the bus has what they mean.

They are still in development, and Python's constants for them make no promise to stay: so they are
written down here, as of version 1.44 of the schema.
"""

__all__ = (
    "ATTEMPT",
    "CLIENT_DURATION",
    "CONSUMED_MESSAGES",
    "CONVERSATION_ID",
    "DESTINATION_NAME",
    "DESTINATION_TEMPLATE",
    "DURATION_BUCKETS",
    "ERROR_TYPE",
    "MESSAGE_ID",
    "OPERATION_NAME",
    "OPERATION_TYPE",
    "PROCESS_DURATION",
    "SENT_MESSAGES",
    "SUBSCRIPTION_NAME",
    "SYSTEM",
)

SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION_NAME = "messaging.destination.name"
DESTINATION_TEMPLATE = "messaging.destination.template"
SUBSCRIPTION_NAME = "messaging.destination.subscription.name"
MESSAGE_ID = "messaging.message.id"
CONVERSATION_ID = "messaging.message.conversation_id"
ERROR_TYPE = "error.type"

ATTEMPT = "messaging.eventbus.attempt"
"""Which attempt a delivery is, from 1: our own, as the conventions leave it to each system."""

CLIENT_DURATION = "messaging.client.operation.duration"
PROCESS_DURATION = "messaging.process.duration"
SENT_MESSAGES = "messaging.client.sent.messages"
CONSUMED_MESSAGES = "messaging.client.consumed.messages"

DURATION_BUCKETS = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
"""Bounds of the buckets of both durations, in seconds."""
