"""Deadlocks of handlers that publish: who is told, of what, and who is left to wait."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import move_on_after
from anyio.lowlevel import checkpoint

from eventbus import Context, DeadlockError, EventBus, RequestTimeout, RequestTopic, Topic
from eventbus.middleware import DeadLetter, Retry
from eventbus.testing import ManualClock

A, B, C = (Topic(name, int) for name in "abc")
ASK_A, ASK_B, ASK_C = (RequestTopic(f"ask.{name}", int, int) for name in "abc")
ONE_RETRY = Retry(attempts=2, initial=9.0, jitter=False)

Asked = RequestTopic[int, int]

Plan = Mapping[int, Sequence[tuple[Topic[int], int]]]
"""What to publish at which event, one after the other."""


class Relay:
    """A handler that stands still until it is opened, then publishes by plan.

    It notes what it saw, and what it was told. At some events it fails, the first time.
    """

    def __init__(self, bus: EventBus, plan: Plan, *, failing: Collection[int] = ()) -> None:
        self.seen: list[int] = []
        self.told: list[DeadlockError] = []
        self._bus = bus
        self._plan = plan
        self._failing = set(failing)
        self._opened = anyio.Event()

    async def __call__(self, event: int) -> None:
        await self._opened.wait()
        self.seen.append(event)
        for topic, next_event in self._plan.get(event, ()):
            try:
                await self._bus.publish(topic, next_event)
            except DeadlockError as error:
                self.told.append(error)
        if event in self._failing:
            self._failing.remove(event)
            raise ValueError(event)

    @property
    def cycles(self) -> list[tuple[str, ...]]:
        """The cycles it was told of."""
        return [error.cycle for error in self.told]

    def open(self) -> None:
        """Let this event and all later ones pass."""
        self._opened.set()


def parity(event: int) -> str:
    """Give the key of an event: whether it is even or odd."""
    return str(event % 2)


def one_key(_: int) -> str:
    """Give the key of an event where all have the same."""
    return "one"


def serve(
    bus: EventBus, topic: Topic[int], plan: Plan | None = None, *, concurrency: int = 1
) -> Relay:
    """Let a relay handle a topic, with a queue of one place."""
    relay = Relay(bus, plan or {})
    bus.on(topic, name=topic.name, queue_size=1, concurrency=concurrency)(relay)
    return relay


async def fill(bus: EventBus, clock: ManualClock, *topics: Topic[int]) -> None:
    """Give each topic's handler event 0 to stand still at, and its queue of one place event 1."""
    for topic in topics:
        for event in (0, 1):
            await bus.publish(topic, event)
            await clock.settle()


async def open_one_by_one(clock: ManualClock, *relays: Relay) -> None:
    """Open relays, each once the one before has got as far as it can."""
    for relay in relays:
        relay.open()
        await clock.settle()


# --- Who is told ----------------------------------------------------------------------------------


async def test_a_handler_that_fills_its_own_queue_is_told(clock: ManualClock) -> None:
    """The publish that would wait for its own handler raises at once; what fitted is handled."""
    bus = EventBus(clock=clock)
    relay = serve(bus, A, {0: [(A, 1), (A, 2)]})
    relay.open()
    async with bus:
        await bus.publish(A, 0)

    assert (relay.seen, relay.cycles) == ([0, 1], [("a",)])
    assert str(relay.told[0]).startswith("'a' waits for 'a', each for room in a full queue")


async def test_the_cycle_is_named_in_its_order(clock: ManualClock) -> None:
    """The one whose wait closes the circle is told who waits for whom; the others go on."""
    bus = EventBus(clock=clock)
    first = serve(bus, A, {0: [(B, 2)]})
    second = serve(bus, B, {0: [(C, 2)]})
    third = serve(bus, C, {0: [(A, 2)]})
    async with bus:
        await fill(bus, clock, A, B, C)
        await open_one_by_one(clock, first, second, third)

        assert (first.cycles, second.cycles, third.cycles) == ([], [], [("c", "a", "b")])
        assert (first.seen, second.seen, third.seen) == ([0, 1], [0, 1, 2], [0, 1, 2])
        assert "'c' waits for 'a', 'a' waits for 'b', 'b' waits for 'c', each" in str(third.told[0])


