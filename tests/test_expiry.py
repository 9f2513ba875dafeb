"""Messages that are worth something for a while only."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import anyio
import pytest

from eventbus import Context, EventBus, Message, Receipt
from eventbus.middleware import DeadLetter, PublishNext, Retry
from eventbus.testing import ManualClock

Payload: TypeAlias = Mapping[str, int]


class Gate:
    """A handler that holds up its first event until it is opened, and notes all."""

    def __init__(self) -> None:
        self.opened = anyio.Event()
        self.begun: list[int] = []

    async def __call__(self, event: Payload) -> None:
        self.begun.append(event["n"])
        await self.opened.wait()


@pytest.mark.parametrize("expires", [5.0, 5, timedelta(seconds=5)])
async def test_what_expires_in_the_queue_is_left_out(
    clock: ManualClock, expires: float | timedelta
) -> None:
    """It is counted `expired`: no attempt, no failure, no dead letter; the others go on."""
    bus, gate = EventBus(clock=clock, middleware=[DeadLetter()]), Gate()
    bus.on("news", name="news")(gate)
    async with bus:
        await bus.publish("news", {"n": 1})
        await bus.publish("news", {"n": 2}, expires=expires)
        await bus.publish("news", {"n": 3})
        await bus.publish("news", {"n": 4}, expires=60)
        await clock.advance(5.0)
        gate.opened.set()

    stats = bus.stats()
    assert gate.begun == [1, 3, 4]
    assert (stats.expired, stats.subscriptions["news"].expired) == (1, 1)
    assert (stats.delivered, stats.succeeded, stats.failed, stats.filtered) == (3, 3, 0, 0)
    assert (stats.dead_lettered, stats.lost, stats.abandoned) == (0, 0, 0)
    assert stats.published == 4


async def test_what_begins_in_time_may_take_longer(clock: ManualClock) -> None:
    """Only the beginning of an attempt is held against the time."""
    bus, gate = EventBus(clock=clock), Gate()
    bus.on("news")(gate)
    async with bus:
        await bus.publish("news", {"n": 1}, expires=5.0)
        await clock.advance(60.0)
        gate.opened.set()

    assert (bus.stats().succeeded, bus.stats().expired) == (1, 0)


async def test_a_retry_that_comes_too_late_is_left_out(clock: ManualClock) -> None:
    """The attempt failed; the one after it never was."""
    retry = Retry(attempts=5, initial=10.0, jitter=False)
    bus = EventBus(clock=clock, middleware=[DeadLetter(), retry])
    attempts: list[int] = []

    @bus.on("news")
    async def read(event: Payload, context: Context[Payload]) -> None:
        attempts.append(context.attempt)
        raise RuntimeError("illegible")

    async with bus:
        await bus.publish("news", {"n": 1}, expires=15.0)
        await clock.advance(100.0)
        await bus.join()
        letters = await bus.dead_letters()

    stats = bus.stats()
    assert (attempts, letters) == ([1, 2], [])
    assert (stats.failed, stats.retried, stats.expired) == (2, 2, 1)


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_the_next_of_its_key_follows_what_expired(
    clock: ManualClock, concurrency: int
) -> None:
    """An expired retry gives up its lane, so that who waits behind it goes on."""
    retry = Retry(attempts=5, initial=10.0, jitter=False)
    bus = EventBus(clock=clock, middleware=[retry])
    heard: list[int] = []

    @bus.on("news", concurrency=concurrency)
    async def read(event: Payload, context: Context[Payload]) -> None:
        if event["n"] == 1:
            raise RuntimeError("illegible")
        heard.append(event["n"])

    async with bus:
        await bus.publish("news", {"n": 1}, key="a", expires=5.0)
        await bus.publish("news", {"n": 2}, key="a")
        await bus.publish("news", {"n": 3}, key="b")
        await clock.advance(20.0)

    assert heard == [3, 2]
    assert (bus.stats().expired, bus.stats().succeeded) == (1, 2)


async def test_held_retries_expire_too(clock: ManualClock) -> None:
    """And the lane behind them is free again."""
    retry = Retry(attempts=5, initial=10.0, jitter=False, hold=True)
    bus, heard = EventBus(clock=clock, middleware=[retry]), list[int]()

    @bus.on("news")
    async def read(event: Payload) -> None:
        if event["n"] == 1:
            raise RuntimeError("illegible")
        heard.append(event["n"])

    async with bus:
        await bus.publish("news", {"n": 1}, expires=5.0)
        await bus.publish("news", {"n": 2})
        await clock.advance(20.0)

    assert heard == [2]
    assert bus.stats().expired == 1


async def test_expiring_counts_from_when_a_message_is_due(clock: ManualClock) -> None:
    """A delayed one is worth something for as long as one that was not."""
    bus, gate = EventBus(clock=clock), Gate()
    times: list[datetime | None] = []

    @bus.on("news")
    async def read(event: Payload, context: Context[Payload]) -> None:
        times.append(context.message.expires_at)
        await gate(event)

    async with bus:
        begin = datetime.fromtimestamp(clock.now(), UTC)
        await bus.publish("news", {"n": 1}, expires=5.0)
        await bus.publish("news", {"n": 2}, delay=60.0, expires=5.0)
        await bus.publish("news", {"n": 3}, delay=60.0, expires=1.0)
        await clock.advance(62.0)
        gate.opened.set()

    assert gate.begun == [1, 2]
    assert times == [begin + timedelta(seconds=5), begin + timedelta(seconds=65)]
    assert bus.stats().expired == 1


async def test_a_message_without_an_end_says_so(clock: ManualClock) -> None:
    """Its `expires_at` is None, with other options or without."""
    bus, messages = EventBus(clock=clock), list[Message]()

    @bus.on("news")
    async def read(event: Payload, context: Context[Payload]) -> None:
        messages.append(context.message)

    async with bus:
        await bus.publish("news", {"n": 1})
        await bus.publish("news", {"n": 1}, key="k")

    assert [message.expires_at for message in messages] == [None, None]


async def test_replacing_keeps_the_end(clock: ManualClock) -> None:
    """What publish middleware passes on expires when the original would have."""

    async def add_key(message: Message, call_next: PublishNext) -> Receipt:
        return await call_next(message.replace(key="k"))

    bus = EventBus(clock=clock, publish_middleware=[add_key])
    seen: list[Message] = []

    @bus.on("news")
    async def read(event: Payload, context: Context[Payload]) -> None:
        seen.append(context.message)

    async with bus:
        await bus.publish("news", {"n": 1}, expires=5.0)

    assert seen[0].key == "k"
    assert seen[0].expires_at is not None
    assert seen[0].expires_at - seen[0].time == timedelta(seconds=5)


async def test_nowait_and_handlers_can_say_it_too(clock: ManualClock) -> None:
    """`publish_nowait` and both verbs of the context take `expires=`."""
    bus, gate = EventBus(clock=clock), Gate()
    bus.on("news")(gate)

    @bus.on("press")
    async def report(event: Payload, context: Context[Payload]) -> None:
        await context.publish("news", {"n": 3}, expires=5.0)
        context.publish_nowait("news", {"n": 4}, expires=5.0)

    async with bus:
        await bus.publish("news", {"n": 1})
        bus.publish_nowait("news", {"n": 2}, expires=5.0)
        await bus.publish("press", {"n": 0})
        await clock.advance(5.0)
        gate.opened.set()

    assert gate.begun == [1]
    assert bus.stats().expired == 3


async def test_the_first_that_may_expire_is_seen_though_others_run(clock: ManualClock) -> None:
    """A worker in the middle of what was queued looks from the next entry on."""
    bus, begun = EventBus(clock=clock), list[int]()

    @bus.on("news", overflow="drop_oldest", queue_size=3)
    async def read(event: Payload) -> None:
        begun.append(event["n"])
        if event["n"] == 0:
            for number in (10, 11, 12):  # instead of those the burst began with
                await bus.publish("news", {"n": number}, expires=1.0)
            await clock.sleep(2.0)

    async with bus:
        await bus.publish_many("news", [{"n": number} for number in range(3)])
        await clock.advance(5.0)

    assert begun == [0]
    assert bus.stats().expired == 3


async def test_iterators_pass_over_what_has_expired(clock: ManualClock) -> None:
    """Their readers see the others."""
    bus = EventBus(clock=clock)
    async with bus, bus.subscribe("news", name="reader") as news:
        await bus.publish("news", {"n": 1}, expires=5.0)
        await bus.publish("news", {"n": 2}, expires=60.0)
        await bus.publish("news", {"n": 3})
        await clock.advance(5.0)
        await bus.drain()
        read = [event async for event in news]
        stats = bus.stats().subscriptions["reader"]

    assert read == [{"n": 2}, {"n": 3}]
    assert (stats.expired, stats.delivered) == (1, 2)


async def test_a_dead_letter_is_shown_and_redriven_whatever_its_end(clock: ManualClock) -> None:
    """Whoever asks for it wants it, late as it is."""
    bus = EventBus(clock=clock, middleware=[DeadLetter()])
    shown: list[str] = []
    attempts: list[datetime | None] = []

    @bus.on("news", name="reader")
    async def read(event: Payload, context: Context[Payload]) -> None:
        attempts.append(context.message.expires_at)
        await clock.sleep(10.0)
        if len(attempts) == 1:
            raise RuntimeError("illegible")

    @bus.on("$dlq.reader")
    async def show(event: Payload, context: Context[Payload]) -> None:
        shown.append(context.message.id)

    async with bus:
        receipt = await bus.publish("news", {"n": 1}, expires=5.0)
        await clock.advance(60.0)
        await bus.redrive()
        await clock.advance(60.0)

    assert shown == [receipt.id]
    assert attempts[0] is not None
    assert attempts[1] is None
    assert (bus.stats().succeeded, bus.stats().expired) == (2, 0)
