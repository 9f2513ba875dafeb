"""What a user's function looks like and what it is called; read once, when it is registered."""

__all__ = ("HandlerShape", "check_name", "default_name", "inspect_handler")

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import Parameter
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin, get_type_hints

from eventbus.errors import InvalidHandler, InvalidOption

Handler: TypeAlias = Callable[..., object]


@dataclass(frozen=True, slots=True)
class HandlerShape:
    """How to call a handler, and what it says it takes.

    `annotation` is that of the first parameter, resolved; `inspect.Parameter.empty` where there is
    none, or none that can be resolved.
    """

    takes_context: bool
    is_async: bool
    annotation: object


# --- Shapes ---------------------------------------------------------------------------------------


def inspect_handler(
    handler: Handler, *, context_type: type[object], needs_annotation: bool
) -> HandlerShape:
    """Read whether a handler takes `(event)` or `(event, context)`, and whether it is async.

    Functions, bound methods, partials, lambdas and objects with `__call__` are handlers. The second
    parameter is the context when it has no default, or when its annotation holds `context_type`.
    Further parameters keep their defaults; `*args` receives the event alone.

    Raises:
        InvalidHandler: It is a class or a generator, cannot be called with an event or with an
            event and a context, or `needs_annotation` and that of the event cannot be resolved.
    """
    _refuse_kind(handler)
    parameters = _parameters(handler)
    _refuse_parameters(handler, parameters)
    event, *others = (one for one in parameters if one.kind in _BY_POSITION)
    annotation = _annotation_of_event(handler, event, needs_annotation=needs_annotation)
    _refuse_context_first(handler, event, annotation, context_type)
    return HandlerShape(
        takes_context=any(_is_context(handler, one, context_type) for one in others[:1]),
        is_async=_is(inspect.iscoroutinefunction, handler),
        annotation=annotation,
    )


_BY_POSITION = (
    Parameter.POSITIONAL_ONLY,
    Parameter.POSITIONAL_OR_KEYWORD,
    Parameter.VAR_POSITIONAL,
)


def _refuse_kind(handler: object) -> None:
    if inspect.isclass(handler):
        raise InvalidHandler(
            f"{_described(handler)} is a class; decorate a function that takes the event, and pass "
            "a class as model="
        )
    if not callable(handler):
        raise InvalidHandler(f"{handler!r} cannot be called; pass a function")
    if _is(inspect.isgeneratorfunction, handler) or _is(inspect.isasyncgenfunction, handler):
        raise InvalidHandler(
            f"{_described(handler)} is a generator, of which nothing would run; publish what it "
            "yields with context.publish"
        )


def _parameters(handler: Handler) -> Sequence[Parameter]:
    try:
        return tuple(inspect.signature(handler).parameters.values())
    except (TypeError, ValueError) as error:
        raise InvalidHandler(
            f"{_described(handler)} hides its parameters; wrap it in a function of the event"
        ) from error


def _refuse_parameters(handler: Handler, parameters: Sequence[Parameter]) -> None:
    flaw = _flaw_of_parameters(parameters)
    if flaw is not None:
        raise InvalidHandler(f"{_described(handler)} {flaw}")


def _flaw_of_parameters(parameters: Sequence[Parameter]) -> str | None:
    needed = [one for one in parameters if _is_needed(one)]
    by_keyword = [one.name for one in needed if one.kind is Parameter.KEYWORD_ONLY]
    by_position = [one.name for one in needed if one.kind is not Parameter.KEYWORD_ONLY]
    if by_keyword:
        return f"needs the keyword {by_keyword[0]!r}; give that a default, or bind it with partial"
    if not any(one.kind in _BY_POSITION for one in parameters):
        return "takes no event; give it a parameter for that"
    if by_position[:1] == ["self"]:
        return "is a method without its object; mark it with @handles and include the object"
    if len(by_position) > 2:
        return f"needs {', '.join(by_position)}; keep (event) or (event, context)"
    return None


def _is_needed(parameter: Parameter) -> bool:
    is_variable = parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return parameter.default is Parameter.empty and not is_variable


def _annotation_of_event(handler: Handler, event: Parameter, *, needs_annotation: bool) -> object:
    try:
        return _resolved(handler, event)
    except _UNRESOLVABLE as error:
        if not needs_annotation:
            return Parameter.empty
        raise InvalidHandler(
            f"{_described(handler)} annotates {event.name!r} with {event.annotation!r}, which "
            f"cannot be resolved ({error}); pass model=, or move the model to module level"
        ) from error


