"""How middleware is composed around a handler, and around a publish.

A middleware is an async callable `(context, call_next)`: what it does before `await
call_next(context)` happens before the handler, what it does after happens after, and not calling it
means that the handler does not run. Scopes nest as bus > router > handler, outermost first. A chain
is built once, when its subscription gets its first message.
"""

__all__ = (
    "Binding",
    "CallNext",
    "Gate",
    "Middleware",
    "Policy",
    "PublishMiddleware",
    "PublishNext",
    "check_middleware",
    "check_publish_middleware",
    "compose",
    "compose_publish",
    "innermost",
    "layers_of",
    "run_without_waiting",
)

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

from eventbus.context import Context
from eventbus.errors import InvalidOption
from eventbus.message import Message, Receipt

P = TypeVar("P")

POLICIES = frozenset(
    {"retry", "dead_letter", "timeout", "throttle", "circuit_breaker", "correlate"}
)

CallNext: TypeAlias = Callable[[Context[Any]], Awaitable[object]]
"""The rest of the chain, as a middleware sees it."""

PublishNext: TypeAlias = Callable[[Message], Awaitable[Receipt]]
"""The rest of the way of a message, as a publish middleware sees it."""


class Middleware(Protocol):
    """Wraps every attempt of a handler."""

    async def __call__(self, context: Context[Any], call_next: CallNext, /) -> object:
        """Run around one attempt; an exception fails it."""
        ...


class PublishMiddleware(Protocol):
    """Wraps every publish, before anything is checked."""

    async def __call__(self, message: Message, call_next: PublishNext, /) -> Receipt:
        """Run around one publish; pass on the message or `message.replace(...)`."""
        ...


@runtime_checkable
class Policy(Protocol):
    """Says when an attempt may begin, or what becomes of it; its place in the list does not matter.

    Of policies of one kind the innermost scope's counts.
    """

    @property
    def policy(self) -> str:
        """The kind, as `retry` or `timeout`."""
        ...


@runtime_checkable
class Binding(Protocol):
    """A middleware that makes its own link of the chain, and saves a coroutine by that.

    It may give `call_next` itself, and costs nothing then.
    """

    def bind(self, call_next: CallNext) -> CallNext:
        """Give what is called in place of the middleware."""
        ...


class Gate(Protocol):
    """Says for one subscription when an attempt may begin, by the policy that made it."""

    def bind(self, call_next: CallNext) -> CallNext:
        """Link into a chain, around all middleware; raises `Postponed` where it may not begin."""
        ...

    def failed(self, error: BaseException) -> None:
        """Note that an attempt has failed, however it did."""
        ...


def compose(layers: Sequence[Middleware], handler: CallNext) -> CallNext:
    """Build the chain around a handler, outermost layer first."""
    call = handler
    for layer in reversed(layers):
        call = layer.bind(call) if isinstance(layer, Binding) else _link(layer, call)
    return call


def compose_publish(layers: Sequence[PublishMiddleware], accept: PublishNext) -> PublishNext:
    """Build the chain around a publish, outermost layer first."""
    call = accept
    for layer in reversed(layers):
        call = _publish_link(layer, call)
    return call


def run_without_waiting(
    publish: Awaitable[Receipt], layers: Sequence[PublishMiddleware]
) -> Receipt:
    """Run a chain around a publish to its end at once.

    Raises:
        InvalidOption: A middleware wanted to wait; it was ended there.
    """
    steps = publish.__await__()
    try:
        next(steps)
    except StopIteration as end:
        receipt: Receipt = end.value
        return receipt
    if isinstance(publish, Coroutine):
        publish.close()
    names = ", ".join(getattr(layer, "__qualname__", type(layer).__qualname__) for layer in layers)
    raise InvalidOption(
        f"publish_nowait cannot wait, but the publish middleware {names} does: use `await publish`"
    )


def layers_of(middleware: Iterable[Middleware | Policy]) -> list[Middleware]:
    """Give what wraps the handler: all that are no policies."""
    return [layer for layer in middleware if not isinstance(layer, Policy)]


def innermost(layers: Iterable[object], kind: type[P]) -> P | None:
    """Give the last policy of a kind: the innermost scope replaces the outer."""
    found = [layer for layer in layers if isinstance(layer, kind)]
    return found[-1] if found else None


def check_middleware(layers: object) -> tuple[Middleware | Policy, ...]:
    """Check what was given as `middleware=`.

    Raises:
        InvalidOption: Something in it is neither middleware nor a policy.
    """
    if not isinstance(layers, Iterable):
        raise InvalidOption(f"middleware={layers!r}: give a list of them")
    return tuple(_checked(layer) for layer in cast("Iterable[object]", layers))


def check_publish_middleware(layers: object) -> tuple[PublishMiddleware, ...]:
    """Check what was given as `publish_middleware=`.

    Raises:
        InvalidOption: Something in it cannot be called.
    """
    if not isinstance(layers, Iterable):
        raise InvalidOption(f"publish_middleware={layers!r}: give a list of them")
    checked = tuple(cast("Iterable[PublishMiddleware]", layers))
    for layer in checked:
        if isinstance(layer, type) or not callable(layer):
            raise InvalidOption(
                f"publish_middleware={layer!r}: give async functions (message, call_next)"
            )
    return checked


def _checked(layer: object) -> Any:
    if isinstance(layer, type):
        raise InvalidOption(f"middleware={layer.__name__}: give an object, {layer.__name__}(...)")
    is_policy = isinstance(layer, Policy) and layer.policy in POLICIES
    if not is_policy and not callable(layer):
        raise InvalidOption(
            f"middleware={layer!r}: give async functions (context, call_next), or policies such as "
            "Retry(), Timeout(5.0), DeadLetter()"
        )
    return layer


def _link(layer: Middleware, call_next: CallNext) -> CallNext:
    return lambda context: layer(context, call_next)


def _publish_link(layer: PublishMiddleware, call_next: PublishNext) -> PublishNext:
    return lambda message: layer(message, call_next)
