"""What is said when a handler is registered, checked at the door."""

__all__ = (
    "HandlerOptions",
    "Invalid",
    "Registration",
    "ResponderOptions",
    "SubscribeOptions",
    "check_flag",
    "check_options",
    "check_time_zone",
    "check_word",
    "model_of",
    "patterns_of",
)

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from inspect import Parameter, formatannotation
from typing import Any, Generic, Literal, TypeAlias, TypeGuard, Union, cast, get_args

from pydantic import BaseModel
from typing_extensions import TypedDict, TypeVar

from eventbus.answers import Answer, answer_of
from eventbus.clock import seconds_of
from eventbus.context import Context
from eventbus.contracts import RequestTopic, Stated, Topic
from eventbus.errors import InvalidHandler, InvalidOption, InvalidPattern
from eventbus.handlers import HandlerShape, check_name, inspect_handler
from eventbus.middleware.chain import Middleware, Policy, check_middleware
from eventbus.queue import Overflow
from eventbus.settling import Ack
from eventbus.topics import advice_on, check_pattern
from eventbus.transports.base import Start
from eventbus.wording import did_you_mean

M = TypeVar("M")
Said = TypeVar("Said", bound=Mapping[str, object])

logger = logging.getLogger("eventbus")

Invalid: TypeAlias = Literal["dead_letter", "skip"]


class SubscribeOptions(TypedDict, Generic[M], total=False):
    """The keyword arguments of `subscribe`; see `HandlerOptions`."""

    name: str | None
    where: Callable[[M], bool] | None
    key: Callable[[M], str] | None
    queue_size: int | None
    overflow: Overflow | None
    invalid: Invalid
    max_deliveries: int
    durable: bool | None
    start: Start
    replay: bool | None
    ack_wait: float | timedelta


class ResponderOptions(TypedDict, Generic[M], total=False):
    """The keyword arguments of `on` for a `RequestTopic`; see `HandlerOptions`.

    A responder answers 16 requests at once, unless `concurrency` says otherwise.
    """

    name: str | None
    group: str | None
    where: Callable[[M], bool] | None
    key: Callable[[M], str] | None
    concurrency: int | None
    queue_size: int | None
    overflow: Overflow | None
    middleware: Sequence[Middleware | Policy]


class HandlerOptions(ResponderOptions[M], Generic[M], total=False):
    """The keyword arguments of `on`.

    `name` names the subscription; `group` names one whose handlers share its messages. `where`
    holds back events, `key` orders them: one of a key at a time. `concurrency` handlers run at
    once. `queue_size` and `overflow` override the bus's. `invalid="skip"` passes over payloads the
    model refuses, which are dead letters otherwise. `middleware` wraps this handler, innermost.
    `ack` settles a delivery: `"auto"` after the handler has succeeded, `"first"` before it runs (at
    most once: no retry, no dead letter), `"manual"` by `context.ack()`, `retry()` or `reject()`.
    `max_deliveries` bounds the attempts whatever `Retry` says. None is as if it was not said.

    On a transport that keeps messages a subscription with a `name` or `group` is durable, unless
    `durable=False`: it goes on where it was. `start` says where it begins when it is new.
    With `replay=False` it passes over what was stored before it was created, counted as `filtered`.
    `ack_wait` is for how long, in seconds, a process may give no sign of life before another one
    handles what it was handling; a running handler is no reason for that.
    """

    invalid: Invalid
    ack: Ack
    max_deliveries: int
    durable: bool | None
    start: Start
    replay: bool | None
    ack_wait: float | timedelta


