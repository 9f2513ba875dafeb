"""Registering handlers: `on`, `handles`, and routers that group them."""

__all__ = (
    "MarksAnnotated",
    "MarksAnnotatedResponder",
    "MarksMethod",
    "MarksResponder",
    "Registering",
    "Registers",
    "RegistersAnnotated",
    "RegistersAnnotatedResponder",
    "RegistersResponder",
    "Router",
    "handles",
    "marked_methods",
)

from collections.abc import Callable, Coroutine, Iterator, Sequence
from inspect import Parameter, getattr_static
from itertools import chain
from typing import Any, Protocol, TypeVar, overload

from typing_extensions import TypeForm, Unpack

from eventbus.context import Context
from eventbus.contracts import RequestTopic, Topic
from eventbus.errors import InvalidHandler, InvalidOption
from eventbus.middleware import Middleware, Policy
from eventbus.middleware.chain import check_middleware
from eventbus.registration import HandlerOptions, Registration, ResponderOptions
from eventbus.topics import check_pattern

M = TypeVar("M")
N = TypeVar("N")
P = TypeVar("P")
R = TypeVar("R")
S = TypeVar("S")
Q = TypeVar("Q")
A = TypeVar("A")


class Registers(Protocol[M]):
    """Takes a handler `(event)` or `(event, context)` and gives it back."""

    @overload
    def __call__(self, handler: Callable[[M], R], /) -> Callable[[M], R]: ...
    @overload
    def __call__(
        self, handler: Callable[[M, Context[M]], R], /
    ) -> Callable[[M, Context[M]], R]: ...


class RegistersAnnotated(Protocol):
    """Takes a handler whose annotation names the model; `dict`, `bytes`, `object` take all."""

    @overload
    def __call__(self, handler: Callable[[M], R], /) -> Callable[[M], R]: ...
    @overload
    def __call__(
        self, handler: Callable[[M, Context[M]], R], /
    ) -> Callable[[M, Context[M]], R]: ...


class RegistersResponder(Protocol[Q, A]):
    """Takes a handler of a request that returns the reply, async or not, and gives it back."""

    @overload
    def __call__(
        self, handler: Callable[[Q], Coroutine[Any, Any, A]], /
    ) -> Callable[[Q], Coroutine[Any, Any, A]]: ...
    @overload
    def __call__(
        self, handler: Callable[[Q, Context[Q]], Coroutine[Any, Any, A]], /
    ) -> Callable[[Q, Context[Q]], Coroutine[Any, Any, A]]: ...
    @overload
    def __call__(self, handler: Callable[[Q], A], /) -> Callable[[Q], A]: ...
    @overload
    def __call__(
        self, handler: Callable[[Q, Context[Q]], A], /
    ) -> Callable[[Q, Context[Q]], A]: ...


class RegistersAnnotatedResponder(Protocol[A]):
    """Takes the same where the handler's annotation names the model of the request."""

    @overload
    def __call__(
        self, handler: Callable[[M], Coroutine[Any, Any, A]], /
    ) -> Callable[[M], Coroutine[Any, Any, A]]: ...
    @overload
    def __call__(
        self, handler: Callable[[M, Context[M]], Coroutine[Any, Any, A]], /
    ) -> Callable[[M, Context[M]], Coroutine[Any, Any, A]]: ...
    @overload
    def __call__(self, handler: Callable[[M], A], /) -> Callable[[M], A]: ...
    @overload
    def __call__(
        self, handler: Callable[[M, Context[M]], A], /
    ) -> Callable[[M, Context[M]], A]: ...


class MarksMethod(Protocol[M]):
    """Takes a method `(self, event)` or `(self, event, context)` and gives it back."""

    @overload
    def __call__(self, method: Callable[[S, M], R], /) -> Callable[[S, M], R]: ...
    @overload
    def __call__(
        self, method: Callable[[S, M, Context[M]], R], /
    ) -> Callable[[S, M, Context[M]], R]: ...


class MarksAnnotated(Protocol):
    """Takes a method whose annotation names the model, as `RegistersAnnotated` a function."""

    @overload
    def __call__(self, method: Callable[[S, M], R], /) -> Callable[[S, M], R]: ...
    @overload
    def __call__(
        self, method: Callable[[S, M, Context[M]], R], /
    ) -> Callable[[S, M, Context[M]], R]: ...


class MarksResponder(Protocol[Q, A]):
    """Takes a method that answers a request, as `RegistersResponder` a function."""

    @overload
    def __call__(
        self, method: Callable[[S, Q], Coroutine[Any, Any, A]], /
    ) -> Callable[[S, Q], Coroutine[Any, Any, A]]: ...
    @overload
    def __call__(
        self, method: Callable[[S, Q, Context[Q]], Coroutine[Any, Any, A]], /
    ) -> Callable[[S, Q, Context[Q]], Coroutine[Any, Any, A]]: ...
    @overload
    def __call__(self, method: Callable[[S, Q], A], /) -> Callable[[S, Q], A]: ...
    @overload
    def __call__(
        self, method: Callable[[S, Q, Context[Q]], A], /
    ) -> Callable[[S, Q, Context[Q]], A]: ...


