"""Finding the transport for a URL."""

__all__ = ("transport_for",)

from urllib.parse import parse_qsl, urlsplit

from eventbus.clock import Clock
from eventbus.errors import InvalidOption, UnknownTransport
from eventbus.timers import Timers
from eventbus.transports.memory import MemoryTransport


def transport_for(url: str, clock: Clock, timers: Timers) -> MemoryTransport:
    """Make the transport that serves a URL's scheme.

    Raises:
        UnknownTransport: No installed distribution serves it.
        InvalidOption: The URL asks for something this transport does not have.
    """
    parts = urlsplit(url)
    if parts.scheme != "memory":
        # The scheme alone: the rest of a URL may hold a password.
        raise UnknownTransport(
            f"no transport serves the scheme {parts.scheme!r}: install the plugin that does, as "
            f"`pip install eventbus-{parts.scheme or 'NAME'}`, or use 'memory://'"
        )
    if parts.netloc or parts.path:
        raise InvalidOption("memory:// takes neither host nor path: nothing is stored or sent")
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        raise InvalidOption(f"memory:// has no option {name!r}: leave it out")
    return MemoryTransport(clock, timers)
