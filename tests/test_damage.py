"""`damaged=quarantine`: what is damaged or missing is told, left out, and holds up nobody."""

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeAlias

import anyio
import pytest

from eventbus import Context, EventBus, InvalidOption, StoreCorrupt
from eventbus.middleware import DeadLetter
from eventbus.testing import ManualClock
from tests.shell import Shell

Opened: TypeAlias = Callable[..., EventBus]

NOTHING: dict[str, int] = {}
QUARANTINE = "?damaged=quarantine"
DAMAGE = (
    "UPDATE log SET payload = '{}' WHERE position = 2",
    "UPDATE log SET topic = CAST(x'ff' AS TEXT) WHERE position = 5",
    "DELETE FROM log WHERE position IN (3, 7, 8)",
)
TOLD = [
    "the record at position 2 is damaged",
    "the record at position 3 is missing",
    "the record at position 5 is damaged",
    "the records at positions 7 to 8 are missing",
]
SOUND = [1, 4, 6, 9]


def change(store: Path, *statements: str) -> None:
    """Do what a disk might have done."""
    with closing(sqlite3.connect(store)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Give what was told to be left out."""
    said = [record.getMessage() for record in caplog.records]
    return sorted(text.partition(", and left out")[0] for text in said if "left out" in text)


async def fill_and_damage(opened: Opened, store: Path) -> None:
    """Publish nine events, and damage some of them; the last stays whole."""
    async with opened() as bus:
        await bus.publish_many("numbers", [{"n": n} for n in range(1, 10)])
    change(store, *DAMAGE)


async def heard(bus: EventBus, name: str | None = None) -> list[int | None]:
    """Give the positions that a handler is given."""
    positions: list[int | None] = []

    @bus.on("numbers", name=name, start="first")
    async def hear(event: object, context: Context[object]) -> None:
        positions.append(context.message.position)

    async with bus:
        await bus.join()
    return positions


@pytest.mark.parametrize("name", [None, "audit"], ids=["live", "durable"])
async def test_handlers_are_given_what_is_sound(
    opened: Opened, store: Path, caplog: pytest.LogCaptureFixture, name: str | None
) -> None:
    """All the rest is told, once each, and stays where it is."""
    await fill_and_damage(opened, store)

    assert await heard(opened(QUARANTINE), name) == SOUND
    assert told(caplog) == TOLD
    with closing(sqlite3.connect(store)) as connection:
        assert connection.execute("SELECT count(*) FROM log").fetchone() == (6,)


@pytest.mark.parametrize("name", [None, "audit"], ids=["live", "durable"])
async def test_control_unless_it_is_asked_for_the_bus_stops(
    opened: Opened, store: Path, name: str | None
) -> None:
    """What stands in front of the damage is handled before."""
    await fill_and_damage(opened, store)
    bus, positions = opened(), list[int | None]()

    @bus.on("numbers", name=name, start="first")
    async def hear(event: object, context: Context[object]) -> None:
        positions.append(context.message.position)

    with pytest.raises(StoreCorrupt, match=r"position 2 is damaged.*damaged=quarantine"):
        async with bus:
            await anyio.sleep_forever()

    assert positions == [1]


async def test_the_bus_stops_by_one_error_however_many_come_upon_it(
    opened: Opened, store: Path
) -> None:
    """`except StoreCorrupt` catches it: it is in no group."""
    await fill_and_damage(opened, store)
    bus = opened()
    for _ in range(5):
        bus.on("numbers", start="first")(lambda event: None)
    with pytest.raises(StoreCorrupt, match="position 2 is damaged"):
        async with bus:
            await anyio.sleep_forever()


@pytest.mark.parametrize("position", [1, 2, 255, 256, 257, 300])
async def test_a_replay_gives_what_stands_before_the_damage(
    opened: Opened, store: Path, position: int
) -> None:
    """Wherever in a page that is; asked again, it says the same again."""
    async with opened() as bus:
        await bus.publish_many("numbers", [NOTHING] * 300)
    change(store, f"UPDATE log SET key = 'x' WHERE position = {position}")
    given: list[int | None] = []
    async with opened() as bus:
        replay = bus.replay("numbers")
        for _ in range(2):
            with pytest.raises(StoreCorrupt, match=f"position {position} is damaged"):
                given += [context.message.position async for context in replay]
            given += [replay.progress.position]

    assert given == [position - 1, position - 1]


async def test_a_page_of_nothing_but_damage_is_no_end(opened: Opened, store: Path) -> None:
    """What is behind it is given."""
    async with opened() as bus:
        for _ in range(3):
            await bus.publish_many("numbers", [NOTHING] * 300)
    change(store, "UPDATE log SET key = 'x' WHERE position BETWEEN 200 AND 800")

    assert await heard(opened(QUARANTINE)) == [*range(1, 200), *range(801, 901)]


@pytest.mark.parametrize("last_per_key", [False, True])
async def test_replay_gives_what_is_sound(
    opened: Opened, store: Path, caplog: pytest.LogCaptureFixture, *, last_per_key: bool
) -> None:
    """As handlers are given it."""
    await fill_and_damage(opened, store)
    async with opened(QUARANTINE) as bus:
        replay = bus.replay("numbers", last_per_key=last_per_key)

        assert [context.message.position async for context in replay] == SOUND
    assert told(caplog) == TOLD


async def test_a_replay_may_end_with_damage(opened: Opened, store: Path) -> None:
    """That is its end all the same."""
    async with opened() as bus:
        await bus.publish_many("numbers", [NOTHING] * 3)
    change(store, "UPDATE log SET key = 'x' WHERE position = 3")
    async with opened(QUARANTINE) as bus:
        assert [one.message.position async for one in bus.replay("numbers")] == [1, 2]


async def test_what_is_damaged_while_it_waits_is_lost(
    opened: Opened, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It was begun before: then it is counted, and does not come back again and again."""
    bus, begun = opened(), anyio.Event()

    @bus.on("numbers", name="audit")
    async def stop(event: object) -> None:
        begun.set()
        await anyio.sleep_forever()

    with suppress(TimeoutError):
        async with bus:
            await bus.publish_many("numbers", [NOTHING] * 3)
            await begun.wait()
            raise TimeoutError
    change(store, "UPDATE log SET key = 'x' WHERE position = 2")
    again = opened(QUARANTINE)

    assert await heard(again, name="audit") == [1, 3]
    assert again.stats().subscriptions["audit"].lost == 1
    assert told(caplog) == ["the record at position 2 is damaged"]


async def test_dead_letters_are_listed_but_for_damaged_ones(
    opened: Opened, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However many of them there are beside one another."""
    bus = opened()

    @bus.on("numbers", name="audit", middleware=[DeadLetter()])
    async def fail(event: object) -> None:
        raise ValueError

    async with bus:
        await bus.publish_many("numbers", [NOTHING] * 6)
        await bus.join()
    change(store, "UPDATE dead_letter SET key = 'x' WHERE number BETWEEN 2 AND 5")

    letters = await opened(QUARANTINE).dead_letters(limit=2)

    assert [letter.message.position for letter in letters] == [6, 1]
    assert told(caplog) == [f"the dead letter number {number} is damaged" for number in range(2, 6)]


async def test_a_damaged_message_for_later_never_goes_out(
    opened: Opened, clock: ManualClock, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Others do, and it is told once."""
    async with opened(clock=clock) as bus:
        await bus.publish("numbers", {}, id="hurt", delay=1)
        await bus.publish("numbers", {}, id="whole", delay=2)
    change(store, "UPDATE scheduled SET topic = 'other' WHERE id = 'hurt'")
    ids: list[str] = []
    bus = opened(QUARANTINE, clock=clock)

    @bus.on("numbers")
    async def hear(event: object, context: Context[object]) -> None:
        ids.append(context.message.id)

    async with bus:
        while not ids:
            await clock.advance(0.5)

    assert ids == ["whole"]
    assert told(caplog) == ["the scheduled message 'hurt' is damaged"]


def test_what_is_sound_can_be_moved_to_another_store(tmp_path: Path) -> None:
    """By the commands that do it with a sound one."""
    hurt, new = (Shell(f"sqlite:///{tmp_path / name}") for name in ("hurt.db", "new.db"))
    hurt("publish", "numbers", typed="\n".join(map(str, range(1, 10))))
    change(tmp_path / "hurt.db", *DAMAGE)
    new("import", typed=Shell(f"{hurt.url}{QUARANTINE}")("export").output)

    assert [one["payload"] for one in new("export").json] == SOUND
    assert new("verify").output == "4 records and 0 dead letters are sound\n"


def test_another_word_is_refused() -> None:
    """With those there are."""
    with pytest.raises(InvalidOption, match="'stop' or 'quarantine'"):
        EventBus("sqlite:///events.db?damaged=skip")
