"""Which bus a line of the log is about."""

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import pytest

from eventbus import EventBus
from eventbus.bus_logger import BusLogger
from eventbus.middleware import CircuitBreaker, DeadLetter, Log

Opened: TypeAlias = Callable[..., EventBus]


async def lines_of(bus: EventBus, caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Let a handler fail; give what is logged, as the field `bus` and the line."""
    caplog.set_level(logging.INFO, "eventbus")

    @bus.on("work", name="worker", middleware=[DeadLetter(), Log(), CircuitBreaker(failures=1)])
    async def fail(event: object) -> None:
        raise ValueError

    async with bus:
        await bus.publish("work", {})
        await bus.join()
    return [
        (vars(record)["bus"], record.getMessage())
        for record in caplog.records
        if hasattr(record, "bus")
    ]


async def test_lines_of_a_named_bus_begin_with_its_name(caplog: pytest.LogCaptureFixture) -> None:
    """And have it as a field, for handlers that filter."""
    lines = await lines_of(EventBus(name="100% shop"), caplog)

    assert len(lines) == 3
    assert {field for field, _ in lines} == {"100% shop"}
    assert all(line.startswith("100% shop: ") for line in caplog.messages)


async def test_lines_of_a_bus_without_a_name_stay_short(caplog: pytest.LogCaptureFixture) -> None:
    """Where there is one bus, nobody asks which."""
    lines = await lines_of(EventBus(), caplog)

    assert {field for field, _ in lines} == {"eventbus"}
    assert any(line.startswith("worker gives up ") for line in caplog.messages)


def test_other_fields_stay(caplog: pytest.LogCaptureFixture) -> None:
    """Who logs may add fields of its own."""
    BusLogger("shop").warning("%s", "late", extra={"topic": "orders"})

    (record,) = caplog.records
    assert (vars(record)["bus"], vars(record)["topic"]) == ("shop", "orders")


async def test_what_a_store_logs_is_said_by_its_bus(
    opened: Opened, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In its threads, too: of a record that is damaged, say."""
    async with opened() as bus:
        await bus.publish_many("work", [{}, {}, {}])
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("UPDATE log SET payload = '[]' WHERE position = 2")
    for name in ("100% shop", None):
        bus = opened("?damaged=quarantine", name=name)
        async with bus, bus.subscribe("work", start="first") as events:
            assert [await anext(events), await anext(events)] == [{}, {}]

    told = ": restore the store from a copy if you have one"
    damaged = f"the record at position 2 is damaged, and left out{told}"
    assert [(vars(one)["bus"], one.getMessage()) for one in caplog.records] == [
        ("100% shop", f"100% shop: {damaged}"),
        ("eventbus", damaged),
    ]
