"""Which handlers' models can take what a contract promises."""

__all__ = ("fits", "holds")

from collections.abc import Mapping, Sequence
from inspect import isclass
from itertools import chain, repeat
from types import UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo

from eventbus.schema import bare_type, is_pydantic_class, is_raw


def fits(model: object, contract: object) -> bool:
    """Tell whether a handler of the model can take every event of the contract's model.

    It can when it takes the same model, a base of it or a union that holds it, or when each field
    that the model requires is a field of the contract's, of an assignable type, and no optional one
    would always be refused. What takes payloads as they were published takes everything, and so
    does every model where the contract is raw.
    """
    return is_raw(model) or is_raw(contract) or _takes(model, contract, frozenset())


def holds(model: object, other: object) -> bool:
    """Tell whether the other is the model, a subclass of it or part of its union."""
    return is_raw(model) or all(
        any(ours == theirs or _is_subclass(theirs, ours) for ours in _members(model))
        for theirs in _members(other)
    )


_ANYTHING: tuple[object, ...] = (Any, object)
_Pairs: TypeAlias = frozenset[tuple[object, object]]


def _takes(target: object, source: object, assumed: _Pairs) -> bool:
    """Tell whether every value of the source type can become one of the target type.

    `assumed` are the pairs of models being compared further up: models may contain themselves.
    """
    return all(
        any(_takes_one(ours, theirs, assumed) for ours in _members(target))
        for theirs in _members(source)
    )


def _takes_one(target: object, source: object, assumed: _Pairs) -> bool:
    """Compare two types of which neither is a union."""
    if target == source or target in _ANYTHING or source is Any:
        return True
    if get_origin(source) is Literal:
        return isclass(target) and isinstance(get_args(source)[0], target)
    if is_pydantic_class(target) and is_pydantic_class(source) and not issubclass(source, target):
        return (target, source) in assumed or _takes_fields(
            target, source, assumed | {(target, source)}
        )
    return (target, source) == (float, int) or _takes_generic(target, source, assumed)


def _takes_generic(target: object, source: object, assumed: _Pairs) -> bool:
    """Compare classes, and where both have parameters, those one by one."""
    ours, theirs = get_args(target), get_args(source)
    if not _is_subclass(get_origin(source) or source, get_origin(target) or target):
        return False
    if not (ours and theirs):
        return True
    return len(ours) == len(theirs) and all(map(_takes, ours, theirs, repeat(assumed)))


def _takes_fields(target: type[BaseModel], source: type[BaseModel], assumed: _Pairs) -> bool:
    theirs = _fields(source)
    return all(_takes_field(name, ours, theirs, assumed) for name, ours in _fields(target).items())


def _takes_field(
    name: str, ours: FieldInfo, theirs: Mapping[str, FieldInfo], assumed: _Pairs
) -> bool:
    """Compare one field: of what is optional, it is enough that something would pass."""
    found = next((theirs[one] for one in _attributes(name, ours) if one in theirs), None)
    if found is None:
        return not ours.is_required()
    needed = all if ours.is_required() else any
    return needed(_takes(ours.annotation, one, assumed) for one in _members(found.annotation))


def _attributes(name: str, field: FieldInfo) -> Sequence[str]:
    """Name the attributes from which pydantic fills the field, in its order: aliases come first."""
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return [*(choice for choice in choices if isinstance(choice, str)), name]


def _fields(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    model.model_rebuild(raise_errors=False)  # a model may refer to what is defined after it
    return model.model_fields


def _members(annotation: object) -> Sequence[object]:
    """Give the members of a union or `Literal`, or the one type, without notes and other names."""
    bare = bare_type(annotation)
    if get_origin(bare) is Literal:
        return tuple(Literal[value] for value in get_args(bare))
    if get_origin(bare) in (Union, UnionType):
        return tuple(chain.from_iterable(map(_members, get_args(bare))))
    return (bare,)


def _is_subclass(one: object, other: object) -> bool:
    try:
        return isclass(one) and isclass(other) and issubclass(one, other)
    except TypeError:  # a TypedDict or protocol, which refuses to be asked
        return False
