"""Ending by signals: the first drains, the second stops."""

__all__ = ("require_main_thread", "run_until_signal")

import signal
from collections.abc import Awaitable, Callable
from threading import current_thread, main_thread

from anyio import CancelScope, create_task_group, open_signal_receiver

from eventbus.errors import EventBusError


async def run_until_signal(
    started: Callable[[], None], tell: Callable[[], None], drain: Callable[[], Awaitable[None]]
) -> None:
    """Wait for SIGINT or SIGTERM; then tell of it, and drain.

    `started` is called once they are heard.

    Raises:
        SystemExit: With code 1, after a second signal.
    """
    with open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        started()
        await anext(signals)
        tell()
        is_second = False
        async with create_task_group() as ending:
            ending.start_soon(_drain_and_cancel, drain, ending.cancel_scope)
            await anext(signals)
            is_second = True
            ending.cancel_scope.cancel()
        if is_second:
            raise SystemExit(1)


async def _drain_and_cancel(drain: Callable[[], Awaitable[None]], scope: CancelScope) -> None:
    await drain()
    scope.cancel()


def require_main_thread() -> None:
    """Raise where no signal will ever be heard.

    Raises:
        EventBusError: This is not the main thread, to which alone they come.
    """
    if current_thread() is not main_thread():
        raise EventBusError(
            f"run() in {current_thread().name}: signals come to the main thread alone; use `async "
            "with bus:` here, and let the main thread say when it ends"
        )
