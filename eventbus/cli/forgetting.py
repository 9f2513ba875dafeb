"""`eventbus forget`: the end of a durable subscription."""

__all__ = ("forget",)

import sys
from typing import Annotated

import typer

from eventbus.cli.ending import fail
from eventbus.cli.naming import unknown
from eventbus.cli.show import AsJson, show_line
from eventbus.cli.store import Purpose, Url, opened
from eventbus.cli.text import counted, json_text, printable


def forget(
    name: Annotated[str, typer.Argument(help="The subscription, as `stats` names it.")],
    *,
    url: Url,
    is_sure: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Forget a durable subscription: where it was, and what it has not settled.

    Its dead letters stay. An application that has it begins anew under that name.
    """
    waiting = _waiting_for(url, name)
    if not (is_sure or _is_confirmed(f"forget {name!r}, with {counted(waiting, 'event')} for it?")):
        fail(f"{name!r} is not forgotten: answer y, or give --yes")
    with opened(url, Purpose.MENDING) as store:
        store.forget(name)
    show_line(json_text({"forgotten": name}) if as_json else f"forgotten: {name}")


def _waiting_for(url: str, name: str) -> int:
    with opened(url, Purpose.LOOKING) as store:
        lags = {one.name: one.lag for one in store.figures().subscriptions}
    if name not in lags:
        raise unknown(name, lags)
    return lags[name]


def _is_confirmed(question: str) -> bool:
    typer.echo(f"{printable(question)} [y/N] ", nl=False, err=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
