"""Event loops whose time is virtual: they jump to the next thing due instead of waiting for it.

Jumping
    Time stands still while code runs. When no task can go on, it jumps to the next deadline, so
    that an hour of backoff takes a millisecond and every time-out is exact.

Running
    While a worker thread is busy, or a socket, pipe or process is being waited for, time passes as
    outside: a jump would make their time-outs fail. Threads that the loop knows nothing of (those a
    program starts itself) cannot be seen.
"""

__all__ = ("BEGINNING", "Backend", "VirtualLoop", "virtual_backend")

import asyncio
import selectors
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Executor
from selectors import BaseSelector, SelectorKey
from typing import Any, TypeAlias
from weakref import WeakSet

import anyio._backends._asyncio as anyio_asyncio
from anyio.lowlevel import RunVar

from eventbus.clock import SystemClock
from eventbus.errors import InvalidOption
from eventbus.threads import busy_threads

Backend: TypeAlias = tuple[str, dict[str, Any]]
"""The name of an event loop and its options, as anyio takes them."""

BEGINNING = 1_000.0
"""What a virtual clock shows at first: not nothing, which code may take for "never"."""


def virtual_backend(name: str = "asyncio", /, **options: Any) -> Backend:
    """Give an event loop with virtual time, for anyio's `anyio_backend` fixture and for its `run`.

    Further options go to the loop. Each call makes a new one for trio, whose clock is part of the
    options: its time goes on from one run to the next.

    Example:
        >>> @pytest.fixture(params=[virtual_backend("asyncio"), virtual_backend("trio")])
        ... def anyio_backend(request): return request.param
        >>> name, options = virtual_backend()
        >>> anyio.run(main, backend=name, backend_options=options)

    Raises:
        InvalidOption: There is no such loop.
        ImportError: It is to be trio, which is not installed.
    """
    if name == "asyncio":
        return name, {**options, "loop_factory": VirtualLoop}
    if name != "trio":
        raise InvalidOption(f"no event loop is named {name!r}: give 'asyncio' or 'trio'")
    from eventbus.testing import _trio  # trio need not be installed

    return name, {**options, **_trio.virtual_options(BEGINNING)}


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop that jumps to the next timer when nothing else can happen."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector(self)
        self._executing = 0
        self._processes: WeakSet[asyncio.SubprocessTransport] = WeakSet()
        super().__init__(self._jumping)
        self._jumping.own_files = len(self._jumping.get_map())

    def time(self) -> float:
        """Tell the virtual time, in seconds; also from another thread."""
        return self._jumping.now

    def is_held(self) -> bool:
        """Tell whether something outside is at work, so that time must pass by itself."""
        has_files = len(self._jumping.get_map()) > self._jumping.own_files
        has_processes = any(one.get_returncode() is None for one in self._processes)
        threads = self._executing + busy_threads() + _busy_workers()
        return has_files or has_processes or threads > 0

    def run_in_executor(  # type: ignore[override]  # typeshed's names for the arguments differ
        self, executor: Executor | None, func: Any, *args: Any
    ) -> "asyncio.Future[Any]":
        """Run a function in a thread; time passes by itself until it has returned."""
        future: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
        self._executing += 1
        future.add_done_callback(self._executed)
        return future

    async def subprocess_exec(self, *arguments: Any, **options: Any) -> Any:
        """Start a process; time passes by itself until it has ended."""
        return self._started(await super().subprocess_exec(*arguments, **options))

    async def subprocess_shell(self, *arguments: Any, **options: Any) -> Any:
        """Start a shell; time passes by itself until it has ended."""
        return self._started(await super().subprocess_shell(*arguments, **options))

    async def shutdown_default_executor(self, *arguments: Any) -> None:
        """Wait for the threads of the executor; time passes by itself meanwhile."""
        self._executing += 1
        try:
            await super().shutdown_default_executor(*arguments)
        finally:
            self._executing -= 1

    def _started(self, pair: tuple[asyncio.SubprocessTransport, Any]) -> Any:
        self._processes.add(pair[0])  # before Python 3.12 a thread waits for its end, not a file
        return pair

    def _executed(self, _: object) -> None:
        self._executing -= 1


class _JumpingSelector(BaseSelector):
    """Waits for files as the loop's own selector would, and jumps where only time could pass."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.now = BEGINNING
        self.own_files = 0
        self._loop = loop
        self._inner = selectors.DefaultSelector()
        self._clock = SystemClock()

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        events = self._inner.select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if timeout is None:  # nothing is due: only a signal or another thread can go on
            return self._inner.select(None)
        if self._loop.is_held():
            return self._wait(timeout)
        self.now += timeout
        return events

    def _wait(self, timeout: float) -> list[tuple[SelectorKey, int]]:
        began = self._clock.monotonic()
        events = self._inner.select(timeout)
        passed = self._clock.monotonic() - began
        self.now += min(passed, timeout) if events else timeout
        return events

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> SelectorKey:
        return self._inner.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        return self._inner.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, SelectorKey]:
        return self._inner.get_map()

    def close(self) -> None:
        self._inner.close()


def _busy_workers() -> int:
    """Count anyio's worker threads that have not reported back; it tells this nowhere in public."""
    workers: RunVar[set[object]] | None = getattr(anyio_asyncio, "_threadpool_workers", None)
    idle: RunVar[deque[object]] | None = getattr(anyio_asyncio, "_threadpool_idle_workers", None)
    if workers is None or idle is None:
        return 0
    return len(workers.get(set[object]())) - len(idle.get(deque[object]()))
