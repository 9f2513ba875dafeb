"""What topics carry: `Topic`, the table of all contracts of a bus, and the schemas that check.

A contract says which model a topic, or every topic of a pattern, carries. It is stated by a `Topic`
object, or by a TypedDict class that maps topics and patterns to models. A contract for exactly one
topic beats those for patterns; among patterns the narrowest model governs.
"""

__all__ = ("Contracts", "RequestTopic", "Schema", "Topic", "fits", "schema_of")

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from inspect import Parameter, formatannotation, isclass
from itertools import chain, combinations, repeat
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NewType,
    NotRequired,
    Protocol,
    Required,
    TypeAlias,
    TypeGuard,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
)

from pydantic import (
    AliasChoices,
    BaseModel,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from pydantic.fields import FieldInfo
from typing_extensions import (
    ReadOnly,
    TypeAliasType,
    TypeForm,
    TypeIs,
    get_type_hints,
    is_typeddict,
)

from eventbus.errors import ContractError, InvalidEvent, InvalidOption, InvalidTopic, UnknownTopic
from eventbus.topics import (
    check_pattern,
    check_topic,
    covers,
    is_literal,
    is_reserved,
    matches,
    overlaps,
)

M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)
Q = TypeVar("Q")
A = TypeVar("A")

logger = logging.getLogger("eventbus")


# --- What users name ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Topic(Generic[M]):
    """A topic's name and the model its events have.

        ORDER_CREATED = Topic("orders.created", OrderCreated)

    The model is what pydantic can validate: a model class, a union, a dataclass. Two topics are
    equal when name, model and version are. A type checker takes a `Topic[Derived]` for no
    `Topic[Base]`, nor the other way round, and takes it for no string.

    Raises:
        InvalidTopic: The name is not a topic, or begins with `$` and so belongs to the bus.
        InvalidOption: The version is not a whole number of 1 or more.
        ContractError: Pydantic cannot validate into the model.
    """

    name: str
    model: TypeForm[M]
    version: int = field(default=1, kw_only=True)
    _schema: "Schema[M] | None" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_own_name(self.name)
        _check_version(self.version)
        object.__setattr__(self, "_schema", None if _is_raw(self.model) else Schema(self.model))

    def __hash__(self) -> int:
        return hash(self.name)  # a model need not be hashable

    def validate(self, data: object) -> M:
        """Make an event of the data, as publishing it would.

        An instance of the model, or of a subclass, comes back as it is.

        Raises:
            InvalidEvent: The data is neither an instance of the model, nor a mapping or JSON bytes
                that validate.
            ContractError: The model refers to a name that is not defined.
        """
        if self._schema is None:
            return data  # type: ignore[return-value] # what is raw is not looked at
        self._schema.complete()
        return self._schema.check(self.name, data)


@dataclass(frozen=True)
class RequestTopic(Generic[Q, A]):
    """A topic's name, the model of the requests sent to it, and the model of their replies.

        QUOTE = RequestTopic("pricing.quote", QuoteRequest, Quote, raises=(OutOfStock,))

    `raises` are the exceptions a reply may be instead; with `many` a request may have several
    repliers.

    Raises:
        InvalidTopic: The name is not a topic, or begins with `$` and so belongs to the bus.
    """

    name: str
    request: TypeForm[Q]
    reply: TypeForm[A]
    raises: Sequence[type[Exception]] = field(default=(), kw_only=True)
    many: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        _check_own_name(self.name)

    def __hash__(self) -> int:
        return hash(self.name)  # a model need not be hashable


def _check_own_name(name: str) -> None:
    if is_reserved(check_topic(name)):
        raise InvalidTopic(f"{name!r} belongs to the bus; begin your topic without '$'")


def _check_version(version: object) -> None:
    if not isinstance(version, int) or version < 1:
        raise InvalidOption(f"version={version!r} is not one; count versions from 1")


# --- What validates -------------------------------------------------------------------------------


class _Validator(Protocol[M_co]):
    """Pydantic's, with the type it gives back."""

    def validate_json(self, data: bytes, /) -> M_co: ...

    def validate_python(
        self,
        data: object,
        /,
        *,
        from_attributes: bool | None = None,
        by_alias: bool | None = None,
        by_name: bool | None = None,
    ) -> M_co: ...


