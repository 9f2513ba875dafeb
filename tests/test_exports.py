"""Holds what is public: named in `__all__`, there, and explained."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

import eventbus
from eventbus import errors


def public_modules() -> Iterator[str]:
    """Name every module of the core but those that begin with an underscore."""
    root = Path(__file__).parents[1]
    for path in sorted(root.glob("eventbus/**/*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        if "._" not in name:
            yield name


@pytest.fixture(params=public_modules())
def module(request: pytest.FixtureRequest) -> ModuleType:
    """Import a public module."""
    return importlib.import_module(request.param)


def all_errors() -> list[type[errors.EventBusError]]:
    """Find the root of the errors and all below it."""
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass)]
    return [each for each in classes if issubclass(each, errors.EventBusError)]


def begins_with_its_names(source: str) -> bool:
    """Ask whether `__all__ = (...)` is the first statement, a docstring aside."""
    statements = ast.parse(source).body
    if statements and isinstance(statements[0], ast.Expr):
        del statements[0]
    match statements:
        case [ast.Assign(targets=[ast.Name(id="__all__")], value=ast.Tuple()), *_]:
            return True
        case _:
            return False


def is_explained(thing: object) -> bool:
    """Ask whether a class or function has a docstring that somebody wrote."""
    if inspect.isbuiltin(thing) or not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return True
    text = thing.__doc__ or ""
    # Dataclasses and named tuples explain themselves by their own signature.
    return bool(text) and not text.startswith(f"{thing.__name__}(")


def test_a_module_begins_with_its_names(module: ModuleType) -> None:
    """A reader sees first what a module offers, as a tuple that cannot grow."""
    assert begins_with_its_names(inspect.getsource(module))


def test_what_is_exported_exists(module: ModuleType) -> None:
    """No name in `__all__` is misspelt, gone, or there twice."""
    names: tuple[str, ...] = module.__all__

    assert [name for name in names if not hasattr(module, name)] == []
    assert len(set(names)) == len(names)


def test_what_is_exported_is_explained(module: ModuleType) -> None:
    """Every public class and function says what it promises."""
    names: tuple[str, ...] = module.__all__

    assert [name for name in names if not is_explained(getattr(module, name))] == []


@pytest.mark.parametrize("error", all_errors())
def test_every_error_is_exported_and_explained(error: type[Exception]) -> None:
    """An application catches what it must by a name from the front door."""
    assert error.__name__ in eventbus.__all__
    assert getattr(eventbus, error.__name__) is error
    assert is_explained(error)


def test_names_after_the_imports_are_seen() -> None:
    """The rule about the first statement can fail."""
    assert begins_with_its_names('"""A room."""\n__all__ = ("A",)')
    assert not begins_with_its_names('"""A room."""\nimport ast\n__all__ = ("A",)')
    assert not begins_with_its_names('__all__ = ["A"]')


def test_a_missing_explanation_is_seen() -> None:
    """The rule about docstrings can fail, also for what explains itself badly."""

    @dataclass
    class Silent:
        size: int

    def mute() -> None: ...

    assert [is_explained(thing) for thing in (Silent, mute, is_explained, 1)] == [
        False,
        False,
        True,
        True,
    ]
