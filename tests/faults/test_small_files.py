"""The system lets no file grow further, as by `ulimit -f`, amid a checkpoint and then a commit."""

from pathlib import Path
from typing import Any

import pytest

from tests.faults.mortals import run_trial
from tests.faults.small_files import EVENTS

pytestmark = pytest.mark.timeout(180)  # seconds: processes start slowly on a busy machine


@pytest.fixture
def found(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Let files grow up to the limit, and give what was found."""
    return run_trial("tests.faults.small_files", str(tmp_path), *request.param)


@pytest.mark.parametrize("found", [("asyncio",), ("trio",)], indirect=True)
def test_what_no_file_has_room_for_is_refused(found: dict[str, Any]) -> None:
    """Who publishes is told; nothing acknowledged is lost, and without the limit all is handled.

    Both files have reached it: what is stored could not be moved, and was kept in the log.
    """
    assert found["sizes"] == [1.0, 1.0]
    (error,) = found["refused"]
    assert "ulimit -f" in error
    assert "publish it again with the same id" in error
    assert 0 < found["stored"] < EVENTS
    assert found["is_settled"]
    assert (found["missing"], found["twice"], found["flaws"]) == (0, 0, [])


@pytest.mark.parametrize("found", [("asyncio", "hasty")], indirect=True)
def test_that_a_loss_would_be_seen(found: dict[str, Any]) -> None:
    """Control: publishers that are told before the commit lose what they were told is stored."""
    assert found["refused"] == []
    assert found["missing"] > EVENTS // 2
    assert not found["is_settled"]
