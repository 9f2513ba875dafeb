"""Let only some deliveries through to the handler."""

__all__ = ("Filter",)

from collections.abc import Callable
from typing import Any

from eventbus.context import Context
from eventbus.errors import InvalidOption
from eventbus.middleware.chain import CallNext


class Filter:
    """Middleware that runs the handler only where a predicate of the context says so.

    What it holds back counts as `filtered`, neither succeeded nor failed. For a predicate of the
    event alone, `where=` is cheaper.

    Example:
        >>> only_first_attempts = Filter(lambda context: context.attempt == 1)
    """

    __slots__ = ("_predicate",)

    def __init__(self, predicate: Callable[[Context[Any]], bool]) -> None:
        if not callable(predicate):
            raise InvalidOption(f"Filter({predicate!r}): give a function of the context")
        self._predicate = predicate

    async def __call__(self, context: Context[Any], call_next: CallNext, /) -> object:
        """Go on only if the predicate is true; its exception fails the attempt."""
        return await self.bind(call_next)(context)

    def bind(self, call_next: CallNext) -> CallNext:
        """Link into a chain without a coroutine of its own."""
        predicate = self._predicate
        return lambda context: call_next(context) if predicate(context) else _held_back()


async def _held_back() -> None:
    return None
