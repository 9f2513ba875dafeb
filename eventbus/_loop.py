"""The seam to the event loops, for what anyio cannot say."""

__all__ = ("is_foreign_cancellation",)

import asyncio
import math

import anyio


def is_foreign_cancellation(error: BaseException) -> bool:
    """Tell whether a cancellation was meant for somebody else.

    True when a handler awaited a task that a third party had cancelled: then neither a scope around
    the running task is cancelled, nor the task itself. Trio's `Cancelled` never leaves the scope it
    belongs to, so only asyncio's can be foreign.
    """
    if not isinstance(error, asyncio.CancelledError):
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no asyncio loop: whatever raised this, it was not our loop
        return True
    is_ours = task is not None and task.cancelling() > 0
    return not is_ours and anyio.current_effective_deadline() != -math.inf
