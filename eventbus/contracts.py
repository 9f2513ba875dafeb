"""What topics carry: `Topic`, and the table of all contracts of a bus.

A contract says which model a topic, or every topic of a pattern, carries. It is stated by a `Topic`
object, or by a TypedDict class that maps topics and patterns to models. A contract for exactly one
topic beats those for patterns; among patterns the narrowest model governs.
"""

__all__ = ("Contracts", "RequestTopic", "Stated", "Topic")

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from inspect import formatannotation
from itertools import chain, combinations
from typing import (
    Any,
    Generic,
    NotRequired,
    Required,
    TypeAlias,
    TypeVar,
    cast,
    get_args,
    get_origin,
)

from typing_extensions import ReadOnly, TypeForm, get_type_hints, is_typeddict

from eventbus.answers import Answer, answer_of
from eventbus.bus_logger import BusLogger
from eventbus.errors import (
    ContractError,
    InvalidEvent,
    InvalidOption,
    InvalidTopic,
    UnknownTopic,
)
from eventbus.fitting import fits, holds
from eventbus.schema import Schema, is_raw, is_same_model, schema_of
from eventbus.topics import (
    advice_on,
    check_pattern,
    check_topic,
    covers,
    is_literal,
    is_reserved,
    matches,
    overlaps,
)

M = TypeVar("M")
Q = TypeVar("Q")
A = TypeVar("A")


# --- What users name ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)  # by identity: each publish looks its topic up in a dict
class Topic(Generic[M]):
    """A topic's name and the model its events have.

        ORDER_CREATED = Topic("orders.created", OrderCreated)

    The model is what pydantic can validate: a model class, a union, a dataclass. Count `version` up
    when the model becomes one whose events must not be read by the earlier: a bus that states a
    lower version refuses them. Two objects of the same name, model and version are one topic to the
    bus; to Python they are two, compared and hashed by identity. A type checker takes a
    `Topic[Derived]` for no `Topic[Base]`, nor the other way round, and takes it for no string.

    Raises:
        InvalidTopic: The name is not a topic, or begins with `$` and so belongs to the bus.
        InvalidOption: The version is not a whole number of 1 or more.
        ContractError: Pydantic cannot validate into the model.
    """

    name: str
    model: TypeForm[M]
    version: int = field(default=1, kw_only=True)
    _schema: "Schema[M] | None" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_own_name(self.name)
        _check_version(self.version)
        object.__setattr__(self, "_schema", None if is_raw(self.model) else Schema(self.model))

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


@dataclass(frozen=True, eq=False)  # by identity, as `Topic`
class RequestTopic(Generic[Q, A]):
    """A topic's name, the model of the requests sent to it, and the model of their replies.

        QUOTE = RequestTopic("pricing.quote", QuoteRequest, Quote, raises=(OutOfStock,))

    `raises` are the exceptions that reach a caller as themselves, where others arrive as
    `RemoteError`: made anew from what JSON carries of their arguments and attributes (the text of
    what it cannot), without calling `__init__`; a subclass arrives as the class that is named. With
    `many` there may be several responders, for `bus.request_many`. It is a contract for the
    requests on its name, as a `Topic` is; like those, objects are compared and hashed by identity.

    Raises:
        InvalidTopic: The name is not a topic, or begins with `$` and so belongs to the bus.
        InvalidOption: Something in `raises` is no exception class.
        ContractError: Pydantic cannot validate into one of the models.
    """

    name: str
    request: TypeForm[Q]
    reply: TypeForm[A]
    raises: Sequence[type[Exception]] = field(default=(), kw_only=True)
    many: bool = field(default=False, kw_only=True)
    answer: Answer = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_own_name(self.name)
        schema_of(self.request)
        answer = answer_of(self.reply, raises=self.raises, many=self.many)
        object.__setattr__(self, "answer", answer)

    @property
    def model(self) -> TypeForm[Q]:
        """What is published to the topic: the model of the requests."""
        return self.request


Stated: TypeAlias = Topic[Any] | RequestTopic[Any, Any]
"""What states the model of a topic."""


