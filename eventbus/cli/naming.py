"""Subscriptions that a command is given by name."""

__all__ = ("check_named_by_letters", "unknown")

from collections.abc import Collection

from eventbus.cli.store import Store
from eventbus.errors import InvalidOption
from eventbus.wording import did_you_mean


def check_named_by_letters(store: Store, name: str | None) -> None:
    """Refuse a name that neither a durable subscription has, nor a dead letter.

    Raises:
        InvalidOption: It is no such name.
    """
    if name is None or store.dead_letters(name, 1):
        return
    known = {one.name for one in store.figures().subscriptions}
    if name not in known:
        raise unknown(name, known | {one.subscription for one in store.all_dead_letters()})


def unknown(name: str, known: Collection[str]) -> InvalidOption:
    """Make the error of a name that is not among those there are."""
    there = f"give {', '.join(map(repr, sorted(known)))}" if known else "there are none"
    return InvalidOption(
        f"no subscription {name!r} is in the store: {there}{did_you_mean(name, known)}"
    )
