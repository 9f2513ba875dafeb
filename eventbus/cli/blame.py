"""Where an application fails: in its own code, without that of who runs it."""

__all__ = ("blame",)

import importlib
import os
import sysconfig
from pathlib import Path
from traceback import StackSummary, TracebackException
from typing import NoReturn

from eventbus.cli.ending import show_trace
from eventbus.errors import InvalidOption

_NOT_THEIRS = (
    "<frozen importlib",
    os.path.join(Path(importlib.__file__).parent, ""),
    os.path.join(Path(__file__).parents[1], ""),
)
_INSTALLED = tuple(
    os.path.join(sysconfig.get_paths()[kind], "") for kind in ("stdlib", "purelib", "platlib")
)


def blame(what_fails: str, error: Exception) -> NoReturn:
    """Show an error of an application with its traceback, and refuse the application.

    Raises:
        InvalidOption: Always.
    """
    trace = TracebackException.from_exception(error)
    _leave_theirs(trace)
    show_trace(trace.format() if trace.stack else trace.format_exception_only())
    name = type(error).__name__
    raise InvalidOption(f"{what_fails}: {name}{_place_of(error, trace)}, as shown above") from error


def _leave_theirs(trace: TracebackException) -> None:
    theirs = [one for one in trace.stack if not one.filename.startswith(_NOT_THEIRS)]
    trace.stack = StackSummary.from_list(theirs)
    for other in (trace.__cause__, trace.__context__, *(trace.exceptions or ())):
        if other is not None:
            _leave_theirs(other)


def _place_of(error: Exception, trace: TracebackException) -> str:
    if isinstance(error, SyntaxError) and error.lineno:
        return f" in {error.filename}, line {error.lineno}"
    own = [one for one in trace.stack if not one.filename.startswith(_INSTALLED)] or trace.stack
    return f" in {own[-1].filename}, line {own[-1].lineno}" if own else ""
