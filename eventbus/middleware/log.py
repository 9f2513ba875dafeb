"""Write a line per delivery."""

__all__ = ("Log",)

import logging
from typing import Any

from eventbus.clock import stopwatch
from eventbus.context import Context
from eventbus.middleware.chain import CallNext


class Log:
    """Middleware that logs each attempt with its duration, on the logger `eventbus`.

    The payload is never logged. What is logged as fields stands in `extra` too, for structured
    handlers: `bus`, `topic`, `subscription`, `attempt`, `milliseconds`.
    """

    __slots__ = ("_level",)

    def __init__(self, level: int = logging.INFO) -> None:
        self._level = level

    async def __call__(self, context: Context[Any], call_next: CallNext, /) -> object:
        """Log after the handler: how it ended, and how long it took."""
        begin = stopwatch()
        how = "failed"
        try:
            result = await call_next(context)
            how = "handled"
            return result
        finally:
            self._write(context, how, 1000 * (stopwatch() - begin))

    def _write(self, context: Context[Any], how: str, milliseconds: float) -> None:
        topic, name, attempt = context.message.topic, context.subscription, context.attempt
        context.origin.logger.log(
            self._level,
            "%s %s by %s, attempt %d, in %.1f ms",
            topic,
            how,
            name,
            attempt,
            milliseconds,
            extra={
                "topic": topic,
                "subscription": name,
                "attempt": attempt,
                "milliseconds": milliseconds,
            },
        )