RESPONDER_OPTIONS = frozenset(ResponderOptions.__annotations__)
HANDLER_OPTIONS = RESPONDER_OPTIONS | frozenset(HandlerOptions.__annotations__)
SUBSCRIBE_OPTIONS = frozenset(SubscribeOptions.__annotations__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A handler with what was said about it. `model` is `Parameter.empty` if nothing was said.

    With an `answer` it is a responder.
    """

    patterns: tuple[str, ...]
    topics: tuple[Stated, ...]
    model: object
    answer: Answer | None = None
    options: HandlerOptions[Any]
    middleware: tuple[Middleware | Policy, ...] = ()
    handler: Callable[..., object] = field(default=lambda: None)
    shape: HandlerShape | None = None

    def of(self, handler: Callable[..., object]) -> "Registration":
        """Complete it with the handler, whose annotation tells the model if nothing else does.

        Raises:
            InvalidHandler: The function cannot be a handler, or not for this model.
        """
        is_open = self.model is Parameter.empty
        shape = inspect_handler(handler, needs_annotation=is_open, context_type=Context)
        model = shape.annotation if is_open else self.model
        _refuse_other_model(handler, shape.annotation, model)
        return replace(self, handler=handler, shape=shape, model=model)

    def within(self, prefix: str, middleware: Sequence[Middleware | Policy]) -> "Registration":
        """Put it into a router's scope: a prefix before its strings, middleware around it."""
        if prefix and not self.topics:
            patterns = tuple(check_pattern(f"{prefix}.{one}") for one in self.patterns)
        else:
            patterns = self.patterns
        return replace(self, patterns=patterns, middleware=(*middleware, *self.middleware))

    def named(self, prefix: str, number: int = 1) -> "Registration":
        """Put an object's name before the handler's own, and its number after, if that is not 1."""
        check_name(prefix)
        if "group" in self.options:
            return self
        method = f"{getattr(self.handler, '__name__', 'handler')}{f'-{number}' * (number > 1)}"
        name = f"{prefix}.{self.options.get('name', method)}"
        return replace(self, options={**self.options, "name": name})

    @classmethod
    def begin(
        cls,
        patterns: Sequence[object],
        model: object,
        options: HandlerOptions[Any],
        reply: object = None,
    ) -> "Registration":
        """Check what was said to `on`, before there is a handler.

        Raises:
            InvalidPattern, InvalidOption: Something in it cannot be used.
        """
        if any(isinstance(one, RequestTopic) for one in patterns):
            return cls._begin_responder(patterns, model, options, reply)
        texts, topics = patterns_of(patterns)
        options = check_options(options, HANDLER_OPTIONS, "on")
        if topics:
            if model is not Parameter.empty:
                raise InvalidOption(
                    f"model={formatannotation(model)}: a Topic says its model itself; leave it out"
                )
            model = Union[tuple(topic.model for topic in topics)]  # noqa: UP007 - made at run time
        return cls(
            patterns=texts,
            topics=topics,
            model=model,
            answer=None if reply is None else answer_of(reply),
            options=options,
            middleware=check_middleware(options.get("middleware", ())),
        )

    @classmethod
    def _begin_responder(
        cls,
        topics: Sequence[object],
        model: object,
        options: HandlerOptions[Any],
        reply: object,
    ) -> "Registration":
        """Check what was said about a `RequestTopic`."""
        topic, *others = (cast("RequestTopic[object, object]", one) for one in topics)
        if others:
            raise InvalidPattern(
                f"{topics!r}: a responder answers one RequestTopic; register twice"
            )
        if model is not Parameter.empty or reply is not None:
            raise InvalidOption(
                "a RequestTopic says its models itself: leave model= and reply= out"
            )
        options = check_options(options, RESPONDER_OPTIONS, "on")
        return cls(
            patterns=(topic.name,),
            topics=(topic,),
            model=topic.request,
            answer=topic.answer,
            options=options,
            middleware=check_middleware(options.get("middleware", ())),
        )


def patterns_of(given: Sequence[object]) -> tuple[tuple[str, ...], tuple[Topic[Any], ...]]:
    """Check patterns: all of them strings, or all of them `Topic`s, which come back too.

    Raises:
        InvalidPattern: None, a mixture, or something that is no pattern.
    """
    if not given:
        raise InvalidPattern("no pattern given: name at least one topic or pattern")
    topics = tuple(cast("Topic[object]", one) for one in given if isinstance(one, Topic))
    if topics and len(topics) < len(given):
        raise InvalidPattern(f"{given!r} mixes Topics and strings: register the handler twice")
    if topics:
        return tuple(topic.name for topic in topics), topics
    texts = tuple(dict.fromkeys(check_pattern(cast("str", one)) for one in given))
    for text in texts:
        if advice := advice_on(text):
            logger.warning("in the pattern %r %s", text, advice)
    return texts, ()


def model_of(topics: Sequence[Topic[Any]], model: object) -> object:
    """Give the model of what is subscribed to: that of the topics, or the one that was said.

    Raises:
        InvalidOption: Both were.
    """
    return Registration.begin(topics, model, {}).model if topics else model


def check_options(
    options: Said,
    known: frozenset[str],
    where: str,
    checks: Mapping[str, Callable[[str, Any], None]] | None = None,
) -> Said:
    """Check the options of `on` or its like; give those that were said, and are not None.

    Raises:
        InvalidOption: An unknown option, or a value that cannot be used.
    """
    for word in options.keys() - known:
        raise InvalidOption(
            f"{where} has no option {word!r}: give {', '.join(sorted(known))}"
            f"{did_you_mean(word, known)}"
        )
    said = {word: value for word, value in options.items() if not _is_unsaid(word, value)}
    if "name" in said and "group" in said:
        raise InvalidOption(
            f"name={said['name']!r} and group={said['group']!r}: the group is the name, "
            "leave `name` out"
        )
    for word, value in said.items():
        (checks or _CHECKS).get(word, _accept)(word, value)
    return cast("Said", said)


def _is_unsaid(word: str, value: object) -> bool:
    return value is None and word not in {"invalid", "middleware", "ack", "max_deliveries"}


def check_positive(word: str, value: object) -> None:
    """Check a count.

    Raises:
        InvalidOption: It is no whole number of 1 or more.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidOption(f"{word}={value!r}: give a whole number of 1 or more")


def check_overflow(word: str, value: object) -> None:
    """Check an overflow policy.

    Raises:
        InvalidOption: There is none of that name.
    """
    check_word(word, value, get_args(Overflow))


def check_word(word: str, value: object, known: Sequence[str]) -> None:
    """Check a value that is one of a few words.

    Raises:
        InvalidOption: It is none of them.
    """
    if value not in known:
        raise InvalidOption(
            f"{word}={value!r}: give one of {', '.join(map(repr, known))}"
            f"{did_you_mean(str(value), known)}"
        )


def _check_invalid(word: str, value: object) -> None:
    check_word(word, value, get_args(Invalid))


def _check_ack(word: str, value: object) -> None:
    check_word(word, value, get_args(Ack))


def check_flag(word: str, value: object) -> None:
    """Check what is either true or not.

    Raises:
        InvalidOption: It is neither.
    """
    if not isinstance(value, bool):
        raise InvalidOption(f"{word}={value!r}: give True, False or None")


def _check_start(word: str, value: object) -> None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, datetime):
        check_time_zone(word, value)
    elif not is_number:
        check_word(word, value, ("new", "first", "last"))


def check_time_zone(word: str, moment: datetime) -> None:
    """Check a time.

    Raises:
        InvalidOption: Nobody knows which time zone it is of.
    """
    if moment.tzinfo is None:
        raise InvalidOption(f"{word}={moment!r} has no time zone: give one, as UTC")


def _check_ack_wait(word: str, value: object) -> None:
    if not seconds_of(word, value):
        raise InvalidOption(f"{word}={value!r}: give more than 0 seconds")


def _check_callable(word: str, value: object) -> None:
    if not callable(value):
        raise InvalidOption(f"{word}={value!r}: give a function of the event")


def _check_own_name(word: str, value: Any) -> None:
    check_name(value)


def _accept(word: str, value: object) -> None:
    """Leave a value to who reads it."""


_CHECKS: Mapping[str, Callable[[str, Any], None]] = {
    "name": _check_own_name,
    "group": _check_own_name,
    "where": _check_callable,
    "key": _check_callable,
    "concurrency": check_positive,
    "queue_size": check_positive,
    "max_deliveries": check_positive,
    "overflow": check_overflow,
    "invalid": _check_invalid,
    "ack": _check_ack,
    "durable": check_flag,
    "start": _check_start,
    "replay": check_flag,
    "ack_wait": _check_ack_wait,
}


def _refuse_other_model(handler: Callable[..., object], annotation: object, model: object) -> None:
    """Refuse what a type checker would: a handler annotated with another model than it will get."""
    if not (_is_model(annotation) and _is_model(model)):
        return
    if not issubclass(model, annotation):
        raise InvalidHandler(
            f"{getattr(handler, '__qualname__', handler)!r} takes {formatannotation(annotation)}, "
            f"but is registered for {formatannotation(model)}: annotate the event with that model, "
            "or a base of it"
        )


def _is_model(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
