"""Handle once what comes twice."""

__all__ = ("Deduplicate",)

from collections.abc import Awaitable, Callable, Hashable
from datetime import timedelta
from math import inf
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from anyio import Event

from eventbus.clock import Clock, seconds_of
from eventbus.context import Context, Origin
from eventbus.errors import InvalidOption
from eventbus.message import Delivery, Entry
from eventbus.middleware.chain import CallNext


class Deduplicate:
    """Middleware that runs the handler once for messages that are the same, within a time.

    The same are those with one id, as given by `publish(id=...)`; with `key`, a function of the
    event, those of one key. Each subscription remembers for itself what its handler succeeded with,
    for `window` seconds from then on: the last `size` for certain, and twice as many at most. What
    comes again meanwhile counts as `filtered`. What failed is not remembered: retries and redriven
    dead letters pass.

    While one is being handled, another that is the same waits for its end, within its own attempt
    and `Timeout`, and then runs if the first has failed.

    Example:
        >>> once = Deduplicate(window=3600.0, key=lambda order: order.order_id)

    Raises:
        InvalidOption: The window is not positive, the size below 1, or the key no function.
    """

    __slots__ = ("_key", "_memories", "_size", "_window")

    def __init__(
        self,
        window: float | timedelta = 120.0,
        key: Callable[[Any], Hashable] | None = None,
        size: int = 100_000,
    ) -> None:
        _check_key(key)
        _check_size(size)
        self._window = seconds_of("window", window)
        if not self._window:
            raise InvalidOption(f"Deduplicate(window={window!r}): give more than 0 seconds")
        self._key = key
        self._size = size
        self._memories: WeakKeyDictionary[Origin, _Memory] = WeakKeyDictionary()

    async def __call__(self, context: Context[Any], call_next: CallNext, /) -> object:
        """Go on unless the same has been handled already."""
        return await self.bind(call_next)(context)

    def bind(self, call_next: CallNext) -> CallNext:
        """Link into a chain; messages that cannot come twice pass without a coroutine."""
        key_of, turn = self._key, _Turn()
        memory: _Memory | None = None

        def link(context: Context[Any]) -> Awaitable[object]:
            nonlocal memory
            if memory is None:  # a chain is that of one subscription
                memory = self._memory_of(context.origin)
                memory.turns.add(turn)
            entry = context.entry
            if key_of is not None:
                key = key_of(entry.event)
            else:  # the id a message came with: one that would be made only now, is like no other
                traits = (entry.message if isinstance(entry, Delivery) else entry).head[2]
                key = None if traits is None else traits.id
            if key is None:
                return call_next(context)
            return _once(memory, turn, key, context, call_next)

        return link

    def _memory_of(self, origin: Origin) -> "_Memory":
        memory = self._memories.get(origin)
        if memory is None:
            memory = self._memories[origin] = _Memory(origin.clock, self._window, self._size)
            origin.tell_failures(memory.forget)
        return memory


class _Turn:
    """What one chain has remembered last."""

    __slots__ = ("__weakref__", "entry", "key")

    def __init__(self) -> None:
        self.entry: Entry | None = None
        self.key: Hashable = None


class _Memory:
    """What a subscription is handling, and when it has handled what; in two generations.

    A time is infinite while the handler runs. When the young are too many they become the old, and
    the old are forgotten: but for those that run, which stay young.
    """

    __slots__ = ("_endings", "_window", "monotonic", "old", "size", "turns", "young")

    def __init__(self, clock: Clock, window: float, size: int) -> None:
        self.young: dict[Hashable, float] = {}
        self.old: dict[Hashable, float] = {}
        self.turns: WeakSet[_Turn] = WeakSet()
        self.monotonic = clock.monotonic
        self._endings: dict[Hashable, Event] = {}
        self._window = window
        self.size = size

    async def holds(self, key: Hashable) -> bool:
        """Tell whether the same was handled lately; where it is being handled, wait for that."""
        while self.young.get(key) == inf:
            await self._endings.setdefault(key, Event()).wait()
        time = self.young.get(key, self.old.get(key, -inf))
        return self.monotonic() - time < self._window

    def make_room(self) -> None:
        """Begin a new generation."""
        running = {key: inf for key, time in self.young.items() if time == inf}
        self.old, self.young = self.young, running

    def end(self, key: Hashable, time: float | None) -> None:
        """Note when it was handled, if it was, and let those go on that wait for it."""
        if time is None:
            self.young.pop(key, None)
        else:
            self.young[key] = time
        if self._endings and (ending := self._endings.pop(key, None)) is not None:
            ending.set()

    def forget(self, entry: Entry) -> None:
        """Take back what was noted in an attempt that failed after all, outside of the handler."""
        for turn in self.turns:
            if turn.entry is entry:
                self.young.pop(turn.key, None)
                self.old.pop(turn.key, None)


async def _once(
    memory: _Memory, turn: _Turn, key: Hashable, context: Context[Any], call_next: CallNext
) -> object:
    if (key in memory.young or key in memory.old) and await memory.holds(key):
        return None
    if len(memory.young) >= memory.size:
        memory.make_room()
    memory.young[key] = inf
    time: float | None = None
    try:
        result = await call_next(context)
        if context.is_handled:
            time = memory.monotonic()
            turn.entry, turn.key = context.entry, key
        return result
    finally:
        memory.end(key, time)


def _check_key(key: object) -> None:
    if key is not None and not callable(key):
        raise InvalidOption(f"Deduplicate(key={key!r}): give a function of the event")


def _check_size(size: object) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InvalidOption(f"Deduplicate(size={size!r}): give 1 or more")
