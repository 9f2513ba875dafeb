"""What a delivery sets in context variables is seen by nobody else."""

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from eventbus import Context, EventBus, dispatch
from eventbus.middleware import CallNext, DeadLetter, Retry, Timeout
from eventbus.testing import ManualClock

_here: ContextVar[str] = ContextVar("_here", default="unset")
_later: ContextVar[str] = ContextVar("_later", default="unset")

seen: list[str] = []


@pytest.fixture(autouse=True)
def _from_the_start() -> Iterator[None]:
    seen.clear()
    token = _here.set("of the start")
    yield
    _here.reset(token)


def look_and_set(by: object) -> None:
    """Note what is seen here, and leave something else."""
    seen.extend((_here.get(), _later.get()))
    _here.set(f"of {by}")
    _later.set(f"of {by}")


async def handle(event: object) -> None:
    """Be an ordinary handler."""
    look_and_set(event)


async def handle_across_a_wait(event: object) -> None:
    """Be a handler that waits between."""
    look_and_set(event)
    await checkpoint()
    assert _here.get() == f"of {event}"


def handle_in_thread(event: object) -> None:
    """Be a handler that runs in a thread."""
    look_and_set(event)


async def fail(event: object) -> None:
    """Be a handler that fails, each time."""
    look_and_set(event)
    raise ValueError(event)


async def swallow(context: Context[Any], call_next: CallNext) -> object:
    """Be a middleware that sets something as well, before and after."""
    look_and_set("the middleware")
    try:
        return await call_next(context)
    finally:
        seen.clear()  # inside one delivery, what it has set itself is seen
        _here.set("of the way out")


def pick(event: object) -> bool:
    """Be a filter that sets something."""
    look_and_set(event)
    return True


def parity(event: dict[str, int]) -> str:
    """Give the key of an event: one of two."""
    return str(event["n"] % 2)


async def publish_all(bus: EventBus, clock: ManualClock) -> None:
    """Publish a few events, by a publisher that has set something too, and let retries pass."""
    async with bus:
        _here.set("of the publisher")
        await bus.publish_many("work", [{"n": n} for n in range(5)])
        await clock.advance(10.0)
        await bus.join()


HANDLERS: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "async": (handle, {}),
    "waiting": (handle_across_a_wait, {}),
    "in a thread": (handle_in_thread, {}),
    "several at once": (handle_across_a_wait, {"concurrency": 3}),
    "by key": (handle_across_a_wait, {"concurrency": 3, "key": parity}),
    "retried": (fail, {"middleware": [Retry(3, initial=1.0, jitter=False)]}),
    "retried, held": (fail, {"middleware": [Retry(2, initial=1.0, hold=True)]}),
    "with a time limit": (handle_across_a_wait, {"middleware": [Timeout(60.0)]}),
}


@pytest.mark.parametrize("kind", HANDLERS)
async def test_no_delivery_sees_what_another_has_set(kind: str, clock: ManualClock) -> None:
    """Each begins with what was set where the bus was started: also a retry, also in a thread."""
    handler, options = HANDLERS[kind]
    bus = EventBus(clock=clock, middleware=[DeadLetter()])
    bus.on("work", **options)(handler)

    await publish_all(bus, clock)

    assert len(seen) >= 10
    assert set(zip(seen[::2], seen[1::2], strict=True)) == {("of the start", "unset")}


async def test_no_delivery_sees_what_middleware_has_set(clock: ManualClock) -> None:
    """Neither what another's middleware set on the way in, nor on the way out."""
    first_seen: list[str] = []

    async def outer(context: Context[Any], call_next: CallNext) -> object:
        first_seen.extend((_here.get(), _later.get()))
        return await swallow(context, call_next)

    bus = EventBus(clock=clock, middleware=[outer])
    bus.on("work")(handle)

    await publish_all(bus, clock)

    assert first_seen == ["of the start", "unset"] * 5


async def test_no_delivery_sees_what_a_filter_has_set(clock: ManualClock) -> None:
    """What `where=` sets is the delivery's own."""
    bus = EventBus(clock=clock)

    @bus.on("work", where=pick)
    async def wait(event: object) -> None:
        await checkpoint()

    await publish_all(bus, clock)

    assert seen == ["of the start", "unset"] * 5


async def test_no_subscription_sees_what_another_has_set(clock: ManualClock) -> None:
    """Nor does one whose deliveries another's handler has published."""
    bus = EventBus(clock=clock)

    @bus.on("work")
    async def publish_more(event: object, context: Context[Any]) -> None:
        look_and_set(event)
        await context.publish("more", {})
        await bus.publish("more", {})

    bus.on("more")(handle)

    await publish_all(bus, clock)

    assert seen == ["of the start", "unset"] * 15


async def test_the_publisher_sees_nothing(clock: ManualClock) -> None:
    """What handlers set stays on their side of the queue."""
    bus = EventBus(clock=clock)
    bus.on("work")(handle)

    await publish_all(bus, clock)

    assert (_here.get(), _later.get()) == ("of the publisher", "unset")


async def test_control_in_a_context_that_is_not_looked_at_it_would_be_seen(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were a worker to go on in its task, the second delivery would see the first."""
    monkeypatch.setattr(dispatch, "copy_context", lambda: None)
    bus = EventBus(clock=clock)
    bus.on("work")(handle)

    await publish_all(bus, clock)

    assert "of {'n': 0}" in seen


async def test_a_group_of_tasks_within_a_delivery_shares_them() -> None:
    """What a handler starts sees what the handler has set, as everywhere."""
    found: list[str] = []
    bus = EventBus()

    async def look() -> None:
        found.append(_later.get())

    @bus.on("work")
    async def start(event: object) -> None:
        _later.set("of the handler")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)

    async with bus:
        await bus.publish_many("work", [{}, {}])

    assert found == ["of the handler"] * 2
