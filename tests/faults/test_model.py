"""The bus does what its model does, whatever is done to both; compared after every step."""

from collections import defaultdict
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar
from unittest.mock import Mock

import anyio
import hypothesis.strategies as st
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eventbus import BusClosed, Context, EventBus, InvalidOption, QueueFull, Receipt, context
from eventbus.middleware import DeadLetter, Retry
from eventbus.schedule import Schedule
from eventbus.subscription import Subscription
from eventbus.testing import ManualClock
from tests.faults.model import (
    ASKED_SECONDS,
    RETRY_SECONDS,
    Entry,
    ModelBus,
    ModelSubscription,
    NoRoom,
    Outcome,
    Spec,
)
from tests.faults.scale import full
from tests.faults.stepping import turns

SPECS = (
    Spec("single", "ac", "fail", size=3, attempts=2, ack="manual"),
    Spec("group", "abc", "drop_oldest", size=3, concurrency=2),
    Spec("lanes", "bc", "drop_newest", size=5, concurrency=2, attempts=2, keys=3),
    Spec("late", "abc", "drop_oldest", size=2, concurrency=2, attempts=2, keys=2),
)
OUTCOMES: tuple[Outcome, ...] = ("ack", "return", "raise", "retry", "reject")
LATER_SECONDS = 0.6  # never the moment of a retry
NAMES = st.sampled_from([spec.name for spec in SPECS])
EXAMPLES = full(10_000, small=100)  # on each loop
BEFORE_THE_END = 12  # events published before the bus may be drained or stopped


class Clock(ManualClock):
    """A clock that knows how many turns things take here."""

    async def settle(self) -> None:
        """Let every task run until it waits."""
        await turns(20)


@dataclass(eq=False)
class Attempt:
    """A handler that runs, until the machine says how it ends."""

    entry: Entry
    ended: anyio.Event = field(default_factory=anyio.Event)
    outcome: Outcome = "return"


async def end_as(outcome: Outcome, delivery: Context[Any]) -> None:
    """End a handler as the machine says."""
    match outcome:
        case "raise":
            raise ValueError("as the machine says")
        case "ack":
            await delivery.ack()
        case "retry":
            await delivery.retry(ASKED_SECONDS)
        case "reject":
            await delivery.reject("as the machine says")
        case "return":
            pass


