"""What ends, ends cleanly, and takes nothing along that belongs to others."""

__all__ = ("Ending",)

import anyio
import pytest
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from eventbus.bus import EventBus
from eventbus.context import Context
from eventbus.errors import AlreadySettled, BusClosed
from eventbus.message import Receipt
from eventbus.testing.transports.store import (
    EMPTY,
    JOBS,
    Listener,
    Sizes,
    Store,
    all_have,
    needs,
)


def is_waited_for(store: Store, sent: Receipt) -> bool:
    """Tell whether a bus that closes knows what is still on its way to it."""
    return store.capabilities.feeds or sent.position is not None


class Ending(Sizes):
    """What ends, ends cleanly, and takes nothing along that belongs to others."""

    @needs("groups")
    async def test_a_group_goes_on_when_a_member_leaves(self, store: Store) -> None:
        """Batch by batch one more is gone, and the others have its share."""
        bus = store.bus()
        members = [
            store.listen(bus, "jobs.new", group="workers", work=lambda _: checkpoint())
            for _ in range(self.cycles)
        ]
        sent: list[str] = []
        async with bus:
            for number, leaving in enumerate(members):
                batch = await bus.publish_many("jobs.new", EMPTY * (self.many // self.cycles))
                sent += [one.id for one in batch]
                if number == len(members) - 1:
                    break
                await bus.unsubscribe(leaving)
            await all_have(members, len(sent))
            await store.join(bus)

        assert sorted(id for one in members for id in one.ids) == sorted(sent)

    async def test_a_closed_subscription_hears_nothing_more(self, store: Store) -> None:
        """And the others all."""
        bus = store.bus()
        closed, other = store.listen(bus, "jobs.*"), store.listen(bus, "jobs.*")
        async with bus:
            await bus.publish(JOBS, "before")
            await closed.have(1)
            await bus.unsubscribe(closed)
            await bus.publish(JOBS, "after")
            await other.have(2)
            await store.join(bus)

        assert (closed.events, other.events) == (["before"], ["before", "after"])

    async def test_a_cancelled_loop_ends_and_others_go_on(self, store: Store) -> None:
        """Again and again; the others miss nothing."""
        bus = store.bus()
        other = store.listen(bus, "jobs.new")

        async def loop(*, task_status: TaskStatus[None]) -> None:
            async with bus.subscribe("jobs.new") as events:
                task_status.started()
                async for _ in events:
                    await anyio.sleep_forever()

        async with bus:
            with anyio.fail_after(store.patience):
                for n in range(self.cycles):
                    async with anyio.create_task_group() as loops:
                        await loops.start(loop)
                        await bus.publish(JOBS, n)
                        loops.cancel_scope.cancel()
            await other.have(self.cycles)

        assert other.events == list(range(self.cycles))

    async def test_closing_right_after_publishing_loses_nothing(self, store: Store) -> None:
        """What was accepted is handled now, or, where it is kept, when the bus comes back."""
        handled: list[str] = []
        bus = store.bus()
        listener = store.listen(bus, "jobs.new", name="audit")
        async with bus:
            sent = await bus.publish_many(JOBS, list(range(self.many)))
        handled += listener.ids
        if store.capabilities.durable:
            async with bus:
                await listener.have(self.many)
                await store.join(bus)
            handled = listener.ids

        assert len(set(handled)) == len(handled)
        if store.capabilities.durable or is_waited_for(store, sent[-1]):
            assert handled == [one.id for one in sent]

    async def test_many_may_close_at_once(self, store: Store) -> None:
        """Whoever else drains the bus; then it takes nothing more, and each message came once."""
        bus = store.bus()
        listener = store.listen(bus, "jobs.new")
        async with bus:
            sent = await bus.publish_many("jobs.new", EMPTY * self.messages)
            with anyio.fail_after(store.patience):
                async with anyio.create_task_group() as group:
                    for _ in range(self.subscribers):
                        group.start_soon(bus.drain)
            with pytest.raises(BusClosed):
                await bus.publish("jobs.new", {})

        assert len(set(listener.ids)) == len(listener.ids)
        if is_waited_for(store, sent[-1]):
            assert listener.ids == [one.id for one in sent]

    async def test_many_buses_may_close_at_once(self, store: Store) -> None:
        """Each on the same store, with something in hand."""
        buses = [store.bus() for _ in range(self.cycles)]
        listeners = [store.listen(bus, "jobs.new") for bus in buses]

        async def live(bus: EventBus[object], listener: Listener) -> None:
            async with bus:
                sent = await bus.publish("jobs.new", {})
            assert sent.id in listener.ids or not is_waited_for(store, sent)

        with anyio.fail_after(store.patience):
            async with anyio.create_task_group() as group:
                for bus, listener in zip(buses, listeners, strict=True):
                    group.start_soon(live, bus, listener)

        assert not any(bus.is_running for bus in buses)
        assert all(len(set(one.ids)) == len(one.ids) for one in listeners)

    async def test_a_handler_ends_when_its_bus_is_stopped(self, store: Store) -> None:
        """It is cancelled, which is neither success nor failure."""
        bus = store.bus()
        listener = store.listen(bus, "jobs.new", work=lambda _: anyio.sleep_forever())
        with anyio.fail_after(store.patience), anyio.CancelScope() as scope:
            async with bus:
                await bus.publish("jobs.new", {})
                await listener.begin(1)
                scope.cancel()

        stats = bus.stats()
        assert (listener.heard, stats.succeeded, stats.failed) == ([], 0, 0)

    async def test_a_delivery_is_settled_once(self, store: Store) -> None:
        """A second verdict is refused, and the first counts."""
        refused: list[Exception] = []

        async def settle_twice(context: Context[object]) -> None:
            await context.ack()
            try:
                await context.retry()
            except AlreadySettled as error:
                refused.append(error)

        bus = store.bus()
        listener = store.listen(bus, "jobs.new", work=settle_twice, ack="manual", name="audit")
        async with bus:
            await bus.publish("jobs.new", {})
            await listener.have(1)
            await store.join(bus)

        assert len(refused) == len(listener.begun) == 1

    async def test_a_bus_can_be_started_again(self, store: Store) -> None:
        """It is as new, and hears nothing twice."""
        bus = store.bus()
        listener = store.listen(bus, "jobs.new", name="audit")
        for n in range(self.cycles):
            async with bus:
                await bus.publish(JOBS, n)
                await listener.have(n + 1)

        assert listener.events == list(range(self.cycles))
