"""What a transport cannot do is refused in one sentence, and what is no name on every path."""

__all__ = ("Refusing",)

from typing import Any

import pytest

from eventbus.bus import EventBus
from eventbus.errors import InvalidOption, InvalidPattern, InvalidTopic, UnsupportedByTransport
from eventbus.registration import HandlerOptions
from eventbus.testing.transports.store import JOBS, Sizes, Store

TOPICS = [
    "",
    ".",
    "jobs.",
    "jobs..new",
    "jobs.*",
    ">",
    "$own",
    "a b",
    "a\r\nPUB x 0",
    "a\0b",
    "\ud800",
]
PATTERNS = ["", "jobs..new", "a b", "a\r\nSUB x 1", ">.jobs"]
TEXTS = ["", "a\r\nb", "a\0b", "x" * 100_000]


class Refusing(Sizes):
    """What a transport cannot do is refused in one sentence, and what is no name on every path."""

    async def test_names_are_checked_on_every_path(self, store: Store) -> None:
        """Nothing that is no topic, key, header, id or name reaches the transport."""
        bus = store.bus()
        listener = store.listen(bus, ">")
        async with bus:
            for topic in TOPICS:
                with pytest.raises(InvalidTopic):
                    await bus.publish(topic, {})
                with pytest.raises(InvalidTopic):
                    await bus.publish_many(topic, [{}])
            for text in TEXTS:
                await self._refuse_text(bus, text)
                with pytest.raises(InvalidOption):
                    store.listen(bus, "jobs.new", name=text)
            for pattern in PATTERNS:
                with pytest.raises(InvalidPattern):
                    store.listen(bus, pattern)
            await bus.publish(JOBS, "valid")
            await listener.have(1)
            await store.join(bus)

        assert listener.events == ["valid"]

    async def _refuse_text(self, bus: EventBus[Any], text: str) -> None:
        with pytest.raises(InvalidOption):
            await bus.publish("jobs.new", {}, key=text)
        with pytest.raises(InvalidOption):
            await bus.publish("jobs.new", {}, id=text)
        with pytest.raises(InvalidOption):
            await bus.publish("jobs.new", {}, headers={"name": text or "\n"})

    async def test_what_it_cannot_do_is_refused_at_the_start(self, store: Store) -> None:
        """In one sentence that names the subscription; a running bus refuses it at once."""
        for options in _beyond(store):
            bus = store.bus()
            store.listen(bus, "jobs.new", **options)
            with pytest.raises(UnsupportedByTransport) as refused:
                async with bus:
                    pass
            assert _is_sentence(str(refused.value))
            assert "'audit'" in str(refused.value)
            async with store.bus() as running:
                with pytest.raises(UnsupportedByTransport):
                    store.listen(running, "jobs.new", **options)

    async def test_what_cannot_be_published_is_refused(self, store: Store) -> None:
        """Without waiting, or for later, where the transport cannot: nothing is sent then."""
        bus = store.bus()
        listener = store.listen(bus, "jobs.new")
        async with bus:
            sent = 1
            can_do = store.capabilities
            for publish, is_able in ((_without_waiting, can_do.nowait), (_for_later, can_do.delay)):
                try:
                    await publish(bus)
                    sent += 1
                except UnsupportedByTransport as refused:
                    assert not is_able
                    assert _is_sentence(str(refused))  # noqa: PT017 - who can, refuses nothing
            await bus.publish("jobs.new", {})
            await listener.have(sent)
            await store.join(bus)

        assert len(listener.heard) == sent

    async def test_a_replay_of_what_is_not_kept_is_refused(self, store: Store) -> None:
        """In one sentence, before its first step."""
        async with store.bus() as bus:
            try:
                bus.replay("jobs.new")
            except UnsupportedByTransport as refused:
                assert not store.capabilities.replay
                assert _is_sentence(str(refused))  # noqa: PT017 - who can, refuses nothing
            else:
                assert store.capabilities.replay

    async def test_an_unknown_option_of_the_url_is_refused(self, store: Store) -> None:
        """By the name of the option; its value may be a password, and is not shown."""
        joint = "&" if "?" in store.url else "?"
        with pytest.raises(InvalidOption, match="colour") as refused:
            EventBus(f"{store.url}{joint}colour=s3cret")

        assert "s3cret" not in str(refused.value)


def _beyond(store: Store) -> list[HandlerOptions[Any]]:
    """List what a subscription may ask for, and this transport cannot do."""
    can_do = store.capabilities
    asked: list[tuple[bool, HandlerOptions[Any]]] = [
        (can_do.durable, {"name": "audit", "durable": True}),
        (can_do.replay, {"name": "audit", "start": "first"}),
        (can_do.feeds, {"name": "audit", "overflow": "fail"}),
        (can_do.groups, {"group": "audit"}),
        (not can_do.durable, {"name": "audit", "overflow": "drop_oldest"}),
    ]
    return [options for is_able, options in asked if not is_able]


async def _without_waiting(bus: EventBus[Any]) -> None:
    bus.publish_nowait("jobs.new", {})


async def _for_later(bus: EventBus[Any]) -> None:
    await bus.publish("jobs.new", {}, delay=0.01)


def _is_sentence(text: str) -> bool:
    return bool(text) and "\n" not in text and len(text) < 300
