"""What the tests of the core share: time in their own hands, a store, and real data to feed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus
from eventbus.testing import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock that moves only by `await clock.advance(seconds)`."""
    return ManualClock()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Give the path of a store that is not there yet."""
    return tmp_path / "events.db"


@pytest.fixture
def opened(store: Path) -> Callable[..., EventBus]:
    """Give what makes a bus on the store."""

    def open_bus(query: str = "", **options: Any) -> EventBus:
        return EventBus(f"sqlite:///{store}{query}", **options)

    return open_bus


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Give the folder with real input; without it a developer's run skips, a CI run fails."""
    folder = os.environ.get("EVENTBUS_TEST_DATA")
    if folder:
        return Path(folder)
    missing = "EVENTBUS_TEST_DATA is not set: point it to the folder of github-webhooks.jsonl"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)
