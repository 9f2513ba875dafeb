"""A failure is that of one delivery: it comes again, or is kept as a dead letter."""

__all__ = ("Failing",)

from anyio.lowlevel import checkpoint

from eventbus.context import Context
from eventbus.middleware import DeadLetter, Retry
from eventbus.testing.transports.store import JOBS, Sizes, Store, fails, needs

REFUSALS = 3


async def refuse_odd(context: Context[object]) -> None:
    """Fail with every other number."""
    await checkpoint()
    if isinstance(context.event, int) and context.event % 2:
        raise ConnectionError(f"odd: {context.event}")


async def send_back_twice(context: Context[object]) -> None:
    """Ask for two more attempts, then be content."""
    await (context.retry() if context.attempt <= 2 else context.ack())


class Failing(Sizes):
    """A failure is that of one delivery: it comes again, or is kept as a dead letter."""

    async def test_what_failed_comes_again(self, store: Store) -> None:
        """As the next attempt at the same message."""
        bus = store.bus(Retry(attempts=3, initial=0.001))
        listener = store.listen(bus, "jobs.new", work=fails(2), name="audit")
        async with bus:
            receipt = await bus.publish("jobs.new", {"n": 1}, key="k")
            await listener.have(1)
            await store.join(bus)

        assert [one.attempt for one in listener.begun] == [1, 2, 3]
        assert {(one.message.id, one.message.key) for one in listener.begun} == {(receipt.id, "k")}

    async def test_what_was_sent_back_comes_again(self, store: Store) -> None:
        """When the handler asks for it; settled by the handler, it does not."""
        bus = store.bus()
        listener = store.listen(bus, "jobs.new", work=send_back_twice, ack="manual", name="audit")
        async with bus:
            await bus.publish("jobs.new", {})
            await listener.have(3)
            await store.join(bus)

        assert [one.attempt for one in listener.heard] == [1, 2, 3]

    async def test_it_goes_on_after_errors(self, store: Store) -> None:
        """Each message is refused some times, and all are handled in the end."""
        bus = store.bus(Retry(attempts=REFUSALS + 1, initial=0.0))
        listener = store.listen(bus, "jobs.new", work=fails(REFUSALS), concurrency=4, name="audit")
        async with bus:
            sent = [(await bus.publish(JOBS, n)).id for n in range(self.messages)]
            await listener.have(len(sent))
            await store.join(bus)

        assert sorted(listener.ids) == sorted(sent)
        assert len(listener.begun) == len(sent) * (REFUSALS + 1)

    async def test_a_failure_is_nobody_elses(self, store: Store) -> None:
        """What one subscription gives up on, the others and the messages after it do not notice."""
        bus = store.bus()
        failing = store.listen(bus, "jobs.new", work=refuse_odd, name="failing")
        other = store.listen(bus, "jobs.new", name="other")
        async with bus:
            await bus.publish_many(JOBS, list(range(self.messages)))
            await other.have(self.messages)
            await failing.have(len(range(0, self.messages, 2)))
            await store.join(bus)

        assert other.events == list(range(self.messages))
        assert failing.events == list(range(0, self.messages, 2))
        assert len(failing.begun) == self.messages

    async def test_what_no_model_takes_ends_there(self, store: Store) -> None:
        """It is not tried, counted as invalid, and the next message comes."""
        bus = store.bus(Retry(attempts=3))
        listener = store.listen(bus, "jobs.new", model=int, name="audit")
        async with bus:
            await bus.publish_many(JOBS, ["no number", 1, {"no": 2}, 3])
            await listener.have(2)
            await store.join(bus)
            stats = bus.stats().subscriptions["audit"]

        assert listener.events == [1, 3]
        assert stats.invalid == 2

    @needs("dead_letters")
    async def test_dead_letters_are_kept(self, store: Store) -> None:
        """With message and reason, newest first; what is purged is gone."""
        bus = store.bus(DeadLetter())
        listener = store.listen(bus, "jobs.new", work=refuse_odd, name="audit")
        store.listen(bus, "jobs.new", name="other")
        async with bus:
            for n in range(1, 6):
                await bus.publish(JOBS, n, key=f"k-{n}")
            await listener.have(2)
            await store.join(bus)
            newest, *others = await bus.dead_letters("audit")
            assert await bus.purge_dead_letters(ids=[one.id for one in others]) == 2
            assert [one.id for one in await bus.dead_letters()] == [newest.id]
            assert await bus.dead_letters("other") == []

        assert [one.message.payload for one in (newest, *others)] == [5, 3, 1]
        assert (newest.message.key, newest.subscription, newest.attempts) == ("k-5", "audit", 1)
        assert (newest.error_type, newest.error) == ("ConnectionError", "odd: 5")

    @needs("dead_letters")
    async def test_dead_letters_are_redriven(self, store: Store) -> None:
        """To the subscription that failed alone, as attempt 1; then they are none any more."""
        is_mended = False

        async def fail_until_mended(context: Context[object]) -> None:
            await checkpoint()
            if not is_mended:
                raise ConnectionError

        bus = store.bus(DeadLetter(), Retry(attempts=2, initial=0.001))
        mended = store.listen(bus, "jobs.new", work=fail_until_mended, name="audit")
        other = store.listen(bus, "jobs.new", name="other")
        async with bus:
            sent = [one.id for one in await bus.publish_many(JOBS, [1, 2])]
            await mended.begin(4)
            await store.join(bus)
            is_mended = True
            assert await bus.redrive("audit") == 2
            await mended.have(2)
            await store.join(bus)
            assert await bus.dead_letters() == []

        assert (sorted(mended.ids), other.ids) == (sorted(sent), sent)
        assert {one.attempt for one in mended.heard} == {1}
