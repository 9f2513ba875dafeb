"""Finding the transport for a URL."""

__all__ = ("transport_for",)

from urllib.parse import parse_qsl

from eventbus.clock import Clock
from eventbus.errors import InvalidOption, UnknownTransport
from eventbus.timers import Timers
from eventbus.transports.memory import MemoryTransport


def transport_for(url: str, clock: Clock, timers: Timers) -> MemoryTransport:
    """Make the transport that serves a URL's scheme.

    Raises:
        UnknownTransport: No installed distribution serves it.
        InvalidOption: The URL asks for something this transport does not have, or is no text.
    """
    scheme, rest = _split(url)
    if scheme != "memory":
        # The scheme alone: the rest of a URL may hold a password.
        raise UnknownTransport(
            f"no transport serves the scheme {scheme!r}: install the plugin that does, as "
            f"`pip install eventbus-{scheme or 'NAME'}`, or use 'memory://'"
        )
    _refuse_options_of_memory(rest)
    return MemoryTransport(clock, timers)


def _split(url: object) -> tuple[str, str]:
    """Split after the scheme; `urlsplit` would raise errors that show the rest."""
    if not isinstance(url, str):
        raise InvalidOption(f"the URL is {type(url).__name__}, not text: give one as 'memory://'")
    scheme, colon, rest = url.partition(":")
    is_scheme = colon and scheme.replace("+", "").replace("-", "").isalnum()
    return (scheme.lower(), rest) if is_scheme else ("", url)


def _refuse_options_of_memory(rest: str) -> None:
    place, _, query = rest.partition("?")
    if place not in {"", "//"}:
        raise InvalidOption("memory:// takes neither host nor path: nothing is stored or sent")
    for name, _ in parse_qsl(query, keep_blank_values=True):
        raise InvalidOption(f"memory:// has no option {name!r}: leave it out")
