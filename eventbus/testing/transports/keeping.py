"""What is kept outlasts the bus: messages, and how far each subscription has come."""

__all__ = ("Keeping",)

import contextlib
import os
import sys

import anyio
import pytest
from anyio.lowlevel import checkpoint

from eventbus.context import Context
from eventbus.errors import InvalidOption
from eventbus.middleware import DeadLetter, Retry
from eventbus.testing.transports import mortal
from eventbus.testing.transports.store import JOBS, Sizes, Store, Work, fails, needs
from eventbus.transports.base import Start


class Keeping(Sizes):
    """What is kept outlasts the bus: messages, and how far each subscription has come."""

    @needs("replay")
    async def test_a_new_subscription_gets_old_messages(self, store: Store) -> None:
        """From where it says; those that say nothing, what is new."""
        async with store.bus() as earlier:
            await earlier.publish_many(JOBS, [1, 2, 3])
            await earlier.publish("else.where", {})
        bus = store.bus()
        found = {start: store.listen(bus, "jobs.*", start=start) for start in _STARTS}
        async with bus:
            await bus.publish(JOBS, 5)
            for start, expected in _STARTS.items():
                await found[start].have(len(expected))
            await store.join(bus)

        assert {start: one.events for start, one in found.items()} == _STARTS

    @needs("durable", "replay")
    async def test_a_start_counts_only_once(self, store: Store) -> None:
        """A new durable subscription gets old messages; after that it goes on where it was."""
        async with store.bus() as earlier:
            await earlier.publish(JOBS, 1)
        events: list[object] = []
        for n in (2, 3):
            bus = store.bus()
            listener = store.listen(bus, "jobs.new", name="audit", start="first")
            async with bus:
                await bus.publish(JOBS, n)
                await listener.have(n - len(events))
                await store.join(bus)
            events += listener.events

        assert events == [1, 2, 3]

    @needs("durable")
    async def test_a_subscription_goes_on_where_it_was(self, store: Store) -> None:
        """What was published while nobody listened is delivered, and nothing twice."""
        heard: list[object] = []
        for round_ in range(self.cycles):
            bus = store.bus()
            listener = store.listen(bus, "jobs.*", name="audit")
            async with bus:
                await bus.publish(JOBS, f"here {round_}")
                await listener.have(1 if round_ == 0 else 2)
                await store.join(bus)
            heard += listener.events
            async with store.bus() as other:
                await other.publish(JOBS, f"away {round_}")

        rounds = range(self.cycles)
        assert heard == [f"{what} {n}" for n in rounds for what in ("here", "away")][:-1]

    @needs("durable")
    async def test_a_loop_goes_on_where_it_was(self, store: Store) -> None:
        """What it had in hand is done once it asked for the next, or left the block normally."""
        taken: list[object] = []
        async with store.bus() as bus, bus.subscribe("jobs.new", name="loop"):
            pass
        for _ in range(2):
            async with store.bus() as bus:
                await bus.publish_many(JOBS, [1, 2, 3])
                with anyio.fail_after(store.patience):
                    async with bus.subscribe("jobs.new", name="loop") as events:
                        taken.append(await anext(aiter(events)))
                    with contextlib.suppress(ConnectionError):
                        async with bus.subscribe("jobs.new", name="loop") as events:
                            async for event in events:
                                taken.append(event)
                                _fail_with_third(len(taken))

        assert taken == [1, 2, 3, 3, 1, 2, 3]

    @needs("durable")
    async def test_stopping_again_and_again_loses_nothing(self, store: Store) -> None:
        """What a stopped bus had in hand comes again, as the same attempt."""
        sent: list[str] = []
        done: set[str] = set()
        attempts: set[int] = set()
        for _ in range(self.cycles):
            bus = store.bus()
            listener = store.listen(bus, "jobs.new", name="audit", work=_sleeps_on_third())
            with anyio.CancelScope() as scope:
                async with bus:
                    sent += [one.id for one in await bus.publish_many(JOBS, [1, 2, 3, 4])]
                    await listener.begin(3)
                    scope.cancel()
            done.update(listener.ids)
            attempts.update(one.attempt for one in listener.begun)
        bus = store.bus()
        last = store.listen(bus, "jobs.new", name="audit")
        async with bus:
            await last.until(lambda: done.union(last.ids) >= set(sent), "rest")

        assert attempts | {one.attempt for one in last.heard} == {1}

    @needs("durable")
    async def test_a_process_that_dies_at_work_loses_nothing(self, store: Store) -> None:
        """What it published and had not settled is delivered to the next."""
        sent: set[str] = set()
        done: set[str] = set()
        for _ in range(self.deaths):
            told = await _die_at_work(store.url, min(self.messages, 20))
            sent |= {word[5:] for word in told if word.startswith("sent ")}
            done |= {word[5:] for word in told if word.startswith("done ")}
        bus = store.bus()
        listener = store.listen(bus, "jobs.new", name="audit")
        async with bus:
            await bus.publish(JOBS, "last")
            await listener.until(lambda: done.union(listener.ids) >= sent, "rest")
            await listener.until(lambda: "last" in listener.events, "new message")

        assert self.deaths == 0 or 0 < len(done) < len(sent)

    @needs("durable")
    async def test_a_retry_outlasts_the_bus(self, store: Store) -> None:
        """It is the attempt it was to be."""
        bus = store.bus(Retry(attempts=5, initial=60.0))
        listener = store.listen(bus, "jobs.new", name="audit", work=_ask_again_once)
        async with bus:
            await bus.publish("jobs.new", {})
            await listener.begin(1)
            with anyio.fail_after(store.patience):
                while not bus.stats().retried:  # noqa: ASYNC110 - nothing tells of it
                    await anyio.sleep(0.001)
        async with bus:
            await listener.begin(2)
            await store.join(bus)

        assert [one.attempt for one in listener.begun] == [1, 2]

    @needs("durable", "dead_letters")
    async def test_dead_letters_outlast_the_bus(self, store: Store) -> None:
        """They can be read, and redriven, by another."""
        bus = store.bus(DeadLetter())
        failing = store.listen(bus, "jobs.new", name="audit", work=fails(1))
        async with bus:
            receipt = await bus.publish("jobs.new", {"n": 1}, key="k")
            await failing.begin(1)
            await store.join(bus)
        bus = store.bus(DeadLetter())
        mended = store.listen(bus, "jobs.new", name="audit")
        async with bus:
            (letter,) = await bus.dead_letters("audit")
            assert await bus.redrive(ids=[letter.id]) == 1
            await mended.have(1)

        assert (letter.message.id, letter.message.key) == (receipt.id, "k")
        assert (letter.message.payload, letter.error_type) == ({"n": 1}, "ConnectionError")
        assert mended.ids == [receipt.id]

    @needs("durable")
    async def test_what_is_forgotten_is_new_again(self, store: Store) -> None:
        """What it had not read is not delivered; a name nobody had cannot be forgotten."""
        bus = store.bus()
        listener = store.listen(bus, "jobs.new", name="audit")
        async with bus:
            pass
        async with store.bus() as other:
            await other.publish(JOBS, "missed")
            await other.forget("audit")
            with pytest.raises(InvalidOption, match="'audit'"):
                await other.forget("audit")
        async with bus:
            await bus.publish(JOBS, "new")
            await listener.have(1)
            await store.join(bus)

        assert listener.events == ["new"]


_STARTS: dict[Start, list[object]] = {"first": [1, 2, 3, 5], "last": [3, 5], "new": [5]}


def _fail_with_third(taken: int) -> None:
    if taken in {3, 7}:
        raise ConnectionError("no")


def _sleeps_on_third() -> Work:
    begun: list[object] = []

    async def work(context: Context[object]) -> None:
        await checkpoint()
        begun.append(context)
        if len(begun) == 3:
            await anyio.sleep_forever()

    return work


async def _ask_again_once(context: Context[object]) -> None:
    if context.attempt == 1:
        await context.retry(0.05)


async def _die_at_work(url: str, messages: int) -> list[str]:
    """Run `mortal` in a process of its own; give what it said before it died."""
    died = await anyio.run_process(
        [sys.executable, "-m", mortal.__name__, url, str(messages)],
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert died.returncode == mortal.DEATH, died.stderr.decode()
    return died.stdout.decode().splitlines()
