"""A payload that would unpack to far too much is one subscription's dead letter, and no memory."""

import sys
from pathlib import Path
from typing import Any

import pytest

from eventbus.transports.sqlite.packing import MOST_BYTES
from tests.faults.bombs import NEIGHBOURS
from tests.faults.mortals import run_trial

pytestmark = [
    pytest.mark.timeout(180),  # seconds: to make a bomb takes a while, too
    pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is told by /proc"),
]

ALLOWED_BYTES = MOST_BYTES + 8 * 1024 * 1024


@pytest.mark.parametrize("bomb", ["zlib", "zstd", "tight", "endless"])
def test_a_bomb_takes_no_memory(bomb: str, tmp_path: Path) -> None:
    """Of 1 GiB, no more than 8 MiB and the limit; it is dead at once, and its neighbours live."""
    found: Any = run_trial("tests.faults.bombs", bomb, str(tmp_path), seconds=180)

    assert found["packed"] < 1.1 * 1024 * 1024
    assert found["extra"] < ALLOWED_BYTES
    assert (found["handled"], found["retried"]) == (NEIGHBOURS, 0)
    assert found["kept"] == [found["packed"]]
    (reason,) = found["dead"]
    assert reason.startswith("InvalidEvent: the payload at position 11 cannot be read: ")


@pytest.mark.parametrize("bomb", ["zlib", "zstd", "tight"])
def test_that_memory_would_be_seen(bomb: str, tmp_path: Path) -> None:
    """Control: where nothing is bounded, a sixteenth of that bomb takes more."""
    found: Any = run_trial("tests.faults.bombs", bomb, str(tmp_path), "unbounded", seconds=180)

    assert found["extra"] > ALLOWED_BYTES