async def test_who_only_leads_to_a_circle_is_not_named(clock: ManualClock) -> None:
    """One that waits for a circle is let in when the circle is broken."""
    bus = EventBus(clock=clock)
    outside = serve(bus, A, {0: [(B, 2)]})
    first = serve(bus, B, {0: [(C, 2)]})
    second = serve(bus, C, {0: [(B, 3)]})
    async with bus:
        await fill(bus, clock, A, B, C)
        await open_one_by_one(clock, outside, first, second)

        assert (outside.cycles, first.cycles, second.cycles) == ([], [], [("c", "b")])
        assert first.seen == [0, 1, 2]


async def test_what_a_context_publishes_fails_the_attempt(clock: ManualClock) -> None:
    """It is an ordinary failure: with `DeadLetter`, a dead letter that names the cycle."""
    bus = EventBus(clock=clock, middleware=[DeadLetter()])

    @bus.on(A, name="a", queue_size=1)
    async def spread(event: int, context: Context[int]) -> None:
        for _ in range(2 if event == 0 else 0):
            await context.publish(A, 1)

    async with bus:
        await bus.publish(A, 0)
        await bus.join()

        (letter,) = await bus.dead_letters()
        assert (letter.error_type, letter.message.payload) == ("DeadlockError", 0)
        assert letter.error.startswith("'a' waits for 'a'")
        assert bus.stats().subscriptions["a"].succeeded == 1


async def test_it_is_tried_again_as_any_failure(clock: ManualClock) -> None:
    """By the second attempt the queue has been emptied, and the publish succeeds."""
    seen: list[int] = []
    bus = EventBus(clock=clock, middleware=[Retry(attempts=2, jitter=False)])

    @bus.on(A, name="a", queue_size=1)
    async def spread(event: int) -> None:
        seen.append(event)
        if event == 0:
            await bus.publish(A, 2)

    async with bus:
        await bus.publish_many(A, [0, 1])
        await clock.advance(1.0)
        await bus.join()

    assert seen == [0, 1, 0, 2]


async def test_publishing_many_is_covered(clock: ManualClock) -> None:
    """A batch that its own handler cannot wait for raises; what moved up before stays."""
    seen: list[int] = []
    told: list[DeadlockError] = []
    bus = EventBus(clock=clock)

    @bus.on(A, name="a", queue_size=2)
    async def spread(event: int) -> None:
        seen.append(event)
        try:
            await bus.publish_many(A, [1, 2, 3, 4] if event == 0 else [])
        except DeadlockError as error:
            told.append(error)

    async with bus:
        await bus.publish(A, 0)

    assert (seen, [error.cycle for error in told]) == ([0, 1, 2], [("a",)])


async def test_redriving_is_covered(clock: ManualClock) -> None:
    """A handler that redrives into its own full queue is told, and the dead letter stays."""
    told: list[DeadlockError] = []
    bus = EventBus(clock=clock, middleware=[DeadLetter()])

    @bus.on(A, name="a", queue_size=1)
    async def mend(event: int) -> None:
        if event == 0:
            raise ValueError(event)
        if event == 1:
            await bus.publish(A, 2)
            try:
                await bus.redrive()
            except DeadlockError as error:
                told.append(error)

    async with bus:
        await bus.publish_many(A, [0, 1])
        await bus.join()

        assert ([error.cycle for error in told], len(await bus.dead_letters())) == ([("a",)], 1)


