"""A disk is mounted read-only: commands that look go on, and who has to write is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.machine import UNSHARE, demand_mounts
from tests.faults.mortals import run_trial
from tests.faults.read_only_disk import LOOKS

pytestmark = pytest.mark.timeout(180)  # seconds: processes start slowly on a busy machine


@pytest.fixture
def found(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Look at a store there, and give what was found."""
    demand_mounts()
    return run_trial("tests.faults.read_only_disk", request.param, str(tmp_path), within=UNSHARE)


@pytest.mark.parametrize(("found", "stored"), [("closed", 1), ("at work", 2)], indirect=["found"])
def test_a_store_on_it_is_looked_at(found: dict[str, Any], stored: int) -> None:
    """Whether a bus is at work on it or not, all is seen, and nothing is left there."""
    assert (found["codes"], found["complaint"]) == ([0] * len(LOOKS), "")
    assert json.loads(found["output"]["stats --json"])["last"] == stored
    assert found["output"]["export"].count("\n") == stored
    assert found["is_as_before"]


@pytest.mark.parametrize("found", ["closed"], indirect=True)
def test_that_a_bus_would_be_refused(found: dict[str, Any]) -> None:
    """Control: what opens it as a bus does fails, and says what it takes."""
    assert (
        "see that this process may" in found["refused"] or "may read and write" in found["refused"]
    )
