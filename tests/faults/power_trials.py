"""A program on a store is recorded, the power cut, and what is left held against what it said."""

__all__ = ("HARSH", "Cut", "cuts", "end_of", "flaws", "record_use")

import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import anyio

from eventbus import Context, EventBus, StoreError
from tests.faults.machine import demand
from tests.faults.power_cuts import RECORDER, Recording, Tear, record
from tests.faults.power_user import listen_all, listen_once

RATES = (0.0, 0.5, 0.9)
HARSH = (0.9,)
TEARS: tuple[Tear, ...] = ("writes", "sectors")


def record_use(folder: Path, *how: str, fault: str = "") -> Recording:
    """Record the program on a store in a new folder: of a durability, or one of its controls."""
    missing = "strace is missing: install the package of that name"
    demand(is_met=RECORDER is not None, missing=missing)
    home = folder / f"recorded-{len(list(folder.iterdir()))}"
    home.mkdir()
    store, words = home / "events.db", home.with_suffix(".words")
    command = [sys.executable, "-m", "tests.faults.power_user", str(store), str(words), *how]
    return record(command, store, words, home.with_suffix(".trace"), fault=fault)


class Cut(NamedTuple):
    """After how many steps the power goes away, and what it takes of what is not safe."""

    moment: int
    rate: float
    tear: Tear
    chance: Random


def cuts(
    recording: Recording,
    many: int,
    *,
    seed: int = 0,
    after: int = 1,
    rates: tuple[float, ...] = RATES,
) -> Iterator[Cut]:
    """Give cuts by chance; alike in every run on the same recording."""
    chance = Random(seed)
    for _ in range(many):
        moment = chance.randint(after, len(recording.steps))
        yield Cut(moment, chance.choice(rates), chance.choice(TEARS), chance)


def end_of(recording: Recording) -> Cut:
    """Give the moment when the program has ended, and nothing is lost of what it has written."""
    return Cut(len(recording.steps), 0.0, "writes", Random())


def flaws(recording: Recording, folder: Path, cuts: Iterable[Cut]) -> list[str]:
    """Cut the power at many moments; tell what is wrong with what is left."""
    told: list[str] = []
    for number, cut in enumerate(cuts):
        image = folder / f"image-{number}"
        image.mkdir()
        for name, content in recording.image(*cut).items():
            (image / name).write_bytes(content)
        try:
            found = anyio.run(_open_again, image / "events.db")
            flaw = _what_is_wrong(recording, cut.moment, found)
        except StoreError as error:
            flaw = str(error)
        shutil.rmtree(image)
        if flaw:
            where = f"after step {cut.moment}, {cut.rate} of unsynced {cut.tear} dropped"
            told.append(f"{where}: {flaw}")
    return told


class _Found(NamedTuple):
    """What is in a store, after it was opened again, and what it delivered."""

    log: set[str]
    once: set[str]
    all: set[str]


async def _open_again(store: Path) -> _Found:
    """Start a bus on what is left, and handle what it delivers.

    Raises:
        StoreError: It cannot be used as it is.
    """
    found = _Found(set(), set(), set())
    bus = EventBus(f"sqlite:///{store}")
    listen_once(bus, found.once.add)
    listen_all(bus, found.all.add)

    @bus.on("work.*", start="first")
    async def read(event: dict[str, int], context: Context[Any]) -> None:
        found.log.add(context.message.id)

    async with bus:
        await bus.join()
    return found


def _what_is_wrong(recording: Recording, moment: int, found: _Found) -> str:
    """Hold what was found against what had been said; empty if all is well."""
    told: list[str] = []
    stored = recording.words_until(moment, "stored")
    begun = recording.words_until(moment, "begun")
    handled = recording.words_until(moment, "handled")
    if lost := stored - found.log:
        told.append(f"{len(lost)} of {len(stored)} acknowledged are lost")
    if again := begun & found.once:
        told.append(f"{len(again)} of {len(begun)} acked are delivered again")
    if unhandled := stored - handled - found.all:
        told.append(f"{len(unhandled)} are never handled")
    return ", ".join(told)