class Schema(Generic[M]):
    """Validates payloads into one model.

    `exact` is the class whose instances need no validation, so that a caller can spare the call;
    None where the model is no pydantic class. Schemas of equal models are equal.

    Raises:
        ContractError: Pydantic cannot validate into the model.
    """

    __slots__ = ("_adapter", "_validator", "exact", "model")

    def __init__(self, model: TypeForm[M]) -> None:
        self.model = model
        self.exact = model if _is_model(model) else None
        self._adapter = _adapter(model)
        self._validator = cast("_Validator[M]", self._adapter.validator)

    @property
    def name(self) -> str:
        """The model as text, for messages."""
        return formatannotation(self.model)

    def validate(self, payload: object) -> M:
        """Make an instance of the model of what a subscription was sent.

        An instance comes back as it is; mappings, JSON bytes, and models of another class by their
        attributes, are validated.

        Raises:
            ValidationError: Pydantic's; the model refuses the payload.
        """
        if payload.__class__ is dict:  # the common case, and the fastest way to ask
            return self._validator.validate_python(payload)
        if isinstance(payload, BaseModel) and not self._is_instance(payload):
            return self._validator.validate_python(
                payload, from_attributes=True, by_alias=True, by_name=True
            )
        return self._validate_own(payload)

    def check(self, topic: str, event: object) -> M:
        """Make an instance of the model of what a publisher sends to the topic.

        As `validate`, but models of another class are refused.

        Raises:
            InvalidEvent: The model refuses the event.
        """
        try:
            if event.__class__ is dict:
                return self._validator.validate_python(event)
            return self._validate_own(event)
        except ValidationError as error:
            raise InvalidEvent(_refusal(topic, self.name, event, error)) from error

    def complete(self) -> None:
        """Resolve what the model refers to, if that was defined after it; else nothing is done.

        Without this each payload resolves it anew.

        Raises:
            ContractError: A name the model refers to is still not defined.
        """
        try:
            self._adapter.rebuild()
        except (PydanticUndefinedAnnotation, PydanticUserError) as error:
            raise ContractError(
                f"{self.name} cannot validate yet: {error.message}; define what it names in the "
                "module of the model, before the bus starts"
            ) from error
        self._validator = cast("_Validator[M]", self._adapter.validator)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and _is_same(
            self.model, cast("Schema[object]", other).model
        )

    def __hash__(self) -> int:
        try:
            return hash(_bare(self.model))
        except TypeError:  # what is noted inside it need not be hashable
            return hash(type(self.model))

    def __repr__(self) -> str:
        return f"Schema({self.name})"

    def _validate_own(self, payload: object) -> M:
        """Validate whatever is no dict and no model of another class."""
        if self._is_instance(payload):
            return payload
        if isinstance(payload, bytes):
            return self._validator.validate_json(payload)
        if isinstance(payload, Mapping):
            payload = dict(cast("Mapping[object, object]", payload))
        return self._validator.validate_python(payload)

    def _is_instance(self, payload: object) -> TypeGuard[M]:
        return self.exact is not None and isinstance(payload, self.exact)


def schema_of(model: object) -> Schema[object] | None:
    """Give the schema of a model; None where payloads are taken as they were published.

    Those are `dict` and `Mapping` (with parameters or without), `object`, `bytes`, `Any`, and no
    annotation at all.

    Raises:
        ContractError: Pydantic cannot validate into the model.
    """
    return None if _is_raw(model) else Schema(cast("TypeForm[object]", model))


_RAW = (dict, Mapping, object, bytes, Any, Parameter.empty)


def _is_raw(model: object) -> bool:
    return (get_origin(model) or model) in _RAW


def _adapter(model: TypeForm[M]) -> TypeAdapter[M]:
    try:
        return TypeAdapter(model)
    except PydanticUserError as error:
        raise ContractError(
            f"pydantic cannot validate into {formatannotation(model)}: {_first_line(error)}; use a "
            "BaseModel class, or dict to take payloads as they were published"
        ) from error


def _first_line(error: PydanticUserError) -> str:
    return error.message.partition("\n")[0].rstrip(".")


def _refusal(topic: str, model: str, event: object, error: ValidationError) -> str:
    flaws = [_flaw(**flaw) for flaw in error.errors(include_url=False)]
    unsaid = len(flaws) - _MOST_FLAWS
    return (
        f"{topic!r} carries {model}, and this {type(event).__name__} is none: "
        f"{'; '.join(flaws[:_MOST_FLAWS])}{f' and {unsaid} more' if unsaid > 0 else ''}; publish "
        "an instance of the model, or a mapping or JSON bytes that validate"
    )


_MOST_FLAWS = 5


def _flaw(*, loc: tuple[int | str, ...], msg: str, **_: object) -> str:
    return f"{'.'.join(map(str, loc))}: {msg}" if loc else msg


