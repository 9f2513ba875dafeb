"""Leave alone for a while what keeps failing."""

__all__ = ("Circuit", "CircuitBreaker")

from datetime import timedelta
from math import inf
from typing import Any

from anyio import Event

from eventbus.bus_logger import BusLogger
from eventbus.clock import Clock, seconds_of
from eventbus.context import Context, verdict_on
from eventbus.errors import InvalidOption
from eventbus.middleware.chain import CallNext
from eventbus.settling import Postponed, Rejected


class CircuitBreaker:
    """Policy: after so many failed attempts in a row, begin none for `reset` seconds.

    Then one attempt tries how things are: if it succeeds, all go on as before, and if it fails,
    there is another pause. What has to wait stays in its queue, in its order, and uses up neither
    attempts nor the time of a `Timeout`. Each subscription has its own circuit. A `reject` says
    that the message was at fault: it counts for neither side.

    Example:
        >>> careful = CircuitBreaker(failures=3, reset=60.0)

    Raises:
        InvalidOption: Fewer than 1 failure, or a time that is not positive.
    """

    __slots__ = ("failures", "reset")

    def __init__(self, failures: int = 5, reset: float | timedelta = 30.0) -> None:
        _check_failures(failures)
        self.failures = failures
        self.reset = seconds_of("reset", reset)
        if not 0.0 < self.reset < inf:
            raise InvalidOption(f"CircuitBreaker(reset={reset!r}): give more than 0 seconds")

    @property
    def policy(self) -> str:
        """The kind of policy."""
        return "circuit_breaker"

    def gate(self, name: str, clock: Clock, logger: BusLogger) -> "Circuit":
        """Begin with a closed circuit for a subscription."""
        return Circuit(self.failures, self.reset, name, clock, logger)


def _check_failures(failures: object) -> None:
    if isinstance(failures, bool) or not isinstance(failures, int) or failures < 1:
        raise InvalidOption(f"CircuitBreaker(failures={failures!r}): give 1 or more")


class Circuit:
    """The state of one subscription: closed, open until some time, or probing.

    Attempts that began before it opened may end later: what they say while it is open is not
    heard, and while one attempt is probing, any failure opens it again.
    """

    __slots__ = (
        "_clock",
        "_failures",
        "_in_a_row",
        "_logger",
        "_name",
        "_open_until",
        "_probe",
        "_reset",
    )

    def __init__(
        self, failures: int, reset: float, name: str, clock: Clock, logger: BusLogger
    ) -> None:
        self._failures = failures
        self._reset = reset
        self._name = name
        self._clock = clock
        self._logger = logger
        self._in_a_row = 0
        self._open_until: float | None = None
        self._probe: Event | None = None  # set when the attempt that probes has ended

    def bind(self, call_next: CallNext) -> CallNext:
        """Link into a chain; that an attempt failed is told by `failed`."""

        async def link(context: Context[Any]) -> object:
            is_probe = self._begin(context)
            try:
                result = await call_next(context)
            except Postponed:
                self._end_probe(is_mine=is_probe)
                raise
            if not context.is_handled or isinstance(verdict_on(context), Rejected):
                self._end_probe(is_mine=is_probe)
            elif context.asked is None:
                self._succeeded()
            else:  # what it has published is still to be sent
                context.asked.if_done = self._succeeded
            return result

        return link

    def failed(self, error: BaseException) -> None:
        """Count a failed attempt."""
        if isinstance(error, Rejected):
            return
        self._in_a_row += 1
        is_closed = self._open_until is None
        if self._probe is not None or (is_closed and self._in_a_row >= self._failures):
            self._open()

    def _begin(self, context: Context[Any]) -> bool:
        """Let an attempt begin, if it may; True where it is the one that probes."""
        if self._open_until is None:
            return False
        if self._probe is not None:
            raise Postponed(self._probe.wait, lagged=context.lagged)
        if self._clock.monotonic() < self._open_until:
            raise Postponed(self._wait, lagged=context.lagged)
        self._probe = Event()
        return True

    def _open(self) -> None:
        self._open_until = self._clock.monotonic() + self._reset
        self._end_probe(is_mine=True)
        self._logger.warning(
            "%s has failed %d times in a row: its next attempt begins in %.3f s",
            self._name,
            self._in_a_row,
            self._reset,
        )

    def _succeeded(self) -> None:
        if self._probe is not None:
            self._logger.info("%s works again, after %d failures", self._name, self._in_a_row)
            self._open_until = None
            self._end_probe(is_mine=True)
        if self._open_until is None:
            self._in_a_row = 0

    def _end_probe(self, *, is_mine: bool) -> None:
        if is_mine and self._probe is not None:
            self._probe.set()
            self._probe = None

    async def _wait(self) -> None:
        if self._open_until is not None:
            await self._clock.sleep(max(0.0, self._open_until - self._clock.monotonic()))
