"""What is published reaches who listens, whole, and nobody else."""

__all__ = ("Carrying",)

from datetime import UTC, datetime, timedelta

import anyio
import anyio.to_thread
from anyio.lowlevel import checkpoint

from eventbus.contracts import Topic
from eventbus.testing.transports.store import EMPTY, JOBS, Sizes, Store, all_have, needs

PAYLOADS: list[object] = [
    {"text": "grüße", "numbers": [1, -2.5, 1e300, 2**53], "nothing": None, "flags": [True, False]},
    ["a", {"b": []}],
    "text\n\t\u2028\U0001f4e8",
    "",
    0,
    None,
    {},
    b"\xff\x00",
]
"""What has to arrive as it was published: all that is JSON, and bytes."""

TOPICS = ["jobs", "JOBS", "jobs.größe", "jobs.a_b-c~d!e@f#g%2e&h=i+j,k;l:m|n/o", "jobs.a$b", "9.8"]
NAMES = ["audit", "AUDIT", "au.dit", "-_.9", "a" * 128, "audit-2"]
TEXTS = ["k", "with space", "größe", "a.b.*.>", "'quoted' \"twice\"", "%00%0A", "x" * 200]


class Carrying(Sizes):
    """What is published reaches who listens, whole, and nobody else."""

    async def test_messages_arrive_whole(self, store: Store) -> None:
        """With topic, id, payload, key and headers as the publisher gave them."""
        bus = store.bus()
        listener = store.listen(bus, "jobs.>")
        sent = [
            (f"jobs.n{n}", f"id-{n}", {"n": n}, f"k-{n}", {"number": str(n), "text": "grüße"})
            for n in range(self.messages)
        ]
        async with bus:
            for topic, given, payload, key, headers in sent:
                await bus.publish(topic, payload, id=given, key=key, headers=headers)
            await listener.have(len(sent))

        arrived = [one.message for one in listener.heard]
        assert [
            (one.topic, one.id, one.payload, one.key, dict(one.headers)) for one in arrived
        ] == sent

    async def test_the_id_and_the_time_are_those_of_the_publish(self, store: Store) -> None:
        """The receipt tells the id; the time is when it was published, not when it came."""
        bus = store.bus()
        listener = store.listen(bus, "jobs.new")
        async with bus:
            receipt = await bus.publish("jobs.new", {})
            await listener.have(1)

        (heard,) = listener.heard
        assert heard.message.id == receipt.id
        assert abs(heard.message.time - datetime.now(UTC)) < timedelta(seconds=store.patience)

    async def test_payloads_of_every_kind_arrive(self, store: Store) -> None:
        """All that is JSON, and bytes."""
        bus = store.bus()
        listener = store.listen(bus, "jobs.new")
        async with bus:
            for payload in PAYLOADS:
                await bus.publish(JOBS, payload)
            await listener.have(len(PAYLOADS))

        assert listener.events == PAYLOADS

    async def test_every_valid_name_is_carried(self, store: Store) -> None:
        """Topics, keys and headers that look odd on a wire, or in a file."""
        bus = store.bus()
        named = zip(TOPICS, NAMES, strict=True)
        listeners = {topic: store.listen(bus, topic, name=name) for topic, name in named}
        async with bus:
            for topic in TOPICS:
                for text in TEXTS:
                    await bus.publish(topic, {}, key=text, headers={"text": text})
            for listener in listeners.values():
                await listener.have(len(TEXTS))
            await store.join(bus)

        for topic, listener in listeners.items():
            arrived = [one.message for one in listener.heard]
            assert {one.topic for one in arrived} == {topic}
            assert [one.key for one in arrived] == TEXTS
            assert [one.headers["text"] for one in arrived] == TEXTS

    async def test_a_batch_arrives_as_it_was_given(self, store: Store) -> None:
        """`publish_many` gives a receipt for each, and keeps their order."""
        bus = store.bus()
        listener = store.listen(bus, "jobs.new")
        async with bus:
            receipts = await bus.publish_many("jobs.new", [{"n": n} for n in range(self.messages)])
            await listener.have(self.messages)

        assert listener.ids == [one.id for one in receipts]
        assert listener.events == [{"n": n} for n in range(self.messages)]

    async def test_what_a_thread_publishes_arrives_in_its_order(self, store: Store) -> None:
        """Leaving the block waits until it is on its way."""
        bus = store.bus()
        listener = store.listen(bus, "jobs.>", name="audit")

        def publish() -> None:
            for n in range(self.messages):
                bus.publish_from_thread(f"jobs.{n % 3}", {"n": n}, key="k" if n % 2 else None)

        async with bus:
            await anyio.to_thread.run_sync(publish)
            await store.join(bus)
            await listener.have(self.messages)

        assert listener.events == [{"n": n} for n in range(self.messages)]

    async def test_each_subscription_gets_every_message(self, store: Store) -> None:
        """However many there are; they are independent."""
        bus = store.bus()
        listeners = [
            store.listen(bus, "jobs.*", name=None if n % 2 else f"listener-{n}")
            for n in range(self.subscribers)
        ]
        async with bus:
            sent = [(await bus.publish("jobs.new", {"n": n})).id for n in range(self.messages)]
            for listener in listeners:
                await listener.have(len(sent))
            await store.join(bus)

        assert [listener.ids for listener in listeners] == [sent] * self.subscribers

    @needs("groups")
    async def test_the_members_of_a_group_share(self, store: Store) -> None:
        """Each message goes to one of them, and more than one has work."""
        bus = store.bus()
        members = [
            store.listen(bus, "jobs.new", group="workers", work=lambda _: checkpoint())
            for _ in range(self.subscribers)
        ]
        async with bus:
            receipts = await bus.publish_many("jobs.new", EMPTY * self.many)
            await all_have(members, self.many)
            await store.join(bus)

        assert sorted(id for one in members for id in one.ids) == sorted(one.id for one in receipts)
        assert sum(bool(one.heard) for one in members) > 1

    async def test_many_topics_are_carried_at_once(self, store: Store) -> None:
        """Each with a publisher and a listener of its own."""
        bus = store.bus()
        names = [f"topic-{n}.new" for n in range(self.topics)]
        listeners = {name: store.listen(bus, name) for name in names}

        async def publish(name: str) -> None:
            for n in range(self.messages):
                await bus.publish(name, {"n": n})

        async with bus:
            async with anyio.create_task_group() as publishers:
                for name in names:
                    publishers.start_soon(publish, name)
            for listener in listeners.values():
                await listener.have(self.messages)
            await store.join(bus)

        for name, listener in listeners.items():
            assert {one.message.topic for one in listener.heard} == {name}
            assert listener.events == [{"n": n} for n in range(self.messages)]

    async def test_topics_do_not_mix(self, store: Store) -> None:
        """However much they resemble one another."""
        bus = store.bus()
        names = ["jobs", "jobs.new", "jobs.new.urgent", "jobs.newer", "jobs-new", "Jobs.new", "job"]
        listeners = {name: store.listen(bus, name) for name in names}
        async with bus:
            for name in [*names, *reversed(names)]:
                await bus.publish(name, {"topic": name})
            for listener in listeners.values():
                await listener.have(2)
            await store.join(bus)

        for name, listener in listeners.items():
            assert listener.events == [{"topic": name}] * 2

    async def test_wildcards_match_as_they_do_in_memory(self, store: Store) -> None:
        """`*` and `{name}` stand for one token, `>` for all that follow, and twice is once."""
        bus = store.bus()
        names = ["jobs.eu.new", "jobs.new", "jobs.eu.old", "jobs.us.new", "jobs.eu.new.more", "eu"]
        listeners = {
            ("jobs.*.new",): [0, 3],
            ("jobs.>",): [0, 1, 2, 3, 4],
            ("jobs.{place}.new",): [0, 3],
            ("*.eu.>", "jobs.eu.*"): [0, 2, 4],
            (">",): [0, 1, 2, 3, 4, 5],
        }
        found = {patterns: store.listen(bus, *patterns) for patterns in listeners}
        async with bus:
            for number, name in enumerate(names):
                await bus.publish(Topic(name, object), number)
            for patterns, expected in listeners.items():
                await found[patterns].have(len(expected))
            await store.join(bus)

        assert {patterns: one.events for patterns, one in found.items()} == listeners
        places = [one.captures for one in found["jobs.{place}.new",].heard]
        assert places == [{"place": "eu"}, {"place": "us"}]

    async def test_a_subscription_may_come_while_the_bus_runs(self, store: Store) -> None:
        """It hears what is published from then on, at once."""
        async with store.bus() as bus:
            await bus.publish(JOBS, "early")
            late = [store.listen(bus, "jobs.new"), store.listen(bus, "jobs.new", name="audit")]
            await bus.publish(JOBS, "late")
            for listener in late:
                await listener.have(1)
            await store.join(bus)

        assert [listener.events for listener in late] == [["late"], ["late"]]

    async def test_a_loop_takes_what_is_published(self, store: Store) -> None:
        """Events come by iteration too, in their order."""
        taken: list[object] = []
        async with store.bus() as bus, bus.subscribe("jobs.new") as events:
            await bus.publish_many(JOBS, list(range(self.messages)))
            with anyio.fail_after(store.patience):
                while len(taken) < self.messages:
                    taken.append(await anext(aiter(events)))

        assert taken == list(range(self.messages))

    async def test_what_a_handler_publishes_is_carried(self, store: Store) -> None:
        """With what caused it."""
        bus = store.bus()
        listener = store.listen(bus, "jobs.done")
        store.listen(bus, "jobs.new", work=lambda context: context.publish("jobs.done", {}))
        async with bus:
            receipt = await bus.publish("jobs.new", {})
            await listener.have(1)

        (heard,) = listener.heard
        assert heard.message.causation_id == heard.message.correlation_id == receipt.id

    @needs("cross_process")
    async def test_buses_hear_one_another(self, store: Store) -> None:
        """What one publishes, the subscriptions of the other get."""
        first, second = store.bus(), store.bus()
        live = store.listen(second, "jobs.*")
        named = store.listen(second, "jobs.*", name="audit")
        async with first, second:
            sent = [(await first.publish(JOBS, n)).id for n in range(self.messages)]
            await live.have(len(sent))
            await named.have(len(sent))

        assert live.ids == named.ids == sent
