"""What validates payloads: a schema per model, and what models are."""

__all__ = (
    "Schema",
    "bare_type",
    "flaws_of",
    "flaws_to_log",
    "is_pydantic_class",
    "is_raw",
    "is_same_model",
    "schema_of",
)

from collections.abc import Callable, Mapping
from functools import cached_property
from inspect import Parameter, formatannotation, isclass
from types import NoneType
from typing import (
    Annotated,
    Any,
    Generic,
    NewType,
    Protocol,
    TypeGuard,
    TypeVar,
    cast,
    get_args,
    get_origin,
)

from pydantic import (
    BaseModel,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import TypeAliasType, TypeForm, TypeIs

from eventbus.errors import ContractError, InvalidEvent

M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)


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

    def __init__(self, model: TypeForm[M]) -> None:
        self.model = model
        self.exact = model if is_pydantic_class(model) else None
        self._adapter = _adapter(model)
        self._validator = cast("_Validator[M]", self._adapter.validator)

    @property
    def name(self) -> str:
        """The model as text, for messages."""
        return formatannotation(self.model)

    @cached_property
    def validate_dict(self) -> Callable[[object], M]:
        """Make an instance of the model of a dict: `validate`, for callers who know it is one.

        Bound with the first payload, because the model may be incomplete until then; from there on
        it is pydantic's validator itself, with nothing in between.

        Raises:
            ValidationError: Pydantic's; the model refuses the payload.
        """
        return self._validator.validate_python

    def validate(self, payload: object) -> M:
        """Make an instance of the model of what a subscription was sent.

        An instance comes back as it is; mappings, JSON bytes, and models of another class by their
        attributes, are validated.

        Raises:
            ValidationError: Pydantic's; the model refuses the payload.
        """
        if payload.__class__ is dict:  # the common case, and the fastest way to ask
            return self.validate_dict(payload)
        if type(payload) is bytes:  # the common case of what was stored
            return self._validator.validate_json(payload)
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
                return self.validate_dict(event)
            return self._validate_own(event)
        except ValidationError as error:
            raise InvalidEvent(_refusal(topic, self.name, event, error)) from error

    def dump_json(self, event: M, *, by_alias: bool) -> bytes:
        """Write an event as the JSON that validates into it."""
        return self._adapter.dump_json(event, by_alias=by_alias, round_trip=True)

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
        return isinstance(other, Schema) and is_same_model(
            self.model, cast("Schema[object]", other).model
        )

    def __hash__(self) -> int:
        try:
            return hash(bare_type(self.model))
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
    return None if is_raw(model) else Schema(cast("TypeForm[object]", model))


# --- What models are ------------------------------------------------------------------------------

_RAW = (dict, Mapping, object, bytes, Any, Parameter.empty)


def is_raw(model: object) -> bool:
    """Tell whether payloads of this model are taken as they were published."""
    return (get_origin(model) or model) in _RAW


def is_same_model(one: object, other: object) -> bool:
    """Compare two models. Notes count by their text: pydantic's `Field` equals nothing else."""
    return one == other or (bare_type(one) == bare_type(other) and repr(one) == repr(other))


def bare_type(annotation: object) -> object:
    """Take off a type its notes (`Annotated`) and other names (`NewType`, `type X = ...`)."""
    if get_origin(annotation) is Annotated:
        return bare_type(get_args(annotation)[0])
    if isinstance(annotation, NewType):
        return bare_type(annotation.__supertype__)
    if isinstance(annotation, TypeAliasType):
        return bare_type(annotation.__value__)
    return NoneType if annotation is None else annotation


def is_pydantic_class(annotation: object) -> TypeIs[type[BaseModel]]:
    """Tell whether this is a model class of pydantic's."""
    return isclass(annotation) and issubclass(annotation, BaseModel)


# --- What is refused ------------------------------------------------------------------------------


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


def flaws_of(error: BaseException) -> str:
    """Say in one line what a validation found wrong: where and what, never the values.

    Of any other error it is its text.
    """
    if not isinstance(error, ValidationError):
        return _text_of(error)
    flaws = [_flaw(**flaw) for flaw in error.errors(include_url=False, include_input=False)]
    unsaid = len(flaws) - _MOST_FLAWS
    return f"{'; '.join(flaws[:_MOST_FLAWS])}{f' and {unsaid} more' if unsaid > 0 else ''}"


def flaws_to_log(error: Exception) -> str:
    """Say what was wrong without the payload: no log is the place for what it holds."""
    return flaws_of(error) if isinstance(error, ValidationError) else type(error).__name__


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a user's error: that it cannot be told must not end the bus
        return "the error's own text cannot be told"


def _refusal(topic: str, model: str, event: object, error: ValidationError) -> str:
    return (
        f"{topic!r} carries {model}, but this {type(event).__name__} does not validate: "
        f"{flaws_of(error)}; publish an instance of the model, or a mapping or JSON bytes that "
        "validate"
    )


_MOST_FLAWS = 5


def _flaw(*, loc: tuple[int | str, ...], msg: str, **_: object) -> str:
    return f"{'.'.join(map(str, loc))}: {msg}" if loc else msg
