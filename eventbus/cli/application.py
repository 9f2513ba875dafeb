"""Finding the bus of an application, as `module:attribute`."""

__all__ = ("load_bus",)

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeGuard, cast

from eventbus.bus import EventBus
from eventbus.cli.blame import blame
from eventbus.errors import InvalidOption
from eventbus.wording import did_you_mean


def load_bus(place: str, folder: Path, *, is_factory: bool) -> EventBus[Any]:
    """Import a bus, looking for its module in a folder first; or call what makes it.

    Where the application raises, that is shown with its traceback.

    Raises:
        InvalidOption: There is no such module or attribute, it is no bus, or it raises.
    """
    module_name, colon, attribute = place.partition(":")
    if not (colon and module_name and attribute):
        raise InvalidOption(f"{place!r} names no bus: write module:attribute, as app:bus")
    sys.path.insert(0, str(folder.absolute()))
    found: object = _import(module_name, folder)
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise InvalidOption(
                f"{module_name} has no attribute {name!r}{did_you_mean(name, _buses_in(found))}"
            )
        found = getattr(found, name)
    return _bus_of(place, found, is_factory=is_factory)


def _import(name: str, folder: Path) -> object:
    try:
        return import_module(name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            raise InvalidOption(
                f"there is no module {missing!r} in {folder.absolute()}, nor installed: look at "
                "how it is spelt, or give --app-dir"
            ) from error
        blame(f"{name} cannot be imported", error)


def _buses_in(place: object) -> list[str]:
    return [name for name, value in vars(place).items() if _is_bus(value)]


def _is_bus(found: object) -> TypeGuard[EventBus[Any]]:
    return isinstance(found, EventBus)


def _bus_of(place: str, found: object, *, is_factory: bool) -> EventBus[Any]:
    if is_factory:
        if not callable(found):
            raise InvalidOption(f"{place} is no function: leave out --factory")
        found = _made_by(place, cast("Callable[[], object]", found))
    if _is_bus(found):
        return found
    advice = "" if is_factory or not callable(found) else ": is it a --factory?"
    raise InvalidOption(f"{place} gives {type(found).__name__}, no EventBus{advice}")


def _made_by(place: str, factory: Callable[[], object]) -> object:
    try:
        return factory()
    except Exception as error:  # noqa: BLE001 - of code that is not ours
        blame(f"{place} makes no bus", error)
