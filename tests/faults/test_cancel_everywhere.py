"""Each operation, cancelled at each of its checkpoints: nothing lost, doubled or left hanging."""

import os
import signal
import sys
from contextlib import nullcontext
from functools import partial
from itertools import count
from typing import cast
from unittest.mock import Mock

import anyio
import pytest

from eventbus import BusClosed, DuplicateSubscription, FailedDelivery
from eventbus.events import Desk
from eventbus.registry import Registry
from eventbus.replies import Replies
from eventbus.runtime import Runtime
from eventbus.schedule import Schedule
from eventbus.transports.dead_letters import DeadLetters
from eventbus.waiters import Waiter
from tests.faults.stepping import IN_EVERY_WAY, Attempt, Way, attempt, turns
from tests.faults.worlds import OFFERS, Case, World, nothing

PROBE = 99
PATIENCE = 5.0  # seconds after which what has not ended hangs

# --- The operations, and what each promises beside the usual --------------------------------------


async def is_not_delivered(world: World, made: Attempt) -> None:
    """What was cancelled while it waited for every queue has reached none, unless it was in."""
    await world.bus.join()
    if made.is_cancelled and made.way != "late":
        assert world.handled(2) == [0, 0]


async def is_whole(world: World, made: Attempt) -> None:
    """What was cancelled has reached both listeners or neither: each has the same room."""
    await world.bus.join()
    assert world.handled(2) in ([0, 0], [1, 1])


async def is_refused_once_drained(world: World, made: Attempt) -> None:
    """Draining is final, also when nobody waited for its end."""
    with pytest.raises(BusClosed):
        await world.bus.publish("work", {"n": PROBE})


async def iterate(world: World) -> None:
    """Subscribe, and take two events."""
    async with world.bus.subscribe("news", name="news") as events:
        await anext(events)
        await anext(events)


async def tell_news(world: World) -> None:
    """Publish what an iterator waits for."""
    for n in range(2):
        await turns(20)
        await world.bus.publish("news", {"n": n})
    world.gate.set()


async def nobody_hears_news(world: World, _: Attempt) -> None:
    """Nothing is routed to an iterator that has gone, and its name is free."""
    receipt = await world.bus.publish("news", {"n": 0})
    assert receipt.matched == 0
    async with world.bus.subscribe("news", name="news"):
        pass


async def is_answered_again(world: World, made: Attempt) -> None:
    """Who gave up waiting for an answer leaves nothing behind that the next would stumble over."""
    world.gate.set()
    assert len(world.bus.replies) == 0
    assert await world.bus.request("ask", {"n": 6}, reply=int) == 6
    assert made.is_cancelled or world.seen["responder", 5] == 1


async def is_let_in_or_not(world: World, made: Attempt) -> None:
    """A request that was cancelled while it waited for room is not answered, and the next is."""
    world.gate.set()
    assert len(world.bus.replies) == 0
    assert await world.bus.request("ask.one", {"n": 6}, reply=int) == 6
    assert made.is_cancelled or world.seen["clerk", 5] == 1
    if made.is_cancelled and made.at == 1 and made.way != "late":
        assert world.seen["clerk", 5] == 0


async def both_offer_again(world: World, made: Attempt) -> None:
    """Who stopped gathering leaves nothing behind, and has asked each once at most."""
    world.gate.set()
    assert len(world.bus.replies) == 0
    assert await world.bus.request_many(OFFERS, {"n": 6}, timeout=60.0) == [6, 6]
    assert made.is_cancelled or all(world.seen[name, 5] == 1 for name in world.rivals)


async def go_out_or_not(world: World, _: Attempt) -> None:
    """What was to go out later has, once to each, or never will."""
    await world.bus.join()
    assert all(world.handled(n) in ([0, 0], [1, 1]) for n in range(2, 5))


async def sit_in_court(world: World) -> None:
    """Judge the first cases that come, in a loop."""
    async with world.bus.subscribe("court", name="court") as cases:
        left = 4  # one comes again
        async for context in cases.contexts():
            await world.judge(context)
            left -= 1
            if not left:
                break


async def bring_to_court(world: World) -> None:
    """Publish three cases for who judges in a loop."""
    for n in range(3):
        await turns(10)
        await world.bus.publish("court", {"n": n})
    world.gate.set()


async def each_attempt_has_one_end(world: World, made: Attempt) -> None:
    """What was in hand is done, given up, to come again, or abandoned: one of these."""
    stats = world.bus.stats()
    in_hand = stats.delivered - stats.succeeded - stats.failed
    assert 0 <= in_hand <= stats.abandoned  # what was to come again is abandoned, too
    assert stats.failed == stats.retried + stats.dead_lettered
    assert stats.succeeded <= world.acquitted
    assert made.is_cancelled or (stats.succeeded, stats.dead_lettered) == (2, 1)


