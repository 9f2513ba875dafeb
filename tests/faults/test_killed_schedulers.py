"""What was scheduled survives `kill -9` of who scheduled it, and goes out once."""

from pathlib import Path
from typing import Any

import pytest

from tests.faults.mortals import run_trial
from tests.faults.scale import full

pytestmark = pytest.mark.timeout(7200)  # seconds, in full


def torment(path: Path, kills: int, flaw: str = "") -> dict[str, Any]:
    """Kill so many, and give what became of what they had scheduled."""
    found: dict[str, Any] = run_trial(
        "tests.faults.killed_schedulers", str(path), str(kills), flaw, seconds=7200
    )
    return found


def test_killed_processes_lose_nothing_they_have_scheduled(tmp_path: Path) -> None:
    """Whatever was acknowledged goes out, once, though two processes let out what is due."""
    kills = full(500, small=20)
    found = torment(tmp_path, kills)

    assert found["kept"] > kills
    assert (found["lost"], found["twice"]) == (0, 0)
    assert found["median"] < 1.0


def test_that_what_was_not_written_would_be_missed(tmp_path: Path) -> None:
    """Control: publishers that are told too early lose what they scheduled."""
    assert torment(tmp_path, 3, "forgetful")["lost"] > 0


def test_that_what_goes_out_twice_would_be_seen(tmp_path: Path) -> None:
    """Control: where it is appended in one transaction and removed in another, it comes twice."""
    assert torment(tmp_path, 3, "careless")["twice"] > 0
