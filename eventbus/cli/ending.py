"""How a command ends: what went wrong is one sentence on stderr, and a code."""

__all__ = ("complain", "concluded", "fail")

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec

import typer

from eventbus.cli.text import printable
from eventbus.errors import (
    EventBusError,
    InvalidEvent,
    InvalidOption,
    InvalidPattern,
    InvalidTopic,
    UnknownTransport,
)

P = ParamSpec("P")

WORK_FAILED = 1
WRONGLY_ASKED = 2
INTERRUPTED = 130  # as shells have it

_ASKED_WRONGLY = (InvalidEvent, InvalidOption, InvalidPattern, InvalidTopic, UnknownTransport)


def concluded(command: Callable[P, None]) -> Callable[P, None]:
    """Make a command end well, whatever it raises."""

    @wraps(command)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            command(*arguments, **options)
            sys.stdout.flush()
        except EventBusError as error:
            fail(str(error), WRONGLY_ASKED if isinstance(error, _ASKED_WRONGLY) else WORK_FAILED)
        except BrokenPipeError:
            _leave_stdout()
            raise typer.Exit(WORK_FAILED) from None
        except OSError as error:
            if error.filename is None:
                raise
            fail(f"{error.filename}: {error.strerror}", WORK_FAILED)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None

    return run


def fail(sentence: str, code: int = WORK_FAILED) -> NoReturn:
    """End the command with a code, saying why."""
    complain(sentence)
    raise typer.Exit(code) from None


def complain(sentence: str) -> None:
    """Say on stderr what is wrong."""
    typer.echo(f"eventbus: {printable(sentence)}", err=True)


def _leave_stdout() -> None:
    """Let what is still buffered go nowhere: nobody reads it, and the exit would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