class MarksAnnotatedResponder(Protocol[A]):
    """Takes the same where the method's annotation names the model of the request."""

    @overload
    def __call__(
        self, method: Callable[[S, M], Coroutine[Any, Any, A]], /
    ) -> Callable[[S, M], Coroutine[Any, Any, A]]: ...
    @overload
    def __call__(
        self, method: Callable[[S, M, Context[M]], Coroutine[Any, Any, A]], /
    ) -> Callable[[S, M, Context[M]], Coroutine[Any, Any, A]]: ...
    @overload
    def __call__(self, method: Callable[[S, M], A], /) -> Callable[[S, M], A]: ...
    @overload
    def __call__(
        self, method: Callable[[S, M, Context[M]], A], /
    ) -> Callable[[S, M, Context[M]], A]: ...


class Registering:
    """What `EventBus` and `Router` share: the decorator `on`."""

    def register(self, registration: Registration) -> None:
        """Take a complete registration; each kind does with it what it must."""
        raise NotImplementedError

    @overload
    def on(
        self, topic: RequestTopic[Q, A], /, **options: Unpack[ResponderOptions[Q]]
    ) -> RegistersResponder[Q, A]: ...
    @overload
    def on(
        self, topic: Topic[M], /, *, reply: TypeForm[A], **options: Unpack[HandlerOptions[M]]
    ) -> RegistersResponder[M, A]: ...
    @overload
    def on(
        self,
        pattern: str,
        /,
        *patterns: str,
        model: TypeForm[M],
        reply: TypeForm[A],
        **options: Unpack[HandlerOptions[M]],
    ) -> RegistersResponder[M, A]: ...
    @overload
    def on(
        self,
        pattern: str,
        /,
        *patterns: str,
        reply: TypeForm[A],
        **options: Unpack[HandlerOptions[Any]],
    ) -> RegistersAnnotatedResponder[A]: ...
    @overload
    def on(self, topic: Topic[M], /, **options: Unpack[HandlerOptions[M]]) -> Registers[M]: ...
    @overload
    def on(
        self, topic: Topic[M], second: Topic[N], /, **options: Unpack[HandlerOptions[M | N]]
    ) -> Registers[M | N]: ...
    @overload
    def on(
        self,
        topic: Topic[M],
        second: Topic[N],
        third: Topic[P],
        /,
        **options: Unpack[HandlerOptions[M | N | P]],
    ) -> Registers[M | N | P]: ...
    @overload
    def on(
        self,
        pattern: str,
        /,
        *patterns: str,
        model: TypeForm[M],
        **options: Unpack[HandlerOptions[M]],
    ) -> Registers[M]: ...
    @overload
    def on(
        self, pattern: str, /, *patterns: str, **options: Unpack[HandlerOptions[Any]]
    ) -> RegistersAnnotated: ...
    def on(
        self,
        *patterns: object,
        model: object = Parameter.empty,
        reply: object = None,
        **options: Unpack[HandlerOptions[Any]],
    ) -> Any:
        """Register a handler for topics or patterns; gives the function back unchanged.

        The event arrives as an instance of the model: that of the `Topic`s, that of `model=`, or
        the one the handler is annotated with. A parameter annotated `dict`, `Mapping`, `object`,
        `bytes` or not at all gets the payload as it was published. A second parameter gets the
        `Context`. Functions that are not async run in worker threads. See `HandlerOptions`.

        With a `RequestTopic`, or `reply=Model`, the handler is a responder: what it returns answers
        `bus.request`. What other handlers return is ignored.

        Example:
            >>> @bus.on("orders.*", model=OrderCreated)
            ... async def audit(event: OrderCreated) -> None: ...

        Raises:
            InvalidPattern: Not a pattern, or strings and `Topic`s mixed.
            InvalidOption: An unknown option, or a value that cannot be used.
            InvalidHandler: The function cannot be a handler.
            ContractError, UnknownTopic: It contradicts what the topics carry.
            DuplicateSubscription: The explicit name is taken, or another responder answers here.
        """
        begun = Registration.begin(patterns, model, options, reply)

        def register(handler: Callable[..., object]) -> Callable[..., object]:
            self.register(begun.of(handler))
            return handler

        return register


