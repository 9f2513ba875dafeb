"""Waiting for a state that nothing tells of."""

__all__ = ("until",)

from collections.abc import Callable

import anyio


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for a state; who looks too often would keep threads from bringing it about."""
    with anyio.fail_after(60):
        while not is_so():  # noqa: ASYNC110 - there is no event for it
            await anyio.sleep(0.002)
