"""Processes that handle what is in a store are killed: what they acked stays so, all is handled."""

from pathlib import Path
from typing import Any

import pytest

from tests.faults.mortals import run_trial
from tests.faults.scale import full

KILLS = full(1000, small=20)
FEW = 20  # of a control

pytestmark = pytest.mark.timeout(7200)  # seconds, in full


def trial(name: str, kills: int, folder: Path) -> Any:
    """Kill so many of them; give what was found."""
    module = "tests.faults.worker_trials"
    return run_trial(module, name, str(folder), str(kills), seconds=7200)


def test_nothing_acked_urgently_is_begun_again(tmp_path: Path) -> None:
    """Where the ack comes before the handler, no kill has an event begin twice."""
    found = trial("urgent", KILLS, tmp_path)

    assert found["again"] == 0
    assert found["killed"] > KILLS // 2
    assert found["begun"] > KILLS


def test_that_a_second_beginning_would_be_seen(tmp_path: Path) -> None:
    """Control: where a handler does not wait for the ack."""
    assert trial("hasty", FEW, tmp_path)["again"] > 0


def test_each_event_is_handled_however_many_workers_die(tmp_path: Path) -> None:
    """Four work, one of them is killed again and again: only what it had in flight comes again."""
    found = trial("four", KILLS, tmp_path)

    assert found["unhandled"] == 0
    assert found["again"] <= found["in_flight"]
    assert found["in_flight"] > KILLS // 2


def test_that_an_unhandled_event_would_be_seen(tmp_path: Path) -> None:
    """Control: where what is taken counts as done."""
    assert trial("forgetful", FEW, tmp_path)["unhandled"] > 0
