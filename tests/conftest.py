"""What the tests of the core share: time in their own hands, and real data to feed."""

import os
from pathlib import Path

import pytest

from eventbus.testing import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock that moves only by `await clock.advance(seconds)`."""
    return ManualClock()


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
