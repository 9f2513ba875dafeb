"""What a store promises over long times, shown in virtual time: leases, storms, letters, clocks."""

from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from unittest.mock import Mock, patch

import anyio
import pytest

from eventbus import Clock, Context, EventBus
from eventbus.middleware import DeadLetter, Retry
from eventbus.testing import Simulation, simulate
from eventbus.timers import Timers
from eventbus.transports.sqlite import durable, sessions
from eventbus.transports.sqlite.letters import bury
from eventbus.transports.sqlite.settlements import Settlements
from tests.faults.scale import full

ACK_WAIT = 10.0
HOUR = 3_600.0
JUMPS = (HOUR, -HOUR, -1.0)
STORM = full(2_000, small=50)
BACKOFF = (1.0, 2.0, 4.0, 8.0, 16.0)

pytestmark = pytest.mark.timeout(600)  # seconds, in full

both_loops = simulate(seeds=2, backends=("asyncio", "trio"))


class JumpingClock:
    """A clock whose wall time can be set; with `is_blind` it knows no other time."""

    def __init__(self, clock: Clock, *, is_blind: bool = False) -> None:
        self._clock = clock
        self._is_blind = is_blind
        self.jumped = 0.0

    def now(self) -> float:
        return self._clock.now() + self.jumped

    def monotonic(self) -> float:
        return self.now() if self._is_blind else self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)


# --- Leases ---------------------------------------------------------------------------------------


async def deliveries_of_a_long_handler(
    simulation: Simulation, clock: JumpingClock, jump: float = 0.0
) -> int:
    """Handle one event for ten times its `ack_wait`, beside an idle bus; tell how often it came."""
    deliveries = 0

    def bus_of_a_process() -> EventBus:
        bus = EventBus(simulation.store(), clock=clock)

        @bus.on("work", name="workers", start="first", ack_wait=ACK_WAIT)
        async def take_long(event: dict[str, int]) -> None:
            nonlocal deliveries
            deliveries += 1
            await anyio.sleep(10 * ACK_WAIT)

        return bus

    async with bus_of_a_process() as first, bus_of_a_process():
        await first.publish("work", {"n": 1})
        await anyio.sleep(2.0)
        clock.jumped = jump
        await anyio.sleep(12 * ACK_WAIT)
    return deliveries


@both_loops
async def test_a_long_handler_keeps_its_event(simulation: Simulation) -> None:
    """Ten times `ack_wait` long, it gets it once: its bus gives signs of life."""
    assert await deliveries_of_a_long_handler(simulation, JumpingClock(simulation.clock)) == 1


@both_loops
async def test_without_signs_of_life_it_would_not(simulation: Simulation) -> None:
    """Control: another bus takes the event over."""
    with patch.object(sessions, "beat", Mock()):
        assert await deliveries_of_a_long_handler(simulation, JumpingClock(simulation.clock)) > 1


@pytest.mark.parametrize("jump", JUMPS)
@both_loops
async def test_leases_heed_no_wall_clock(simulation: Simulation, jump: float) -> None:
    """It is set by an hour, or a second: nobody takes the event over."""
    clock = JumpingClock(simulation.clock)
    assert await deliveries_of_a_long_handler(simulation, clock, jump) == 1


def test_leases_by_the_wall_clock_would_lapse() -> None:
    """Control: on a clock that knows no monotonic time, an hour forward takes the event away."""
    deliveries: list[int] = []

    @simulate(seeds=10)
    async def jump(simulation: Simulation) -> None:
        clock = JumpingClock(simulation.clock, is_blind=True)
        deliveries.append(await deliveries_of_a_long_handler(simulation, clock, HOUR))

    jump()
    assert max(deliveries) > 1


# --- Retention and ids under clocks that jump -----------------------------------------------------


async def kept_in_spite_of(simulation: Simulation, jump: float, max_age: str) -> set[int]:
    """Publish while the wall clock jumps to and fro; give what is kept in the end.

    Positions rise meanwhile, and an id that was published is still known.
    """
    clock, kept = JumpingClock(simulation.clock), set[int]()
    async with EventBus(simulation.store(f"max_age={max_age}"), clock=clock) as bus:
        for n in range(10):
            receipt = await bus.publish("news", {"n": n}, id=f"n-{n}")
            assert receipt.position == n + 1
            clock.jumped = 0.0 if n % 2 else jump
        clock.jumped = jump
        await anyio.sleep(5.0)
        again = await bus.publish("news", {"n": 0}, id="n-0")
        assert (again.duplicate, again.position) == (True, 1)

    reading = EventBus(simulation.store(), clock=clock)

    @reading.on("news", start="first")
    async def read(event: dict[str, int]) -> None:
        kept.add(event["n"])

    async with reading:
        await reading.join()
    return kept


@pytest.mark.parametrize("jump", JUMPS)
@both_loops
async def test_nothing_expires_earlier_than_by_the_jump(
    simulation: Simulation, jump: float
) -> None:
    """What may live two hours outlives a jump of one."""
    assert await kept_in_spite_of(simulation, jump, "2h") == set(range(10))


