"""Stores stand what happens to them, and to the processes on them."""

from pathlib import Path
from typing import Any

import pytest

from tests.faults.mortals import run_trial
from tests.faults.store_trials import BACKOFF, EVENTS, REPLY_WAIT, STARTS

pytestmark = pytest.mark.timeout(900)  # seconds: processes start slowly on a busy machine


@pytest.fixture
def found(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Run the trial that a test names, and give what it found."""
    return run_trial("tests.faults.store_trials", request.param, str(tmp_path), seconds=900)


@pytest.mark.parametrize("found", ["poison"], indirect=True)
def test_an_event_that_ends_the_process_is_given_up(found: dict[str, Any]) -> None:
    """After max_deliveries starts, the first counted anew; its neighbours keep their counts."""
    assert (found["poison_attempts"], found["dead"]) == (["1", "1", "2"], [f"dead {STARTS}"])
    assert (found["unhandled"], found["attempts_of_others"]) == (0, ["1"])


@pytest.mark.parametrize("found", ["unbounded_poison"], indirect=True)
def test_that_it_would_come_for_ever(found: dict[str, Any]) -> None:
    """Control: where attempts are not written before they begin, nothing ends it."""
    assert (found["dead"], found["poison_attempts"]) == ([], ["1"] * 3 * STARTS)


@pytest.mark.parametrize("found", ["backoff"], indirect=True)
def test_a_retry_that_waits_survives_a_kill(found: dict[str, Any]) -> None:
    """It comes in the next process, as the attempt it was to be, and not before its time."""
    assert found["attempts"] == [[1, EVENTS], [2, EVENTS]]
    assert BACKOFF - 0.1 < found["earliest"] <= found["latest"] < BACKOFF + 10


@pytest.mark.parametrize("found", ["forgotten_backoff"], indirect=True)
def test_that_it_could_come_too_early(found: dict[str, Any]) -> None:
    """Control: where it is not written when it is due, it comes at once."""
    assert found["earliest"] < BACKOFF - 0.1


@pytest.mark.parametrize("found", ["dead_responder"], indirect=True)
def test_a_responder_that_was_killed_is_not_asked(found: dict[str, Any]) -> None:
    """Who was waiting for it waits as long as it said; who asks then is told at once."""
    assert found["told"] == ["reply 1", "RequestTimeout", "NoResponders"]
    assert (found["seconds"] < REPLY_WAIT / 2, found["left"]) == (True, 0)


@pytest.mark.parametrize("found", ["believed_responder"], indirect=True)
def test_that_it_could_be_waited_for_in_vain(found: dict[str, Any]) -> None:
    """Control: where nobody looks whether it lives, who asks waits for all of its time."""
    assert found["told"] == ["reply 1", "RequestTimeout", "RequestTimeout"]


@pytest.mark.parametrize("found", ["frozen"], indirect=True)
def test_a_process_that_stands_still_is_relieved(found: dict[str, Any]) -> None:
    """Another takes over after ack_wait; what the first says when it goes on is without effect."""
    assert (found["taken_over"], found["told"]) == (True, True)
    assert (found["unhandled"], found["handled_twice"]) == (0, 0)
    assert (found["later"], found["unsettled"], found["dead"]) == ([], 0, 0)


@pytest.mark.parametrize("found", ["frozen_and_believed"], indirect=True)
def test_that_what_it_says_could_do_harm(found: dict[str, Any]) -> None:
    """Control: where anyone may settle, what another handles well becomes a dead letter."""
    assert found["dead"] == 1


@pytest.mark.parametrize("found", ["crowd"], indirect=True)
def test_processes_share_a_file(found: dict[str, Any]) -> None:
    """Eight that make it, publish and handle at once: no lock is seen, nothing is handled twice."""
    assert found == {"ended": 9, "handled_twice": 0}


@pytest.mark.parametrize("found", ["impatient_crowd"], indirect=True)
def test_that_a_lock_would_be_seen(found: dict[str, Any]) -> None:
    """Control: where nobody waits for another, not all of them come through."""
    assert found["ended"] < 9


@pytest.mark.parametrize("found", ["keys"], indirect=True)
def test_a_key_stays_in_order_across_processes(found: dict[str, Any]) -> None:
    """Four share 64 keys, and fail now and then: none of a key begins before the one before it."""
    assert (found["inversions"], found["overlaps"]) == (0, 0)
    assert (found["unhandled"], found["handled_twice"]) == (0, 0)
    assert min(found["shared"], found["failed"]) > 0


@pytest.mark.parametrize("found", ["keys_of_nobody"], indirect=True)
def test_that_disorder_would_be_seen(found: dict[str, Any]) -> None:
    """Control: where a process does not ask what others have of a key, keys overlap and invert."""
    assert found["inversions"] > 0
    assert found["overlaps"] > 0


@pytest.mark.parametrize("found", ["full_disk"], indirect=True)
def test_a_full_disk_is_an_error_and_no_loss(found: dict[str, Any]) -> None:
    """The publisher is told at once; with room again, the same bus goes on."""
    assert found["refused"] == "StoreError"
    assert float(found["seconds"]) < 1.0
    assert found["found"] == found["stored"]


@pytest.mark.parametrize("found", ["full_disk"], indirect=True)
def test_handlers_work_on_a_full_disk(found: dict[str, Any]) -> None:
    """What they did is settled once there is room: all is handled, and nothing twice."""
    assert (found["handled"], found["handled_twice"]) == (int(found["stored"]), 0)


@pytest.mark.parametrize("found", ["full_and_forgetful"], indirect=True)
def test_that_a_second_time_would_be_seen(found: dict[str, Any]) -> None:
    """Control: where what could not be settled is forgotten, it is handled again."""
    assert found["handled_twice"] > 0
