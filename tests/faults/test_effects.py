"""What a handler does by `context.transaction` happens once, whatever happens to its process."""

from pathlib import Path

import pytest

from tests.faults.mortals import run_trial
from tests.faults.scale import full

MODULE = "tests.faults.effect_trials"


@pytest.mark.timeout(7200)  # seconds, in full
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_killed_at_any_statement_each_effect_happens_once(backend: str, tmp_path: Path) -> None:
    """There are as many effects as events, and as many events that tell of them."""
    kills = full(5000, small=50) // 2
    found = run_trial(MODULE, "killed", str(tmp_path), str(kills), backend, seconds=7200)

    assert found["kills"] == kills
    assert found["effects"] == found["done"] == found["events"] > 0
    assert found["doubled"] == 0


@pytest.mark.timeout(180)
def test_that_a_double_effect_would_be_seen(tmp_path: Path) -> None:
    """Control: by connections of their own, handlers do some things twice."""
    found = run_trial(MODULE, "killed", str(tmp_path), "25", "asyncio", "hasty")

    assert found["doubled"] > 0


@pytest.mark.timeout(180)
def test_a_process_that_stood_still_has_no_effect(tmp_path: Path) -> None:
    """Another has taken over what it had; it is told so, and its SQL is not run."""
    found = run_trial(MODULE, "frozen", str(tmp_path))

    assert found["told"] > 0
    assert found["effects"] == found["done"] == found["events"] > 0
    assert found["doubled"] == 0


@pytest.mark.timeout(180)
def test_that_it_could_have_one(tmp_path: Path) -> None:
    """Control: where nobody asks whose a delivery is, effects are doubled."""
    found = run_trial(MODULE, "frozen_and_believed", str(tmp_path))

    assert (found["told"], found["doubled"] > 0) == (0, True)
