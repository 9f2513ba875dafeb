"""`eventbus dlq`: what subscriptions gave up on."""

__all__ = ("list_letters", "purge", "redrive", "show")

from collections.abc import Iterator, Sequence
from typing import Annotated, TypeAlias

import typer

from eventbus.cli.ending import fail
from eventbus.cli.event import line_of, moment, payload_text
from eventbus.cli.naming import check_named_by_letters
from eventbus.cli.show import AsJson, show_line, show_table
from eventbus.cli.store import Purpose, Url, opened
from eventbus.cli.text import counted, json_text
from eventbus.context import FailedDelivery
from eventbus.errors import InvalidOption

Of: TypeAlias = Annotated[
    str | None, typer.Option("--subscription", "-s", help="Only those of this subscription.")
]
Ids: TypeAlias = Annotated[list[str] | None, typer.Argument(help="Ids, as `dlq list` shows them.")]
All: TypeAlias = Annotated[bool, typer.Option("--all", help="Every one there is.")]


def list_letters(
    *,
    url: Url,
    subscription: Of = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    before: Annotated[str | None, typer.Option(help="Those that failed before this id.")] = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters, newest first; `waiting` counts what waits behind a sequenced one."""
    with opened(url, Purpose.LOOKING) as store:
        check_named_by_letters(store, subscription)
        letters = store.dead_letters(subscription, limit, before)
    if as_json:
        for one in letters:
            show_line(json_text(_as_json(one)))
    elif letters:
        header = ("id", "failed", "subscription", "topic", "attempts", "waiting", "error")
        show_table(header, [_row(one) for one in letters])
    else:
        show_line("no dead letters")


def show(
    id: Annotated[str, typer.Argument(help="Its id, as `dlq list` shows it.")],
    *,
    url: Url,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: its event, and why it failed."""
    with opened(url, Purpose.LOOKING) as store:
        found = next((one for one in store.all_dead_letters() if one.id == id), None)
    if found is None:
        raise InvalidOption(f"no dead letter {id!r} is kept: see `eventbus dlq list`")
    if as_json:
        show_line(json_text({**_as_json(found), "traceback": found.traceback}))
        return
    for line in _lines(found):
        show_line(line)


def redrive(
    ids: Ids = None,
    *,
    url: Url,
    subscription: Of = None,
    every: All = False,
    as_json: AsJson = False,
) -> None:
    """Send dead letters again, each to the subscription that failed alone, as attempt 1.

    The application need not run: it finds them when it does. Those of subscriptions that are not
    durable stay: they end with their application.
    """
    _require_choice(ids, subscription, every=every)
    with opened(url, Purpose.MENDING) as store:
        check_named_by_letters(store, subscription)
        sent = store.redrive(subscription, ids)
    _conclude("redriven", sent, ids, as_json=as_json)


def purge(
    ids: Ids = None,
    *,
    url: Url,
    subscription: Of = None,
    every: All = False,
    as_json: AsJson = False,
) -> None:
    """Forget dead letters, for good."""
    _require_choice(ids, subscription, every=every)
    with opened(url, Purpose.MENDING) as store:
        check_named_by_letters(store, subscription)
        purged = store.purge(subscription, ids)
    _conclude("purged", purged, ids, as_json=as_json)


def _require_choice(ids: Sequence[str] | None, subscription: str | None, *, every: bool) -> None:
    if not ids and subscription is None and not every:
        raise InvalidOption("which dead letters? Give ids, --subscription NAME, or --all")
    if every and (ids or subscription is not None):
        raise InvalidOption("--all is every one: leave out ids and --subscription, or --all")


def _conclude(done: str, number: int, ids: Sequence[str] | None, *, as_json: bool) -> None:
    show_line(json_text({done: number}) if as_json else f"{done}: {number:,}")
    left = len(set(ids)) - number if ids else 0
    if left:
        fail(
            f"{counted(left, 'dead letter')} could not be {done}: none has that id, or its "
            "subscription is not in the store; see `eventbus dlq list` and `eventbus stats`"
        )


def _as_json(letter: FailedDelivery) -> dict[str, object]:
    return {
        "id": letter.id,
        "subscription": letter.subscription,
        "failed_at": letter.failed_at,
        "attempts": letter.attempts,
        "waiting": letter.waiting,
        "error_type": letter.error_type,
        "error": letter.error,
        "event": line_of(letter.message),
    }


def _row(letter: FailedDelivery) -> tuple[str | int, ...]:
    return (
        letter.id,
        moment(letter.failed_at),
        letter.subscription,
        letter.message.topic,
        letter.attempts,
        letter.waiting,
        f"{letter.error_type}: {letter.error}",
    )


def _lines(letter: FailedDelivery) -> Iterator[str]:
    message = letter.message
    yield f"{letter.id}: {letter.subscription} gave up on {message.topic} {message.id}"
    yield f"failed at {moment(letter.failed_at)}, after {counted(letter.attempts, 'attempt')}"
    if letter.waiting:
        yield f"{counted(letter.waiting, 'message')} of its key waiting for it"
    yield f"published at {moment(message.time)}, at position {message.position}"
    if message.key is not None:
        yield f"key: {message.key}"
    for name, value in message.headers.items():
        yield f"header {name}: {value}"
    yield f"payload: {payload_text(message.payload)}"
    yield ""
    yield from letter.traceback.splitlines() or [f"{letter.error_type}: {letter.error}"]