def _refuse_context_first(
    handler: Handler, event: Parameter, annotation: object, context_type: type[object]
) -> None:
    if _holds(annotation, context_type):
        raise InvalidHandler(
            f"{_described(handler)} takes a context as {event.name!r}; the event comes first, as "
            "in (event, context)"
        )


def _is_context(handler: Handler, second: Parameter, context_type: type[object]) -> bool:
    if second.kind is Parameter.VAR_POSITIONAL:
        return False
    try:
        annotation = _resolved(handler, second)
    except _UNRESOLVABLE:
        return _is_needed(second)
    is_context = _holds(annotation, context_type)
    if _is_needed(second) and not is_context and annotation not in _UNTOLD:
        raise InvalidHandler(
            f"{_described(handler)} takes {second.name!r} as its second, but that is the context: "
            "annotate it as Context, or give it a default"
        )
    return is_context or _is_needed(second)


_UNTOLD: tuple[object, ...] = (Parameter.empty, Any, object)


def _holds(annotation: object, context_type: type[object]) -> bool:
    origin = get_origin(annotation)
    if origin in (Union, UnionType, Annotated):
        return any(_holds(one, context_type) for one in get_args(annotation))
    return (origin or annotation) is context_type


_UNRESOLVABLE = (NameError, AttributeError, SyntaxError, TypeError)


def _resolved(handler: Handler, parameter: Parameter) -> object:
    """Resolve this annotation alone: those of the others may name what only checkers see."""
    if parameter.annotation is Parameter.empty:
        return Parameter.empty
    alone = SimpleNamespace(__annotations__={"it": parameter.annotation})
    names = getattr(_function(handler), "__globals__", {})
    return get_type_hints(alone, names, include_extras=True)["it"]


def _is(kind: Callable[[object], bool], handler: Handler) -> bool:
    return kind(handler) or kind(_function(handler))


def _function(handler: Handler) -> Handler:
    """Find what runs: behind partials and decorators, and of an object its `__call__`."""
    bare: Any = _without_partials(handler)
    function: Handler = inspect.unwrap(bare if _is_named(bare) else bare.__call__)
    return function


def _without_partials(handler: Handler) -> Handler:
    while isinstance(handler, partial):
        handler = handler.func
    return handler


# --- Names ----------------------------------------------------------------------------------------

_UNUSABLE = re.compile(r"[^A-Za-z0-9_.-]")
_MOST_TOKENS = 30
_MOST_CHARACTERS = 128
_ROOM_FOR_A_NUMBER = 8  # of a default name that is taken, as in `-2`


def default_name(handler: Handler) -> str:
    """Name a subscription after its handler: `module.qualname`, made usable.

    `<locals>` is left out, unusable characters become `_`, and of a long name the end is kept.
    """
    tokens = _qualified(handler).replace(".<locals>", "").split(".")
    usable = [_UNUSABLE.sub("_", token) for token in tokens if token]
    name = ".".join(usable[-_MOST_TOKENS:])
    return name[-(_MOST_CHARACTERS - _ROOM_FOR_A_NUMBER) :].lstrip(".")


def check_name(name: str) -> str:
    """Give an explicit name back.

    Raises:
        InvalidOption: It holds other characters than letters, digits, `_`, `-` and `.`, an empty
            token, more than 30 tokens or more than 128 characters.
    """
    flaw = _flaw_of_name(name)
    if flaw is not None:
        raise InvalidOption(f"the name {name!r} {flaw}")
    return name


def _flaw_of_name(name: object) -> str | None:
    if not isinstance(name, str):
        return "is no text; name it with a str"
    if unusable := _UNUSABLE.search(name):
        return f"holds {unusable[0]!r}; use A to Z, a to z, 0 to 9, '_', '-' and '.'"
    if "" in name.split("."):
        return "has an empty token; put something before, between and after its dots"
    if name.count(".") >= _MOST_TOKENS:
        return f"has more than {_MOST_TOKENS} tokens; use fewer dots"
    if len(name) > _MOST_CHARACTERS:
        return f"is longer than {_MOST_CHARACTERS} characters; shorten it"
    return None


def _described(handler: object) -> str:
    return f"handler {getattr(handler, '__qualname__', None) or repr(handler)}"


def _qualified(handler: Handler) -> str:
    """Give module and qualified name of a function, or of an object's class."""
    bare = _without_partials(handler)
    named = bare if _is_named(bare) else type(bare)
    return f"{named.__module__ or ''}.{named.__qualname__}"


def _is_named(handler: object) -> bool:
    """Tell functions and methods of all kinds from objects, which are named by their class."""
    return hasattr(handler, "__qualname__")
