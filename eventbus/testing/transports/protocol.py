"""What the bus relies on, asked of the transport itself: its sources, and how deliveries end."""

__all__ = ("Spec", "TalkingToSources", "numbered")

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from eventbus.clock import SystemClock
from eventbus.context import FailedDelivery
from eventbus.message import Delivery, Message, write_message, write_traits
from eventbus.testing.transports.store import Sizes, Store, needs
from eventbus.transports.base import (
    Ack,
    Dead,
    KeepsDeadLetters,
    Outcome,
    Released,
    RetryLater,
    Source,
    Start,
    Transport,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a subscription asks for, without one."""

    name: str = "audit"
    patterns: Sequence[str] = (">",)
    is_durable: bool = False
    is_sequenced: bool = False
    start: Start = "new"
    ack_wait: float = 30.0
    max_deliveries: int = 20

    def order_of(self, message: Message) -> str | None:
        """Tell the key of a message."""
        return message.key

    def note_lost(self, messages: int) -> None:
        """Do nothing: nobody asks."""


def numbered(numbers: range) -> list[Message]:
    """Write messages to publish."""
    return [_message(number, f"id-{number}") for number in numbers]


def _message(payload: object, id: str) -> Message:
    head = "jobs.new", None, write_traits(id=id), 1
    return write_message(head, SystemClock().now(), payload)


async def take(source: Source, count: int, most: int = 1000) -> list[Delivery]:
    """Fetch until that many deliveries have come."""
    taken: list[Delivery] = []
    while len(taken) < count:
        fetched = await source.fetch(most)
        assert len(fetched) <= most
        taken += fetched
    return taken


def payloads(deliveries: Sequence[Delivery]) -> list[object]:
    """Give what the deliveries carry."""
    return [one.message.payload for one in deliveries]


class TalkingToSources(Sizes):
    """What the bus relies on, asked of the transport itself: sources, and how deliveries end."""

    @needs("sources")
    async def test_a_source_misses_nothing_after_open(self, store: Store) -> None:
        """It begins when `open` is called, though it is entered later."""
        async with store.transport() as transport:
            opening = transport.open(Spec())
            receipts = await transport.publish(numbered(range(self.messages)))
            async with opening as source:
                taken = await take(source, self.messages)

        assert payloads(taken) == list(range(self.messages))
        assert [one.id for one in receipts] == [f"id-{n}" for n in range(self.messages)]

    @needs("sources")
    async def test_no_more_is_fetched_than_was_asked_for(self, store: Store) -> None:
        """And nothing is lost between two fetches."""
        async with store.transport() as transport, transport.open(Spec()) as source:
            await transport.publish(numbered(range(self.messages)))
            taken = await take(source, self.messages, most=3)

        assert payloads(taken) == list(range(self.messages))

    @needs("sources")
    async def test_a_waiting_fetch_can_be_woken(self, store: Store) -> None:
        """It comes back with nothing, as there is nothing."""
        async with store.transport() as transport, transport.open(Spec()) as source:
            source.wake()
            assert list(await source.fetch(10)) == []

    @needs("sources")
    async def test_a_cancelled_fetch_takes_nothing(self, store: Store) -> None:
        """Wherever it was cancelled: the next one has it all."""
        await self._cancel_fetches(store, Spec())

    @needs("sources", "durable")
    async def test_a_cancelled_fetch_of_a_durable_one_takes_nothing(self, store: Store) -> None:
        """Wherever it was cancelled: the next one has it all, as attempt 1."""
        await self._cancel_fetches(store, Spec(is_durable=True))

    async def _cancel_fetches(self, store: Store, spec: Spec) -> None:
        taken: list[Delivery] = []
        rounds = range(4 * self.cycles)
        async with store.transport() as transport, transport.open(spec) as source:
            for number in rounds:
                await transport.publish(numbered(range(number, number + 1)))
                taken += await self._fetch_for(source, number)
            taken += await take(source, len(rounds) - len(taken))

        assert payloads(taken) == list(rounds)
        assert {one.attempt for one in taken} == {1}

    async def _fetch_for(self, source: Source, checkpoints: int) -> Sequence[Delivery]:
        """Fetch, but cancel that after so many checkpoints."""
        fetched: Sequence[Delivery] = ()
        async with anyio.create_task_group() as group:

            async def fetch() -> None:
                nonlocal fetched
                fetched = await source.fetch(10)

            group.start_soon(fetch)
            for _ in range(checkpoints):
                await checkpoint()
            group.cancel_scope.cancel()
        return fetched

    @needs("sources", "durable")
    async def test_how_a_delivery_ended_outlasts_the_transport(self, store: Store) -> None:
        """What is done or dead stays away; what was released is the same attempt, or the next."""
        spec = Spec(is_durable=True)
        async with store.transport() as transport, transport.open(spec) as source:
            await transport.publish(numbered(range(5)))
            done, released, later, dead, _ = await take(source, 5)
            await source.settle([(done, Ack()), (released, Released())])
            await source.settle([(later, RetryLater(0.0)), (dead, Dead(_failed(dead), keep=True))])
        async with store.transport() as transport, transport.open(spec) as source:
            again = await take(source, 3)
            await transport.publish(numbered(range(5, 6)))
            again += await take(source, 1)
            letters = await self._letters(transport)

        attempts = {one.message.payload: one.attempt for one in again}
        assert attempts == {1: 1, 2: 2, 4: 1, 5: 1}
        assert letters == ([3] if store.capabilities.dead_letters else [])

    async def _letters(self, transport: Transport[Any]) -> list[object]:
        if not isinstance(transport, KeepsDeadLetters):
            return []
        letters = await transport.dead_letters("audit", limit=10, before=None)
        return [one.message.payload for one in letters]

    @needs("sources", "durable", "cross_process")
    async def test_sources_of_one_name_share(self, store: Store) -> None:
        """Of two transports on one store: each delivery goes to one of them."""
        spec = Spec(is_durable=True)
        taken: list[Delivery] = []

        async def fetch(source: Source) -> None:
            while True:
                fetched = await source.fetch(3)
                taken.extend(fetched)
                outcomes: list[tuple[Delivery, Outcome]] = [(one, Ack()) for one in fetched]
                await source.settle(outcomes)
                if len(taken) >= self.messages:
                    group.cancel_scope.cancel()

        async with (
            store.transport() as first,
            store.transport() as second,
            first.open(spec) as one,
            second.open(spec) as other,
        ):
            await first.publish(numbered(range(self.messages)))
            async with anyio.create_task_group() as group:
                group.start_soon(fetch, one)
                group.start_soon(fetch, other)

        assert sorted(one.message.id for one in taken) == sorted(
            f"id-{n}" for n in range(self.messages)
        )

    @needs("sources", "durable", "cross_process")
    async def test_what_was_settled_is_not_given_to_another(self, store: Store) -> None:
        """Not even if the source ends at once: another one on the store gets what is new."""
        spec = Spec(is_durable=True)
        for number in range(self.cycles):
            numbers = range(number * self.messages, (number + 1) * self.messages)
            async with store.transport() as first, store.transport() as second:
                async with first.open(spec) as source:
                    await first.publish(numbered(numbers))
                    for one in await take(source, self.messages):
                        await source.settle([(one, Ack())])
                        await checkpoint()
                async with second.open(spec) as source:
                    await second.publish([_message("last", f"last-{number}")])
                    (last,) = await take(source, 1)
                    await source.settle([(last, Ack())])
                    assert last.message.payload == "last"


def _failed(delivery: Delivery) -> FailedDelivery:
    return FailedDelivery.of(delivery, "audit", ConnectionError("no"), now=SystemClock().now())
