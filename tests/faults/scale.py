"""How large the fault tests are: small on each change, in full by `make soak`."""

__all__ = ("IS_SOAK", "full")

import os

IS_SOAK = os.environ.get("EVENTBUS_SOAK") == "1"


def full(in_full: int, *, small: int) -> int:
    """Choose between the two sizes of one test."""
    return in_full if IS_SOAK else small
