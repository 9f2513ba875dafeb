"""Let what a handler does be known as its message's doing."""

__all__ = ("Correlate", "correlation_id")

from eventbus.correlation import cause_here


class Correlate:
    """Policy: what a handler publishes with `bus.publish` belongs to its message's conversation.

    It carries the correlation id of the message being handled, and its id as `causation_id`, as
    what is published with `context.publish` always does; so `correlation_id()` tells, for instance
    a filter of `logging`. The bus it is published with needs a `Correlate` as well, anywhere.

    It holds in the task that runs the handler, in tasks of task groups opened there (of anyio or
    trio), and in the thread of a handler that is not async; other tasks are on their own.
    """

    __slots__ = ()

    @property
    def policy(self) -> str:
        """The kind of policy."""
        return "correlate"


def correlation_id() -> str | None:
    """Tell which conversation the caller belongs to: None outside of handlers with `Correlate`.

    The correlation id of the message being handled; the message's own where it begins one.
    """
    message = cause_here()
    return None if message is None else message.correlation_id or message.id
