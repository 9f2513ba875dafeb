"""A handler that tests hold up: what is queued behind it stays where it is."""

__all__ = ("Gate",)

from typing import Any

import anyio


class Gate:
    """A handler that begins, and goes on when it is let; it notes what it got, and what it did."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.done: list[Any] = []
        self.entered = anyio.Event()
        self.opened = anyio.Event()

    async def __call__(self, event: object) -> None:
        """Handle one event."""
        self.seen.append(event)
        self.entered.set()
        await self.opened.wait()
        self.done.append(event)
