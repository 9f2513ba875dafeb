"""Bound how long an attempt may take."""

__all__ = ("Timeout",)

from datetime import timedelta

from eventbus.clock import seconds_of
from eventbus.errors import InvalidOption


class Timeout:
    """Policy: fail an attempt that runs longer than `seconds`, with `HandlerTimeout`.

    It fires within 25 % of its time: one watchdog looks after all workers, so that a message costs
    nothing. The handler is cancelled at its next await; a sync handler's thread cannot be, it runs
    on by itself while the subscription goes on.

    Raises:
        InvalidOption: The time is not positive.
    """

    __slots__ = ("seconds",)

    def __init__(self, seconds: float | timedelta) -> None:
        self.seconds = seconds_of("seconds", seconds)
        if not self.seconds:
            raise InvalidOption(f"Timeout({seconds!r}): give more than 0 seconds")

    @property
    def policy(self) -> str:
        """The kind of policy."""
        return "timeout"
