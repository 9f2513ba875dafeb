"""What a responder gives back: a reply of its model, or a failure that can travel.

An exception travels as text, and not as the object: it would keep whole frames alive, and no wire
could carry it. One that the topic declares in `raises=` is made anew where the caller is, from what
JSON can carry of it.
"""

__all__ = (
    "Answer",
    "Failure",
    "Kind",
    "WrittenReply",
    "answer_of",
    "failure_of",
    "read_answer",
    "rebuilt",
    "write_answer",
)

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum, auto
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from eventbus.codec import JsonCodec
from eventbus.errors import (
    ContractError,
    InvalidEvent,
    InvalidOption,
    NoResponders,
    RemoteError,
)
from eventbus.schema import Schema, flaws_of, schema_of


@dataclass(frozen=True, slots=True)
class WrittenReply:
    """A reply as JSON, and what is read from that where no model says more."""

    data: bytes
    read: object


@dataclass(frozen=True, slots=True)
class Answer:
    """What is agreed about the answers of one topic; without a schema every reply will do.

    `exact` is the class whose instances need no validation, so that a caller can spare the call.
    """

    schema: Schema[Any] | None
    raises: tuple[type[Exception], ...] = ()
    many: bool = False
    exact: type | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "exact", None if self.schema is None else self.schema.exact)

    def complete(self) -> None:
        """Resolve what the model refers to, if that was defined after it.

        Raises:
            ContractError: A name the model refers to is still not defined.
        """
        if self.schema is not None:
            self.schema.complete()

    def check(self, responder: str, reply: object) -> object:
        """Make what a handler returned a reply of the model.

        Raises:
            InvalidEvent: The model refuses it.
        """
        if self.schema is None or reply.__class__ is self.exact:
            return reply
        try:
            return self.schema.validate(reply)
        except ValidationError as error:
            raise InvalidEvent(
                f"{responder} answered with {_described(reply)}, which is no {self.schema.name}: "
                f"{flaws_of(error)}; return an instance of that model, from middleware too"
            ) from None  # pydantic's own text shows the values, and no log is the place for them

    def write(self, responder: str, reply: object, codec: JsonCodec) -> WrittenReply:
        """Make what a handler returned the JSON of a reply of the model.

        Raises:
            InvalidEvent: The model refuses it, or it cannot be JSON.
        """
        return WrittenReply(*codec.encode(responder, self.check(responder, reply), self.schema))

    def accept(self, topic: str, reply: object) -> object:
        """Make a reply what the caller asked for.

        Raises:
            ContractError: It is another model's.
        """
        sent = reply
        if isinstance(reply, WrittenReply):
            sent, reply = reply.data, reply.read
        if self.schema is None or reply.__class__ is self.exact:
            return reply
        self.complete()
        try:
            return self.schema.validate(sent)
        except ValidationError as error:
            raise ContractError(
                f"{topic!r} was asked for a reply of {self.schema.name}, but answers with "
                f"{_described(reply)}: {flaws_of(error)}; state one model in both places"
            ) from error


def answer_of(model: object, *, raises: Sequence[object] = (), many: bool = False) -> Answer:
    """State what is agreed about answers.

    Raises:
        ContractError: Pydantic cannot validate into the model.
        InvalidOption: Something in `raises` is no exception class.
    """
    for kind in raises:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise InvalidOption(f"raises={raises!r}: {kind!r} is no exception class, give those")
    return Answer(schema_of(model), cast("tuple[type[Exception], ...]", tuple(raises)), many)


class Kind(Enum):
    """Why there is no reply."""

    FAILED = auto()  # the responder's attempts are exhausted
    REFUSED = auto()  # its model refuses the request
    DECLINED = auto()  # its `where=`, or middleware, held the request back


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a responder gives no reply, as text; `declared` names one of the topic's `raises`."""

    kind: Kind = Kind.FAILED
    type: str
    text: str
    retryable: bool = False
    declared: str = ""
    arguments: Sequence[object] = ()
    attributes: Mapping[str, object] = field(default_factory=dict[str, object])


def failure_of(
    error: BaseException, raises: Sequence[type[Exception]] = (), *, retryable: bool = False
) -> Failure:
    """Write a failure down, so that it can travel."""
    declared = next((_name_of(kind) for kind in raises if isinstance(error, kind)), "")
    return Failure(
        type=type(error).__qualname__,
        text=flaws_of(error),
        retryable=retryable,
        declared=declared,
        arguments=[_portable(value) for value in error.args] if declared else (),
        attributes=_portable_attributes(error) if declared else {},
    )


def write_answer(answer: WrittenReply | Failure) -> str:
    """Write a reply, or why there is none, as text that can travel."""
    if isinstance(answer, Failure):
        return "f" + to_json(asdict(answer) | {"kind": answer.kind.name}).decode()
    if isinstance(answer.read, bytes):
        return "b" + b64encode(answer.data).decode()
    return "j" + answer.data.decode()


def read_answer(text: str) -> WrittenReply | Failure:
    """Read what `write_answer` has written."""
    shape, said = text[0], text[1:]
    if shape == "f":
        failure = from_json(said)
        kind, arguments = Kind[failure["kind"]], tuple(failure["arguments"])
        return Failure(**failure | {"kind": kind, "arguments": arguments})
    if shape == "b":
        data = b64decode(said)
        return WrittenReply(data, data)
    return WrittenReply(said.encode(), from_json(said))


def rebuilt(failure: Failure, topic: str, raises: Sequence[type[Exception]]) -> Exception:
    """Make the exception that a caller is to see.

    A declared one is made without calling its `__init__`, which may take something else than what
    it handed on as `args`.
    """
    if failure.kind is Kind.REFUSED:
        return InvalidEvent(
            f"the responder of {topic!r} refuses the request: {failure.text}; send what its model "
            "takes"
        )
    if failure.kind is Kind.DECLINED:
        return NoResponders(
            f"{failure.type} holds this request to {topic!r} back, and nobody else answers it: "
            "ask for what its where= and middleware let through"
        )
    remote = RemoteError(topic, failure.type, failure.text, failure.retryable)
    kind = next((one for one in raises if _name_of(one) == failure.declared), None)
    return remote if kind is None else _revived(kind, failure, remote)


def _revived(kind: type[Exception], failure: Failure, remote: RemoteError) -> Exception:
    try:
        error = kind.__new__(kind, *failure.arguments)
        error.args = tuple(failure.arguments)
        error.__dict__.update(failure.attributes)
    except Exception:  # noqa: BLE001 - a user's class: one that cannot be made is told as text
        return remote
    return error


def _portable_attributes(error: BaseException) -> Mapping[str, object]:
    own = {name: value for name, value in vars(error).items() if not name.startswith("__")}
    return {name: json.loads(json.dumps(value)) for name, value in own.items() if _travels(value)}


def _portable(value: object) -> object:
    """Give what JSON makes of a value; where it cannot carry it, the value's text."""
    return json.loads(json.dumps(value)) if _travels(value) else _described_safely(value)


def _travels(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _described_safely(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a user's class
        return _described(value)


def _name_of(kind: type[Exception]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _described(reply: object) -> str:
    return "None" if reply is None else f"{type(reply).__qualname__}"
