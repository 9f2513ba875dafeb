"""A great many messages that are to go out later, some of them cancelled."""

import gc
import sys
from array import array
from collections.abc import Iterator
from unittest.mock import Mock

import anyio
import pytest

from eventbus import EventBus, Topic
from eventbus.schedule import Schedule
from eventbus.testing import ManualClock
from tests.faults.scale import full

MESSAGES = full(1_000_000, small=20_000)
A_FEW = 1_000
SECONDS = 3_600
SHUFFLE = 7_919  # a prime: what is due comes in no order
EACH_TENTH = 10  # is cancelled
BLOCKS_EACH = 14  # of memory: the message, its envelope and its timer take twelve

BELLS = Topic("bells", int)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Give both loops, asyncio without its debug mode: with it all takes several times as long."""
    name: str = request.param
    return name


def second_of(number: int) -> int:
    """Tell when a message is due."""
    return 1 + number * SHUFFLE % SECONDS


def due(messages: int) -> Iterator[int]:
    """Tell which messages go out, in the order they are due and then published."""
    kept = (number for number in range(messages) if number % EACH_TENTH)
    return iter(sorted(kept, key=second_of))


async def ring(clock: ManualClock, messages: int, *, blocks_each: int = BLOCKS_EACH) -> None:
    """Schedule so many, cancel some, let their time come; hold what is heard against all that."""
    heard: array[int] = array("q")
    bus = EventBus(clock=clock)

    @bus.on(BELLS)
    async def hear(number: int) -> None:
        heard.append(number)

    async with bus:
        gc.collect()
        tasks, blocks = len(anyio.get_running_tasks()), sys.getallocatedblocks()
        receipts = [
            await bus.publish(BELLS, number, delay=float(second_of(number)))
            for number in range(messages)
        ]
        assert len(anyio.get_running_tasks()) == tasks
        assert sys.getallocatedblocks() - blocks < blocks_each * messages
        assert all(receipt.cancel() for receipt in receipts[::EACH_TENTH])
        await clock.advance(SECONDS + 1.0)
        await bus.join()
    assert heard == array("q", due(messages))


@pytest.mark.timeout(full(3_600, small=120))
async def test_each_goes_out_once_when_it_is_due(clock: ManualClock) -> None:
    """None is lost, late or doubled; none has a task, and each keeps little memory."""
    await ring(clock, MESSAGES)


async def test_control_what_cannot_be_cancelled_is_heard(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only seems to be cancelled goes out."""
    monkeypatch.setattr(Schedule, "remove", Mock(return_value=True))
    with pytest.raises(AssertionError):
        await ring(clock, A_FEW)


async def test_control_more_memory_is_noticed(clock: ManualClock) -> None:
    """The bound is not far above what is kept."""
    with pytest.raises(AssertionError):
        await ring(clock, A_FEW, blocks_each=BLOCKS_EACH // 2)
