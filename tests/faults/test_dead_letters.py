"""Dead letters are safe, whatever becomes of who listens to them."""

from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import anyio
import pytest
from pydantic import BaseModel

from eventbus import Context, EventBus, FailedDelivery, Topic
from eventbus.message import LaterDelivery
from eventbus.middleware import DeadLetter, Retry
from eventbus.queue import DeliveryQueue
from eventbus.testing import ManualClock
from eventbus.transports.dead_letters import DeadLetters
from tests.faults.stepping import turns

JOBS = Topic("jobs", int)
NUMBER = 5
ATTEMPTS = 2
PLACES = 1  # in the queue of who listens and stands still

Listen = Callable[["Shop"], object]


class Refused(BaseModel):
    name: str


class Shop:
    """A bus whose handler fails until it is mended."""

    def __init__(self, clock: ManualClock, listen: Listen) -> None:
        retry = Retry(ATTEMPTS, initial=1.0, jitter=False)
        self.bus = EventBus(clock=clock, middleware=[DeadLetter(), retry])
        self.is_broken = True
        self.mended = anyio.Event()
        self.opened = anyio.Event()
        self.tried: Counter[int] = Counter()  # attempts at the job itself
        self.heard: Counter[int] = Counter()  # attempts to look at its dead letter
        self.ids: list[str] = []
        self.patterns = ["jobs"]
        listen(self)
        self.bus.on(*self.patterns, model=int, name="jobs", queue_size=NUMBER)(self.work)

    async def work(self, job: int, context: Context[int]) -> None:
        """Do a job, or look at a dead letter, and fail while broken."""
        (self.tried if context.failure is None else self.heard)[job] += 1
        if self.is_broken:
            raise ConnectionError(f"job {job}, attempt {context.attempt}")
        await self.opened.wait()

    async def stand_still(self, job: int) -> None:
        """Look at a dead letter until all is mended."""
        self.heard[job] += 1
        await self.mended.wait()

    def mend(self) -> None:
        """Let all succeed from now on."""
        self.is_broken = False
        self.mended.set()


def listen_standing_still(shop: Shop) -> None:
    """Have somebody listen whose queue is full."""
    shop.bus.on("$dlq.jobs", model=int, name="full", queue_size=PLACES)(shop.stand_still)


def listen_refusing(shop: Shop) -> None:
    """Have somebody listen who takes another model."""
    shop.bus.on("$dlq.jobs", model=Refused, name="refusing")(Mock())


LISTENERS: dict[str, Listen] = {
    "nobody": lambda _: None,
    "full": listen_standing_still,
    "refusing": listen_refusing,
    "failing": lambda shop: shop.bus.on("$dlq.>", model=int, name="failing")(shop.work),
    "itself": lambda shop: shop.patterns.append("$dlq.jobs"),
}


async def fail_all(shop: Shop, clock: ManualClock) -> list[FailedDelivery]:
    """Let every job fail for good; give the dead letters, in the order of the jobs' ids."""
    for job in range(NUMBER):
        shop.ids.append((await shop.bus.publish(JOBS, job)).id)
    for _ in range(20):  # far longer than all attempts take
        await clock.advance(1.0)
    return sorted(await shop.bus.dead_letters(), key=lambda letter: letter.message.id)


def all_are_kept_once(shop: Shop, letters: list[FailedDelivery]) -> None:
    """Hold dead letters against the jobs: each is there, says what happened, and made no others."""
    assert [letter.message.id for letter in letters] == shop.ids
    for job, letter in enumerate(letters):
        assert letter.error == f"job {job}, attempt {ATTEMPTS}"
        assert (letter.error_type, letter.attempts) == ("ConnectionError", ATTEMPTS)
        assert (letter.subscription, letter.message.topic) == ("jobs", "jobs")
    assert shop.tried == dict.fromkeys(range(NUMBER), ATTEMPTS)
    assert all(number <= ATTEMPTS for number in shop.heard.values())
    stats = shop.bus.stats()
    assert (stats.published, stats.dead_lettered) == (NUMBER, NUMBER)
    if "full" in stats.subscriptions:
        assert stats.subscriptions["full"].dropped == NUMBER - 1 - PLACES


async def redrive_twice(shop: Shop) -> None:
    """Send all again, in two tasks that wait for room: each job goes once, and then no more."""
    sent: list[int] = []

    async def redrive() -> None:
        sent.append(await shop.bus.redrive("jobs"))

    shop.mend()
    for other in range(NUMBER, 2 * NUMBER + 1):  # one that runs, and as many as the queue holds
        await shop.bus.publish(JOBS, other)
        await turns()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(redrive)
        tasks.start_soon(redrive)
        await turns()
        shop.opened.set()
    await shop.bus.join()
    assert sum(sent) == NUMBER
    assert all(shop.tried[job] == ATTEMPTS + 1 for job in range(NUMBER))
    assert await shop.bus.redrive() == 0
    assert await shop.bus.dead_letters() == []


async def live(clock: ManualClock, listener: str) -> None:
    """Let all fail, be kept, be mended and be sent again."""
    shop = Shop(clock, LISTENERS[listener])
    async with shop.bus:
        all_are_kept_once(shop, await fail_all(shop, clock))
        await redrive_twice(shop)


@pytest.mark.parametrize("listener", LISTENERS)
async def test_dead_letters_are_kept_and_sent_again_once(clock: ManualClock, listener: str) -> None:
    """Where nobody listens, who does is full, refuses, fails, or is the handler that failed."""
    await live(clock, listener)


@pytest.mark.parametrize(
    ("listener", "owner", "protection", "without"),
    [
        ("failing", LaterDelivery, "failure", property(Mock(return_value=None), Mock())),
        ("itself", LaterDelivery, "failure", property(Mock(return_value=None), Mock())),
        ("full", DeliveryQueue, "has_room_for", Mock(return_value=True)),
        ("nobody", DeadLetters, "claim", Mock(return_value=True)),
    ],
)
async def test_control_without_its_protection_they_are_not(
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    listener: str,
    owner: type,
    protection: str,
    without: Any,
) -> None:
    """Copies that look like jobs make further dead letters; unclaimed ones are sent twice."""
    monkeypatch.setattr(owner, protection, without)
    with pytest.raises(AssertionError):
        await live(clock, listener)
