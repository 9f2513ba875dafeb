"""How large the fault tests are: small on each change, in full by `make soak`."""

__all__ = ("IS_SOAK", "full")

import os
from typing import TypeVar

T = TypeVar("T")

IS_SOAK = os.environ.get("EVENTBUS_SOAK") == "1"


def full(in_full: T, *, small: T) -> T:
    """Choose between the two sizes of one test."""
    return in_full if IS_SOAK else small
