"""The power goes away at any moment: what was acknowledged is there, what was acked is over.

A recorder of all writes and syncs gives the files as any such moment could leave them.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.power_cuts import FOLDER, Recording, Sync
from tests.faults.power_trials import HARSH, cuts, flaws, record_use
from tests.faults.scale import full

RECORDINGS = full(10, small=1)
IMAGES = full(500, small=50)  # of each recording
FEW = 40  # of a control, of which some 28 show a flaw

pytestmark = pytest.mark.timeout(3600)  # seconds, in full


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    """Keep what is told of deliveries that come again out of the way."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def test_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Nor does what was acked urgently come again, and all that is stored is handled."""
    for seed in range(RECORDINGS):
        recording = record_use(tmp_path, "full")

        assert len(recording.words_until(len(recording.steps), "begun")) > 50
        assert flaws(recording, tmp_path, cuts(recording, IMAGES, seed=seed)) == []


def test_that_a_loss_would_be_seen(tmp_path: Path) -> None:
    """Control: without a sync of each commit, much that was acknowledged, or acked, is not so."""
    recording = record_use(tmp_path, "normal")
    told = flaws(recording, tmp_path, cuts(recording, FEW, rates=HARSH))

    assert len(told) > FEW // 4
    assert any("are lost" in flaw for flaw in told)
    assert any("are delivered again" in flaw for flaw in told)


def test_that_a_lost_file_would_be_seen(tmp_path: Path) -> None:
    """Control: without syncs of the folder, a file that is new may not be there."""
    recording = record_use(tmp_path, "full")
    steps = [one for one in recording.steps if not (isinstance(one, Sync) and one.file == FOLDER)]
    blind = Recording(steps)

    assert len(flaws(blind, tmp_path, cuts(blind, FEW, rates=HARSH))) > FEW // 4
