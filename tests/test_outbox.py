"""What a handler publishes through its context goes out whole, or not at all, as far as it can."""

from pathlib import Path
from typing import Any

from eventbus import Context, DeadlockError, EventBus, Message, Receipt, Topic
from eventbus.context import FailedDelivery
from eventbus.middleware import DeadLetter, PublishNext, Retry
from eventbus.testing import ManualClock

JOBS = Topic("jobs", int)
NEWS = Topic("news", int)
ALARM = Topic("alarm", int)


class Newsroom:
    """A bus whose handler of jobs publishes, and what was heard of that."""

    def __init__(self, clock: ManualClock, url: str = "memory://", **options: Any) -> None:
        retry = Retry(attempts=3, initial=1.0, factor=1.0, jitter=False)
        self.bus = EventBus(url, clock=clock, middleware=[retry, DeadLetter()], **options)
        self.heard: list[tuple[str, int]] = []
        self.attempts = 0

    def publish_from_handler(self, *events: tuple[Topic[int], int], **options: Any) -> None:
        """Let the handler of jobs publish these; the options are those of the last."""

        @self.bus.on(JOBS, name="desk")
        async def handle(_: int, context: Context[int]) -> None:
            self.attempts += 1
            for topic, event in events[:-1]:
                await context.publish(topic, event)
            topic, event = events[-1]
            await context.publish(topic, event, **options)

    async def hear(self, event: int, context: Context[int]) -> None:
        """Note what was heard."""
        self.heard.append((context.message.topic, event))

    async def run(self, clock: ManualClock) -> list[FailedDelivery]:
        """Publish one job, let all attempts pass; give the dead letters."""
        async with self.bus as bus:
            await bus.publish(JOBS, 0)
            await clock.advance(10.0)
            await bus.join()
            return await bus.dead_letters("desk")


async def test_a_retry_says_nothing_twice(clock: ManualClock) -> None:
    """Where a queue that refuses has no room for all, none goes out, in any attempt."""
    room = Newsroom(clock)
    room.bus.on(ALARM)(room.hear)
    room.bus.on(NEWS, queue_size=1, overflow="fail")(room.hear)
    room.publish_from_handler((ALARM, 0), (NEWS, 1), (NEWS, 2))

    (letter,) = await room.run(clock)

    assert letter.error_type == "QueueFull"
    assert room.attempts == 3
    assert room.heard == []
    assert room.bus.stats().published == 1


async def test_what_has_room_goes_out_together_and_in_order(clock: ManualClock) -> None:
    """With room for all of them in the queue that refuses, everything is heard once."""
    room = Newsroom(clock)
    room.bus.on(ALARM, NEWS, queue_size=3, overflow="fail")(room.hear)
    room.publish_from_handler((ALARM, 0), (NEWS, 1), (NEWS, 2))

    assert await room.run(clock) == []
    assert room.heard == [("alarm", 0), ("news", 1), ("news", 2)]
    assert room.bus.stats().published == 4


async def test_room_is_asked_of_watched_queues_too(clock: ManualClock) -> None:
    """A bus that publish middleware and codec stand around answers alike."""

    async def pass_on(message: Message, call_next: PublishNext) -> Receipt:
        return await call_next(message)

    room = Newsroom(clock, "memory://?codec=json", publish_middleware=[pass_on])
    room.bus.on(ALARM)(room.hear)
    room.bus.on(NEWS, queue_size=1, overflow="fail")(room.hear)
    room.publish_from_handler((ALARM, 0), (NEWS, 1), (NEWS, 2))

    (letter,) = await room.run(clock)

    assert letter.error_type == "QueueFull"
    assert room.heard == []


async def test_nobody_to_hear_the_last_keeps_the_first_back(clock: ManualClock) -> None:
    """`require=True` of one message is asked before another goes out."""
    room = Newsroom(clock)
    room.bus.on(ALARM)(room.hear)
    room.publish_from_handler((ALARM, 0), (NEWS, 1), require=True)

    (letter,) = await room.run(clock)

    assert letter.error_type == "NoSubscribers"
    assert room.heard == []


async def test_a_full_schedule_keeps_the_first_back(clock: ManualClock) -> None:
    """What is to go out later needs its place before another goes out."""
    room = Newsroom(clock, schedule_size=1)
    room.bus.on(ALARM)(room.hear)
    room.publish_from_handler((ALARM, 0), (NEWS, 1), delay=60.0)

    async with room.bus as bus:
        kept = await bus.publish(NEWS, 9, delay=600.0)
        await bus.publish(JOBS, 0)
        await clock.advance(10.0)
        (letter,) = await bus.dead_letters("desk")
        kept.cancel()

    assert letter.error_type == "QueueFull"
    assert room.heard == []


async def test_what_is_to_go_out_later_goes_with_the_rest(clock: ManualClock) -> None:
    """The one now, the other when it is due."""
    room = Newsroom(clock)
    room.bus.on(ALARM, NEWS)(room.hear)
    room.publish_from_handler((ALARM, 0), (NEWS, 1), delay=5.0)

    async with room.bus as bus:
        await bus.publish(JOBS, 0)
        await clock.settle()
        before = list(room.heard)
        await clock.advance(5.0)

    assert before == [("alarm", 0)]
    assert room.heard == [("alarm", 0), ("news", 1)]


async def test_a_deadlock_midway_is_the_stated_exception(clock: ManualClock) -> None:
    """How a wait ends is not known beforehand: what had room has gone out, and is counted."""
    room = Newsroom(clock)
    room.bus.on(ALARM)(room.hear)

    @room.bus.on(JOBS, name="desk", queue_size=1, middleware=[Retry(attempts=1)])
    async def handle(event: int, context: Context[int]) -> None:
        if event == 0:
            await context.publish(ALARM, 0)
            for _ in range(2):
                await context.publish(JOBS, 1)

    letters = await room.run(clock)

    assert [letter.error_type for letter in letters] == [DeadlockError.__name__]
    assert room.heard == [("alarm", 0)]
    assert room.bus.stats().published == 3


async def test_a_store_takes_all_at_once(tmp_path: Path) -> None:
    """On a durable transport the messages of one handler are stored together."""
    heard: list[int] = []
    bus = EventBus(f"sqlite:///{tmp_path}/events.db")

    @bus.on(JOBS, name="desk")
    async def handle(_: int, context: Context[int]) -> None:
        for number in range(3):
            await context.publish(NEWS, number)

    @bus.on(NEWS, name="news")
    async def hear(event: int) -> None:
        heard.append(event)

    async with bus:
        await bus.publish(JOBS, 0)
        await bus.join()
        assert bus.stats().published == 4

    assert heard == [0, 1, 2]


async def test_the_traceback_of_a_failed_send_shows_plain_lines(clock: ManualClock) -> None:
    """What a checker is told stands on no line of ours that a user reads."""
    room = Newsroom(clock)
    room.bus.on(NEWS, queue_size=1, overflow="fail")(room.hear)
    room.publish_from_handler((NEWS, 1), (NEWS, 2))

    (letter,) = await room.run(clock)

    assert "in deliver" in letter.traceback
    assert "type: ignore" not in letter.traceback
