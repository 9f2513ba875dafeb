"""How long to wait before the next attempt: pure, and without a clock."""

__all__ = ("Backoff",)

import random
from collections.abc import Callable
from dataclasses import dataclass

from eventbus.errors import InvalidOption


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays that grow by a factor up to a maximum, all in seconds.

    With `jitter` the delay is drawn evenly between nothing and the full delay, so that those who
    failed together do not come back together.
    """

    initial: float = 1.0
    maximum: float = 60.0
    factor: float = 2.0
    jitter: bool = True

    def __post_init__(self) -> None:
        if not (0 <= self.initial <= self.maximum):
            raise InvalidOption(
                f"initial={self.initial!r} and maximum={self.maximum!r}: give seconds with "
                "0 <= initial <= maximum"
            )
        if self.factor < 1:
            raise InvalidOption(f"factor={self.factor!r} would shrink the delay: give 1 or more")

    def delay(self, attempt: int, *, draw: Callable[[], float] = random.random) -> float:
        """Tell how many seconds to wait after that many failed attempts (1 or more)."""
        return self._full_delay(attempt) * (draw() if self.jitter else 1.0)

    def _full_delay(self, attempt: int) -> float:
        try:
            return min(self.maximum, self.initial * self.factor ** (attempt - 1))
        except OverflowError:  # after some thousand attempts a float cannot hold the power
            return self.maximum
