"""How handlers are read when they are registered: their shapes and their names."""

import functools
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from inspect import Parameter
from typing import Annotated, Any, Generic, Optional, TypeVar
from unittest.mock import AsyncMock, Mock

import pytest
from pydantic import BaseModel

from eventbus.errors import InvalidHandler, InvalidOption
from eventbus.handlers import HandlerShape, check_name, default_name, inspect_handler
from eventbus.topics import is_valid_topic

M = TypeVar("M")


class Order(BaseModel):
    order_id: str


class Context(Generic[M]):
    """Stands for the real one, of which reading a handler needs the identity alone."""


def shape_of(handler: Any, *, needs_annotation: bool = True) -> HandlerShape:
    """Read a handler of these tests."""
    return inspect_handler(handler, context_type=Context, needs_annotation=needs_annotation)


def written(parameters: str, keyword: str = "async def", body: str = "...") -> Any:
    """Define a handler as a user would write it."""
    names = {**globals(), "Optional": Optional}
    exec(f"{keyword} handler({parameters}): {body}", names)  # noqa: S102 - the tests' own text
    return names["handler"]


class Billing:
    async def bill(self, event: Order) -> None: ...

    def note(self, event: Order, context: Context[Order]) -> None: ...

    async def __call__(self, event: Order) -> None: ...

    @classmethod
    async def shared(cls, event: Order) -> None: ...

    @staticmethod
    def plain(event: Order) -> None: ...

    @staticmethod
    async def with_database(database: str, event: Order) -> None: ...


class SyncBilling:
    def __call__(self, event: Order, context: object) -> None: ...


class Generating:
    def __call__(self, event: Order) -> Iterator[int]:
        yield 1


def passing_on(handler: Callable[[Order], Awaitable[None]]) -> Callable[[Order], Awaitable[None]]:
    """Decorate without being async, as many decorators do."""

    @functools.wraps(handler)
    def wrapper(event: Order) -> Awaitable[None]:
        return handler(event)

    return wrapper


# --- Shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "takes_context", "is_async"),
    [
        pytest.param(written("event: Order"), False, True, id="async function"),
        pytest.param(written("event: Order", "def"), False, False, id="function"),
        pytest.param(written("event: Order, context"), True, True, id="with context"),
        pytest.param(written("event: Order, /"), False, True, id="positional only"),
        pytest.param(Billing().bill, False, True, id="async method"),
        pytest.param(Billing().note, True, False, id="method with context"),
        pytest.param(Billing.shared, False, True, id="class method"),
        pytest.param(Billing.plain, False, False, id="static method"),
        pytest.param(Billing(), False, True, id="object with async call"),
        pytest.param(SyncBilling(), True, False, id="object with call"),
        pytest.param(partial(Billing.with_database, "db"), False, True, id="partial"),
        pytest.param(
            partial(partial(written("event: Order, *, database")), database="db"),
            False,
            True,
            id="partial of partial",
        ),
        pytest.param(partial(Billing()), False, True, id="partial of object"),
        pytest.param(passing_on(Billing().bill), False, True, id="decorated"),
        pytest.param(functools.cache(Billing.plain), False, False, id="cached"),
    ],
)
def test_shape(handler: Any, takes_context: bool, is_async: bool) -> None:
    """A handler of any kind is read: its context, its colour, the annotation of its event."""
    assert shape_of(handler) == HandlerShape(
        takes_context=takes_context, is_async=is_async, annotation=Order
    )


@pytest.mark.parametrize(
    ("handler", "takes_context"),
    [
        pytest.param(written("event"), False, id="function"),
        pytest.param(written("event, context"), True, id="with context"),
        pytest.param(list[object]().append, False, id="built-in"),
        pytest.param(print, False, id="built-in with defaults"),
        pytest.param(Mock(), False, id="mock"),
    ],
)
def test_shape_without_annotations(handler: Any, takes_context: bool) -> None:
    """A handler that says nothing of its event is read as well."""
    shape = shape_of(handler)

    assert shape.takes_context is takes_context
    assert shape.annotation is Parameter.empty


def test_shape_of_async_mock() -> None:
    """A test may register an AsyncMock, which takes the event and is awaited."""
    assert shape_of(AsyncMock()) == HandlerShape(
        takes_context=False, is_async=True, annotation=Parameter.empty
    )


