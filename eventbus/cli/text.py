"""Text for people and for programs, in which nothing can drive a terminal."""

__all__ = ("age", "counted", "json_text", "printable", "size")

import re
from collections.abc import Mapping

from pydantic_core import to_json

_BEYOND_ASCII = re.compile(r"[^ -~]")


def printable(text: str) -> str:
    r"""Write what cannot be seen, or does something to a terminal, as `\uXXXX`.

    JSON stays JSON that says the same: there such characters are only within strings.
    """
    return text if text.isprintable() else _BEYOND_ASCII.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable():
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def json_text(value: object) -> str:
    """Write a value as one line of JSON."""
    return printable(to_json(value).decode())


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Say how many there are of something."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def size(number: float) -> str:
    """Write a number of bytes as people read it."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:,.0f} {unit}" if unit == "B" else f"{number:,.1f} {unit}"


_STEPS: Mapping[str, int] = {"s": 60, "min": 60, "h": 24}


def age(seconds: float) -> str:
    """Write a length of time as people read it."""
    for unit, most in _STEPS.items():
        if seconds < most:
            return f"{seconds:.1f} {unit}"
        seconds /= most
    return f"{seconds:.1f} d"
