"""What was acknowledged survives `kill -9`, and is handled in the end."""

from pathlib import Path

import pytest

from tests.faults.mortals import run_trial
from tests.faults.scale import full

MODULE = "tests.faults.killed_publishers"


@pytest.mark.timeout(7200)  # seconds, in full
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_killed_processes_lose_nothing_they_acknowledged(backend: str, tmp_path: Path) -> None:
    """Whatever a publisher was told is stored is there, whole batches too, and gets handled."""
    kills = full(2000, small=50)
    found = run_trial(MODULE, str(tmp_path), str(kills // 2), backend, seconds=7200)

    assert found["acknowledged"] > kills
    assert (found["lost"], found["torn"], found["unhandled"]) == (0, 0, 0)


@pytest.mark.timeout(180)
def test_that_a_loss_would_be_seen(tmp_path: Path) -> None:
    """Control: publishers that are told too early lose something."""
    found = run_trial(MODULE, str(tmp_path), "10", "asyncio", "hasty")

    assert found["lost"] > 0
