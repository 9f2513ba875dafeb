"""How a command ends: what went wrong is one sentence on stderr, and a code."""

__all__ = ("INTERRUPTED", "complain", "concluded", "fail", "show_trace")

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from inspect import signature
from typing import NoReturn, ParamSpec, cast

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

_IN_PYTHON = {
    ", or None for none": "",
    ", or a timedelta": "",
    "a datetime with its time zone": "a time with its zone",
}
"""What a command cannot be given, and what is said in its place."""

_ASKED_WRONGLY = (InvalidEvent, InvalidOption, InvalidPattern, InvalidTopic, UnknownTransport)


def concluded(command: Callable[P, None], *, only_shows: bool = False) -> Callable[P, None]:
    """Make a command end well, whatever it raises.

    Of one that `only_shows` something, whoever reads it may have enough: that is no failure.
    """

    @wraps(command)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            command(*arguments, **options)
            sys.stdout.flush()
        except BrokenPipeError:
            _leave_stdout()
            raise typer.Exit(0 if only_shows else WORK_FAILED) from None
        except InvalidOption as error:
            fail(_in_words_of(command, str(error)), WRONGLY_ASKED)
        except (EventBusError, OSError, KeyboardInterrupt, BaseExceptionGroup) as error:
            _end(_essence(error))

    return run


def _end(error: BaseException) -> NoReturn:
    match error:
        case EventBusError():
            fail(str(error), WRONGLY_ASKED if isinstance(error, _ASKED_WRONGLY) else WORK_FAILED)
        case OSError() if error.filename is not None:
            fail(f"{error.filename}: {error.strerror}")
        case KeyboardInterrupt():
            raise typer.Exit(INTERRUPTED) from None
        case _:
            raise error


def _in_words_of(command: Callable[..., None], sentence: str) -> str:
    """Say of an option of a command what is said of one of Python: `--speed 0.0`, not `speed=`."""
    for word in signature(command).parameters:
        option = f"--{word.replace('_', '-')}"
        sentence = re.sub(rf"(?<![\w?&]){word}=(?=\S)", f"{option} ", sentence)
    for python, plain in _IN_PYTHON.items():
        sentence = sentence.replace(python, plain)
    return sentence


def _essence(error: BaseException) -> BaseException:
    """Give what a group of errors says, where all in it are of the kind that ends in a sentence."""
    leaves = list(_leaves(error))
    said = [leaf for leaf in leaves if isinstance(leaf, (EventBusError, KeyboardInterrupt))]
    return said[0] if len(said) == len(leaves) else error


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    else:
        yield error


def fail(sentence: str, code: int = WORK_FAILED) -> NoReturn:
    """End the command with a code, saying why."""
    complain(sentence)
    raise typer.Exit(code) from None


def complain(sentence: str) -> None:
    """Say on stderr what is wrong."""
    typer.echo(f"eventbus: {printable(sentence)}", err=True)


def show_trace(parts: Iterable[str]) -> None:
    """Show a traceback on stderr, at once: other processes may be there, too."""
    typer.echo("\n".join(map(printable, "".join(parts).rstrip("\n").split("\n"))), err=True)


def _leave_stdout() -> None:
    """Let what is still buffered go nowhere: nobody reads it, and the exit would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