class RealBus:
    """The bus under test, its handlers at the machine's command."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.bus = EventBus(clock=self.clock, drain_timeout=1e6, middleware=[DeadLetter()])
        self.receipts: dict[int, Receipt] = {}
        self.running: defaultdict[str, list[Attempt]] = defaultdict(list)
        for spec in SPECS:
            self.subscribe(spec)

    def subscribe(self, spec: Spec) -> None:
        """Subscribe as a spec says: a group, where it has no keys, of as many members."""
        retry = Retry(spec.attempts, initial=RETRY_SECONDS, jitter=False)
        alone = bool(spec.keys) or spec.concurrency == 1
        for _ in range(1 if alone else spec.concurrency):
            self.bus.on(
                *(f"topic.{topic}" for topic in spec.topics),
                group=spec.name,
                overflow=spec.overflow,
                queue_size=spec.size,
                concurrency=spec.concurrency if alone else 1,
                middleware=[retry] if spec.attempts > 1 else [],
                key=self._key(spec.keys) if spec.keys else None,
                ack=spec.ack,
            )(self._handler(spec.name))

    def _key(self, keys: int) -> Callable[[dict[str, int]], str]:
        return lambda event: str(event["n"] % keys)

    def _handler(self, name: str) -> Callable[..., Coroutine[Any, Any, None]]:
        async def handle(event: dict[str, int], context: Context[Any]) -> None:
            attempt = Attempt(Entry(event["n"], context.attempt))
            self.running[name].append(attempt)
            try:
                await attempt.ended.wait()
            finally:
                self.running[name].remove(attempt)
            await end_as(attempt.outcome, context)

        return handle

    async def publish(self, topic: str, numbers: list[int]) -> None:
        """Publish one event, or a batch of them."""
        events = [{"n": n} for n in numbers]
        if len(events) == 1:
            await self.bus.publish(f"topic.{topic}", events[0])
        else:
            await self.bus.publish_many(f"topic.{topic}", events)

    async def publish_later(self, topic: str, n: int) -> None:
        """Schedule an event."""
        receipt = await self.bus.publish(f"topic.{topic}", {"n": n}, delay=LATER_SECONDS)
        self.receipts[n] = receipt

    async def cancel(self, n: int) -> bool:
        """Keep an event from going out."""
        return self.receipts[n].cancel()

    async def finish(self, name: str, entry: Entry, outcome: Outcome) -> None:
        """End an attempt that runs."""
        attempt = next((a for a in self.running[name] if a.entry == entry), None)
        assert attempt is not None, f"{name} should run {entry}"
        attempt.outcome = outcome
        attempt.ended.set()

    async def redrive(self, name: str, n: int) -> int:
        """Send a dead letter again."""
        letters = await self.bus.dead_letters(name, limit=1000)
        oldest = next(dead for dead in reversed(letters) if dead.message.payload == {"n": n})
        return await self.bus.redrive(ids=[oldest.id])

    async def letters(self) -> list[tuple[str, int]]:
        """List the dead letters, oldest first."""
        letters = await self.bus.dead_letters(limit=1000)
        payloads: list[Any] = [dead.message.payload for dead in letters]
        names = [dead.subscription for dead in letters]
        return [(name, one["n"]) for name, one in zip(names, payloads, strict=True)][::-1]


class BusMachine(RuleBasedStateMachine):
    """Does the same to the bus and to its model."""

    portal: ClassVar[BlockingPortal]

    def __init__(self) -> None:
        super().__init__()
        self.model = ModelBus(SPECS)
        self.real = self.portal.call(self._make)
        self.numbers = 0
        self.draining: Future[None] | None = None
        self.leaving: dict[str, Future[None]] = {}

    @staticmethod
    async def _make() -> RealBus:
        return RealBus()

    def do(self, function: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
        """Do something to the bus, and let it come to rest."""

        async def do_and_settle() -> Any:
            try:
                return await function(*arguments)
            finally:
                await self.real.clock.settle()

        return self.portal.call(do_and_settle)

    @initialize()
    def start(self) -> None:
        self.block: AbstractContextManager[Any] = self.portal.wrap_async_context_manager(
            self.real.bus
        )
        self.block.__enter__()

    def teardown(self) -> None:
        if hasattr(self, "block"):
            error = LookupError()
            self.block.__exit__(LookupError, error, None)

    @property
    def running(self) -> list[tuple[str, Entry]]:
        """What runs, and could be ended."""
        return [(s.spec.name, e) for s in self.model.subscriptions.values() for e in s.running]

    # --- what is done ---------------------------------------------------------------------------

    @rule(topic=st.sampled_from("abcd"), number=st.integers(1, 4))
    def publish(self, topic: str, number: int) -> None:
        numbers = list(range(self.numbers, self.numbers + number))
        self.numbers += number
        if self.model.is_draining:
            with pytest.raises(BusClosed):
                self.do(self.real.publish, topic, numbers)
            return
        try:
            self.model.publish(topic, numbers)
        except NoRoom:
            with pytest.raises(QueueFull):
                self.do(self.real.publish, topic, numbers)
        else:
            self.do(self.real.publish, topic, numbers)

    @precondition(lambda self: not self.model.is_draining)
    @rule(number=st.integers(1, 3))
    def publish_later(self, number: int) -> None:
        for _ in range(number):
            self.do(self.real.publish_later, "b", self.numbers)
            self.model.schedule("b", self.numbers, LATER_SECONDS)
            self.numbers += 1

    @precondition(lambda self: self.real.receipts)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        n = data.draw(st.sampled_from(sorted(self.real.receipts)))
        assert self.do(self.real.cancel, n) == self.model.cancel(n)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), outcomes=st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=4))
    def finish(self, data: st.DataObject, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if self.running:
                name, entry = data.draw(st.sampled_from(self.running))
                self.do(self.real.finish, name, Entry(entry.n, entry.attempt), outcome)
                self.model.finish(name, entry, outcome)

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 2.0]))
    def advance(self, seconds: float) -> None:
        self.do(self.real.clock.advance, seconds)
        self.model.advance(seconds)

    @rule(name=NAMES)
    def unsubscribe_or_subscribe(self, name: str) -> None:
        if name not in self.model.subscriptions:
            spec = next(spec for spec in SPECS if spec.name == name)
            self.model.subscriptions[name] = ModelSubscription(spec)
            self.portal.call(self.real.subscribe, spec)
        elif not self.model.subscriptions[name].is_ending:
            self.model.unsubscribe(name)
            self.leaving[name] = self.portal.start_task_soon(self.real.bus.unsubscribe, name)
            self.do(turns)

    @precondition(lambda self: self.model.letters and not self.model.is_draining)
    @rule(data=st.data())
    def redrive(self, data: st.DataObject) -> None:
        name, n = letter = data.draw(st.sampled_from(self.model.letters))
        subscription = self.model.subscriptions.get(name)
        if subscription is None or subscription.is_ending:
            assert self.do(self.real.redrive, name, n) == 0
        elif subscription.depth < subscription.spec.size:
            assert self.do(self.real.redrive, name, n) == 1
            self.model.redrive(letter)

    @rule(name=NAMES)
    def purge(self, name: str) -> None:
        kept = [letter for letter in self.model.letters if letter[0] != name]
        if name not in self.model.subscriptions and kept == self.model.letters:
            with pytest.raises(InvalidOption, match="has no dead letters"):
                self.do(self.real.bus.purge_dead_letters, name)
            return
        purged = self.do(self.real.bus.purge_dead_letters, name)
        assert purged == len(self.model.letters) - len(kept)
        self.model.letters = kept

    @precondition(lambda self: self.numbers > BEFORE_THE_END)
    @rule()
    def drain(self) -> None:
        self.model.is_draining = True
        self.draining = self.portal.start_task_soon(self.real.bus.drain)
        self.do(turns)

    @precondition(lambda self: self.numbers > BEFORE_THE_END)
    @rule()
    def restart(self) -> None:
        self.teardown()
        self.model.stop()
        self.draining = None
        self.start()

    # --- what has to be the same ----------------------------------------------------------------

    @invariant()
    def does_the_same(self) -> None:
        stats = self.real.bus.stats()
        assert set(stats.subscriptions) == set(self.model.subscriptions)
        assert stats.published == self.model.published
        for name, modelled in self.model.subscriptions.items():
            real = stats.subscriptions[name]
            assert real.queue_depth == modelled.depth
            assert real.in_flight == len(modelled.running)
            for figure in ("succeeded", "failed", "retried", "dead_lettered", "dropped"):
                assert getattr(real, figure) == modelled.counts[figure], (name, figure)
            assert real.abandoned == modelled.counts["abandoned"]

    @invariant()
    def runs_the_same(self) -> None:
        for name, modelled in self.model.subscriptions.items():
            running = [(a.entry.n, a.entry.attempt) for a in self.real.running[name]]
            assert sorted(running) == sorted((e.n, e.attempt) for e in modelled.running)

    @invariant()
    def keeps_the_same_letters(self) -> None:
        assert self.portal.call(self.real.letters) == self.model.letters

    @invariant()
    def ends_the_same(self) -> None:
        if self.draining is not None:
            assert self.draining.done() == self.model.is_idle
        for name, leaving in self.leaving.items():
            modelled = self.model.subscriptions.get(name)
            if modelled is None or modelled.is_ending:
                assert leaving.done() == (modelled is None)


@pytest.fixture(params=["asyncio", "trio"], scope="module")
def portal(request: pytest.FixtureRequest) -> Generator[BlockingPortal]:
    """Give a loop that runs in a thread."""
    with start_blocking_portal(request.param) as portal:
        yield portal


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", "eventbus")


def run_machine(portal: BlockingPortal, *, shrinks: bool = True) -> None:
    """Let hypothesis look for a difference, and then for the shortest way to it."""
    machine = type("Machine", (BusMachine,), {"portal": portal})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            phases=[Phase.generate, Phase.shrink] if shrinks else [Phase.generate],
            database=None,
            stateful_step_count=full(100, small=40),
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


@pytest.mark.timeout(full(36_000, small=120))
def test_the_bus_does_what_its_model_does(portal: BlockingPortal) -> None:
    """Whatever is done to both, in whatever order, they agree after every step."""
    run_machine(portal)


@pytest.mark.parametrize(
    ("owner", "promise", "without"),
    [
        (Subscription, "leave_lane", Mock()),
        (Schedule, "remove", Mock(return_value=True)),
        (context, "decide", Mock()),
    ],
)
def test_control_a_bus_that_differs_is_found(
    portal: BlockingPortal,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    promise: str,
    without: Mock,
) -> None:
    """A lane that stays closed, a cancelled event that goes out, a verdict that is not heard."""
    monkeypatch.setattr(owner, promise, without)

    with pytest.raises((AssertionError, ExceptionGroup)):
        run_machine(portal, shrinks=False)