async def test_one_hopeless_queue_of_several_is_enough(clock: ManualClock) -> None:
    """Who waits for several queues waits for all: none of them gets the message any more."""
    bus = EventBus(clock=clock)
    slow, spread = Relay(bus, {}), Relay(bus, {0: [(A, 2)]})
    bus.on(A, C, name="slow", queue_size=1)(slow)
    bus.on(A, B, name="spread", queue_size=1)(spread)
    async with bus:
        await fill(bus, clock, B, C)
        spread.open()
        slow.open()  # takes the next before the one that is told has run
        await clock.settle()

        assert (spread.cycles, spread.seen, slow.seen) == ([("spread",)], [0, 1], [0, 1])


async def test_the_last_free_worker_is_told(clock: ManualClock) -> None:
    """With `concurrency=2` one may wait for the other, until that one would wait too."""
    bus = EventBus(clock=clock)
    first, second = Relay(bus, {0: [(A, 3)]}), Relay(bus, {1: [(A, 4)]})
    for relay in (first, second):
        bus.on(A, group="a", queue_size=1)(relay)
    async with bus:
        for event in range(3):
            await bus.publish(A, event)
            await clock.settle()
        await open_one_by_one(clock, first, second)

        assert (first.cycles, second.cycles) == ([], [("a",)])
        assert sorted(first.seen + second.seen) == [0, 1, 2, 3]


async def test_a_free_worker_with_nothing_it_may_take_does_not_help(clock: ManualClock) -> None:
    """What fills the queue waits behind the key of the handler that waits for a place."""
    bus = EventBus(clock=clock)
    relay = Relay(bus, {0: [(A, 2)]})
    bus.on(A, name="a", queue_size=1, concurrency=2, key=one_key)(relay)
    async with bus:
        await fill(bus, clock, A)
        relay.open()
        await bus.join()

        assert (relay.cycles, relay.seen) == ([("a",)], [0, 1])


async def test_who_waits_is_told_when_the_last_other_worker_parks(clock: ManualClock) -> None:
    """The circle closes without a wait: the worker finds that all is set aside behind a key."""
    bus = EventBus(clock=clock)
    first, second = Relay(bus, {0: [(A, 9)]}), Relay(bus, {})
    for relay in (first, second):
        bus.on(A, group="a", queue_size=1, key=parity)(relay)
    async with bus, anyio.create_task_group() as tasks:
        for event in (0, 1, 2):
            await bus.publish(A, event)
            await clock.settle()
        tasks.start_soon(bus.publish, A, 4)
        await clock.settle()
        await open_one_by_one(clock, first)
        told_before = list(first.told)
        await open_one_by_one(clock, second)

        assert (told_before, first.cycles) == ([], [("a",)])
        assert sorted(first.seen + second.seen) == [0, 1, 2, 4]


async def test_who_waits_is_told_when_the_last_other_worker_leaves(clock: ManualClock) -> None:
    """A handler that left its group will take nothing more when it is done."""
    bus = EventBus(clock=clock)
    first, second = Relay(bus, {0: [(A, 3)]}), Relay(bus, {})
    for relay in (first, second):
        bus.on(A, group="a", queue_size=1)(relay)
    async with bus:
        for event in range(3):
            await bus.publish(A, event)
            await clock.settle()
        await bus.unsubscribe(second)
        await open_one_by_one(clock, first)
        told_before = list(first.told)
        await open_one_by_one(clock, second)

        assert (told_before, first.cycles) == ([], [("a",)])
        assert (first.seen, second.seen) == ([0, 2], [1])


async def test_who_waits_is_told_when_the_last_retry_is_dropped(clock: ManualClock) -> None:
    """Draining abandons what is due too late, and with it what might have been replaced."""
    bus = EventBus(clock=clock, drain_timeout=5.0, middleware=[ONE_RETRY])
    relay = Relay(bus, {1: [(A, 3)]}, failing={0})
    bus.on(A, name="a", queue_size=2, overflow="latest", key=str)(relay)
    async with bus:
        async with anyio.create_task_group() as tasks:
            for event in (0, 1, 2):
                await bus.publish(A, event)
                await clock.settle()
            tasks.start_soon(bus.publish, A, 4)
            await open_one_by_one(clock, relay)

            assert relay.cycles == []

            tasks.start_soon(bus.drain)

        assert relay.cycles == [("a",)]


