"""Runs a coroutine and cancels it at its k-th checkpoint, in each way that its loop knows."""

__all__ = ("IN_EVERY_WAY", "Attempt", "Way", "attempt", "turns")

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, cast

import anyio
import pytest
import sniffio
import trio
from anyio.lowlevel import checkpoint

Way: TypeAlias = Literal["scope", "native", "late"]
"""By a cancel scope; on asyncio also by `Task.cancel()`, at once or after it has been woken."""

IN_EVERY_WAY = pytest.mark.parametrize(
    ("anyio_backend", "way"),
    [("asyncio", "scope"), ("asyncio", "native"), ("asyncio", "late"), ("trio", "scope")],
)
"""Runs a test in each way that each loop knows."""

Operation: TypeAlias = Callable[[], Coroutine[Any, Any, object]]


@dataclass
class Attempt:
    """How an operation went that was cancelled at one of its checkpoints."""

    at: int
    way: Way
    checkpoints: int = 0
    is_cancelled: bool = False  # it ended by the cancellation
    error: Exception | None = None

    @property
    def is_hit(self) -> bool:
        """Whether it had so many checkpoints."""
        return self.checkpoints >= self.at


async def turns(number: int = 12) -> None:
    """Let the others run until they wait, which takes them a few turns each."""
    for _ in range(number):
        await checkpoint()


async def attempt(operation: Operation, made: Attempt) -> None:
    """Run an operation to its end, cancelling it when it waits for the `at`-th time."""
    async with anyio.create_task_group() as tasks:
        if sniffio.current_async_library() == "trio":
            tasks.start_soon(_attempt_on_trio, operation, made)
        else:
            tasks.start_soon(_attempt_on_asyncio, operation, made)


# --- trio: an instrument sees each step -----------------------------------------------------------


class _Counter(trio.abc.Instrument):
    """Counts how often a task has waited, and cancels a scope at the right one."""

    def __init__(self, made: Attempt, scope: anyio.CancelScope) -> None:
        self._made = made
        self._scope = scope
        self._task = trio.lowlevel.current_task()
        self.is_over = False

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count the steps of the operation's task."""
        if task is self._task and not self.is_over:
            self._made.checkpoints += 1
            if self._made.checkpoints == self._made.at:
                self._scope.cancel()


async def _attempt_on_trio(operation: Operation, made: Attempt) -> None:
    with anyio.CancelScope() as scope:
        counter = _Counter(made, scope)
        trio.lowlevel.add_instrument(counter)
        try:
            await operation()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            made.error = error
        finally:
            counter.is_over = True
            trio.lowlevel.remove_instrument(counter)
    made.is_cancelled = scope.cancelled_caught


# --- asyncio: the coroutine is stepped by hand ----------------------------------------------------


class _Stepped(Awaitable[object]):
    """Steps through a coroutine, and tells each thing that it waits for before the loop hears."""

    def __init__(
        self, steps: Coroutine[Any, Any, object], on_waiting: Callable[[object], None]
    ) -> None:
        self._steps = steps
        self._on_waiting = on_waiting

    def __await__(self) -> Generator[Any, Any, object]:
        step: Callable[[], object] = partial(self._steps.send, None)
        while True:
            try:
                waited_for = step()
            except StopIteration as end:
                return end.value
            self._on_waiting(waited_for)
            try:
                yield waited_for
                step = partial(self._steps.send, None)
            except BaseException as error:  # noqa: BLE001 - handed on
                step = partial(self._steps.throw, error)


async def _attempt_on_asyncio(operation: Operation, made: Attempt) -> None:
    task = asyncio.current_task()
    assert task is not None
    scope = anyio.CancelScope()

    def on_waiting(waited_for: object) -> None:
        made.checkpoints += 1
        if made.checkpoints != made.at:
            return
        if made.way == "scope":
            scope.cancel()
        elif made.way == "native" or not isinstance(waited_for, asyncio.Future):
            task.cancel()
        else:  # before the task's own callback: cancelled when it has been woken already
            future = cast("asyncio.Future[object]", waited_for)
            future.add_done_callback(lambda _: task.cancel())

    try:
        with scope:
            await _Stepped(operation(), on_waiting)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        made.error = error
    except asyncio.CancelledError:
        made.is_cancelled = True
        task.uncancel()
    made.is_cancelled = made.is_cancelled or scope.cancelled_caught
    while made.way == "late" and task.cancelling():  # the operation ended before it could be hit
        task.uncancel()
    assert task.cancelling() == 0, "somebody left a cancellation behind"
