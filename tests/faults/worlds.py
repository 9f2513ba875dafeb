"""The bus that is tormented: its handlers stand at a gate, and note what they have handled."""

__all__ = ("OFFERS", "Case", "World", "nothing")

from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from eventbus import Context, EventBus, Message, Receipt, RequestTopic
from eventbus.middleware import DeadLetter, PublishNext
from tests.faults.stepping import Attempt, turns

OFFERS = RequestTopic("offers", dict[str, int], int, many=True)


async def wait_a_turn(message: Message, call_next: PublishNext) -> Receipt:
    """Be a publish middleware that waits, before and after."""
    await checkpoint()
    receipt = await call_next(message)
    await checkpoint()
    return receipt


class World:
    """A bus with one place in each queue, whose handlers wait until the gate opens.

    `sent` holds what a publish has accepted, `seen` how often who has handled what.
    """

    def __init__(self, *, waits_in_middleware: bool = False) -> None:
        self.bus = EventBus(
            queue_size=1,
            middleware=[DeadLetter()],
            publish_middleware=[wait_a_turn] if waits_in_middleware else [],
        )
        self.gate = anyio.Event()
        self.is_broken = False
        self.is_serving = False
        self.sent: list[int] = []
        self.brought = self.acquitted = 0
        self.seen: Counter[tuple[str, int]] = Counter()
        self.listeners = ("first", "second")
        self.rivals = ("third", "fourth")
        for name in self.listeners:
            self.listen(name)
        self.bus.on("echo", name="echo")(self._echo)
        self.bus.on("ask", name="responder", reply=int)(self._answer_as("responder"))
        self.bus.on("ask.one", name="clerk", reply=int, concurrency=1)(self._answer_as("clerk"))
        for name in self.rivals:
            self.bus.on(OFFERS, name=name)(self._answer_as(name))
        self.bus.on("cases", name="judge", ack="manual")(self._judge)
        self.bus.on("broken", name="broken", queue_size=2)(self._broken)

    def listen(self, name: str) -> None:
        """Subscribe to the work under a name."""

        @self.bus.on("work", name=name)
        async def handle(event: dict[str, int]) -> None:
            await self.gate.wait()
            self.seen[name, event["n"]] += 1

    async def _echo(self, event: dict[str, int], context: Context[Any]) -> None:
        for n in range(event["n"], event["n"] + 3):
            await context.publish("work", {"n": n})

    def _answer_as(self, name: str) -> Callable[[dict[str, int]], Coroutine[Any, Any, int]]:
        async def answer(event: dict[str, int]) -> int:
            await self.gate.wait()
            self.seen[name, event["n"]] += 1
            return event["n"]

        return answer

    async def _judge(self, event: dict[str, int], context: Context[Any]) -> None:
        await self.judge(context)

    async def _broken(self, event: dict[str, int]) -> None:
        if self.is_broken:
            raise ValueError("broken")
        await self.gate.wait()
        self.seen["broken", event["n"]] += 1

    def handled(self, n: int) -> list[int]:
        """Tell how often each listener has handled an event."""
        return [self.seen[name, n] for name in self.listeners]

    async def publish(self, n: int) -> None:
        """Publish one event, and note that this came to its end."""
        await self.bus.publish("work", {"n": n})
        self.sent.append(n)

    async def publish_many(self, *numbers: int) -> None:
        """Publish a batch, likewise."""
        await self.bus.publish_many("work", [{"n": n} for n in numbers])
        self.sent.extend(numbers)

    async def publish_later(self, *numbers: int) -> None:
        """Schedule events one by one, likewise."""
        for n in numbers:
            await self.bus.publish("work", {"n": n}, delay=0.001)
            self.sent.append(n)

    async def bring(self, *numbers: int) -> None:
        """Bring cases to the judge, likewise."""
        for n in numbers:
            await self.bus.publish("cases", {"n": n})
            self.brought += 1

    async def judge(self, context: Context[Any]) -> None:
        """Say of each third case that it is done, comes again and then is done, or never will."""
        verdict = context.event["n"] % 3
        await checkpoint()
        if verdict == 0 or context.attempt > 1:
            await context.ack()
            self.acquitted += 1
        elif verdict == 1:
            await context.retry()
        else:
            await context.reject("guilty")

    async def occupy_clerk(self) -> None:
        """Keep the one who answers one after the other busy, and fill the queue before it."""
        for n in range(20, 22):
            await self.bus.publish("ask.one", {"n": n})
            await turns()

    async def fill(self) -> None:
        """Publish until both listeners stand at the gate and both queues are full."""
        for n in range(2):
            await self.publish(n)
            await turns()

    async def bury(self) -> None:
        """Make two dead letters, and stop up their queue, so that redriving them has to wait."""
        self.is_broken = True
        for n in range(2):
            await self.bus.publish("broken", {"n": n})
        await self.bus.join()
        self.is_broken = False
        for n in range(10, 13):
            await self.bus.publish("broken", {"n": n})
            await turns()

    async def open_later(self) -> None:
        """Open the gate, once whoever waits for that does so."""
        await turns(40)
        self.gate.set()


async def nothing(_: World) -> None:
    """Do nothing."""


async def _promise_nothing(_: World, __: Attempt) -> None:
    """Promise nothing beside what every operation does."""


@dataclass(frozen=True)
class Case:
    """An operation on a world, what happens around it, and what it promises beside the usual."""

    operate: Callable[[World], Coroutine[Any, Any, object]]
    prepare: Callable[[World], Awaitable[object]] = World.fill
    meanwhile: Callable[[World], Coroutine[Any, Any, object]] = World.open_later
    promise: Callable[[World, Attempt], Awaitable[object]] = _promise_nothing
    starts_bus: bool = False
    waits_in_middleware: bool = False
