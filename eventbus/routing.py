"""Where the bus's messages go: the route of each topic, worked out once.

The route of a topic knows the contract that governs it, and is kept while nobody subscribes,
unsubscribes or states another contract. Starting and stopping empty the cache too, so that asking
whether the bus is running costs a publish nothing.
"""

__all__ = ("Routing",)

from typing import Any, Protocol, cast

from anyio.lowlevel import checkpoint

from eventbus.cache import BoundedCache
from eventbus.contracts import Contracts, RequestTopic, Topic
from eventbus.correlation import is_correlated
from eventbus.errors import BusClosed, InvalidTopic
from eventbus.message import Head, Traits
from eventbus.probe import Probe
from eventbus.topics import check_topic, is_reserved
from eventbus.transports.exchange import Exchange
from eventbus.transports.probed import ProbedRoute
from eventbus.transports.route import Route

ROUTES_KEPT = 8192
QUEUES_KEPT = 1_000_000  # in all routes together: 100,000 subscriptions to `>` are one route each


class Routes(Protocol):
    """Where a route is looked up by its topic."""

    def __getitem__(self, topic: Topic[Any] | str, /) -> Route:
        """Give the route.

        Raises:
            KeyError: There is none.
        """
        ...


class _QuickOutsideHandlers:
    """The routes, but none where a message may have to be noted as what this one came from."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    def __getitem__(self, topic: Topic[Any] | str, /) -> Route:
        if is_correlated():
            raise KeyError(topic)
        return self._routes[topic]


class Routing:
    """What `EventBus` finds routes with."""

    def __init__(self, exchange: Exchange, contracts: Contracts) -> None:
        self.contracts = contracts
        self.probes: tuple[Probe, ...] = ()
        self._exchange = exchange
        self._routes: BoundedCache[Topic[Any] | str, Route] = BoundedCache(ROUTES_KEPT)
        self._queues_kept = 0
        # Where `publish` finds what needs nothing but its route.
        self._quick_routes: Routes = self._routes.young
        self._is_correlating = False

    def correlate(self) -> None:
        """Let what handlers with `Correlate` publish here belong to their message."""
        if not self._is_correlating:
            self._is_correlating = True
            self._quick_routes = _QuickOutsideHandlers(self._quick_routes)

    def forget_routes(self) -> None:
        """Work all routes out anew: who listens, a contract or the bus's state has changed."""
        self._routes.clear()
        self._queues_kept = 0

    async def _way_of(self, topic: Topic[Any] | str) -> Route:
        return self._recent_route(topic) or await self._find_route(topic)

    def _recent_route(self, topic: Topic[Any] | str) -> Route | None:
        """Give the route of a topic that is kept; that the bus runs need not be asked then."""
        try:
            return self._routes.young.get(topic)
        except TypeError:  # not hashable, and so no topic
            return None

    async def _find_route(self, topic: Topic[Any] | str) -> Route:
        try:
            return self._route(topic)
        except BusClosed:
            if self.is_stopping:
                await checkpoint()  # in a handler: raises the cancellation, which is the cause
            raise

    def _route(self, topic: Topic[Any] | str) -> Route:
        self.require_open()
        return self._look_up(topic)

    def _look_up(self, topic: Topic[Any] | str) -> Route:
        name = self._name_of(topic)
        route = self._routes.get(topic)
        if route is None:
            route = self._exchange.route(name, self.contracts.schema_for(name))
            route.note_version(self.contracts.version_of(name))
            if self.probes:
                route = ProbedRoute(route, self.probes)
            if self.keeps_routes:
                self._keep(topic, route)
        return route

    def _keep(self, topic: Topic[Any] | str, route: Route) -> None:
        self._queues_kept += route.matched
        if self._queues_kept > QUEUES_KEPT:
            self.forget_routes()
            self._queues_kept = route.matched
        self._routes.put(topic, route)

    def _head_of(self, name: str, traits: Traits | None) -> Head:
        """Say of a message that is not on its way yet what is known beside its payload."""
        return name, None, traits, self.contracts.version_of(name)

    def _name_of(self, topic: object) -> str:
        """Learn a `Topic`, check a string; give the name."""
        if isinstance(topic, Topic):
            stated = cast("Topic[object]", topic)
            if self.contracts.learn(stated):
                self.forget_routes_soon()
            return stated.name
        if isinstance(topic, RequestTopic):
            raise InvalidTopic(f"{topic!r} is asked, not told: use bus.request(), or its name")
        if not isinstance(topic, str):
            raise InvalidTopic(f"{topic!r} is no topic: publish to a str or a Topic")
        name = check_topic(str.__str__(topic))
        if is_reserved(name):
            raise InvalidTopic(f"{name!r} is the bus's own: publish to a topic without the '$'")
        return name

    # --- what it asks of the bus ------------------------------------------------------------

    def forget_routes_soon(self) -> None:
        """Work all routes out anew, also if this is not the thread that works them out."""
        raise NotImplementedError

    def require_open(self) -> None:
        """Raise unless the bus takes messages from this caller now."""
        raise NotImplementedError

    def require_here(self) -> None:
        """Raise in another thread, and in another process, than that of a running bus."""
        raise NotImplementedError

    @property
    def is_stopping(self) -> bool:
        """Whether the bus is being stopped at once."""
        raise NotImplementedError

    @property
    def keeps_routes(self) -> bool:
        """Whether a route that was found stays good for other callers."""
        raise NotImplementedError
