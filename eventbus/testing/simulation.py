"""Run a test under hundreds of schedules, each decided by a seed and repeatable by it."""

__all__ = ("Simulation", "simulate")

import inspect
import logging
import os
import random
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from random import Random
from types import TracebackType
from typing import Any, Concatenate, ParamSpec
from unittest.mock import patch

import anyio
from anyio.lowlevel import checkpoint

from eventbus.clock import uuid7_text
from eventbus.context import Context
from eventbus.errors import InvalidOption
from eventbus.message import Message, Receipt
from eventbus.middleware import CallNext, Middleware, PublishMiddleware, PublishNext
from eventbus.testing.clock import VirtualClock
from eventbus.testing.scheduling import run_seeded
from eventbus.testing.stores import SimulatedStores

P = ParamSpec("P")

START = datetime(2030, 1, 1, tzinfo=UTC)
DAY = 86_400.0


class Simulation:
    """One run of a simulated test: its seed, and what goes wrong by it.

    Attributes:
        seed: What decides this run.
        random: Chance for the test itself; ask no other, and each seed can be run again.
        clock: The virtual time, for `EventBus(clock=)`. It begins on the same day in every run.
    """

    def __init__(self, seed: int, stores: SimulatedStores) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.clock = VirtualClock(START)
        self._stores = stores

    def _happens(self, rate: float) -> bool:
        return self.random.random() < rate

    def failing(
        self, rate: float = 0.1, error: Callable[[], Exception] = ConnectionError
    ) -> Middleware:
        """Make middleware that lets so many of the attempts fail: half of them before the handler.

        The other half have done their work when they fail, as when a reply is lost.
        """

        async def fail(context: Context[Any], call_next: CallNext) -> object:
            if self._happens(rate / 2):
                raise error()
            result = await call_next(context)
            if self._happens(rate / 2):
                raise error()
            return result

        return fail

    def delaying(self, seconds: float = 1.0) -> Middleware:
        """Make middleware that holds each attempt up, by anything from nothing to `seconds`."""

        async def delay(context: Context[Any], call_next: CallNext) -> object:
            await self.clock.sleep(self.random.uniform(0.0, seconds))
            return await call_next(context)

        return delay

    def reordering(self, seconds: float = 1.0) -> PublishMiddleware:
        """Make publish middleware that holds each publisher up, so that others overtake it."""

        async def hold_up(message: Message, call_next: PublishNext) -> Receipt:
            await self.clock.sleep(self.random.uniform(0.0, seconds))
            return await call_next(message)

        return hold_up

    def duplicating(self, rate: float = 0.1) -> PublishMiddleware:
        """Make publish middleware that sends so many of the messages twice, as the same message."""

        async def repeat(message: Message, call_next: PublishNext) -> Receipt:
            if self._happens(rate):
                await call_next(message)
            return await call_next(message)

        return repeat

    async def cancelling(
        self, call: Callable[[], Awaitable[object]], rate: float = 0.1, most: int = 10
    ) -> bool:
        """Await a call, and cancel so many of them after at most that many turns of the loop.

        Tells whether the call has ended by itself.

        Example:
            >>> await simulation.cancelling(lambda: bus.publish(ORDER, order), rate=0.2)
        """
        if not self._happens(rate):
            await call()
            return True
        turns, failure, has_ended = self.random.randint(0, most), None, False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_after, turns, tasks.cancel_scope)
            try:
                await call()
                has_ended = True
            except Exception as error:  # noqa: BLE001 - raised below, and not in the group's group
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return has_ended

    def store(self, options: str = "") -> str:
        """Give the URL of a durable store, for `EventBus`: empty at first, and gone after the run.

        What it would do in threads it does in the loop, in an order that the seed decides; it is
        the same store each time. `options` are those of the URL, such as `"max_count=100"`.
        """
        return self._stores.url(options)

    async def crashing(
        self, live: Callable[[], Awaitable[object]], times: int = 3, most: int = 100
    ) -> int:
        """Await a program, and start it again whenever it has crashed; tell how often that was.

        It crashes at most so many times, each within `most` calls of a store after it began. All of
        it is cancelled then, and nothing that it still does reaches `simulation.store()`: there is
        what had been committed, and of a commit that was under way nothing, all, or what a power
        cut would leave. The last time, it is let run to its end.

        Example:
            >>> async def live() -> None:
            ...     async with EventBus(simulation.store(), clock=simulation.clock) as bus: ...
            >>> await simulation.crashing(live)
        """
        for crashes in range(times):
            if await self._ends_by_itself(live, most):
                return crashes
        await live()
        return times

    async def _ends_by_itself(self, live: Callable[[], Awaitable[object]], most: int) -> bool:
        scope = anyio.CancelScope()
        life = self._stores.new_life(most, scope)
        try:
            with scope, life.current():
                await live()
        except Exception:
            if not life.is_over:
                raise
        return not life.is_over