@simulate(seeds=1)
async def test_what_expires_would_be_missed(simulation: Simulation) -> None:
    """Control: what may live 100 s does not outlive a jump of 110; only its id is still known."""
    assert len(await kept_in_spite_of(simulation, 110.0, "100s")) < 10


# --- A storm of retries ---------------------------------------------------------------------------


async def storm(simulation: Simulation) -> tuple[dict[int, list[float]], list[float]]:
    """Let a great many fail each time, four at once, beside a quiet topic.

    Gives when each of them was tried, and how long the quiet events waited.
    """
    tried: defaultdict[int, list[float]] = defaultdict(list)
    waits: list[float] = []
    clock = simulation.clock
    retry = Retry(attempts=1 + len(BACKOFF), initial=BACKOFF[0], jitter=False)

    bus = EventBus(simulation.store(), clock=clock, queue_size=STORM)

    @bus.on("storm", name="storm", middleware=[DeadLetter(), retry], concurrency=4)
    async def fail(event: dict[str, int]) -> None:
        tried[event["n"]].append(clock.monotonic())
        raise ConnectionError

    @bus.on("quiet", name="quiet")
    async def hear(event: dict[str, float]) -> None:
        waits.append(clock.monotonic() - event["at"])

    async with bus:
        await bus.publish_many("storm", [{"n": n} for n in range(STORM)])
        for _ in range(60):
            await bus.publish("quiet", {"at": clock.monotonic()})
            await anyio.sleep(1.0)
        await bus.join()
    return tried, waits


@simulate(seeds=1, backends=("asyncio", "trio"))
async def test_a_storm_of_retries_follows_its_backoff(simulation: Simulation) -> None:
    """Each is tried as often as it may, within a tenth of its backoff; another topic waits not."""
    tried, waits = await storm(simulation)

    assert len(tried) == STORM
    for times in tried.values():
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert len(gaps) == len(BACKOFF)
        assert all(b <= gap <= 1.1 * b for gap, b in zip(gaps, BACKOFF, strict=True))
    assert len(waits) == 60
    assert max(waits) < 0.1


@simulate(seeds=1)
async def test_a_storm_without_backoff_would_be_seen(simulation: Simulation) -> None:
    """Control: where the delay is not heeded."""
    with patch("eventbus.timers.Timers.call_later", _at_once):
        tried, _ = await storm(simulation)

    assert min(later - earlier for one in tried.values() for earlier, later in pairwise(one)) < 0.5


def _at_once(self: Any, seconds: float, call: Callable[[], None], **named: Any) -> Any:
    return call_later(self, 0.0, call, **named)


# --- Dead letters ---------------------------------------------------------------------------------


async def letters_through_trouble(simulation: Simulation) -> tuple[Counter[str], int, int, int]:
    """Give up on an event while its letter cannot be kept, then redrive it.

    Its own handler listens to dead letters too. Tells what was handled, how many letters there
    were, and how many two redrives sent.
    """
    handled: Counter[str] = Counter()
    is_mended = False
    bus = EventBus(simulation.store(), clock=simulation.clock, middleware=[DeadLetter()])

    @bus.on("work", "$dlq.workers", name="workers", start="first")
    async def fail(event: dict[str, int], context: Context[Any]) -> None:
        handled["letter" if context.failure else "event"] += 1
        if not is_mended:
            raise ConnectionError("broken")

    async with bus:
        with failing_to_bury(times=3):
            await bus.publish("work", {"n": 1})
            await anyio.sleep(5.0)
        letters = await bus.dead_letters()
        is_mended = True
        sent, again = await bus.redrive(), await bus.redrive()
        await bus.join()
    return handled, len(letters), sent, again


@contextmanager
def failing_to_bury(times: int) -> Generator[None]:
    """Have the store fail when it keeps a letter, as on a full disk."""
    failures = [OSError("no room")] * times

    def fail(*arguments: Any, **named: Any) -> int:
        if failures:
            raise failures.pop()
        return bury(*arguments, **named)

    with patch.object(durable, "bury", fail):
        yield


@both_loops
async def test_a_letter_that_cannot_be_kept_is_kept_later(simulation: Simulation) -> None:
    """Nor is it dropped, nor does its handler loop on its own letters, and it is redriven once."""
    handled, letters, sent, again = await letters_through_trouble(simulation)

    assert (letters, sent, again) == (1, 1, 0)
    assert handled["event"] == 2
    assert handled["letter"] <= 1


@both_loops
async def test_a_dropped_letter_would_be_seen(simulation: Simulation) -> None:
    """Control: where what could not be written is forgotten."""
    with patch.object(durable, "Settlements", Forgetful):
        _, letters, _, _ = await letters_through_trouble(simulation)

    assert letters == 0


class Forgetful(Settlements):
    """Keeps nothing of what could not be written."""

    def _end(self) -> None:
        if self._job is not None and self._job.error is not None:
            self._written += len(self._batch)
            self._batch = []
        super()._end()


call_later = Timers.call_later
