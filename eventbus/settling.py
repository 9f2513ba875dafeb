"""How a delivery ends, where its handler says so itself.

A verdict is given through the context and takes effect when the handler, and all middleware around
it, have returned: an exception after it fails the attempt as if none had been given. What is no
`ACKED` fails the attempt too, so it is an exception, which only the worker sees.
"""

__all__ = (
    "ACKED",
    "REPLAYED",
    "Ack",
    "Acked",
    "Asked",
    "Failing",
    "Overtaken",
    "Postponed",
    "Rejected",
    "RetryAsked",
    "Unsettled",
    "Verdict",
)

from collections.abc import Awaitable, Callable
from typing import Final, Literal, TypeAlias

from eventbus.message import Message
from eventbus.transaction import Transaction

Ack: TypeAlias = Literal["auto", "first", "manual"]
"""When a delivery is settled: after success, before the handler runs, or by what it says."""


class Acked:
    """The verdict that a delivery is done."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ack()"


ACKED: Final = Acked()


class _Replayed(Acked):
    __slots__ = ()

    def __repr__(self) -> str:
        return "being replayed"


REPLAYED: Final = _Replayed()
"""The verdict on what is only read again, before anybody can give another one."""


class Failing(Exception):
    """A verdict that the attempt has failed."""


class RetryAsked(Failing):
    """The handler wants another attempt, so many seconds from now; None leaves it to `Retry`."""

    def __init__(self, delay: float | None) -> None:
        super().__init__(f"the handler asked for another attempt by retry({delay})")
        self.delay = delay

    def __repr__(self) -> str:
        return f"retry({self.delay})"


class Unsettled(RetryAsked):
    """The handler returned without a verdict, where `ack="manual"` wants one."""

    def __init__(self) -> None:
        Exception.__init__(self, "the handler returned without ack(), retry() or reject()")
        self.delay = None

    def __repr__(self) -> str:
        return "no ack(), retry() or reject() before the handler returned"


class Rejected(Failing):
    """The handler gave the delivery up, for this reason."""

    def __repr__(self) -> str:
        return f"reject({str(self)!r})"


Verdict: TypeAlias = Acked | Failing


class Postponed(Exception):
    """No attempt after all: the delivery stays queued, and its worker waits before the next."""

    def __init__(self, wait: Callable[[], Awaitable[object]], *, lagged: int) -> None:
        super().__init__()
        self.wait = wait
        self.lagged = lagged  # what its context knew of drops, for the one that comes next


class Overtaken(Exception):
    """The delivery is another process's by now, and nothing of what belongs to it was done."""


class Asked:
    """What a handler asked for through its context, to be done when it has returned."""

    __slots__ = ("if_done", "messages", "transaction", "verdict")

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.transaction: Transaction | None = None
        self.verdict: Verdict | None = None
        self.if_done: Callable[[], None] | None = None  # called last, unless the attempt has failed