async def each_case_has_one_end(world: World, _: Attempt) -> None:
    """A case is done, given up, or was left behind by who went: one of these."""
    stats = world.bus.stats()
    ends = stats.succeeded + stats.dead_lettered + stats.abandoned
    assert 0 <= ends - world.brought <= 1  # one may be in though its publisher was cancelled
    assert stats.lost == 0


async def live_by_verdicts(world: World) -> None:
    """Run the bus from beginning to end, with a handler that says what becomes of what it gets."""
    async with world.bus:
        await world.bring(*range(6))


async def is_unsubscribed(world: World, _: Attempt) -> None:
    """Cancelled or not: what was queued is handled, and then the name is free."""
    world.gate.set()
    await turns(40)
    assert [world.seen["first", n] for n in range(2)] == [1, 1]
    assert "first" not in world.bus.stats().subscriptions
    world.listen("first")


def number_in(dead: FailedDelivery) -> int:
    """Give the number that the dead event carries."""
    return cast("dict[str, int]", dead.message.payload)["n"]


async def is_sent_or_kept(world: World, _: Attempt) -> None:
    """A dead letter has been sent or is still kept, never both, and what is kept can be sent."""
    await world.bus.join()
    kept = [number_in(dead) for dead in await world.bus.dead_letters()]
    sent = [n for n in range(2) if world.seen["broken", n]]
    assert sorted(kept + sent) == [0, 1]
    assert await world.bus.redrive() == len(kept)
    await world.bus.join()
    assert [world.seen["broken", n] for n in range(2)] == [1, 1]


async def all_are_kept(world: World, _: Attempt) -> None:
    """Who looks at dead letters takes none."""
    assert len(await world.bus.dead_letters()) == 2


async def all_or_none_is_purged(world: World, _: Attempt) -> None:
    """A purge has been done, or it has not."""
    assert len(await world.bus.dead_letters()) in {0, 2}


async def live(world: World) -> None:
    """Run the bus from beginning to end, with a handler that publishes into full queues."""
    async with world.bus:
        await world.publish(0)
        await world.bus.publish("echo", {"n": 10})
        await world.publish(1)


async def serve(world: World) -> None:
    """Run the bus until a signal."""
    async with world.bus:
        await world.fill()
        world.is_serving = True
        try:
            await world.bus.run()
        finally:
            world.is_serving = False


async def ask_to_end(world: World) -> None:
    """Send this process a signal, if somebody waits for it."""
    await turns(80)
    if world.is_serving:
        os.kill(os.getpid(), signal.SIGTERM)
    await world.open_later()


async def is_over(world: World, _: Attempt) -> None:
    """Nothing runs or waits any more."""
    stats = world.bus.stats()
    assert stats.in_flight == 0
    assert sum(s.queue_depth for s in stats.subscriptions.values()) == 0


CASES = {
    "publish": Case(partial(World.publish, n=2), promise=is_not_delivered),
    "publish through middleware": Case(
        partial(World.publish, n=2), promise=is_whole, waits_in_middleware=True
    ),
    "publish for later": Case(
        lambda world: world.publish_later(2, 3, 4), promise=go_out_or_not, waits_in_middleware=True
    ),
    "publish_many": Case(lambda world: world.publish_many(2, 3, 4, 5)),
    "subscribe": Case(iterate, nothing, tell_news, nobody_hears_news),
    "wait_for": Case(
        lambda world: world.bus.wait_for("news", timeout=60.0),
        nothing,
        tell_news,
        nobody_hears_news,
    ),
    "request": Case(
        lambda world: world.bus.request("ask", {"n": 5}, reply=int, timeout=60.0),
        nothing,
        promise=is_answered_again,
    ),
    "request into a full queue": Case(
        lambda world: world.bus.request("ask.one", {"n": 5}, reply=int, timeout=60.0),
        World.occupy_clerk,
        promise=is_let_in_or_not,
    ),
    "request through middleware": Case(
        lambda world: world.bus.request("ask", {"n": 5}, reply=int, timeout=60.0),
        nothing,
        promise=is_answered_again,
        waits_in_middleware=True,
    ),
    "request_many": Case(
        lambda world: world.bus.request_many(OFFERS, {"n": 5}, timeout=60.0),
        nothing,
        promise=both_offer_again,
    ),
    "verdicts in a loop": Case(sit_in_court, nothing, bring_to_court, each_attempt_has_one_end),
    "verdicts of a handler": Case(
        live_by_verdicts, nothing, promise=each_case_has_one_end, starts_bus=True
    ),
    "unsubscribe": Case(lambda world: world.bus.unsubscribe("first"), promise=is_unsubscribed),
    "join": Case(lambda world: world.bus.join()),
    "drain": Case(lambda world: world.bus.drain(), promise=is_refused_once_drained),
    "redrive": Case(lambda world: world.bus.redrive(), World.bury, promise=is_sent_or_kept),
    "dead_letters": Case(lambda world: world.bus.dead_letters(), World.bury, promise=all_are_kept),
    "purge_dead_letters": Case(
        lambda world: world.bus.purge_dead_letters(), World.bury, promise=all_or_none_is_purged
    ),
    "async with": Case(live, nothing, promise=is_over, starts_bus=True),
    "run": Case(serve, nothing, ask_to_end, promise=is_over, starts_bus=True),
}

