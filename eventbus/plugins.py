"""What other distributions bring, found by their entry points: transports and middleware.

An entry point names a factory. There are three groups, each of them an argument of `EventBus`:

- `eventbus.transports`, looked up by the URL's scheme in lower case: a `TransportFactory`, called
  with the URL and the bus's clock.
- `eventbus.middleware`, looked up by `middleware(name, **options)`: called with the options, gives
  middleware or a policy.
- `eventbus.publish_middleware`, looked up by `publish_middleware(name, **options)`, likewise.

Which eventbus a plugin is for stands in its requirement, see `eventbus.entry_points`.
"""

__all__ = ("TransportFactory", "exchange_for", "middleware", "publish_middleware", "transport")

from inspect import iscoroutine
from typing import Any, Protocol, cast

from eventbus.activity import Activity
from eventbus.bus_logger import BusLogger
from eventbus.clock import Clock
from eventbus.codec import JsonCodec
from eventbus.entry_points import Plugin, find, names
from eventbus.errors import InvalidOption, UnknownTransport
from eventbus.middleware import Middleware, Policy, PublishMiddleware
from eventbus.middleware.chain import check_middleware, check_publish_middleware
from eventbus.schedule import SCHEDULE_SIZE
from eventbus.timers import Timers
from eventbus.transports.base import Capabilities, Transport
from eventbus.transports.exchange import Exchange
from eventbus.transports.fed_exchange import FedExchange
from eventbus.transports.memory import MemoryExchange
from eventbus.transports.sqlite import Settings, SqliteTransport
from eventbus.url import options_of
from eventbus.wording import did_you_mean

TRANSPORTS = "eventbus.transports"
MIDDLEWARE = "eventbus.middleware"
PUBLISH_MIDDLEWARE = "eventbus.publish_middleware"

_PARTS_OF_A_TRANSPORT = ("__aenter__", "__aexit__", "publish", "open")


class TransportFactory(Protocol):
    """What an entry point of the group `eventbus.transports` names."""

    def __call__(self, url: str, clock: Clock, /) -> Transport[Any]:
        """Make a transport for a URL as the user gave it; connect later, on entering it.

        Raises:
            InvalidOption: The URL asks for something this transport does not have; name the
                parameter, and show neither user, password nor host.
        """
        ...


# --- by URL ---------------------------------------------------------------------------------------


def exchange_for(
    url: str,
    clock: Clock,
    timers: Timers,
    activity: Activity,
    logger: BusLogger,
    *,
    schedule_size: int = SCHEDULE_SIZE,
) -> Exchange:
    """Make what connects a bus with the transport that serves a URL's scheme.

    Raises:
        UnknownTransport: No installed distribution serves it.
        InvalidOption: The URL asks for something this transport does not have, or is no text.
    """
    scheme, rest = _split(url)
    if scheme == "memory":
        return MemoryExchange(clock, timers, _codec_of_memory(rest))
    carrier = transport(url, clock)
    return FedExchange(carrier, timers, activity, logger, schedule_size=schedule_size)


def transport(url: str, clock: Clock) -> Transport[Any]:
    """Make the transport that serves a URL's scheme, which is not that of the memory.

    Raises:
        UnknownTransport: No installed distribution serves it, or the one that does is no fit.
        InvalidOption: The store, or the plugin, refuses the URL.
    """
    scheme, _ = _split(url)
    if scheme == "sqlite":
        return SqliteTransport(Settings.of_url(url), clock)
    if not scheme:
        raise UnknownTransport(
            "the URL has no scheme: write 'sqlite:///events.db' for a file events.db, or 'memory://'"
        )
    plugin = find(TRANSPORTS, scheme, UnknownTransport)
    if plugin is None:
        # The scheme alone: the rest of a URL may hold a password.
        raise UnknownTransport(
            f"no transport serves the scheme {scheme!r}: install the plugin that does, as "
            f"`pip install eventbus-{scheme}`, or use 'memory://' or 'sqlite:///events.db'"
            f"{did_you_mean(scheme, names(TRANSPORTS) | {'memory', 'sqlite'})}"
        )
    return _checked_transport(plugin, plugin.make(url, clock))