@pytest.mark.parametrize(
    "second",
    [
        "context",
        "context: object",
        "context: 'Undefined'",
        "context: Context = None",
        "context: Context[Order] | None = None",
        "context: 'Context[Order] | None' = None",
        "context: Optional[Context[Order]] = None",
        "context: Annotated[Context[Order], 'a note'] = None",
    ],
)
def test_second_parameter_is_the_context(second: str) -> None:
    """It is, when it must be given, or when its annotation says so."""
    assert shape_of(written(f"event, {second}")).takes_context


@pytest.mark.parametrize(
    "more",
    [
        "attempts: int = 3",
        "attempts: int = 3, *, verbose: bool = False",
        "attempts=3",
        "attempts: 'Undefined' = 3",
        "attempts: int = 3, context: Context[Order] = None",
        "*more",
        "*more: Context[Order]",
        "**options",
    ],
)
def test_other_parameters_are_left_alone(more: str) -> None:
    """Parameters with defaults, and those that collect the rest, are no context."""
    assert not shape_of(written(f"event, {more}")).takes_context


def test_event_among_the_rest() -> None:
    """A handler that collects what it is given takes the event alone."""
    assert shape_of(written("*args: Order")) == HandlerShape(
        takes_context=False, is_async=True, annotation=Order
    )


@pytest.mark.parametrize(
    ("parameters", "annotation"),
    [
        ("event: 'Order'", Order),
        ("event: 'Order | None'", Order | None),
        ("event: list['Order']", list[Order]),
        ("event: Annotated[Order, 'a note']", Annotated[Order, "a note"]),
        ("event: 'Order', context: 'Undefined'", Order),
    ],
    ids=repr,
)
def test_annotation_is_resolved(parameters: str, annotation: object) -> None:
    """Quoted annotations are looked up where the handler is defined; notes are kept."""
    assert shape_of(written(parameters)).annotation == annotation


@pytest.mark.parametrize("annotation", ["Undefined", "functools.Undefined", "Order | 5", "Order |"])
def test_unresolvable_annotation_is_refused(annotation: str) -> None:
    """Where the model is to come from the annotation, one that cannot be resolved is refused."""
    with pytest.raises(InvalidHandler) as caught:
        shape_of(written(f"event: {annotation!r}"))

    text = str(caught.value)
    assert text.startswith(f"handler handler annotates 'event' with {annotation!r}, which cannot")
    assert text.endswith("; pass model=, or move the model to module level")


def test_unresolvable_annotation_may_not_matter() -> None:
    """Where the model is known, an annotation that cannot be resolved is as good as none."""
    shape = shape_of(written("event: 'Undefined'"), needs_annotation=False)

    assert shape.annotation is Parameter.empty


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        pytest.param(5, "5 cannot be called; pass a function", id="number"),
        pytest.param(object(), "cannot be called; pass a function", id="object"),
        pytest.param(written(""), "takes no event; give it a parameter", id="no parameter"),
        pytest.param(written("**all"), "takes no event; give it a parameter", id="only keywords"),
        pytest.param(Billing.bill, "is a method without its object; mark", id="unbound method"),
        pytest.param(written("a, b, c"), "needs a, b, c; keep (event) or (event, c", id="three"),
        pytest.param(
            written("a, *, b"), "needs the keyword 'b'; give that a default", id="keyword"
        ),
        pytest.param(
            written("*, a"), "needs the keyword 'a'; give that a default", id="by keyword"
        ),
        pytest.param(
            written("a: Context[Order]"), "takes a context as 'a'; the event", id="context alone"
        ),
        pytest.param(
            written("a: Context, b"), "takes a context as 'a'; the event", id="context first"
        ),
        pytest.param(
            written("event", "def", "yield"), "is a generator, of which nothing", id="generator"
        ),
        pytest.param(
            written("event", body="yield"), "is a generator, of which", id="async generator"
        ),
        pytest.param(Generating(), "is a generator, of which nothing", id="object that generates"),
        pytest.param(partial(Generating()), "is a generator, of which", id="partial of generator"),
        pytest.param(Order, "handler Order is a class; decorate a function", id="model"),
        pytest.param(Billing, "handler Billing is a class; decorate a function", id="class"),
        pytest.param(max, "handler max hides its parameters; wrap it", id="built-in"),
    ],
)
def test_refused_handler(handler: Any, words: str) -> None:
    """What cannot be called with an event is refused, and the error says what to do."""
    with pytest.raises(InvalidHandler) as caught:
        shape_of(handler)

    assert words in str(caught.value)


