"""All commands, under one name."""

__all__ = ("app",)

from typing import Annotated

import typer

from eventbus.cli.compacting import compact
from eventbus.cli.dead_letters import list_letters, purge, redrive, show
from eventbus.cli.ending import concluded
from eventbus.cli.figures import stats, top
from eventbus.cli.forgetting import forget
from eventbus.cli.moving import export_events, import_events, verify
from eventbus.cli.publishing import publish
from eventbus.cli.replaying import replay
from eventbus.cli.run import run
from eventbus.cli.show import show_line
from eventbus.cli.tail import tail
from eventbus.entry_points import own_version

app = typer.Typer(
    help="Run applications of eventbus, and look after their stores.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
dlq = typer.Typer(
    help="Dead letters: what subscriptions gave up on.", no_args_is_help=True, rich_markup_mode=None
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        show_line(f"eventbus {own_version()}")
        raise typer.Exit


@app.callback()
def _with_version(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version, and end."
        ),
    ] = False,
) -> None: ...


app.command("run")(concluded(run))
app.command("publish")(concluded(publish))
app.command("tail")(concluded(tail, only_shows=True))
app.command("replay")(concluded(replay, only_shows=True))
app.command("stats")(concluded(stats, only_shows=True))
app.command("top")(concluded(top, only_shows=True))
app.add_typer(dlq, name="dlq")
dlq.command("list")(concluded(list_letters, only_shows=True))
dlq.command("show")(concluded(show, only_shows=True))
dlq.command("redrive")(concluded(redrive))
dlq.command("purge")(concluded(purge))
app.command("forget")(concluded(forget))
app.command("export")(concluded(export_events, only_shows=True))
app.command("import")(concluded(import_events))
app.command("verify")(concluded(verify))
app.command("compact")(concluded(compact))
