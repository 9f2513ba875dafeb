"""The power goes away at any moment: what was acknowledged is there, what was acked is over.

A recorder of all writes and syncs gives the files as any such moment could leave them.
"""

import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import anyio
import pytest

from eventbus import Context, EventBus, StoreError
from tests.faults.machine import demand
from tests.faults.power_cuts import FOLDER, RECORDER, Recording, Sync, Tear, record
from tests.faults.power_user import listen_all, listen_once
from tests.faults.scale import full

RECORDINGS = full(10, small=1)
IMAGES = full(500, small=50)  # of each recording
FEW = 24  # of a control
RATES = (0.0, 0.5, 0.9)
TEARS: tuple[Tear, ...] = ("writes", "sectors")

pytestmark = pytest.mark.timeout(3600)  # seconds, in full

Record = Callable[[str], Recording]


class Found(NamedTuple):
    """What is in a store, after it was opened again, and what it delivered."""

    log: set[str]
    once: set[str]
    all: set[str]


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    """Keep what is told of deliveries that come again out of the way."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def recorded(tmp_path: Path) -> Record:
    """Give what records a program on a store of some durability."""
    demand(
        is_met=RECORDER is not None, missing="strace is missing: install the package of that name"
    )

    def run(durability: str) -> Recording:
        folder = tmp_path / f"recorded-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        store, words = folder / "events.db", folder.with_suffix(".words")
        command = [sys.executable, "-m", "tests.faults.power_user"]
        command += [str(store), str(words), durability]
        return record(command, store, words, folder.with_suffix(".trace"))

    return run


async def open_again(store: Path) -> Found:
    """Start a bus on what is left, and handle what it delivers.

    Raises:
        StoreError: It cannot be used as it is.
    """
    found = Found(set(), set(), set())
    bus = EventBus(f"sqlite:///{store}")
    listen_once(bus, found.once.add)
    listen_all(bus, found.all.add)

    @bus.on("work.*", start="first")
    async def read(event: dict[str, int], context: Context[Any]) -> None:
        found.log.add(context.message.id)

    async with bus:
        await bus.join()
    return found


def moments(
    recording: Recording, seed: int, many: int
) -> Iterator[tuple[int, float, Tear, Random]]:
    """Give moments to cut at, and how; alike in every run on the same recording."""
    chance = Random(seed)
    for _ in range(many):
        moment = chance.randint(1, len(recording.steps))
        yield moment, chance.choice(RATES), chance.choice(TEARS), chance


def what_is_wrong(recording: Recording, moment: int, found: Found) -> str:
    """Hold what was found against what had been said; empty if all is well."""
    stored = recording.words_until(moment, "stored")
    begun = recording.words_until(moment, "begun")
    handled = recording.words_until(moment, "handled")
    if lost := stored - found.log:
        return f"{len(lost)} of {len(stored)} acknowledged are lost"
    if again := begun & found.once:
        return f"{len(again)} of {len(begun)} acked are delivered again"
    if unhandled := stored - handled - found.all:
        return f"{len(unhandled)} are never handled"
    return ""


def flaws(recording: Recording, folder: Path, *, seed: int = 0, many: int = FEW) -> list[str]:
    """Cut the power at many moments; tell what is wrong with what is left."""
    told: list[str] = []
    for number, (moment, rate, tear, chance) in enumerate(moments(recording, seed, many)):
        image = folder / f"image-{number}"
        image.mkdir()
        for name, content in recording.image(moment, rate, tear, chance).items():
            (image / name).write_bytes(content)
        try:
            flaw = what_is_wrong(recording, moment, anyio.run(open_again, image / "events.db"))
        except StoreError as error:
            flaw = str(error)
        shutil.rmtree(image)
        if flaw:
            told.append(f"after step {moment}, {rate} of unsynced {tear} dropped: {flaw}")
    return told


def test_a_power_cut_loses_nothing_that_was_acknowledged(recorded: Record, tmp_path: Path) -> None:
    """Nor does what was acked urgently come again, and all that is stored is handled."""
    for seed in range(RECORDINGS):
        recording = recorded("full")

        assert len(recording.words_until(len(recording.steps), "begun")) > 50
        assert flaws(recording, tmp_path, seed=seed, many=IMAGES) == []


def test_that_a_loss_would_be_seen(recorded: Record, tmp_path: Path) -> None:
    """Control: without a sync of each commit, much that was acknowledged, or acked, is not so."""
    told = flaws(recorded("normal"), tmp_path)

    assert len(told) > FEW // 4
    assert any("are lost" in flaw for flaw in told)
    assert any("are delivered again" in flaw for flaw in told)


def test_that_a_lost_file_would_be_seen(recorded: Record, tmp_path: Path) -> None:
    """Control: without syncs of the folder, a file that is new may not be there."""
    recording = recorded("full")
    steps = [one for one in recording.steps if not (isinstance(one, Sync) and one.file == FOLDER)]

    assert len(flaws(Recording(steps), tmp_path)) > FEW // 4
