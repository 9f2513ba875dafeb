"""What the URL of a transport says behind its question mark."""

__all__ = ("options_of",)

from urllib.parse import parse_qsl

from eventbus.errors import InvalidOption


def options_of(query: str) -> dict[str, str]:
    """Read the options of a URL, in their order.

    Raises:
        InvalidOption: One is given twice.
    """
    options: dict[str, str] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name in options:
            raise InvalidOption(
                f"the URL gives {name!r} twice, as {options[name]!r} and as {text!r}: leave one out"
            )
        options[name] = text
    return options
