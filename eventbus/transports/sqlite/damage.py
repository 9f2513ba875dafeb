"""What becomes of a record that is damaged, or missing though nobody has removed it."""

__all__ = ("Damaged", "OnDamage", "leave_out", "legible", "policy_of", "stop")

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias

from eventbus.errors import StoreCorrupt
from eventbus.transports.base import LogsAsBus

Damaged: TypeAlias = Literal["stop", "quarantine"]

OnDamage: TypeAlias = Callable[[str], None]
"""Told what is wrong, as "the record at position 3 is damaged". Reading goes on if it returns."""


def stop(what: str) -> None:
    """Deliver nothing behind it.

    Raises:
        StoreCorrupt: Always.
    """
    raise StoreCorrupt(
        f"{what}, and nothing behind it is delivered: restore the store from a copy, or go on "
        "without it, by damaged=quarantine in the URL"
    )


def leave_out(transport: LogsAsBus, what: str) -> None:
    """Say so, and deliver what is behind it: it stays where it is, and is never delivered."""
    transport.bus_logger.error(
        "%s, and left out: restore the store from a copy if you have one", what
    )


def policy_of(damaged: Damaged, transport: LogsAsBus) -> OnDamage:
    """Give what the URL of a transport asks for."""
    return stop if damaged == "stop" else partial(leave_out, transport)


def legible(digits: str) -> str:
    """Make text of its bytes in hexadecimal, also where they are no text any more."""
    return bytes.fromhex(digits).decode(errors="replace")
