"""Room on the disk that a store holds in reserve."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from eventbus.bus_logger import BusLogger
from eventbus.transports.sqlite import reserve
from eventbus.transports.sqlite.clerks import Change, Writer
from eventbus.transports.sqlite.reserve import MOST_BYTES, Reserve
from eventbus.transports.sqlite.settings import Settings

KIB = 1024

Disk: TypeAlias = Callable[[int], None]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give the sizes that a file in reserve was given."""
    sizes: list[int] = []

    def fill(_: object, size: int) -> None:
        sizes.append(size)

    monkeypatch.setattr(reserve, "_fill", fill)
    return sizes


@pytest.fixture
def leave(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Give what says how many bytes of the disk are free."""

    def say(free: int) -> None:
        def free_bytes(_: object) -> int:
            return free

        monkeypatch.setattr(reserve, "_free_bytes", free_bytes)

    return say


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Reserve]:
    """Give a reserve that holds nothing yet."""
    one = Reserve(tmp_path / "events.db")
    yield one
    one.close()


def test_it_is_half_of_the_room_and_grows_with_it(
    held: Reserve, leave: Disk, taken: list[int]
) -> None:
    """What it holds counts as room; when there is less, it stays."""
    for free in (0, 64 * KIB, 32 * KIB, 0, 96 * KIB):
        leave(free)
        held.take()

    assert taken == [32 * KIB, 64 * KIB]


def test_it_is_bounded(held: Reserve, leave: Disk, taken: list[int]) -> None:
    """However large the disk."""
    leave(100 * MOST_BYTES)
    held.take()
    held.take()

    assert taken == [MOST_BYTES]


def test_it_is_taken_again_as_large_as_it_was(held: Reserve, leave: Disk, taken: list[int]) -> None:
    """If there is so much: half of what is free now would be less each time."""
    leave(64 * KIB)
    held.take()
    assert held.give_up()
    leave(40 * KIB)
    held.take()

    assert taken == [32 * KIB, 32 * KIB]
    assert not held.is_used


def test_a_writer_at_rest_takes_more(tmp_path: Path, leave: Disk, taken: list[int]) -> None:
    """There may be more room than when the store was opened."""
    leave(64 * KIB)
    writer = Writer(Settings.of_url(f"sqlite:///{tmp_path / 'events.db'}"), BusLogger())
    writer.serve([Change(lambda connection: None)])
    leave(96 * KIB)
    while writer.idle() is not None:
        pass
    writer.close()

    assert taken == [32 * KIB, 64 * KIB]
