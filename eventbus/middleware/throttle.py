"""Let attempts begin at no more than a rate."""

__all__ = ("Starts", "Throttle")

from collections import deque
from collections.abc import Awaitable
from datetime import timedelta
from math import inf
from typing import Any

from eventbus.bus_logger import BusLogger
from eventbus.clock import Clock, seconds_of
from eventbus.context import Context
from eventbus.errors import InvalidOption
from eventbus.middleware.chain import CallNext
from eventbus.settling import Postponed


class Throttle:
    """Policy: let at most `rate` attempts begin within any `per` seconds.

    Within that they begin as soon as they can: after a pause, `rate` of them at once. Each
    subscription has its own count, and retries are attempts too. What has to wait stays in its
    queue, in its order, and takes up no time of a `Timeout`; a queue that fills by it does as its
    `overflow` says. The memory it takes grows with `rate`, 8 bytes each.

    Example:
        >>> polite = Throttle(10)  # a second
        >>> seldom = Throttle(1, per=60.0)

    Raises:
        InvalidOption: The rate is no whole number of 1 or more, or the time is not positive.
    """

    __slots__ = ("per", "rate")

    def __init__(self, rate: int, per: float | timedelta = 1.0) -> None:
        _check_rate(rate)
        self.rate = rate
        self.per = seconds_of("per", per)
        if not 0.0 < self.per < inf:
            raise InvalidOption(f"Throttle(per={per!r}): give more than 0 seconds")

    @property
    def policy(self) -> str:
        """The kind of policy."""
        return "throttle"

    def gate(self, name: str, clock: Clock, logger: BusLogger) -> "Starts":
        """Begin to count for a subscription."""
        return Starts(self.rate, self.per, clock)


def _check_rate(rate: object) -> None:
    if isinstance(rate, bool) or not isinstance(rate, int) or rate < 1:
        raise InvalidOption(
            f"Throttle({rate!r}): give a whole number of 1 or more; one in two seconds is "
            "Throttle(1, per=2.0)"
        )


class Starts:
    """When the last attempts of a subscription began."""

    __slots__ = ("_clock", "_last", "_per")

    def __init__(self, rate: int, per: float, clock: Clock) -> None:
        self._last = deque([-inf] * rate, maxlen=rate)
        self._per = per
        self._clock = clock

    def bind(self, call_next: CallNext) -> CallNext:
        """Link into a chain without a coroutine of its own."""
        last, per, monotonic = self._last, self._per, self._clock.monotonic
        note = last.append

        def link(context: Context[Any]) -> Awaitable[object]:
            now = monotonic()
            if now - last[0] < per:
                raise Postponed(self._wait, lagged=context.lagged)
            note(now)
            return call_next(context)

        return link

    def failed(self, error: BaseException) -> None:
        """Count a failed attempt as any other."""

    async def _wait(self) -> None:
        await self._clock.sleep(max(0.0, self._last[0] + self._per - self._clock.monotonic()))
