"""Messages are handled in the order they were published, where that is promised."""

__all__ = ("Ordering",)

from collections import defaultdict

import anyio
from anyio.lowlevel import checkpoint

from eventbus.context import Context
from eventbus.contracts import Topic
from eventbus.middleware import Retry
from eventbus.testing.transports.store import (
    JOBS,
    Listener,
    Sizes,
    Store,
    all_have,
    needs,
)


def by_key(*listeners: Listener) -> dict[str | None, list[object]]:
    """Sort what was heard by its key."""
    found: dict[str | None, list[object]] = defaultdict(list)
    for listener in listeners:
        for one in listener.heard:
            found[one.message.key].append(one.event)
    return dict(found)


class Alone:
    """Work that notes whether two deliveries of one key, or of all, were at it at once."""

    def __init__(self) -> None:
        self.keys: set[str | None] = set()
        self.overlaps = 0

    async def __call__(self, context: Context[object]) -> None:
        """Take a moment."""
        key = context.message.key
        self.overlaps += key in self.keys
        self.keys.add(key)
        await checkpoint()
        self.keys.discard(key)


class Ordering(Sizes):
    """Messages are handled in the order they were published, where that is promised."""

    async def test_the_next_waits_for_the_one_before(self, store: Store) -> None:
        """A subscription of concurrency 1 handles one at a time, in order."""
        bus, alone = store.bus(), Alone()
        listeners = [store.listen(bus, ">", work=alone, name="audit")]
        async with bus:
            sent = [(await bus.publish(JOBS, n)).id for n in range(self.messages)]
            await listeners[0].have(len(sent))

        assert listeners[0].ids == sent
        assert alone.overlaps == 0

    async def test_the_order_of_each_publisher_is_kept(self, store: Store) -> None:
        """Also when several publish at the same time."""
        bus = store.bus()
        listener = store.listen(bus, "jobs.*")
        each = self.messages // 4

        async def publish(name: str) -> None:
            for n in range(each):
                await bus.publish(Topic(f"jobs.{name}", object), n, key=name)

        async with bus:
            async with anyio.create_task_group() as publishers:
                for name in "abcd":
                    publishers.start_soon(publish, name)
            await listener.have(4 * each)

        assert by_key(listener) == {name: list(range(each)) for name in "abcd"}

    async def test_order_holds_within_each_key(self, store: Store) -> None:
        """With several workers, each key is handled by one at a time."""
        bus, alone = store.bus(), Alone()
        listener = store.listen(bus, "jobs.*", work=alone, concurrency=8, name="audit")
        async with bus:
            for n in range(self.many):
                await bus.publish(JOBS, n, key=f"k-{n % self.keys}")
            await listener.have(self.many)

        keys = range(min(self.keys, self.many))
        assert by_key(listener) == {f"k-{k}": list(range(k, self.many, self.keys)) for k in keys}
        assert alone.overlaps == 0

    async def test_a_retry_keeps_its_place_within_its_key(self, store: Store) -> None:
        """Later messages of its key wait for it."""
        bus = store.bus(Retry(attempts=2, initial=0.001))

        async def fail_some(context: Context[object]) -> None:
            await checkpoint()
            if context.attempt == 1 and isinstance(context.event, int) and context.event % 3 == 0:
                raise ConnectionError

        listener = store.listen(bus, "jobs.*", work=fail_some, concurrency=4, name="audit")
        async with bus:
            for n in range(self.messages):
                await bus.publish(JOBS, n, key=f"k-{n % 4}")
            await listener.have(self.messages)

        keys = range(min(4, self.messages))
        assert by_key(listener) == {f"k-{k}": list(range(k, self.messages, 4)) for k in keys}

    @needs("cross_process", "durable", "groups")
    async def test_buses_share_a_group_key_by_key(self, store: Store) -> None:
        """Each message goes to one of them, and those of a key are handled one after the other."""
        buses, alone = [store.bus(), store.bus()], Alone()
        members = [
            store.listen(bus, "jobs.*", work=alone, group="workers", queue_size=4, concurrency=4)
            for bus in buses
        ]

        async with buses[0], buses[1]:
            for n in range(self.messages):
                await buses[n % 2].publish(JOBS, n, key=f"k-{n % self.keys}")
            await all_have(members, self.messages)

        numbers = [event for one in members for event in one.events]
        assert sorted(map(str, numbers)) == sorted(map(str, range(self.messages)))
        assert alone.overlaps == 0
