"""The disk is full: publishers are told, consumers go on, in the room that was held in reserve."""

from pathlib import Path
from typing import Any

import pytest

from tests.faults.machine import UNSHARE, demand_mounts
from tests.faults.mortals import run_trial
from tests.faults.power_user import PAGES_PER_CHECKPOINT
from tests.faults.small_disk import LOG_EVENTS, ROUNDS

pytestmark = pytest.mark.timeout(180)  # seconds: processes start slowly on a busy machine


@pytest.fixture
def found(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Live on a small disk, and give what was found."""
    demand_mounts()
    life, *how = request.param
    return run_trial("tests.faults.small_disk", life, str(tmp_path), *how, within=UNSHARE)


@pytest.mark.parametrize("found", [("again", "asyncio"), ("again", "trio")], indirect=True)
def test_consumers_go_on_while_the_disk_is_full(found: dict[str, Any]) -> None:
    """Publishers get a StoreError at once; all is claimed, handled, settled or dead, and no twice.

    That holds each time the disk is full, and with room again the same bus goes on.
    """
    assert (found["refused"], found["times_refused"]) == (["StoreError"], 1 + ROUNDS)
    assert found["slowest"] < 1.0
    assert found["is_settled"]
    assert found["dead"] > 1
    assert found["stored"] > 20
    assert (found["missing"], found["twice"]) == (0, 0)


@pytest.mark.parametrize("found", [("checkpoint", "asyncio")], indirect=True)
def test_consumers_go_on_where_the_log_cannot_be_moved(found: dict[str, Any]) -> None:
    """The disk is full amid a checkpoint: what is in the log alone is acknowledged, and handled."""
    assert (found["refused"], found["moved"]) == (["StoreError"], 0)
    assert found["moved_later"] > 0
    assert found["stored"] > LOG_EVENTS + PAGES_PER_CHECKPOINT // 2
    assert found["slowest"] < 1.0
    assert found["is_settled"]
    assert (found["missing"], found["twice"]) == (0, 0)


@pytest.mark.parametrize("found", [("begin", "asyncio")], indirect=True)
def test_a_store_opened_on_a_full_disk_makes_up_for_it(found: dict[str, Any]) -> None:
    """Or is refused, and says why. It holds little in reserve, but more once there is room."""
    assert "make room on the disk" in found["told"]
    assert (found["refused"], found["times_refused"]) == (["StoreError"], 2)
    assert found["is_settled"]
    assert (found["missing"], found["twice"]) == (0, 0)


@pytest.mark.parametrize(
    "found",
    [
        ("again", "asyncio", "without"),
        ("checkpoint", "asyncio", "without"),
        ("begin", "asyncio", "little"),
    ],
    indirect=True,
)
def test_that_they_would_stand_still(found: dict[str, Any]) -> None:
    """Control: without a reserve nothing more is settled until there is room."""
    assert not found["is_settled"]
    assert (found["missing"], found["twice"]) == (0, 0)
