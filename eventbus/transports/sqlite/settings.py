"""What the URL of a store says."""

__all__ = ("Durability", "Settings")

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args
from urllib.parse import unquote

from eventbus.errors import InvalidOption, InvalidPattern
from eventbus.topics import check_pattern
from eventbus.transports.sqlite.damage import Damaged
from eventbus.transports.sqlite.limits import Limit, LimitName
from eventbus.transports.sqlite.packing import Compression, check_installed
from eventbus.url import options_of
from eventbus.wording import did_you_mean

Durability: TypeAlias = Literal["full", "normal"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_BYTES = {"B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where a store is, how safely it writes, and how much it keeps.

    `durability="full"` syncs every commit before it is acknowledged. `"normal"` leaves that to
    checkpoints: it is faster, survives the death of a process, and may lose the last commits when
    the machine loses its power. Payloads above 1 kB are packed by `compression`; they are read
    whatever a URL says. A record that is damaged or missing stops whoever comes to it, unless
    `damaged="quarantine"` leaves it out. Records beyond `max_age` (seconds), `max_count` or
    `max_bytes` are removed, oldest first. Where patterns have limits of their own, these are for
    the rest.
    """

    path: Path
    durability: Durability = "full"
    compression: Compression | None = None
    damaged: Damaged = "stop"
    max_age: int | None = None
    max_count: int | None = None
    max_bytes: int | None = None
    limits_by_pattern: Sequence[Limit] = ()

    @classmethod
    def of_url(cls, url: str) -> "Settings":
        """Read a URL as `sqlite:///relative.db` or `sqlite:////absolute.db?max_age=7d`.

        Raises:
            InvalidOption: It names no file, or an option that does not exist, cannot be used or is
                given twice.
        """
        place, _, query = url.partition(":")[2].partition("?")
        path = unquote(place.removeprefix("///"))
        if not place.startswith("///") or not path.strip("/") or "\0" in path:
            raise InvalidOption(
                "sqlite:// names no file: write sqlite:///relative.db, or sqlite:////absolute.db"
            )
        if path == ":memory:":  # which is SQLite's word for none
            raise InvalidOption(
                "sqlite:///:memory: is no file: write memory:// for a bus in memory, or "
                "sqlite:///events.db"
            )
        read: dict[str, Any] = {}
        limits: list[Limit] = []
        for name, text in options_of(query).items():
            limit, dot, pattern = name.partition(".")
            if dot and limit in get_args(LimitName):
                limits.append(_limit(cast("LimitName", limit), pattern, text))
            else:
                read[name] = _reader(name)(name, text)
        return cls(path=Path(path), limits_by_pattern=tuple(limits), **read)

    @property
    def limits(self) -> Sequence[Limit]:
        """All limits, those of patterns first."""
        others = (self._limit("max_age"), self._limit("max_count"), self._limit("max_bytes"))
        return (*self.limits_by_pattern, *(one for one in others if one is not None))

    def _limit(self, name: LimitName) -> Limit | None:
        most = getattr(self, name)
        return None if most is None else Limit(name, most)

    def without_limits(self) -> "Settings":
        """Give those of who removes nothing."""
        return replace(self, max_age=None, max_count=None, max_bytes=None, limits_by_pattern=())

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is ever removed."""
        return not self.limits


def _reader(name: str) -> Callable[[str, str], object]:
    if name not in _READERS:
        raise InvalidOption(
            f"sqlite:// has no option {name!r}: give {', '.join(_READERS)}"
            f"{did_you_mean(name, _READERS)}"
        )
    return _READERS[name]


def _limit(name: LimitName, pattern: str, text: str) -> Limit:
    try:
        check_pattern(pattern)
    except InvalidPattern as error:
        raise InvalidOption(f"{name}.{pattern}: {error}") from error
    return Limit(name, _LIMITS[name](f"{name}.{pattern}", text), pattern)


def _durability(name: str, text: str) -> str:
    return _choice(name, text, get_args(Durability))


def _compression(name: str, text: str) -> str:
    check_installed(_choice(name, text, get_args(Compression)))
    return text


def _damaged(name: str, text: str) -> str:
    return _choice(name, text, get_args(Damaged))


def _choice(name: str, text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        given = " or ".join(map(repr, choices))
        raise InvalidOption(f"{name}={text!r}: give {given}{did_you_mean(text, choices)}")
    return text


def _seconds(name: str, text: str) -> int:
    return _amount(name, text, _SECONDS, "7d, 12h, 30m or 45s")


def _count(name: str, text: str) -> int:
    return _amount(name, text, {"": 1}, "a whole number")


def _size(name: str, text: str) -> int:
    return _amount(name, text, _BYTES, "2GB, 500MB, 64kB or 4096B")


def _amount(name: str, text: str, units: dict[str, int], example: str) -> int:
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = text[len(digits) :]
    if not digits.isascii() or not digits.isdecimal() or not int(digits) or unit not in units:
        raise InvalidOption(f"{name}={text!r}: give {example}, more than 0")
    return int(digits) * units[unit]


_LIMITS: Mapping[str, Callable[[str, str], int]] = {
    "max_age": _seconds,
    "max_count": _count,
    "max_bytes": _size,
}
_READERS: Mapping[str, Callable[[str, str], object]] = {
    "durability": _durability,
    "compression": _compression,
    "damaged": _damaged,
    **_LIMITS,
}
