"""A handler that blocks the event loop keeps its bus from giving signs of life: the log says so."""

from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import Any

import anyio
import pytest

from eventbus import EventBus

ACK_WAIT = 0.4


async def handle_one(tmp_path: Path, rest: Callable[[], Any]) -> None:
    """Handle one event, in twice its `ack_wait`."""
    bus = EventBus(f"sqlite:///{tmp_path / 'events.db'}")

    @bus.on("work", name="workers", start="first", ack_wait=ACK_WAIT)
    async def handle(event: dict[str, int]) -> None:
        if (resting := rest()) is not None:
            await resting

    async with bus:
        await anyio.sleep(ACK_WAIT)  # so that it has given signs of life
        await bus.publish("work", {"n": 1})
        await bus.join()
        await anyio.sleep(2 * ACK_WAIT)


async def test_a_blocked_loop_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its bus gave no sign of life, so another could have taken over what it had."""
    await handle_one(tmp_path, lambda: sleep(2 * ACK_WAIT))

    assert "do not block the event loop" in caplog.text


async def test_a_loop_that_goes_on_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Control: a handler may take as long where it lets others go on."""
    await handle_one(tmp_path, lambda: anyio.sleep(2 * ACK_WAIT))

    assert "do not block the event loop" not in caplog.text
