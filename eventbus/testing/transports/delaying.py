"""What is published for later goes out then, and not before."""

__all__ = ("Delaying",)

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import anyio

from eventbus.testing.transports.store import JOBS, Sizes, Store, needs

SOON = 0.1
"""Seconds after which most of it is due."""
LATE = 3600.0
"""Seconds after which the test is over."""


class Delaying(Sizes):
    """What is published for later goes out then, and not before."""

    @needs("delay")
    async def test_what_is_for_later_goes_out_then(self, store: Store) -> None:
        """Whole, once, and behind what is published meanwhile; its time is that of the publish."""

        async def is_in_time(soon: float) -> bool:
            bus = store.bus()
            listener = store.listen(bus, "jobs.new")
            due = datetime.now(UTC) + timedelta(seconds=soon)
            async with bus:
                later = await bus.publish(
                    "jobs.new", {"n": 1}, id=f"in {soon}", key="k", headers={"a": "b"}, at=due
                )
                await bus.publish("jobs.new", {"n": 2})
                is_late = datetime.now(UTC) > due
                await listener.have(2)
                now = datetime.now(UTC)
                await store.join(bus)
            if is_late:
                return False

            arrived = listener.heard[1].message
            assert listener.events == [{"n": 2}, {"n": 1}]
            assert (arrived.id, arrived.key, dict(arrived.headers)) == (later.id, "k", {"a": "b"})
            assert later.matched is None
            assert arrived.time < due <= now
            return True

        await _until(is_in_time)

    @needs("delay")
    async def test_they_go_out_in_the_order_they_are_due(self, store: Store) -> None:
        """Whatever order they were published in; those of one moment in that order."""

        async def is_in_time(soon: float) -> bool:
            bus = store.bus()
            listener = store.listen(bus, "jobs.new")
            moment = datetime.now(UTC)
            async with bus:
                for n, steps in enumerate([3, 1, 2, 1]):
                    await bus.publish(JOBS, n, at=moment + timedelta(seconds=steps * soon))
                is_late = datetime.now(UTC) > moment + timedelta(seconds=soon)
                await listener.have(4)
            if is_late:
                return False

            assert listener.events == [1, 3, 2, 0]
            return True

        await _until(is_in_time)

    @needs("delay")
    async def test_what_is_cancelled_does_not_go_out(self, store: Store) -> None:
        """It can be cancelled once, and not when it has gone out."""
        bus = store.bus()
        listener = store.listen(bus, "jobs.new")
        async with bus:
            cancelled = await bus.publish(JOBS, "cancelled", delay=LATE)
            gone = await bus.publish(JOBS, "gone", delay=SOON)
            told = [cancelled.cancel(), cancelled.cancel()]
            await listener.have(1)
            told.append(gone.cancel())
            await store.join(bus)

        assert (told, listener.events) == ([True, False, False], ["gone"])

    @needs("delay")
    async def test_what_expires_counts_from_when_it_is_due(self, store: Store) -> None:
        """So it is delivered though that is later than the time it is worth something for."""
        bus = store.bus()
        listener = store.listen(bus, "jobs.new")
        async with bus:
            await bus.publish("jobs.new", {}, delay=2 * SOON, expires=SOON + store.patience)
            await listener.have(1)

        expires_at, time = listener.heard[0].message.expires_at, listener.heard[0].message.time
        assert expires_at is not None
        assert (expires_at - time).total_seconds() - store.patience > 2.9 * SOON

    @needs("delay", "durable")
    async def test_what_is_for_later_outlasts_the_bus(self, store: Store) -> None:
        """Another lets it out when it is due, once; draining does not wait, abandons nothing."""
        bus = store.bus()
        async with bus:
            with anyio.fail_after(LATE / 2):
                await bus.publish(JOBS, "kept", delay=5 * SOON)
                forgotten = await bus.publish(JOBS, "forgotten", delay=LATE)
        later = store.bus()
        listener = store.listen(later, "jobs.new", name="audit")
        async with later:
            assert forgotten.cancel()
            await listener.have(1)
            await store.join(later)
        async with later:
            await store.join(later)

        assert listener.events == ["kept"]
        assert bus.stats().abandoned == 0

    @needs("delay", "durable")
    async def test_one_bus_of_many_lets_it_out(self, store: Store) -> None:
        """However many are there, a named subscription and others get it once."""
        first, second = store.bus(), store.bus()
        named = store.listen(first, "jobs.new", name="audit")
        live = store.listen(second, "jobs.new")
        async with first, second, store.bus():
            for n in range(self.messages):
                await second.publish(JOBS, n, delay=SOON)
            await named.have(self.messages)
            await live.have(self.messages)
            await store.join(first)
            await store.join(second)

        assert sorted(named.events, key=str) == sorted(range(self.messages), key=str)
        assert named.ids == live.ids


async def _until(is_in_time: Callable[[float], Awaitable[bool]]) -> None:
    """Try with longer and longer spans: a busy machine may need one to publish what is then due."""
    for soon in (SOON, 10 * SOON, 50 * SOON):
        if await is_in_time(soon):
            return
    raise AssertionError(f"within {50 * SOON:g} s not even four messages could be published")
