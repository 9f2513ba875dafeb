"""Event loops that decide by a seed which task goes on next."""

__all__ = ("run_seeded",)

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeVar

import anyio

from eventbus.testing.loop import VirtualLoop, virtual_backend

R = TypeVar("R")


def run_seeded(main: Callable[[], Awaitable[R]], backend: str, seed: int) -> R:
    """Run a program in virtual time; the seed alone decides which of the ready tasks goes on.

    Raises:
        InvalidOption: There is no such loop.
    """
    if backend == "asyncio":
        return anyio.run(main, backend_options={"loop_factory": lambda: _SeededLoop(seed)})
    name, options = virtual_backend(backend)
    from eventbus.testing import _trio  # trio need not be installed

    with _trio.seeded(seed):
        return anyio.run(main, backend=name, backend_options=options)


class _NumberedTask(asyncio.Task[Any]):
    """A task that is told from others by its number, and not by its place in memory.

    Sets of tasks, as anyio keeps them, then have the same order in every run.
    """

    number = 0

    def __hash__(self) -> int:
        return self.number


class _SeededLoop(VirtualLoop):
    """A loop with virtual time that draws the next task by lot."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._numbers = 0
        self._ready = _Lots(Random(seed))  # where the loop keeps what can go on
        self.set_task_factory(self._number)

    def _number(
        self, _: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> _NumberedTask:
        task = _NumberedTask(coroutine, loop=self, **options)
        self._numbers += 1
        task.number = self._numbers
        return task


class _Lots(deque[asyncio.Handle]):
    """Gives the handle of a task drawn by lot; all other handles keep their order.

    The loop's own parts rely on that order, while tasks may not: on trio, too, they are shuffled.
    """

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random

    def popleft(self) -> asyncio.Handle:
        """Take the handle that goes on next."""
        if len(self) == 1:
            return super().popleft()
        lots = sorted(enumerate(map(_number_of, self)), key=lambda lot: (lot[1], lot[0]))
        others = [lot for lot in lots if not lot[1]]
        index, _ = self._random.choice(others[:1] + lots[len(others) :])
        self.rotate(-index)
        handle = super().popleft()
        self.rotate(index)
        return handle


def _number_of(handle: asyncio.Handle) -> int:
    """Tell which task a handle lets go on; 0 if it is none."""
    task = getattr(getattr(handle, "_callback", None), "__self__", None)
    return task.number if isinstance(task, _NumberedTask) else 0
