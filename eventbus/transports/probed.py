"""The route of messages that somebody watches."""

__all__ = ("ProbedRoute",)

from collections.abc import Sequence

from eventbus.message import Entry, Message
from eventbus.probe import Probe
from eventbus.queue import DeliveryQueue
from eventbus.transports.route import Route
from eventbus.waiters import Waiter


class ProbedRoute(Route):
    """A route that tells probes of each message before it is handled, and leaves the rest alone."""

    __slots__ = ("_probes", "_route")

    def __init__(self, route: Route, probes: Sequence[Probe]) -> None:
        self.topic = route.topic
        self.contract = route.contract
        self.matched = route.matched
        self.answering = route.answering
        self.responders = route.responders
        self.is_expiring = route.is_expiring
        self.head = route.head
        self.is_refusing = route.is_refusing
        self.ways = {}  # and stays so: each message has to come through here
        self._route = route
        self._probes = probes

    def feed(self, message: Message) -> list[Waiter[Entry]]:
        """Put a message into the queues as the route does, and tell of it once they have it."""
        waiters = self._route.feed(message)
        self._tell(message)
        return waiters

    def feed_late(self, messages: Sequence[Message]) -> list[Waiter[Entry]]:
        """Put messages into the queues as the route does, when they are due, and tell of them."""
        waiters = self._route.feed_late(messages)
        for message in messages:
            self._tell(message)
        return waiters

    @property
    def refusing(self) -> Sequence[DeliveryQueue[Entry]]:
        """The queues that refuse what they have no room for."""
        return self._route.refusing

    def expect_expiry(self) -> None:
        """Hand on that a message may expire."""
        self.is_expiring = True
        self._route.expect_expiry()

    def feed_all(
        self, messages: Sequence[Message], *, may_wait: bool = True
    ) -> list[Waiter[Entry]]:
        """Put messages into the queues as the route does, and tell of them once they have them."""
        waiters = self._route.feed_all(messages, may_wait=may_wait)
        for message in messages:
            self._tell(message)
        return waiters

    def _tell(self, message: Message) -> None:
        for probe in self._probes:
            probe.on_published(message)
