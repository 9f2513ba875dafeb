"""Processes that handle what is in a store are killed: what they acked stays so, all is handled."""

from pathlib import Path
from typing import Any

import pytest

from tests.faults.mortals import run_trial
from tests.faults.scale import full
from tests.faults.worker_trials import MOST_AGAIN

KILLS = full(1000, small=20)
LANE_KILLS = full(500, small=8)
FEW = 20  # of a control, and fewer of one that shows its flaw at once
FEWER = 5

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


def test_no_more_than_a_batch_of_what_is_done_comes_again(tmp_path: Path) -> None:
    """Acks are written together, and nobody waits: a kill takes what its queue can hold, twice."""
    found = trial("batched", KILLS, tmp_path)

    assert found["unhandled"] == 0
    assert found["most_again"] <= MOST_AGAIN
    assert found["killed_amid_work"] > 0


def test_that_more_would_be_seen(tmp_path: Path) -> None:
    """Control: where a great many acks are gathered before any is written."""
    assert trial("hoarding", FEWER, tmp_path)["most_again"] > MOST_AGAIN


def test_each_event_is_handled_however_many_workers_die(tmp_path: Path) -> None:
    """Four work, one of them is killed again and again: only what it had in flight comes again."""
    found = trial("four", KILLS, tmp_path)

    assert found["unhandled"] == 0
    assert found["again"] <= found["in_flight"]
    assert found["in_flight"] > KILLS // 2


def test_that_an_unhandled_event_would_be_seen(tmp_path: Path) -> None:
    """Control: where what is taken counts as done."""
    assert trial("forgetful", FEW, tmp_path)["unhandled"] > 0


def test_that_what_is_handled_twice_would_be_seen(tmp_path: Path) -> None:
    """Control: where a worker takes what others have taken."""
    found = trial("grasping", FEWER, tmp_path)

    assert found["again"] > found["in_flight"]


def torment_lanes(kills: int, folder: Path, *control: str) -> Any:
    """Kill so many workers on keys that stop at dead letters; give what was found."""
    module = "tests.faults.lane_trials"
    return run_trial(module, str(folder), str(kills), *control, seconds=7200)


def test_a_key_waits_for_its_dead_letters_whoever_dies(tmp_path: Path) -> None:
    """None of its messages begins before all earlier ones are handled, and all are in the end."""
    found = torment_lanes(LANE_KILLS, tmp_path)

    assert (found["leaps"], found["overlaps"]) == (0, 0)
    assert (found["unhandled"], found["left"]) == (0, 0)
    assert found["failed"] > LANE_KILLS


def test_that_a_leap_would_be_seen(tmp_path: Path) -> None:
    """Control: where nothing waits for a dead letter of its key."""
    assert torment_lanes(FEWER, tmp_path, "leaping")["leaps"] > 0