async def test_who_tries_again_and_again_lets_the_others_run(clock: ManualClock) -> None:
    """Being told is a checkpoint, as any wait."""
    turns: list[int] = []
    bus = EventBus(clock=clock)
    relay = serve(bus, A, {0: [(A, 1), *[(A, 2)] * 9]})
    relay.open()

    async def count_turns() -> None:
        while len(relay.told) < 9:
            await checkpoint()
            turns.append(len(relay.told))

    async with bus, anyio.create_task_group() as tasks:
        tasks.start_soon(count_turns)
        await bus.publish(A, 0)

    assert len(set(turns)) > 5


async def test_a_cycle_through_another_bus_is_found(clock: ManualClock) -> None:
    """Handlers of two buses that publish into each other's full queues."""
    bus, other = EventBus(clock=clock), EventBus(clock=clock)
    here, there = Relay(other, {0: [(B, 2)]}), Relay(bus, {0: [(A, 2)]})
    bus.on(A, name="here", queue_size=1)(here)
    other.on(B, name="there", queue_size=1)(there)
    async with bus, other:
        await fill(bus, clock, A)
        await fill(other, clock, B)
        await open_one_by_one(clock, here, there)

        assert (here.cycles, there.cycles) == ([], [("there", "here")])


async def test_a_cycle_is_found_while_the_bus_drains(clock: ManualClock) -> None:
    """Leaving the block does not wait for `drain_timeout` then."""
    bus = EventBus(clock=clock)
    first, second = serve(bus, A, {0: [(B, 2)]}), serve(bus, B, {0: [(A, 2)]})
    async with bus:
        await fill(bus, clock, A, B)
        first.open()
        second.open()

    assert len(first.told) + len(second.told) == 1


async def test_a_handler_in_a_thread_is_told_too(clock: ManualClock) -> None:
    """What a handler that is not async publishes is sent by its own task."""
    bus = EventBus(clock=clock, middleware=[DeadLetter()])

    @bus.on(A, name="a", queue_size=1)
    def spread(event: int, context: Context[int]) -> None:
        for _ in range(2 if event == 0 else 0):
            context.publish_nowait(A, 1)

    async with bus:
        await bus.publish(A, 0)
        await bus.join()

        assert [letter.error_type for letter in await bus.dead_letters()] == ["DeadlockError"]


# --- Requests -------------------------------------------------------------------------------------


class Asker:
    """A responder that asks others, by plan, before it answers."""

    def __init__(
        self, bus: EventBus, topic: Asked, plan: Mapping[int, Asked], **options: Any
    ) -> None:
        self.told: list[tuple[str, ...]] = []
        self._bus = bus
        self._plan = plan
        bus.on(topic, name=topic.name[-1], **options)(self)

    async def __call__(self, event: int) -> int:
        if event in self._plan:
            try:
                answer = await self._bus.request(self._plan[event], 9)
            except DeadlockError as error:
                self.told.append(error.cycle)
                return 0
            return answer + 1
        return event


async def test_a_responder_that_asks_itself_is_told(clock: ManualClock) -> None:
    """With `concurrency=1` nobody else could answer."""
    bus = EventBus(clock=clock)
    asker = Asker(bus, ASK_A, {0: ASK_A}, concurrency=1)
    async with bus:
        answer = await bus.request(ASK_A, 0)

    assert (answer, asker.told) == (0, [("a",)])


async def test_a_responder_with_a_free_worker_may_ask_itself(clock: ManualClock) -> None:
    """Responders have 16 workers, if nothing else is said."""
    bus = EventBus(clock=clock)
    asker = Asker(bus, ASK_A, {0: ASK_A})
    async with bus:
        answer = await bus.request(ASK_A, 0)

    assert (answer, asker.told) == (10, [])


