"""A disk that cannot write, or not sync: who published is told, and nothing acknowledged is lost.

The system refuses the k-th call, and then the power goes away, too. What a failed sync was to make
safe no later one makes so: nobody may rely on it.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.power_cuts import Close, Entry, Failure, Recording, Sync, Word, Write
from tests.faults.power_trials import cuts, end_of, flaws, record_use
from tests.faults.scale import full

EACH = [str(k) for k in range(1, 201)]
FAILING = {  # the k-th of them, or each seventh of some
    "fdatasync": full(EACH, small=["8", "15", "30", "40..75+7"]),
    "pwrite64": full(EACH, small=["100", "140..300+29"]),
}
OFTEN = "fdatasync:error=EIO:when=20..60+2"
HEADER = slice(18, 20)  # of a file of SQLite: the versions of the format for who writes and reads
LOGS_AHEAD = b"\2\2"

pytestmark = pytest.mark.timeout(3600)  # seconds, in full


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    """Keep what is told of deliveries that come again out of the way."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def refusals(recording: Recording) -> int:
    """Count how often the program was told that the store had failed."""
    return [step.text for step in recording.steps if isinstance(step, Word)].count("refused")


def used_again(recording: Recording) -> int:
    """Count writes to SQLite's log after a commit that failed, by who had not closed it since."""
    logs = {one.file for one in recording.steps if isinstance(one, Entry) and "-wal" in one.name}
    unsynced: set[int] = set()
    failed: set[int] = set()
    times = 0
    for step in recording.steps:
        match step:
            case Write(file=log) if log in logs:
                times += log in failed
                unsynced.add(log)
            case Failure(file=log, call=call) if log in logs:
                if call == "pwrite64" or log in unsynced:  # else it was no commit's
                    failed.add(log)
            case Sync(file=log):
                unsynced.discard(log)
            case Close(file=log):
                failed.discard(log)
            case _:
                pass
    return times


def first_failure(recording: Recording) -> int:
    """Tell after how many steps the first call failed; those on some files are no steps."""
    failures = [n for n, step in enumerate(recording.steps, 1) if isinstance(step, Failure)]
    return min(failures, default=1)


@pytest.mark.parametrize("call", FAILING)
def test_nothing_is_lost_where_a_disk_fails(call: str, tmp_path: Path) -> None:
    """Whatever fails: who published is told, it goes on, and what was acknowledged is there."""
    times_refused = 0
    for seed, which in enumerate(FAILING[call]):
        recording = record_use(tmp_path, "full", fault=f"{call}:error=EIO:when={which}")
        end = end_of(recording)
        shortly_after = cuts(recording, 1, seed=seed, after=first_failure(recording))
        times_refused += refusals(recording)

        assert flaws(recording, tmp_path, [end, *shortly_after]) == [], which
        assert used_again(recording) == 0, which
        if recording.words_until(end.moment, "stored"):
            assert recording.image(*end)["events.db"][HEADER] == LOGS_AHEAD, which
    assert times_refused > 0


def test_that_a_loss_would_be_seen(tmp_path: Path) -> None:
    """Control: publishers that are told before the commit lose what they were told is stored."""
    recording = record_use(tmp_path, "full", "hasty", fault=OFTEN)

    (flaw,) = flaws(recording, tmp_path, [end_of(recording)])
    assert "acknowledged are lost" in flaw


def test_that_a_connection_used_again_would_be_seen(tmp_path: Path) -> None:
    """Control: where the writer keeps it after an error."""
    assert used_again(record_use(tmp_path, "full", "clinging", fault=OFTEN)) > 0
