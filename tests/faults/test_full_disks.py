"""The disk is full: publishers are told, consumers go on, in the room that was held in reserve."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.faults.machine import demand
from tests.faults.mortals import run_trial
from tests.faults.small_disk import ROUNDS

pytestmark = pytest.mark.timeout(180)  # seconds: processes start slowly on a busy machine

UNSHARE = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]


def _may_unshare() -> bool:
    try:
        subprocess.run([*UNSHARE, "true"], check=True)  # noqa: S603 - the command is written above
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


@pytest.fixture
def found(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Live on a small disk, and give what was found."""
    missing = "no disk can be made here: that takes `unshare --mount`, and the right to use it"
    demand(is_met=_may_unshare(), missing=missing)
    return run_trial("tests.faults.small_disk", str(tmp_path), *request.param, within=UNSHARE)


@pytest.mark.parametrize("found", [("asyncio",), ("trio",)], indirect=True)
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


@pytest.mark.parametrize("found", [("asyncio", "control")], indirect=True)
def test_that_they_would_stand_still(found: dict[str, Any]) -> None:
    """Control: without a reserve nothing more is settled until there is room."""
    assert not found["is_settled"]
    assert (found["missing"], found["twice"]) == (0, 0)
