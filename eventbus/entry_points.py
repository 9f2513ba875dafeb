"""Finding a plugin by group and name among what is installed.

Nothing is looked up before it is asked for, and of what is installed only the one that is meant is
imported. Which eventbus a plugin was built for stands in what its distribution requires anyway:
`eventbus>=1.2` means version 1, `eventbus>=1.2,<3` versions 1 and 2. That is read before any code
of the plugin runs, as code for another eventbus may not even import.
"""

__all__ = ("MAJOR", "Plugin", "find", "majors", "names", "own_version")

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventbus.errors import EventBusError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

MAJOR = 0
"""The major version of this eventbus."""

_REQUIREMENT = re.compile(r"eventbus(?![\w.-])\s*(?:\[[^]]*\])?(?P<bounds>[^;@]*)", re.IGNORECASE)
_BOUND = re.compile(r"(?P<sign>[<>=~!]+)\s*v?(?P<major>\d+)(?P<minor>[\d.]*)")


@dataclass(frozen=True, slots=True)
class Plugin:
    """A factory, whose it is, and how to say that it failed."""

    name: str
    distribution: str
    factory: Callable[..., object]
    error: type[EventBusError]

    def make(self, *arguments: object, **options: object) -> object:
        """Call the factory; errors of the bus's own family are its own words, and pass.

        The others' texts are left to their traceback: one of them may quote a URL with a password.
        """
        try:
            return self.factory(*arguments, **options)
        except EventBusError:
            raise
        except Exception as error:
            raise self.error(
                f"{self} failed with {type(error).__name__}: see that error, which caused this one"
            ) from error

    def __str__(self) -> str:
        return f"the plugin {self.name!r} of the distribution {self.distribution!r}"


def names(group: str) -> set[str]:
    """Name all that is installed in a group."""
    return _installed(group).names


def find(group: str, name: str, error: type[EventBusError]) -> Plugin | None:
    """Find and import a plugin; None if nothing of that name is installed.

    Raises:
        error: Two distributions bring it, it is for another major version of eventbus, or cannot
            be imported.
    """
    entries = [entry for entry in _installed(group) if entry.name == name]
    if not entries:
        return None
    if len(entries) > 1:
        owners = " and ".join(sorted(map(_distribution, entries)))
        raise error(f"the distributions {owners} both bring {name!r}: uninstall all but one")
    _refuse_other_versions(entries[0], error)
    return Plugin(name, _distribution(entries[0]), _load(entries[0], error), error)


def majors(requirements: Sequence[str]) -> set[int]:
    """Tell which major versions of eventbus a distribution with these requirements is for.

    Example:
        >>> majors(["eventbus>=1.2,<3", "pydantic>=2"])
        {1, 2}
    """
    stated = (_REQUIREMENT.match(requirement) for requirement in requirements)
    return {major for found in stated if found for major in _within(found["bounds"])}


def _within(bounds: str) -> range:
    first: list[int] = []
    last: list[int] = []
    for sign, digits, minor in _BOUND.findall(bounds):
        major = int(digits)
        if sign == "<":
            last.append(major if minor.strip(".0") else major - 1)
        elif sign == "<=":
            last.append(major)
        elif sign != "!=":
            first.append(major)
    begin = max(first, default=0)
    return range(begin, min(last, default=begin) + 1) if first else range(0)


def own_version() -> str:
    """Tell which eventbus is installed."""
    from importlib.metadata import version  # 15 ms, as below

    return version("eventbus")


def _installed(group: str) -> "EntryPoints":
    from importlib.metadata import entry_points  # 15 ms, that a bus without plugins never needs

    return entry_points(group=group)


def _refuse_other_versions(entry: "EntryPoint", error: type[EventBusError]) -> None:
    requirements = (entry.dist.requires if entry.dist else None) or []
    built_for = majors(requirements)
    if MAJOR in built_for:
        return
    versions = " and ".join(f"{major}.x" for major in sorted(built_for))
    raise error(
        f"{_distribution(entry)} brings {entry.name!r} for "
        f"{f'eventbus {versions}' if versions else 'an eventbus of unknown version'}, and this is "
        f"{MAJOR}.x: install a version of it that requires 'eventbus>={MAJOR}.N'"
    )


def _load(entry: "EntryPoint", error: type[EventBusError]) -> Callable[..., object]:
    try:
        factory: object = entry.load()
    except Exception as cause:
        raise error(
            f"{_distribution(entry)} brings {entry.name!r}, but {entry.value!r} cannot be "
            f"imported: {cause!r}; install what it needs, or another version of it"
        ) from cause
    if not callable(factory):
        raise error(
            f"{_distribution(entry)} brings {entry.name!r}, but {entry.value!r} is {factory!r}: "
            "its entry point has to name a function or class that makes one"
        )
    return factory


def _distribution(entry: "EntryPoint") -> str:
    return entry.dist.name if entry.dist else "?"
