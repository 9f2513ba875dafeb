"""Try a failed delivery again, later."""

__all__ = ("Retry",)

from datetime import timedelta
from typing import cast

from eventbus.clock import seconds_of
from eventbus.errors import InvalidOption
from eventbus.retry import Backoff

Errors = type[Exception] | tuple[type[Exception], ...]


class Retry:
    """Policy: try a failed delivery again, with exponential backoff and full jitter.

    `attempts` counts the first; no delivery is attempted more often than its subscription's
    `max_deliveries`. `initial`, `maximum` in seconds. Only exceptions in `on` and not in `never`
    are retried. While it waits, other messages pass, but none of the same key; with `hold=True` the
    worker itself waits, and everything behind it.

    Example:
        >>> patient = Retry(attempts=5, initial=0.5, never=(ValueError,))

    Raises:
        InvalidOption: Fewer than 1 attempt, or delays that cannot be.
    """

    __slots__ = ("attempts", "backoff", "hold", "never", "on")

    def __init__(
        self,
        attempts: int = 3,
        *,
        initial: float | timedelta = 1.0,
        maximum: float | timedelta = 60.0,
        factor: float = 2.0,
        jitter: bool = True,
        on: Errors = Exception,
        never: Errors = (),
        hold: bool = False,
    ) -> None:
        _check_attempts(attempts)
        _check_errors("on", on)
        _check_errors("never", never)
        self.attempts = attempts
        self.backoff = Backoff(
            seconds_of("initial", initial), seconds_of("maximum", maximum), factor, jitter
        )
        self.on = on
        self.never = never
        self.hold = hold

    @property
    def policy(self) -> str:
        """The kind of policy."""
        return "retry"

    def applies_to(self, error: BaseException) -> bool:
        """Tell whether such an error is worth another attempt.

        Somebody else's cancellation, which is no `Exception`, counts as one.
        """
        is_meant = self.on is Exception or isinstance(error, self.on)
        return is_meant and not isinstance(error, self.never)


def _check_attempts(attempts: object) -> None:
    if not isinstance(attempts, int) or attempts < 1:
        raise InvalidOption(f"Retry(attempts={attempts!r}): give 1 or more, the first included")


def _check_errors(word: str, errors: object) -> None:
    kinds = cast("tuple[object, ...]", errors) if isinstance(errors, tuple) else (errors,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise InvalidOption(
                f"Retry({word}={errors!r}): give an exception class, or a tuple of them"
            )
