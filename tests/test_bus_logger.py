"""Which bus a line of the log is about."""

import logging

import pytest

from eventbus import EventBus
from eventbus.bus_logger import BusLogger
from eventbus.middleware import CircuitBreaker, DeadLetter, Log


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

    assert len(lines) == 2
    assert {field for field, _ in lines} == {"100% shop"}
    assert all(line.startswith("100% shop: ") for line in caplog.messages)


async def test_lines_of_a_bus_without_a_name_stay_short(caplog: pytest.LogCaptureFixture) -> None:
    """Where there is one bus, nobody asks which."""
    lines = await lines_of(EventBus(), caplog)

    assert ("eventbus", lines[-1][1]) == lines[-1]
    assert any(line.startswith("worker gives up ") for line in caplog.messages)


def test_other_fields_stay(caplog: pytest.LogCaptureFixture) -> None:
    """Who logs may add fields of its own."""
    BusLogger("shop").warning("%s", "late", extra={"topic": "orders"})

    (record,) = caplog.records
    assert (vars(record)["bus"], vars(record)["topic"]) == ("shop", "orders")
