"""`eventbus run`: serve the handlers of an application."""

__all__ = ("SafeFormatter", "run")

import logging
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import anyio
import typer

from eventbus.bus_logger import BusLogger
from eventbus.cli.application import load_bus
from eventbus.cli.children import follow_code, run_workers
from eventbus.cli.text import printable
from eventbus.errors import InvalidOption


class Backend(StrEnum):
    """An event loop."""

    asyncio = "asyncio"
    trio = "trio"


class LogLevel(StrEnum):
    """What is logged: this, and all that is graver."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


def run(
    app: Annotated[
        str, typer.Argument(envvar="EVENTBUS_APP", help="Where the bus is, as module:attribute.")
    ],
    *,
    factory: Annotated[
        bool, typer.Option(envvar="EVENTBUS_FACTORY", help="It is a function that makes the bus.")
    ] = False,
    app_dir: Annotated[
        Path, typer.Option(envvar="EVENTBUS_APP_DIR", help="Where its module is looked for first.")
    ] = Path(),
    backend: Annotated[
        Backend, typer.Option(envvar="EVENTBUS_BACKEND", help="The event loop to run on.")
    ] = Backend.asyncio,
    workers: Annotated[
        int,
        typer.Option(
            "--workers", "-w", min=1, envvar="EVENTBUS_WORKERS", help="How many processes."
        ),
    ] = 1,
    reload: Annotated[
        bool,
        typer.Option(envvar="EVENTBUS_RELOAD", help="Start anew when code in --app-dir changes."),
    ] = False,
    log_level: Annotated[
        LogLevel,
        typer.Option("--log-level", "-l", envvar="EVENTBUS_LOG_LEVEL", help="What to log."),
    ] = LogLevel.info,
    speaks_for: Annotated[
        int, typer.Option(hidden=True, help="Of so many, it tells what is so in each.")
    ] = 1,
) -> None:
    """Serve the handlers of an application until a signal.

    The first SIGINT or SIGTERM drains, and ends with code 0; the second stops, and ends with 1.
    """
    if reload and workers > 1:
        raise InvalidOption("--reload follows the code with one process: leave out --workers")
    if reload and find_spec("watchfiles") is None:
        raise InvalidOption("--reload needs watchfiles: pip install 'eventbus[reload]'")
    _set_up_log(log_level)
    if reload or workers > 1:
        command = partial(_command_of_one, app, app_dir, backend, log_level, is_factory=factory)
        raise typer.Exit(_run_children(command, workers, app_dir, is_following=reload))
    if find_spec(backend.value) is None:
        raise InvalidOption(f"--backend {backend.value} needs it: pip install {backend.value}")
    bus = load_bus(app, app_dir, is_factory=factory)
    if speaks_for > 1 and not bus.reaches_other_processes:
        _warn_of_separate_buses(bus.logger, speaks_for)
    bus.logger.info("serving the subscriptions of %s until a signal", app)
    anyio.run(bus.run, backend=backend.value)


def _run_children(
    command: Callable[[int], Sequence[str]], workers: int, folder: Path, *, is_following: bool
) -> int:
    if is_following:
        return anyio.run(follow_code, command(1), [folder])
    return anyio.run(run_workers, [command(workers), *[command(1)] * (workers - 1)])


def _command_of_one(
    app: str, folder: Path, backend: Backend, level: LogLevel, speaks_for: int, *, is_factory: bool
) -> Sequence[str]:
    """Write the command of one process that does the work, whatever the environment says."""
    where = ("--app-dir", str(folder), "--factory" if is_factory else "--no-factory")
    how = ("--backend", backend.value, "--log-level", level.value)
    alone = ("--workers", "1", "--no-reload", "--speaks-for", str(speaks_for))
    return [sys.executable, "-m", "eventbus", "run", *where, *how, *alone, "--", app]


def _warn_of_separate_buses(logger: BusLogger, workers: int) -> None:
    logger.warning(
        "each of the %d workers has a bus of its own, and what one publishes reaches no other: "
        "give the bus a store to share, as EventBus('sqlite:///events.db')",
        workers,
    )


def _set_up_log(level: LogLevel) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(SafeFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.value.upper(), handlers=[handler])
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # what follows a change tells of it


class SafeFormatter(logging.Formatter):
    """Writes records, tracebacks with the text of errors included, so that a terminal is safe."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record, line by line."""
        return "\n".join(map(printable, super().format(record).split("\n")))