def _check_own_name(name: str) -> None:
    if is_reserved(check_topic(name)):
        raise InvalidTopic(f"{name!r} belongs to the bus; begin your topic without '$'")


def _check_version(version: object) -> None:
    if not isinstance(version, int) or version < 1:
        raise InvalidOption(f"version={version!r} is not one; count versions from 1")


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
        return holds(other.model, self.model) and not holds(self.model, other.model)


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

    def __init__(
        self, declared: type[object] | None = None, *, logger: BusLogger | None = None
    ) -> None:
        self._logger = logger or BusLogger()
        contracts = () if declared is None else _declared_in(declared)
        self.is_closed = declared is not None
        self._literal = {one.pattern: one for one in contracts if is_literal(one.pattern)}
        self._wild = tuple(one for one in contracts if not is_literal(one.pattern))
        self._latest: dict[str, Stated] = {}
        self._versions: dict[str, int] = {}
        self._requests: dict[str, RequestTopic[Any, Any]] = {}
        _refuse_unrelated(self._wild)

    def learn(self, topic: Stated) -> bool:
        """Add what the topic states about its name; tell whether that was new.

        Raises:
            ContractError: The name is known to carry another model or version of it, or is matched
                by a declared pattern whose model does not hold this one; or requests on it have
                other replies.
            UnknownTopic: The world is closed and no contract names the topic.
        """
        if self._latest.get(topic.name) is topic:
            return False
        is_new = topic.name not in self._literal
        self._refuse_contradiction(topic)
        if isinstance(topic, RequestTopic):
            self._refuse_other_answer(cast("RequestTopic[object, object]", topic))
            self._requests.setdefault(topic.name, topic)
            is_version_new = False
        else:
            is_version_new = self._learn_version(topic)
        if is_new:
            self._literal[topic.name] = _contract(topic.name, topic.model)
        self._latest[topic.name] = topic
        return is_new or is_version_new

    def _learn_version(self, topic: Topic[Any]) -> bool:
        known = self._versions.get(topic.name)
        if known is not None and known != topic.version:
            raise ContractError(
                f"{topic!r} contradicts version={known} of that topic: state one version in both "
                "places"
            )
        self._versions[topic.name] = topic.version
        return known is None

    def version_of(self, topic: str) -> int:
        """Tell which version of a topic its `Topic` states; 1 where there is none."""
        return self._versions.get(topic, 1)

    def refuse_newer(self, topic: str, version: int) -> None:
        """Refuse what was published by a later version of a topic than its `Topic` here states.

        Raises:
            InvalidEvent: It was.
        """
        if version > (known := self._versions.get(topic, version)):
            raise InvalidEvent(
                f"this event is of version {version} of {topic!r}, and here Topic(..., "
                f"version={known}) is known: deploy what knows version {version}, then redrive it"
            )

    def requests_on(self, name: str) -> RequestTopic[Any, Any] | None:
        """Give what was stated about requests on a topic, if anything was."""
        return self._requests.get(name)

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
            self._logger.warning(
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

    def _refuse_other_answer(self, topic: RequestTopic[object, object]) -> None:
        known = self._requests.get(topic.name, topic)
        if known.many != topic.many or not is_same_model(known.reply, topic.reply):
            raise ContractError(
                f"{topic!r} contradicts {known!r}: state one model of the replies, and `many`, in "
                "both places"
            )

    def _refuse_contradiction(self, topic: Stated) -> None:
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
        return UnknownTopic(f"no contract names {name!r}; {advice_on(name) or advice}")


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
        is_related = holds(one.model, other.model) or holds(other.model, one.model)
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


def _allows(known: _Contract, topic: Stated) -> bool:
    """A topic may narrow what a pattern says of it, and only repeat what is said of its name."""
    if is_literal(known.pattern):
        return is_same_model(known.model, topic.model)
    return holds(known.model, topic.model)


def _listed(contracts: Iterable[_Contract]) -> str:
    return " and ".join(
        f"{contract.pattern!r} carries {formatannotation(contract.model)}" for contract in contracts
    )