async def test_responders_that_ask_each_other_in_a_circle_are_told(clock: ManualClock) -> None:
    """That the one in the middle has other workers does not help: one of them has the request."""
    bus = EventBus(clock=clock)
    first = Asker(bus, ASK_A, {0: ASK_B}, concurrency=1)
    second = Asker(bus, ASK_B, {9: ASK_C})
    third = Asker(bus, ASK_C, {9: ASK_A})
    async with bus:
        answer = await bus.request(ASK_A, 0)

    assert (answer, first.told, second.told, third.told) == (2, [], [], [("c", "a", "b")])


async def test_a_circle_of_one_that_asks_and_one_that_publishes_is_found(
    clock: ManualClock,
) -> None:
    """The one waits for a reply, the other for room in the queue of the first."""
    bus = EventBus(clock=clock)
    answers: list[int] = []
    relay = Relay(bus, {9: [(A, 2)]})
    relay.open()

    @bus.on(A, name="a", queue_size=1)
    async def ask(event: int) -> None:
        if event == 0:
            answers.append(await bus.request(ASK_B, 9))

    @bus.on(ASK_B, name="b")
    async def answer(event: int) -> int:
        await relay(event)
        return 7

    async with bus:
        await bus.publish_many(A, [0, 1])

    assert (answers, relay.cycles) == ([7], [("b", "a")])


async def test_who_asks_is_told_when_its_request_is_set_aside(clock: ManualClock) -> None:
    """A free worker finds that it has to wait behind the key of the handler that asks."""
    bus = EventBus(clock=clock)
    asker = Asker(bus, ASK_A, {0: ASK_A}, concurrency=2, key=one_key)
    async with bus:
        answer = await bus.request(ASK_A, 0)

    assert (answer, asker.told) == (0, [("a",)])


async def test_who_asks_one_at_work_is_not_told(clock: ManualClock) -> None:
    """A slow responder answers in the end."""
    bus = EventBus(clock=clock)
    asker = Asker(bus, ASK_A, {0: ASK_B}, concurrency=1)
    gate = anyio.Event()

    @bus.on(ASK_B, concurrency=1)
    async def answer(event: int) -> int:
        await gate.wait()
        return event

    async with bus, anyio.create_task_group() as tasks:
        tasks.start_soon(partial(bus.request, ASK_A, 0))
        await clock.advance(4.0)
        gate.set()

    assert asker.told == []


async def test_a_request_that_runs_out_of_time_leaves_no_trace(clock: ManualClock) -> None:
    """Who has stopped waiting stands in nobody's way, nor counts as waiting."""
    bus = EventBus(clock=clock)
    seen: list[str] = []
    gate = anyio.Event()

    @bus.on(ASK_B, name="b", concurrency=1)
    async def answer(event: int) -> int:
        await gate.wait()
        await bus.publish(A, 2)
        return event

    @bus.on(A, name="a", queue_size=1)
    async def ask(event: int) -> None:
        if event == 0:
            try:
                await bus.request(ASK_B, 9, timeout=1.0)
            except RequestTimeout:
                gate.set()
                seen.append("timed out")
                await clock.sleep(1.0)

    async with bus:
        await bus.publish_many(A, [0, 1])
        await clock.advance(3.0)
        await bus.join()

        assert (seen, bus.stats().failed) == (["timed out"], 0)


# --- Who is left to wait --------------------------------------------------------------------------


async def test_who_waits_for_one_that_is_at_work_is_not_told(clock: ManualClock) -> None:
    """A slow handler takes the next in the end, however long the chain behind it."""
    bus = EventBus(clock=clock)
    first, second = serve(bus, A, {0: [(B, 2)]}), serve(bus, B, {0: [(C, 2)]})
    slow = serve(bus, C)
    async with bus:
        await fill(bus, clock, A, B, C)
        await open_one_by_one(clock, first, second)
        await clock.advance(60.0)
        slow.open()
        await bus.join()

    assert (first.cycles, second.cycles, slow.seen) == ([], [], [0, 1, 2])