class Router(Registering):
    """A group of handlers under a prefix, with middleware of their own.

    Include it in a bus or in another router, as often as wanted. It is live: handlers that come
    later count too. The prefix goes before strings; a `Topic` names itself.

    Example:
        >>> orders = Router("orders", middleware=[Retry(attempts=5)])
        >>> @orders.on("created", model=OrderCreated)
        ... async def ship(event: OrderCreated) -> None: ...
        >>> bus.include(orders)
    """

    def __init__(self, prefix: str = "", *, middleware: Sequence[Middleware | Policy] = ()) -> None:
        self._prefix = check_pattern(prefix) if prefix else ""
        self._middleware = check_middleware(middleware)
        self._registrations: list[Registration] = []
        self._routers: list[tuple[Router, str]] = []
        self._takers: list[Callable[[Registration], None]] = []

    def register(self, registration: Registration) -> None:
        """Keep a registration, and pass it on to where this router is included."""
        scoped = registration.within(self._prefix, self._middleware)
        for taker in self._takers:
            taker(scoped)
        self._registrations.append(scoped)

    def include(self, router: "Router", /, *, prefix: str = "") -> None:
        """Put another router's handlers into this one's scope, now and later.

        Raises:
            InvalidOption: The router would include itself.
        """
        if router is self or self in router.included():
            raise InvalidOption(f"{router!r} would include itself: include it in one direction")
        self._routers.append((router, prefix))
        router.attach(lambda registration: self.register(registration.within(prefix, ())))

    def included(self) -> "Iterator[Router]":
        """Walk through the routers included here, at any depth."""
        for router, _ in self._routers:
            yield router
            yield from router.included()

    def attach(self, taker: Callable[[Registration], None]) -> None:
        """Pass every registration on to a taker: those there are, and those to come."""
        for registration in self._registrations:
            taker(registration)
        self._takers.append(taker)

    def __repr__(self) -> str:
        return f"Router({self._prefix!r})"


_MARKS = "__eventbus_handles__"


@overload
def handles(
    topic: RequestTopic[Q, A], /, **options: Unpack[ResponderOptions[Q]]
) -> MarksResponder[Q, A]: ...
@overload
def handles(
    topic: Topic[M], /, *, reply: TypeForm[A], **options: Unpack[HandlerOptions[M]]
) -> MarksResponder[M, A]: ...
@overload
def handles(
    pattern: str,
    /,
    *patterns: str,
    model: TypeForm[M],
    reply: TypeForm[A],
    **options: Unpack[HandlerOptions[M]],
) -> MarksResponder[M, A]: ...
@overload
def handles(
    pattern: str, /, *patterns: str, reply: TypeForm[A], **options: Unpack[HandlerOptions[Any]]
) -> MarksAnnotatedResponder[A]: ...
@overload
def handles(topic: Topic[M], /, **options: Unpack[HandlerOptions[M]]) -> MarksMethod[M]: ...
@overload
def handles(
    topic: Topic[M], second: Topic[N], /, **options: Unpack[HandlerOptions[M | N]]
) -> MarksMethod[M | N]: ...
@overload
def handles(
    topic: Topic[M],
    second: Topic[N],
    third: Topic[P],
    /,
    **options: Unpack[HandlerOptions[M | N | P]],
) -> MarksMethod[M | N | P]: ...
@overload
def handles(
    pattern: str, /, *patterns: str, model: TypeForm[M], **options: Unpack[HandlerOptions[M]]
) -> MarksMethod[M]: ...
@overload
def handles(
    pattern: str, /, *patterns: str, **options: Unpack[HandlerOptions[Any]]
) -> MarksAnnotated: ...
def handles(
    *patterns: object,
    model: object = Parameter.empty,
    reply: object = None,
    **options: Unpack[HandlerOptions[Any]],
) -> Any:
    """Mark a method as a handler, to be registered by `bus.include(instance)`.

    Takes what `on` takes, and may be repeated.

    Raises:
        InvalidPattern, InvalidOption: As `on`.
    """
    begun = Registration.begin(patterns, model, options, reply)

    def mark(method: Callable[..., object]) -> Callable[..., object]:
        marks = (*_own_marks(method), begun)
        try:
            setattr(method, _MARKS, marks)
        except AttributeError:
            raise InvalidHandler(f"{method!r} cannot be marked: mark a plain method") from None
        return method

    return mark


def marked_methods(instance: object, name: str | None = None) -> list[Registration]:
    """Find the handlers among an object's methods, bound to it, in the order of their definition.

    A method overridden without a mark is none. The name goes before those of the handlers.

    Raises:
        InvalidHandler: It has none.
        InvalidOption: The name cannot be one.
    """
    kind = type(instance)
    candidates = dict.fromkeys(chain.from_iterable(map(vars, reversed(kind.__mro__))))
    marked = {one: marks for one in candidates if (marks := _marks_of(kind, one))}
    if not marked:
        raise InvalidHandler(
            f"{instance!r} has no handlers: mark its methods with @handles(...), or give a Router"
        )
    return [
        begun.of(method) if name is None else begun.of(method).named(name, number)
        for method, marks in ((getattr(instance, one), found) for one, found in marked.items())
        for number, begun in enumerate(marks, start=1)
    ]


def _marks_of(kind: type, name: str) -> tuple[Registration, ...]:
    """Give the marks of a member, also where it is wrapped as a static or class method."""
    member = getattr_static(kind, name)
    return _own_marks(member) or _own_marks(getattr(member, "__func__", None))


def _own_marks(member: object) -> tuple[Registration, ...]:
    marks: tuple[Registration, ...] = getattr(member, _MARKS, ())
    return marks
