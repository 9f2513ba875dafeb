"""An application in child processes: several of them, or one that follows its code.

Children are in sessions of their own, so that a signal of the terminal reaches them once: through
their parent, as SIGTERM. Their first one drains, their second one stops.
"""

__all__ = ("follow_code", "run_workers")

import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

from anyio import CancelScope, create_task_group, move_on_after, open_process, open_signal_receiver
from anyio.abc import Process

from eventbus.cli.ending import complain

RELOAD_SECONDS = 5.0
"""How long a child may take to drain when its code has changed."""

DEAF_MILLISECONDS = 200
"""For how long what watches the code does not hear that it is to end."""

_ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


async def run_workers(commands: Sequence[Sequence[str]]) -> int:
    """Run each command in a process, and pass signals on; give the exit code.

    None is started again: one that ends by itself takes the others with it, so that whoever watches
    this process sees it.
    """
    workers = _Workers()
    with open_signal_receiver(*_ENDING) as signals:
        async with create_task_group() as tasks:
            tasks.start_soon(workers.pass_on, signals)
            await workers.run(commands)
            tasks.cancel_scope.cancel()
    return workers.code


async def follow_code(command: Sequence[str], folders: Sequence[Path]) -> int:
    """Run a command, anew whenever Python code in the folders changes; give the exit code."""
    child = _Child(command)
    with open_signal_receiver(*_ENDING) as signals:
        async with create_task_group() as tasks:
            tasks.start_soon(child.follow, folders)
            await anext(signals)
            tasks.cancel_scope.cancel()
        async with create_task_group() as tasks:
            tasks.start_soon(child.pass_on, signals)
            await child.end()
            tasks.cancel_scope.cancel()
    return child.code


class _Workers:
    """Processes that run the same, and end together."""

    def __init__(self) -> None:
        self.code = 0
        self._processes: list[Process] = []
        self._is_ending = False

    async def run(self, commands: Sequence[Sequence[str]]) -> None:
        """Start them, and wait until all have ended."""
        async with create_task_group() as watching:
            for command in commands:
                if not self._is_ending:
                    process = await _start(command)
                    self._processes.append(process)
                    watching.start_soon(self._watch, process)

    async def pass_on(self, signals: AsyncIterator[object]) -> None:
        """Ask all to end at each signal."""
        async for _ in signals:
            self._end_all()

    async def _watch(self, process: Process) -> None:
        code = await process.wait()
        if not self._is_ending:
            complain(f"worker {process.pid} ended by itself, with code {code}: so do the others")
            self.code = 1
            self._end_all()
        elif not _is_good(code):
            self.code = 1

    def _end_all(self) -> None:
        self._is_ending = True
        for process in self._processes:
            _ask_to_end(process)


class _Child:
    """One process, and what comes after it."""

    def __init__(self, command: Sequence[str]) -> None:
        self.code = 0
        self._command = command
        self._process: Process | None = None

    async def follow(self, folders: Sequence[Path]) -> None:
        """Run, and begin anew whenever the code changes."""
        from watchfiles import PythonFilter, awatch  # an extra of its own

        await self._begin()
        changes = awatch(*folders, watch_filter=PythonFilter(), rust_timeout=DEAF_MILLISECONDS)
        async for _ in changes:
            complain("the code has changed: starting anew")
            with move_on_after(RELOAD_SECONDS):
                await self.end()
            await self.end()
            await self._begin()

    async def end(self) -> None:
        """Ask it to end, and wait for that."""
        if self._process is not None:
            _ask_to_end(self._process)
            self.code = 0 if _is_good(await self._process.wait()) else 1

    async def pass_on(self, signals: AsyncIterator[object]) -> None:
        """Ask it to end once more, at each signal."""
        async for _ in signals:
            if self._process is not None:
                _ask_to_end(self._process)

    async def _begin(self) -> None:
        with CancelScope(shield=True):  # so that none is started which nobody knows of
            self._process = await _start(self._command)


async def _start(command: Sequence[str]) -> Process:
    return await open_process(command, stdin=None, stdout=None, stderr=None, start_new_session=True)


def _ask_to_end(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()


def _is_good(code: int) -> bool:
    """Tell whether a process that was asked to end did: it may not have begun to listen."""
    return code in {0, -signal.SIGTERM}
