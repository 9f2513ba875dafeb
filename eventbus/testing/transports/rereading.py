"""What is kept can be read again: all of it or a part, in its order, leaving no trace."""

__all__ = ("Rereading",)

from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from eventbus.context import Context
from eventbus.errors import InvalidOption
from eventbus.message import Message
from eventbus.replay import Replay
from eventbus.testing.transports.protocol import numbered
from eventbus.testing.transports.store import JOBS, Sizes, Store, all_have, needs
from eventbus.transports.base import KeepsMessages, Place


class Rereading(Sizes):
    """What is kept can be read again: all of it or a part, in its order, leaving no trace."""

    @needs("replay")
    async def test_what_is_kept_is_replayed_whole(self, store: Store) -> None:
        """In the order of its positions, each with all that was published with it."""
        async with store.bus() as bus:
            for n in range(self.messages):
                await bus.publish(
                    "jobs.new", {"n": n}, id=f"id-{n}", key=f"k{n}", headers={"n": "1"}
                )
            messages = await _messages(bus.replay("jobs.*"))

        assert [one.id for one in messages] == [f"id-{n}" for n in range(self.messages)]
        assert [one.payload for one in messages] == [{"n": n} for n in range(self.messages)]
        assert [one.key for one in messages] == [f"k{n}" for n in range(self.messages)]
        assert {(one.topic, one.headers["n"]) for one in messages} == {("jobs.new", "1")}
        positions = [one.position or 0 for one in messages]
        assert positions == sorted({*positions})

    @needs("replay")
    async def test_a_replay_gives_what_matches(self, store: Store) -> None:
        """One of its patterns, each once."""
        async with store.bus() as bus:
            for n in range(self.messages):
                await bus.publish(f"jobs.{n % 3}.new", {"n": n})
            messages = await _messages(bus.replay("jobs.0.new", "jobs.0.*", "*.1.new"))

        assert [one.payload for one in messages] == [
            {"n": n} for n in range(self.messages) if n % 3 < 2
        ]

    @needs("replay")
    async def test_a_replay_keeps_to_its_range(self, store: Store) -> None:
        """Positions and times are both included; it cannot begin ahead of what is kept."""
        async with store.bus() as bus:
            receipts = [await bus.publish(JOBS, n) for n in range(5)]
            everything = await _messages(bus.replay(JOBS))
            first, last = (receipts[n].position or 0 for n in (1, 3))
            begin, end = (everything[n].time for n in (1, 3))
            ranges: list[tuple[Place, Place]] = [
                (first, last),
                (begin, end),
                (first, end),
                (begin, last),
            ]
            for since, until in ranges:
                messages = await _messages(bus.replay(JOBS, since=since, until=until))
                assert [one.payload for one in messages] == [1, 2, 3]
            with pytest.raises(InvalidOption):
                await _messages(bus.replay(JOBS, since=(receipts[4].position or 0) + 2))

    @needs("replay")
    async def test_a_replay_ends(self, store: Store) -> None:
        """With what was the end when it began, whatever is published meanwhile."""
        async with store.bus() as bus:
            await bus.publish_many(JOBS, range(self.messages))
            replay = bus.replay(JOBS)
            with anyio.fail_after(self.patience):
                async for context in replay:
                    await bus.publish(JOBS, context.event)

        assert replay.progress.given == self.messages
        assert replay.progress.fraction == 1.0

    @needs("replay")
    async def test_the_newest_of_each_key_is_replayed(self, store: Store) -> None:
        """Where it stands, by topic and key; what has no key is always given."""
        keys = [f"k{n % self.keys}" if n % 5 else None for n in range(self.messages)]
        async with store.bus() as bus:
            for n, key in enumerate(keys):
                await bus.publish(f"jobs.{n % 2}", {"n": n}, key=key)
            messages = await _messages(bus.replay("jobs.*", last_per_key=True))

        newest = {(n % 2, n if key is None else key): n for n, key in enumerate(keys)}
        assert [one.payload for one in messages] == [{"n": n} for n in sorted(newest.values())]

    @needs("replay")
    async def test_a_replay_leaves_no_trace(self, store: Store) -> None:
        """Subscriptions get what they get, be it replayed at the same time."""
        bus = store.bus()
        listener = store.listen(bus, "jobs.new")
        async with bus:
            await bus.publish_many(JOBS, range(self.messages))
            assert len(await _messages(bus.replay(JOBS))) == self.messages
            await listener.have(self.messages)
            await store.join(bus)

        assert listener.events == [*range(self.messages)]

    @needs("replay")
    async def test_a_cancelled_step_loses_nothing(self, store: Store) -> None:
        """Wherever it was cancelled, the next one goes on where it was."""
        given: list[object] = []
        async with store.bus() as bus:
            await bus.publish_many(JOBS, range(self.messages))
            replay = bus.replay(JOBS)

            async def read() -> None:
                async for context in replay:
                    given.append(context.event)
                    await checkpoint()

            for checkpoints in range(4 * self.cycles):
                async with anyio.create_task_group() as group:
                    group.start_soon(read)
                    for _ in range(checkpoints):
                        await checkpoint()
                    group.cancel_scope.cancel()
            await read()

        assert given == [*range(self.messages)]

    @needs("replay", "durable")
    async def test_another_bus_can_replay(self, store: Store) -> None:
        """What one has published, after it has ended."""
        async with store.bus() as bus:
            await bus.publish_many(JOBS, range(self.messages))
        async with store.bus() as other:
            messages = await _messages(other.replay(JOBS))

        assert [one.payload for one in messages] == [*range(self.messages)]

    @needs("replay")
    async def test_what_was_there_before_is_a_replay(self, store: Store) -> None:
        """To a subscription that begins with it; who does not want it is not given it."""
        told: list[tuple[object, bool]] = []

        async def tell(context: Context[object]) -> None:
            told.append((context.event, context.replay))

        async with store.bus() as bus:
            await bus.publish_many(JOBS, [1, 2])
            listener = store.listen(bus, "jobs.new", work=tell, start="first")
            other = store.listen(bus, "jobs.new", start="first", replay=False)
            await listener.have(2)
            await bus.publish(JOBS, 3)
            await all_have([listener, other], 4)
            await store.join(bus)

        assert told == [(1, True), (2, True), (3, False)]
        assert other.events == [3]

    @needs("replay", "sources")
    async def test_a_reading_tells_where_it_is(self, store: Store) -> None:
        """Where it begins and ends, how far it is, and how much it has seen."""
        async with store.transport() as transport:
            assert isinstance(transport, KeepsMessages)
            await transport.publish(numbered(range(self.messages)))
            reading = await transport.read([">"], None, None)
            assert (reading.reached, reading.seen) == (reading.first - 1, 0)
            taken: list[Message] = []
            while reading.reached < reading.end:
                taken += await reading.read_on()
            assert await reading.read_on() == ()

        assert [one.payload for one in taken] == [*range(self.messages)]
        assert (taken[0].position, taken[-1].position) == (reading.first, reading.end)
        assert reading.seen == self.messages


async def _messages(replay: Replay[Any]) -> Sequence[Message]:
    return [context.message async for context in replay]
