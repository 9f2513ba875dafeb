"""What `Transform` makes of what is published."""

from typing import Any

import pytest

from eventbus import Context, EventBus, InvalidEvent, InvalidOption, Message, Topic
from eventbus.middleware import PublishMiddleware, Transform

JOBS = Topic("jobs", int)


def doubled(message: Message) -> Message:
    """Publish twice the number."""
    assert isinstance(message.payload, int)
    return message.replace(payload=2 * message.payload)


@pytest.mark.parametrize("way", ["publish", "publish_nowait", "publish_many", "context"])
async def test_what_is_published_is_what_it_makes_of_it(way: str) -> None:
    """Whichever way; several are applied in their order."""
    seen: list[int] = []
    bus = EventBus(
        publish_middleware=[
            Transform(lambda m: m.replace(topic="jobs") if m.topic == "raw" else m),
            Transform(doubled),
        ]
    )

    @bus.on(JOBS)
    async def handle(event: int) -> None:
        seen.append(event)

    @bus.on("ask", model=int)
    async def ask(event: int, context: Context[int]) -> None:
        await context.publish(JOBS, event)

    async with bus:
        match way:
            case "publish":
                await bus.publish(JOBS, 2)
            case "publish_nowait":
                bus.publish_nowait(JOBS, 2)
            case "publish_many":
                await bus.publish_many(JOBS, [2])
            case _:
                await bus.publish(Topic("ask", int), 1)
                await bus.join()

    assert seen == [4]


async def test_what_it_breaks_is_refused_as_if_the_publisher_had() -> None:
    """What it makes is checked."""
    bus = EventBus(publish_middleware=[Transform(lambda m: m.replace(payload="text"))])
    async with bus:
        with pytest.raises(InvalidEvent, match="'jobs' carries int"):
            await bus.publish(JOBS, 1)


async def test_what_it_raises_reaches_the_publisher() -> None:
    """And nobody gets the message."""

    def refuse(message: Message) -> Message:
        raise PermissionError(message.topic)

    bus = EventBus(publish_middleware=[Transform(refuse)])
    async with bus:
        with pytest.raises(PermissionError, match="jobs"):
            await bus.publish(JOBS, 1)

    assert bus.stats().published == 0


async def test_to_give_no_message_is_refused() -> None:
    """As happens to who forgets to return it."""

    def note(message: Message) -> None:
        """Forget to return it."""

    forgetful: Any = note
    bus = EventBus(publish_middleware=[Transform(forgetful)])
    async with bus:
        with pytest.raises(InvalidOption, match=r"gave None: return the message, or"):
            await bus.publish(JOBS, 1)


def test_a_transform_needs_a_function() -> None:
    """Anything else is refused where it is made."""
    wrong: Any = "upper"
    with pytest.raises(InvalidOption, match=r"Transform\('upper'\): give a function"):
        Transform(wrong)


def test_a_transform_is_publish_middleware() -> None:
    """It stands among others."""
    layer: PublishMiddleware = Transform(doubled)

    assert callable(layer)
