"""Which message is being handled, for who asks from within its handler.

A worker notes itself in the context of its task, once; which message it is at, it knows anyway. So
it costs a message nothing. What asks has to belong to the handler, which what inherited that
context need not: a task that outlives the handler would be told of a later message.
"""

__all__ = ("Handling", "cause_here", "is_correlated", "message_here", "note_handling")

from contextvars import ContextVar
from typing import Protocol

from anyio import get_current_task

from eventbus.message import Entry, Message, message_of


class Handling(Protocol):
    """What runs handlers one after the other, in one task."""

    task_id: int
    current: Entry | None


_handling: ContextVar[Handling | None] = ContextVar("eventbus_handling", default=None)


_correlates: ContextVar[bool] = ContextVar("eventbus_correlates", default=False)


def note_handling(worker: Handling, *, correlates: bool) -> None:
    """Note that the current task, and what it starts, is this worker's.

    With `correlates`, what is published there belongs to the message.
    """
    _handling.set(worker)
    if correlates:
        _correlates.set(True)


def is_correlated() -> bool:
    """Tell quickly whether there may be a message that what is published here belongs to."""
    return _correlates.get()


def cause_here() -> Message | None:
    """Give the message that what is published here belongs to."""
    return message_here() if is_correlated() else None


def message_here() -> Message | None:
    """Give the message that is handled here.

    Here is the task that runs the handler, a task in a task group of anyio's or trio's that this
    one has opened, or the thread of a handler that is not async.
    """
    worker = _handling.get()
    entry = None if worker is None else worker.current
    if worker is None or entry is None or not _is_in_handler(worker):
        return None
    return message_of(entry)


def _is_in_handler(worker: Handling) -> bool:
    try:
        task = get_current_task()
    except RuntimeError:  # no event loop runs here: it is the handler's thread
        return True
    return worker.task_id in (task.id, task.parent_id)