def _split(url: object) -> tuple[str, str]:
    """Split after the scheme; `urlsplit` would raise errors that show the rest."""
    if not isinstance(url, str):
        raise InvalidOption(
            f"the type of the URL is {type(url).__name__}, not str: give one as 'memory://'"
        )
    scheme, colon, rest = url.partition(":")
    is_scheme = colon and scheme.replace("+", "").replace("-", "").isalnum()
    return (scheme.lower(), rest) if is_scheme else ("", url)


def _codec_of_memory(rest: str) -> JsonCodec | None:
    place, _, query = rest.partition("?")
    if place not in {"", "//"}:
        raise InvalidOption("memory:// takes neither host nor path: nothing is stored or sent")
    options = options_of(query)
    codec = options.pop("codec", None)
    for name in options:
        raise InvalidOption(
            f"memory:// has no option {name!r}: leave it out{did_you_mean(name, ('codec',))}"
        )
    if codec not in {None, "json"}:
        raise InvalidOption(f"memory://?codec={codec} is unknown: give codec=json, or leave it out")
    return None if codec is None else JsonCodec()


def _checked_transport(plugin: Plugin, made: object) -> Transport[Any]:
    can_do = getattr(made, "capabilities", None)
    lacking = [part for part in _PARTS_OF_A_TRANSPORT if not hasattr(made, part)]
    if lacking or isinstance(made, type) or not isinstance(can_do, Capabilities):
        raise UnknownTransport(
            f"{plugin} gave {_shape(made)}, which is no transport: give an object with "
            f"{', '.join(_PARTS_OF_A_TRANSPORT)}, and capabilities=Capabilities(...)"
        )
    return cast("Transport[Any]", made)


# --- by name --------------------------------------------------------------------------------------


def middleware(name: str, /, **options: object) -> Middleware | Policy:
    """Make the middleware that an installed plugin has under this name.

    Example:
        >>> bus = EventBus(middleware=[plugins.middleware("opentelemetry")])

    Raises:
        InvalidOption: No installed distribution has it, the one that does is for another major
            version of eventbus, cannot be imported or gives no middleware, or it refuses the
            options.
    """
    plugin = _find_by_name(MIDDLEWARE, "middleware", name)
    made = _settled(plugin.make(**options))
    try:
        return check_middleware([made])[0]
    except InvalidOption as flaw:
        raise InvalidOption(f"{plugin} gave {_shape(made)}, no middleware: {flaw}") from None


def publish_middleware(name: str, /, **options: object) -> PublishMiddleware:
    """Make the publish middleware that an installed plugin has under this name.

    Raises:
        InvalidOption: As `middleware`.
    """
    plugin = _find_by_name(PUBLISH_MIDDLEWARE, "publish middleware", name)
    made = _settled(plugin.make(**options))
    try:
        return check_publish_middleware([made])[0]
    except InvalidOption as flaw:
        raise InvalidOption(f"{plugin} gave {_shape(made)}, no middleware: {flaw}") from None


def _find_by_name(group: str, noun: str, name: str) -> Plugin:
    plugin = find(group, name, InvalidOption)
    if plugin is None:
        raise InvalidOption(
            f"no installed plugin has a {noun} {name!r}: install the one that does, as "
            f"`pip install eventbus-{name}`{did_you_mean(str(name), names(group))}"
        )
    return plugin


def _settled(made: object) -> object:
    if iscoroutine(made):  # an async function is no factory; nobody awaits what it gave
        made.close()
    return made


def _shape(made: object) -> str:
    return f"the class {made.__name__}" if isinstance(made, type) else type(made).__name__