async def test_who_waits_for_an_iterator_is_not_told(clock: ManualClock) -> None:
    """Whoever iterates may take the next at any time."""
    bus = EventBus(clock=clock)
    relay = serve(bus, A, {0: [(B, 0), (B, 1), (B, 2)]})
    relay.open()
    async with bus, bus.subscribe(B, queue_size=1) as events:
        await bus.publish(A, 0)
        await clock.settle()

        assert [await anext(aiter(events)) for _ in range(3)] == [0, 1, 2]
        assert relay.cycles == []


async def test_who_waits_for_a_second_worker_is_not_told(clock: ManualClock) -> None:
    """With `concurrency=2` a handler can publish into its own full queue."""
    bus = EventBus(clock=clock)
    relay = serve(bus, A, {0: [(A, 1), (A, 2), (A, 3), (A, 4)]}, concurrency=2)
    relay.open()
    async with bus:
        await bus.publish(A, 0)

    assert (sorted(relay.seen), relay.cycles) == ([0, 1, 2, 3, 4], [])


async def test_who_waits_for_a_retry_is_not_told(clock: ManualClock) -> None:
    """A free worker takes what fills the queue once it is due."""
    bus = EventBus(clock=clock)
    relay = serve(bus, A, {0: [(B, 1)]})
    relay.open()

    failing = Relay(bus, {}, failing={0})
    failing.open()
    bus.on(B, name="b", queue_size=1, middleware=[Retry(attempts=2, initial=9.0, jitter=False)])(
        failing
    )
    async with bus:
        await bus.publish(B, 0)
        await clock.settle()
        await bus.publish(A, 0)
        await clock.advance(9.0)
        await bus.join()

    assert (relay.cycles, failing.seen) == ([], [0, 0, 1])


async def test_who_waits_for_a_held_retry_is_not_told(clock: ManualClock) -> None:
    """A worker that waits until its retry is due goes on then."""
    bus = EventBus(clock=clock)
    relay = serve(bus, A, {0: [(B, 1)]})
    relay.open()
    hold = Retry(attempts=2, initial=9.0, jitter=False, hold=True)

    failing = Relay(bus, {}, failing={0})
    failing.open()
    bus.on(B, name="b", queue_size=1, middleware=[hold])(failing)
    async with bus:
        await bus.publish(B, 0)
        await clock.settle()
        await bus.publish(A, 0)
        await clock.advance(9.0)
        await bus.join()

    assert (relay.cycles, failing.seen) == ([], [0, 0, 1])


async def test_who_waits_in_its_own_queue_for_a_retry_is_not_told(clock: ManualClock) -> None:
    """The second worker, which is parked, takes it when it is due."""
    bus = EventBus(clock=clock)
    first, second = Relay(bus, {1: [(A, 2)]}), Relay(bus, {}, failing={0})
    for relay in (first, second):
        bus.on(A, group="a", queue_size=1, middleware=[ONE_RETRY])(relay)
    async with bus:
        for event in (1, 0):
            await bus.publish(A, event)
            await clock.settle()
        await open_one_by_one(clock, second, first)
        await clock.advance(9.0)
        await bus.join()

    assert (first.cycles, sorted(first.seen + second.seen)) == ([], [0, 0, 1, 2])


async def test_a_retry_that_nobody_could_take_does_not_help(clock: ManualClock) -> None:
    """The only worker waits itself: what is due later in its queue makes no room."""
    told: list[DeadlockError] = []
    bus = EventBus(clock=clock)

    @bus.on(A, name="a", queue_size=1, middleware=[ONE_RETRY])
    async def handler(event: int, context: Context[int]) -> None:
        if event == 0 and context.attempt == 1:
            await bus.publish(A, 1)
            raise ValueError(event)
        if event == 1:
            try:
                await bus.publish(A, 2)
            except DeadlockError as error:
                told.append(error)

    async with bus:
        await bus.publish(A, 0)
        await clock.settle()

        assert [error.cycle for error in told] == [("a",)]

        await clock.advance(9.0)