# --- The sweep ------------------------------------------------------------------------------------


async def play(case: Case, at: int, way: Way) -> Attempt:
    """Let a case happen once, and hold it against its promises."""
    world = World(waits_in_middleware=case.waits_in_middleware)
    made = Attempt(at, way)
    with anyio.fail_after(PATIENCE):
        async with nullcontext() if case.starts_bus else world.bus:
            await act(world, case, made)
            await case.promise(world, made)
        await still_works(world)
    nothing_is_lost_or_doubled(world)
    return made


async def act(world: World, case: Case, made: Attempt) -> None:
    """Perform the operation, and what happens meanwhile."""
    await case.prepare(world)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(case.meanwhile, world)
        await attempt(partial(case.operate, world), made)
    assert made.error is None


async def still_works(world: World) -> None:
    """Start the bus again, whatever was done to it, and send it something."""
    async with world.bus:
        await world.publish(PROBE)
        await world.bus.join()
    assert world.handled(PROBE) == [1, 1]


def nothing_is_lost_or_doubled(world: World) -> None:
    """Hold what was handled against what was published, and against the figures."""
    stats = world.bus.stats()
    assert max(world.seen.values()) == 1
    if not stats.abandoned:
        assert stats.delivered == stats.succeeded + stats.failed
        assert all(world.handled(n) == [1, 1] for n in world.sent)


async def sweep(case: Case, way: Way) -> int:
    """Cancel at the first checkpoint, at the second, and so on; give how many there are."""
    for at in count(1):
        made = await play(case, at, way)
        if not made.is_hit:
            return made.checkpoints
    raise AssertionError("unreachable")


@IN_EVERY_WAY
@pytest.mark.parametrize("name", CASES)
async def test_cancelled_at_any_checkpoint(name: str, way: Way) -> None:
    """Events are handled once or not at all, nothing hangs, and the bus works afterwards."""
    assert await sweep(CASES[name], way) > 0


@pytest.mark.parametrize(
    ("name", "owner", "protection", "without"),
    [
        ("publish", Waiter, "withdraw", Mock()),
        ("redrive", DeadLetters, "release", Mock()),
        ("subscribe", Registry, "forget", Mock()),
        ("publish for later", Schedule, "hand_on", Mock()),
        ("wait_for", Registry, "close", Mock()),
        ("request", Replies, "close", Mock()),
        ("request into a full queue", Waiter, "withdraw", Mock()),
        ("request_many", Replies, "close", Mock()),
        ("verdicts in a loop", Desk, "release", Mock()),
        ("verdicts of a handler", Registry, "stop", Mock(return_value=0)),
        ("unsubscribe", Runtime, "start_soon", Mock()),
        ("async with", Registry, "stop", Mock(return_value=0)),
    ],
)
async def test_control_without_its_protection_a_sweep_fails(
    monkeypatch: pytest.MonkeyPatch, name: str, owner: type, protection: str, without: Mock
) -> None:
    """Each promise is kept by something, and is not kept without it."""
    monkeypatch.setattr(owner, protection, without)
    monkeypatch.setattr(sys.modules[__name__], "PATIENCE", 1.0)
    with pytest.raises((AssertionError, DuplicateSubscription, TimeoutError)):
        await sweep(CASES[name], "scope")


async def test_publishing_without_waiting_has_no_checkpoint() -> None:
    """There is nothing that could be cancelled."""
    world = World()

    async def publish_now() -> None:
        world.bus.publish_nowait("work", {"n": 0})

    async with world.bus:
        made = Attempt(1, "scope")
        await attempt(publish_now, made)
        world.gate.set()

    assert made.checkpoints == 0
    assert world.handled(0) == [1, 1]
