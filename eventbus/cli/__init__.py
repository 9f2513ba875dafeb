"""The command line `eventbus`; it needs the extra `cli`, which nothing else does."""

__all__ = ("main",)

import sys


def main() -> None:
    """Run the command that the arguments of this process name, and end it.

    Raises:
        SystemExit: Always; with code 0, 1 when the work failed, 2 when it was asked for wrongly.
    """
    try:
        from eventbus.cli.commands import app
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in {"rich", "typer"}:
            raise
        sys.exit(f"eventbus: the commands need {package}: pip install 'eventbus[cli]'")
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="backslashreplace")  # a terminal may not know all letters
    app(prog_name="eventbus")