@pytest.mark.parametrize(
    ("key", "seen", "cycles"),
    [
        pytest.param(parity, [0, 1, 2, 3], [], id="replaced"),
        pytest.param(str, [0, 1, 0, 2], [("a",)], id="not-replaced"),
    ],
)
async def test_a_retry_that_may_be_replaced_is_waited_for(
    clock: ManualClock,
    key: Callable[[int], str],
    seen: list[int],
    cycles: list[tuple[str, ...]],
) -> None:
    """In a `latest` queue a retry that is due gives its place to a newer one, if there is one."""
    bus = EventBus(clock=clock)
    relay = Relay(bus, {1: [(A, 2), (A, 3)]}, failing={0})
    relay.open()
    bus.on(A, name="a", queue_size=2, overflow="latest", key=key, middleware=[ONE_RETRY])(relay)
    async with bus:
        for event in (0, 1):
            await bus.publish(A, event)
            await clock.settle()
        told_before = list(relay.told)
        await clock.advance(9.0)

        assert (told_before, relay.seen, relay.cycles) == ([], seen, cycles)


async def test_a_time_limit_of_the_handlers_own_ends_its_wait(clock: ManualClock) -> None:
    """It is taken at its word: it gives up by itself, and those it holds up go on then."""
    given_up: list[bool] = []
    bus = EventBus(clock=clock)

    @bus.on(A, name="a", queue_size=1)
    async def patient(event: int) -> None:
        if event == 0:
            await bus.publish(A, 1)
            with move_on_after(0.01) as scope:
                await bus.publish(A, 2)
            given_up.append(scope.cancelled_caught)

    async with bus:
        await bus.publish(A, 0)

    assert given_up == [True]


async def test_a_time_limit_around_the_bus_is_none_of_the_handlers(clock: ManualClock) -> None:
    """Whoever runs the bus for a minute at most still learns of a deadlock at once."""
    bus = EventBus(clock=clock)
    relay = serve(bus, A, {0: [(A, 1), (A, 2)]})
    relay.open()
    with anyio.fail_after(60.0):
        async with bus:
            await bus.publish(A, 0)

    assert relay.cycles == [("a",)]


async def test_a_task_that_a_handler_starts_may_wait_for_it(clock: ManualClock) -> None:
    """The handler itself goes on, and takes what the task waits to put."""
    seen: list[int] = []
    bus = EventBus(clock=clock)

    async with anyio.create_task_group() as tasks:

        @bus.on(A, name="a", queue_size=1)
        async def handler(event: int) -> None:
            seen.append(event)
            if event == 0:
                tasks.start_soon(bus.publish_many, A, [1, 2, 3])

        async with bus:
            await bus.publish(A, 0)
            await clock.settle()

    assert seen == [0, 1, 2, 3]


async def test_a_publisher_outside_waits_behind_a_deadlock(clock: ManualClock) -> None:
    """Nobody but a handler is ever told; who waits outside is let in when the circle is broken."""
    bus = EventBus(clock=clock)
    relay = serve(bus, A, {0: [(A, 3)]})
    async with bus:
        await fill(bus, clock, A)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.publish, A, 2)
            await clock.settle()
            relay.open()

    assert (relay.seen, relay.cycles) == ([0, 1, 2], [("a",)])


async def test_who_drops_never_waits(clock: ManualClock) -> None:
    """Under a dropping policy there is nothing to wait for."""
    seen: list[int] = []
    bus = EventBus(clock=clock)

    @bus.on(A, name="a", queue_size=1, overflow="drop_oldest")
    async def handler(event: int) -> None:
        seen.append(event)
        if event == 0:
            await bus.publish_many(A, [1, 2, 3])

    async with bus:
        await bus.publish(A, 0)

    assert seen == [0, 3]