# --- What a bus knows -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Contract:
    """A topic or pattern and what it carries; a raw model has no schema."""

    pattern: str
    model: object
    schema: Schema[object] | None

    def beats(self, other: "_Contract") -> bool:
        """Tell whether this one governs a topic that both match."""
        if is_literal(self.pattern) != is_literal(other.pattern):
            return is_literal(self.pattern)
        return _holds(other.model, self.model) and not _holds(self.model, other.model)


class Contracts:
    """What every topic of a bus carries, as far as that has been stated.

    `declared` is a TypedDict class, topic or pattern to model. With it the world is closed: what no
    entry of it names is unknown. Without it any topic may be published, and `Topic` objects alone
    say what theirs carry.

        Contracts(TypedDict("Shop", {"orders.created": OrderCreated, "audit.>": AuditNote}))

    Raises:
        ContractError: `declared` is no TypedDict, a model in it cannot be used, or overlapping
            patterns have unrelated models: neither is the other, a subclass of it or a member of
            its union.
        InvalidPattern: A key is neither a topic nor a pattern.
    """

    def __init__(self, declared: type[object] | None = None) -> None:
        contracts = () if declared is None else _declared_in(declared)
        self.is_closed = declared is not None
        self._literal = {one.pattern: one for one in contracts if is_literal(one.pattern)}
        self._wild = tuple(one for one in contracts if not is_literal(one.pattern))
        self._latest: dict[str, Topic[Any]] = {}
        _refuse_unrelated(self._wild)

    def learn(self, topic: Topic[Any]) -> bool:
        """Add what the topic states about its name; tell whether that was new.

        Raises:
            ContractError: The name is known to carry another model, or is matched by a declared
                pattern whose model does not hold this one.
            UnknownTopic: The world is closed and no contract names the topic.
        """
        if self._latest.get(topic.name) is topic:
            return False
        is_new = topic.name not in self._literal
        self._refuse_contradiction(topic)
        if is_new:
            self._literal[topic.name] = _contract(topic.name, topic.model)
        self._latest[topic.name] = topic
        return is_new

    def schema_for(self, topic: str) -> Schema[object] | None:
        """Give the schema of what a topic carries; None where that is not stated, or is raw.

        Raises:
            ContractError: The model refers to a name that is not defined.
            UnknownTopic: The world is closed and no contract names the topic.
            InvalidTopic: The text is not a topic.
        """
        contract = self._governing(topic)
        if contract is None and self.is_closed and not is_reserved(topic):
            raise self._unknown(topic)
        if contract is None or contract.schema is None:
            return None
        contract.schema.complete()
        return contract.schema

    def admit(self, pattern: str) -> None:
        """Refuse a pattern that can match no known topic, where the world is closed.

        Raises:
            UnknownTopic: No contract names a topic that the pattern matches.
            InvalidPattern: The text is not a pattern.
        """
        if self.is_closed and not is_reserved(pattern) and not self._met_by(pattern):
            raise self._unknown(pattern)

    def refuse_misfits(
        self,
        subscription: str,
        patterns: Iterable[str],
        schema: Schema[object] | None,
        *,
        silent: bool,
    ) -> None:
        """Refuse a subscription whose model fits none of the contracts that its patterns overlap.

        Where it fits only some of them, log a warning unless `silent`. No schema fits everything,
        and so does any schema where the patterns overlap no contract.

        Raises:
            ContractError: It fits none, or its model refers to a name that is not defined.
        """
        if schema is None:
            return
        schema.complete()
        met = {one.pattern: one for pattern in patterns for one in self._met_by(pattern)}
        misfits = [one for one in met.values() if not fits(schema.model, one.model)]
        if misfits and len(misfits) == len(met):
            raise ContractError(
                f"subscription {subscription!r} takes {schema.name}, but {_listed(misfits)}; take "
                "that model, a base of it, or one with fields it has"
            )
        if misfits and not silent:
            logger.warning(
                "subscription %r takes %s, but %s: those events become its dead letters; narrow "
                'its patterns, or pass invalid="skip"',
                subscription,
                schema.name,
                _listed(misfits),
            )

    def _governing(self, topic: str) -> _Contract | None:
        literal = self._literal.get(topic)
        if literal is not None:
            return literal
        return _governor(one for one in self._wild if matches(one.pattern, topic))

    def _met_by(self, pattern: str) -> list[_Contract]:
        """Give the contracts that govern some topic the pattern matches."""
        known = chain(self._literal.values(), self._wild)
        met = [one for one in known if overlaps(one.pattern, pattern)]
        governor = _governor(one for one in met if covers(one.pattern, pattern))
        return [one for one in met if governor is None or not governor.beats(one)]

    def _refuse_contradiction(self, topic: Topic[Any]) -> None:
        known = self._governing(topic.name)
        if known is None and self.is_closed:
            raise self._unknown(topic.name)
        if known is not None and not _allows(known, topic):
            raise ContractError(
                f"Topic {topic.name!r} carries {formatannotation(topic.model)}, but "
                f"{_listed([known])}; state one model in both places"
            )

    def _unknown(self, name: str) -> UnknownTopic:
        known = [*self._literal, *(one.pattern for one in self._wild)]
        near = get_close_matches(name, known, n=1)
        advice = f"did you mean {near[0]!r}?" if near else "add it to the contracts of the bus"
        return UnknownTopic(f"no contract names {name!r}; {advice}")


