"""What may look into a running bus: the seam for testing, and for tools that watch.

A bus nobody watches pays nothing for it: a probe is asked by routes, chains and failures that are
made for it when it is attached.
"""

__all__ = ("Probe",)

from collections.abc import Callable
from typing import Any, Protocol

from eventbus.context import Context, FailedDelivery
from eventbus.message import Message
from eventbus.middleware.chain import CallNext


class Probe(Protocol):
    """Is told what a bus does, once it is attached with `bus.attach(probe)`.

    `on_published` and `on_given_up` must neither raise nor take long: the bus waits for them.
    """

    def on_published(self, message: Message) -> None:
        """Hear of a message that goes into the queues now, whoever published it."""
        ...

    async def on_call(
        self, handler: Callable[..., object], context: Context[Any], call_next: CallNext
    ) -> object:
        """Run around one call of a handler, inside all its middleware."""
        ...

    def on_given_up(self, failure: FailedDelivery, error: BaseException) -> None:
        """Hear of a delivery that a subscription has given up on, dead letter or not."""
        ...
