"""What a message says to a trace, and carries for it."""

__all__ = ("carrying", "described")

from opentelemetry import propagate
from opentelemetry.context import Context

from eventbus.message import Message
from eventbus_opentelemetry.conventions import CONVERSATION_ID, DESTINATION_NAME, MESSAGE_ID


def carrying(message: Message, context: Context) -> Message:
    """Make a message that carries a context in its headers, in place of any that it carried."""
    carrier = dict(message.headers)
    propagate.inject(carrier, context)
    return message.replace(headers=carrier)


def described(message: Message) -> dict[str, str | int]:
    """Describe a message by attributes; never by its payload."""
    attributes: dict[str, str | int] = {DESTINATION_NAME: message.topic, MESSAGE_ID: message.id}
    if message.correlation_id is not None:
        attributes[CONVERSATION_ID] = message.correlation_id
    return attributes