def simulate(
    *,
    seeds: int | Iterable[int] = 200,
    seed: int | None = None,
    backends: Sequence[str] = ("asyncio",),
    time_limit: float = DAY,
) -> Callable[[Callable[Concatenate[Simulation, P], Awaitable[None]]], Callable[P, None]]:
    """Run an async test once for each seed, on each of the event loops, in virtual time.

    A seed decides which of the tasks that can go on does, how long backoff jitters, and what the
    `Simulation` draws. The first that fails ends the test, and is named in one line beneath the
    error: it fails the same way again with `@simulate(seed=...)`, or with the environment variable
    `EVENTBUS_SEED`. `EVENTBUS_SEEDS` is another number of seeds, for a long night.

    Handlers that are not async run in real threads, which no seed decides about. Other arguments of
    the test are passed on, such as pytest's fixtures.

    Args:
        seeds: How many, from 0 on; or which.
        seed: This one alone.
        backends: `asyncio`, `trio`, or both.
        time_limit: Seconds of virtual time after which a run counts as hanging.

    Example:
        >>> @simulate(seeds=500)
        ... async def test_each_order_is_billed(simulation: Simulation) -> None:
        ...     async with TestBus(clock=simulation.clock, middleware=[
        ...         Retry(attempts=20), simulation.failing(0.2)]) as bus: ...

    Raises:
        InvalidOption: What the environment says is no number.
    """

    def decorate(
        test: Callable[Concatenate[Simulation, P], Awaitable[None]],
    ) -> Callable[P, None]:
        def run(*arguments: P.args, **named: P.kwargs) -> None:
            __tracebackhide__ = True
            chosen = _chosen(seeds, seed)
            with _quiet(is_quiet=len(chosen) > 1):
                for number in chosen:
                    for backend in backends:
                        with SimulatedStores(number) as stores:
                            main = partial(test, Simulation(number, stores), *arguments, **named)
                            _run_one(main, backend, number, time_limit)

        signature = inspect.signature(test)
        parameters = list(signature.parameters.values())[1:]
        run.__name__, run.__qualname__ = test.__name__, test.__qualname__
        run.__doc__, run.__module__ = test.__doc__, test.__module__
        run.__dict__.update(vars(test))  # the marks that pytest keeps there
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # pytest reads it
        return run

    return decorate


def _from_test_on(error: Exception, test: Callable[..., object]) -> TracebackType | None:
    """Leave out how the loop came to run the test; all of it is left where it was not running."""
    code = getattr(inspect.unwrap(test), "__code__", None)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code is not code:
        trace = trace.tb_next
    return trace or error.__traceback__


def _run_one(main: partial[Awaitable[None]], backend: str, seed: int, time_limit: float) -> None:
    __tracebackhide__ = True

    async def bounded() -> None:
        with anyio.fail_after(time_limit):
            await main()

    try:
        with _chance_of(seed):
            run_seeded(bounded, backend, seed)
    except Exception as error:
        error.add_note(
            f"seed {seed} on {backend}: run it again with @simulate(seed={seed}, "
            f"backends=[{backend!r}]), or with EVENTBUS_SEED={seed}"
        )
        error.with_traceback(_from_test_on(error, main.func))
        raise


@contextmanager
def _chance_of(seed: int) -> Generator[None]:
    """Let the seed decide what else is left to chance: jitter, ids, and how long work takes."""
    before = random.getstate()
    uuid7_text(0.0)  # so that none of the run before is counted on
    random.seed(seed)
    try:
        with patch("eventbus.dispatch.stopwatch", _Stopwatch(seed)):
            yield
    finally:
        random.setstate(before)


class _Stopwatch:
    """Shows work to take anything from nothing to twice a worker's slice."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._shown = 0.0

    def __call__(self) -> float:
        self._shown += self._random.uniform(0.0, 400e-6)
        return self._shown


def _chosen(seeds: int | Iterable[int], seed: int | None) -> Sequence[int]:
    if (told := _from_environment("EVENTBUS_SEED")) is not None:
        return [told]
    if seed is not None:
        return [seed]
    if (many := _from_environment("EVENTBUS_SEEDS")) is not None:
        return range(many)
    return range(seeds) if isinstance(seeds, int) else list(seeds)


def _from_environment(name: str) -> int | None:
    text = os.environ.get(name, "")
    if text and not text.isdecimal():
        raise InvalidOption(f"{name}={text}: give a whole number, or leave it out")
    return int(text) if text else None


@contextmanager
def _quiet(*, is_quiet: bool) -> Generator[None]:
    """Keep injected failures of many runs out of the log; one run alone may tell all."""
    logger = logging.getLogger("eventbus")
    before = logger.level
    if is_quiet:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


async def _cancel_after(turns: int, scope: anyio.CancelScope) -> None:
    for _ in range(turns):
        await checkpoint()
    scope.cancel()