def _contract(pattern: str, model: object) -> _Contract:
    return _Contract(pattern, model, schema_of(model))


def _declared_in(declared: type[object]) -> Sequence[_Contract]:
    if not is_typeddict(declared):
        raise ContractError(
            f"contracts={declared!r} is not a TypedDict class; write "
            "contracts=TypedDict('Shop', {'orders.created': OrderCreated})"
        )
    try:
        models = get_type_hints(declared, include_extras=True)
    except NameError as error:
        raise ContractError(
            f"contracts={formatannotation(declared)} names {error.name!r}, which is not defined; "
            "define that model in the same module, before the bus is made"
        ) from error
    return [_contract(_check_key(key), _unqualified(model)) for key, model in models.items()]


def _check_key(key: str) -> str:
    if is_reserved(check_pattern(key)):
        raise ContractError(f"{key!r} belongs to the bus; take it out of the contracts")
    return key


def _unqualified(model: object) -> object:
    """Take `Required` and its like off what a TypedDict says of a key."""
    while get_origin(model) in (Required, NotRequired, ReadOnly):
        (model,) = get_args(model)
    return model


def _refuse_unrelated(wild: Iterable[_Contract]) -> None:
    for one, other in combinations(wild, 2):
        is_related = _holds(one.model, other.model) or _holds(other.model, one.model)
        if not is_related and overlaps(one.pattern, other.pattern):
            raise ContractError(
                f"{_listed([one, other])}, and some topics match both; make one model a subclass "
                "of the other, or the patterns narrower"
            )


def _governor(contracts: Iterable[_Contract]) -> _Contract | None:
    """Find the one that no other beats. Those which match one topic are related, so there is."""
    best: _Contract | None = None
    for contract in contracts:
        if best is None or contract.beats(best):
            best = contract
    return best


def _allows(known: _Contract, topic: Topic[Any]) -> bool:
    """A topic may narrow what a pattern says of it, and only repeat what is said of its name."""
    if is_literal(known.pattern):
        return _is_same(known.model, topic.model)
    return _holds(known.model, topic.model)


def _listed(contracts: Iterable[_Contract]) -> str:
    return " and ".join(
        f"{contract.pattern!r} carries {formatannotation(contract.model)}" for contract in contracts
    )


# --- What fits ------------------------------------------------------------------------------------


def fits(model: object, contract: object) -> bool:
    """Tell whether a handler of the model can take every event of the contract's model.

    It can when it takes the same model, a base of it or a union that holds it, or when each field
    that the model requires is a field of the contract's, of an assignable type, and no optional one
    would always be refused. What takes payloads as they were published takes everything, and so
    does every model where the contract is raw.
    """
    return _is_raw(model) or _is_raw(contract) or _takes(model, contract, frozenset())


def _is_same(one: object, other: object) -> bool:
    """Compare two models. Notes count by their text: pydantic's `Field` equals nothing else."""
    return one == other or (_bare(one) == _bare(other) and repr(one) == repr(other))


def _holds(model: object, other: object) -> bool:
    """Tell whether the other is the model, a subclass of it or part of its union."""
    return _is_raw(model) or all(
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
    if _is_model(target) and _is_model(source) and not issubclass(source, target):
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
    bare = _bare(annotation)
    if get_origin(bare) is Literal:
        return tuple(Literal[value] for value in get_args(bare))
    if get_origin(bare) in (Union, UnionType):
        return tuple(chain.from_iterable(map(_members, get_args(bare))))
    return (bare,)


def _bare(annotation: object) -> object:
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if isinstance(annotation, NewType):
        return _bare(annotation.__supertype__)
    if isinstance(annotation, TypeAliasType):
        return _bare(annotation.__value__)
    return NoneType if annotation is None else annotation


def _is_model(annotation: object) -> TypeIs[type[BaseModel]]:
    return isclass(annotation) and issubclass(annotation, BaseModel)


def _is_subclass(one: object, other: object) -> bool:
    try:
        return isclass(one) and isclass(other) and issubclass(one, other)
    except TypeError:  # a TypedDict or protocol, which refuses to be asked
        return False
