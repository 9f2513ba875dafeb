"""Programs that end by an error, as Ctrl-C ends one."""

__all__ = ("what_ends",)

import gc
from collections.abc import Awaitable, Callable

import anyio


def what_ends(main: Callable[[], Awaitable[object]], backend: str) -> BaseException:
    """Run a program on a loop of its own; give the error it ends by, as it is: bare or a group."""
    try:
        anyio.run(main, backend=backend)
    except BaseException as error:  # noqa: BLE001 - it may be one of any kind
        ending = error.with_traceback(None)
    else:
        raise AssertionError("the program ended without an error")
    # asyncio complains of the task that raised: now, not amid a test that a collection interrupts.
    gc.collect()
    return ending