def test_refusal_names_the_handler() -> None:
    """The error tells which of many handlers it is about."""
    with pytest.raises(InvalidHandler, match=r"^handler Billing.bill is"):
        shape_of(Billing.bill)


# --- Names ----------------------------------------------------------------------------------------


def nested() -> Callable[[Order], None]:
    """Give a handler defined in a function."""

    def handler(event: Order) -> None: ...

    return handler


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        pytest.param(written("event"), "tests.test_handlers.handler", id="function"),
        pytest.param(nested(), "tests.test_handlers.nested.handler", id="nested"),
        pytest.param(Billing().bill, "tests.test_handlers.Billing.bill", id="method"),
        pytest.param(Billing(), "tests.test_handlers.Billing", id="object"),
        pytest.param(
            passing_on(Billing().bill), "tests.test_handlers.Billing.bill", id="decorated"
        ),
        pytest.param(
            partial(partial(Billing.with_database, "db")),
            "tests.test_handlers.Billing.with_database",
            id="partial",
        ),
        pytest.param(partial(Billing()), "tests.test_handlers.Billing", id="partial obj"),
        pytest.param(lambda: None, "tests.test_handlers._lambda_", id="lambda"),
        pytest.param(list[object]().append, "list.append", id="built-in"),
        pytest.param(AsyncMock(), "unittest.mock.AsyncMock", id="mock"),
    ],
)
def test_default_name(handler: Any, name: str) -> None:
    """A handler is named after where it is defined."""
    assert default_name(handler) == name


def renamed(qualname: str) -> Callable[[Order], None]:
    """Give a handler that says it is called so."""
    handler = nested()
    handler.__qualname__ = qualname
    return handler


@pytest.mark.parametrize(
    ("qualname", "end"),
    [
        ("größe", ".gr__e"),
        ("a..b.", ".a.b"),
        ("a b$c", ".a_b_c"),
        (".".join(["x"] * 40), ".x.x"),
        ("deep." * 30 + "end", ".deep.end"),
        ("long" * 100, "longlong"),
        ("y" * 8 + "." + "z" * 119, "z"),
    ],
    ids=range(7),
)
def test_default_name_is_usable(qualname: str, end: str) -> None:
    """Whatever a handler is called, its default name is a name, even with a number behind it."""
    name = default_name(renamed(qualname))

    assert name.endswith(end)
    assert check_name(f"{name}-1234567") == f"{name}-1234567"


@pytest.mark.parametrize(
    "name", ["billing", "billing.eu-1", "A_z.0", ".".join(["x"] * 30), "x" * 128]
)
def test_usable_name(name: str) -> None:
    """A name of letters, digits, `_`, `-` and `.` is given back, and is a topic."""
    assert check_name(name) == name
    assert is_valid_topic(f"$dlq.{name}")


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "has an empty token"),
        ("a..b", "has an empty token"),
        (".a", "has an empty token"),
        ("a.", "has an empty token"),
        ("a b", "holds ' '; use A to Z"),
        ("orders.*", r"holds '\*'; use A to Z"),
        ("größe", "holds 'ö'; use A to Z"),
        ("a\n", r"holds '\\n'; use A to Z"),
        ("$dlq.a", r"holds '\$'; use A to Z"),
        (".".join(["x"] * 31), "has more than 30 tokens"),
        ("x" * 129, "is longer than 128 characters"),
        (5, "is no text"),
    ],
    ids=range(12),
)
def test_unusable_name(name: Any, rule: str) -> None:
    """Any other name is refused with its value, the rule and what to do."""
    with pytest.raises(InvalidOption, match=rule) as caught:
        check_name(name)

    assert f"the name {name!r} " in str(caught.value)
    assert ";" in str(caught.value)


def test_second_parameter_of_another_type_is_refused() -> None:
    """A parameter that must be given and says it is no context would get one all the same."""
    with pytest.raises(InvalidHandler, match=r"'quantity' as its second.*annotate it as Context"):
        shape_of(written("event, quantity: int"))
