"""The clock of the tests, where they have always found it."""

__all__ = ("ManualClock",)

from eventbus.testing import ManualClock
