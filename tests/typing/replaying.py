"""A replay gives contexts of the model it was asked for."""

from datetime import UTC, datetime
from typing import assert_type

from eventbus import Context, ReplayProgress
from tests.typing.shop import CREATED, SHIPPED, Created, Shipped, bus


async def of_a_topic() -> None:
    async for context in bus.replay(CREATED, since=5, until=datetime.now(UTC)):
        assert_type(context, Context[Created])
        parcel = context.event.parcel  # expect-error


async def of_several_topics() -> None:
    async for context in bus.replay(CREATED, SHIPPED):
        assert_type(context.event, Created | Shipped)


async def of_patterns() -> None:
    async for context in bus.replay("orders.*", "payments.*", model=Created | Shipped):
        assert_type(context.event, Created | Shipped)
    async for raw in bus.replay("orders.*"):
        assert_type(raw.event, object)


def its_progress() -> None:
    replay = bus.replay(CREATED)
    assert_type(replay.progress, ReplayProgress)
    replay.progress.given = 1  # expect-error


def options() -> None:
    bus.replay(CREATED, speed=1.0, last_per_key=True, invalid="skip")
    bus.replay(CREATED, since=None, until=None, speed=None)
    bus.replay(CREATED, since="first")  # expect-error
    bus.replay(CREATED, invalid="dead_letter")  # expect-error
    bus.replay(CREATED, name="audit")  # expect-error
    bus.replay(CREATED, "orders.*")  # expect-error
    bus.replay()  # expect-error


async def needs_no_with() -> None:
    async with bus.replay(CREATED) as events:  # expect-error
        pass
    for context in bus.replay(CREATED):  # expect-error
        pass
