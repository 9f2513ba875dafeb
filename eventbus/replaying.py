"""Reading back what the transport keeps: `bus.replay`."""

__all__ = ("InvalidInReplay", "ReplayOptions", "Replaying", "check_replay")

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from inspect import Parameter
from math import inf
from typing import Any, Literal, TypeAlias, TypeVar, get_args, overload
from weakref import WeakSet

from typing_extensions import TypedDict, TypeForm, Unpack

from eventbus.bus_logger import BusLogger
from eventbus.clock import Clock
from eventbus.contracts import Contracts, Topic
from eventbus.errors import InvalidOption
from eventbus.registration import (
    check_flag,
    check_options,
    check_time_zone,
    check_word,
    model_of,
    patterns_of,
)
from eventbus.registry import Registry
from eventbus.replay import Replay
from eventbus.runtime import is_handler_of
from eventbus.transports.base import Place
from eventbus.transports.exchange import Exchange

M = TypeVar("M")
N = TypeVar("N")
P = TypeVar("P")

InvalidInReplay: TypeAlias = Literal["raise", "skip"]


class ReplayOptions(TypedDict, total=False):
    """The keyword arguments of `replay`; None is as if it was not said."""

    since: Place | None
    until: Place | None
    speed: float | None
    last_per_key: bool
    invalid: InvalidInReplay


class Replaying:
    """What `EventBus` reads back with."""

    clock: Clock
    logger: BusLogger
    _exchange: Exchange
    contracts: Contracts
    _registry: Registry

    def __init__(self) -> None:
        self._replays: WeakSet[Replay[Any]] = WeakSet()
        self._replays_of_handlers: WeakSet[Replay[Any]] = WeakSet()

    def require_open(self) -> None:
        """Raise unless the bus works for this caller now."""
        raise NotImplementedError

    @overload
    def replay(self, topic: Topic[M], /, **options: Unpack[ReplayOptions]) -> Replay[M]: ...
    @overload
    def replay(
        self, topic: Topic[M], second: Topic[N], /, **options: Unpack[ReplayOptions]
    ) -> Replay[M | N]: ...
    @overload
    def replay(
        self,
        topic: Topic[M],
        second: Topic[N],
        third: Topic[P],
        /,
        **options: Unpack[ReplayOptions],
    ) -> Replay[M | N | P]: ...
    @overload
    def replay(
        self,
        pattern: str,
        /,
        *patterns: str,
        model: TypeForm[M],
        **options: Unpack[ReplayOptions],
    ) -> Replay[M]: ...
    @overload
    def replay(
        self, pattern: str, /, *patterns: str, **options: Unpack[ReplayOptions]
    ) -> Replay[object]: ...
    def replay(
        self,
        *patterns: object,
        model: object = Parameter.empty,
        **options: Unpack[ReplayOptions],
    ) -> Replay[Any]:
        """Iterate over the contexts of stored messages, in the order in which they were stored.

        It begins with its first step, and ends: with what is the last message then, or with
        `until`. Nothing is subscribed and nothing noted, so that contexts cannot be settled, nor
        publish. `.progress` tells how far it is.

        `since` and `until`, both included, are positions or times: from the first message stored at
        or after the one, to the last stored at or before the other. `speed=1.0` gives them as far
        apart as they were published, 2.0 in half the time, None as fast as possible. With
        `last_per_key=True`, of the messages of one topic and one key only the newest is given,
        where it stands; those without a key are no news of each other, and all given. A message
        that the model refuses raises `InvalidEvent`, after which the next step goes on, or is
        passed over with `invalid="skip"`; it is counted in any case.

        Example:
            >>> async for context in bus.replay(ORDER_CREATED, since=1000):
            ...     await index.add(context.event)

        Raises:
            UnsupportedByTransport: The transport keeps no messages, as `memory://`.
            InvalidOption, InvalidPattern, ContractError, UnknownTopic: As `subscribe`; on the first
                step also a `since` that lies ahead of what is stored.
            NotStarted, BusClosed: The bus is not running; on any step, if it closes meanwhile.
            PositionGone: On a step: retention has removed what was asked for. The next one goes on
                behind it.
            InvalidEvent: On a step: the model refuses a message, which is named.
            StoreError: On a step: the store cannot be read.
        """
        texts, topics = patterns_of(patterns)
        said = check_replay(options)
        self.require_open()
        skips_invalid = said.get("invalid") == "skip"
        model = model_of(topics, model)
        schema = self._registry.schema_to_read(texts, topics, model, silent=skips_invalid)
        begin = partial(
            self._exchange.messages_kept().read,
            texts,
            said.get("since"),
            said.get("until"),
            last_per_key=said.get("last_per_key", False),
        )
        replay: Replay[Any] = Replay(
            begin,
            texts,
            schema,
            self.clock,
            self.logger,
            self.contracts,
            speed=said.get("speed"),
            skips_invalid=skips_invalid,
        )
        (self._replays_of_handlers if is_handler_of(self) else self._replays).add(replay)
        return replay

    def end_replays(self, *, of_handlers: bool) -> None:
        """Let those who replay know that the bus closes; who is a handler may be cancelled."""
        for replay in (*self._replays, *(self._replays_of_handlers if of_handlers else ())):
            replay.close()


REPLAY_OPTIONS = frozenset(ReplayOptions.__annotations__)


def check_replay(options: ReplayOptions) -> ReplayOptions:
    """Check the options of `replay`; give those that were said, and are not None.

    Raises:
        InvalidOption: An unknown option, or a value that cannot be used.
    """
    said = check_options(options, REPLAY_OPTIONS, "replay", _CHECKS)
    _check_order(said.get("since"), said.get("until"))
    return said


def _check_place(word: str, value: object) -> None:
    if isinstance(value, datetime):
        check_time_zone(word, value)
    elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidOption(
            f"{word}={value!r}: give a position, from 1 on, or a datetime with its time zone"
        )


def _check_order(since: Place | None, until: Place | None) -> None:
    """Refuse what ends before it begins; of a position and a time the store alone can tell."""
    match since, until:
        case (int() as begin, int() as end) if end < begin:
            pass
        case (datetime() as begin, datetime() as end) if end < begin:
            pass
        case _:
            return
    raise InvalidOption(f"until={until} is before since={since}: turn them round")


def _check_speed(word: str, value: Any) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < inf:
        raise InvalidOption(
            f"{word}={value!r}: give more than 0, as 1.0 for the original speed, or None for none"
        )


def _check_invalid(word: str, value: object) -> None:
    check_word(word, value, get_args(InvalidInReplay))


_CHECKS: Mapping[str, Callable[[str, Any], None]] = {
    "since": _check_place,
    "until": _check_place,
    "speed": _check_speed,
    "last_per_key": check_flag,
    "invalid": _check_invalid,
}
