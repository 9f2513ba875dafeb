"""Deadlocks among handlers that publish and ask: found when the wait that closes one begins.

Who is stuck
    A handler whose publish waits for a place needs somebody to take from that queue. Where all who
    could are handlers that wait so themselves, and none of these can go on either, nobody ever
    will. So it is with a handler that asks, and the responder whose reply it waits for. Anything
    else may still move: a worker that is free, or at work, or about to be; a retry that comes back
    to a free worker; who iterates.

Who is told
    The one whose wait closes the circle, at once: its wait ends with a `DeadlockError`, and then it
    is not stuck, nor is anybody who needed it. So before each wait nobody is stuck, and it is
    enough to look from there. Where somebody stops taking (a worker parks because all that is
    queued waits behind keys, or leaves its group), the queue has a look at those it leaves behind.

What is left alone
    Only the task that runs a handler can be known to be the handler. A task that it started counts
    as anybody outside, and so does a wait under a time limit of the handler's own
    (`anyio.fail_after`), which ends by itself.

It costs nothing until a handler has to wait.
"""

__all__ = (
    "Awaited",
    "Server",
    "begin_wait",
    "break_deadlock",
    "end_wait",
    "is_serving",
    "serve_here",
)

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextvars import ContextVar
from itertools import pairwise
from typing import Protocol, TypeAlias

from anyio import current_effective_deadline, get_current_task

from eventbus.errors import DeadlockError, EventBusError


class Awaited(Protocol):
    """What a handler waits for: a place in a queue, or a reply."""

    @property
    def is_pending(self) -> bool:
        """Whether it has not come yet, and the handler has not given up."""
        ...

    def blockers(self) -> Sequence["Server"]:
        """Name the servers of which one has to go on before it comes; none if it may come anyway.

        Each of them waits itself.
        """
        ...

    def refuse(self, error: EventBusError) -> None:
        """End the wait with an error."""
        ...


class Server(Protocol):
    """What runs the handlers of a subscription, one at a time, in one task."""

    task_id: int
    deadline: float
    """Until when its task may run, by the time limits around the bus."""
    awaits: Sequence[Awaited]
    """What its handler waits for just now: for all of it."""

    @property
    def name(self) -> str:
        """The subscription's name."""
        ...


Needs: TypeAlias = Mapping[Server, Sequence[Sequence[Server]]]
"""For each thing a server waits for, who would have to go on; nobody in particular: empty."""

_server: ContextVar[Server | None] = ContextVar("eventbus_server", default=None)


def serve_here(server: Server) -> None:
    """Note that the current task is this server's from now on."""
    server.task_id = get_current_task().id
    server.deadline = current_effective_deadline()
    _server.set(server)


def is_serving() -> bool:
    """Tell whether a handler runs here, or what it has started."""
    return _server.get() is not None


def begin_wait(awaited: Sequence[Awaited]) -> Server | None:
    """Note that a handler waits for all of these; if it would wait for ever, it is refused them.

    Gives the handler's server, for `end_wait`; None where no handler waits.
    """
    server = _server.get()
    if server is not None and _waits_itself(server):
        server.awaits = awaited
        break_deadlock(server)
        return server
    return None


def end_wait(server: Server | None) -> None:
    """Note that the wait is over, however it ended."""
    if server is not None:
        server.awaits = ()


def break_deadlock(server: Server) -> None:
    """End the wait of a server with a `DeadlockError`, if nothing else could."""
    needs = _survey(server)
    cycle = _way_back(server, needs, _stuck(needs))
    if cycle:
        error = DeadlockError(_story(cycle), cycle=cycle)
        for awaited in server.awaits:
            if awaited.is_pending:
                awaited.refuse(error)


def _waits_itself(server: Server) -> bool:
    """Tell whether this is the server's own task, and no time limit of its handler's ends it."""
    is_own = server.task_id == get_current_task().id
    return is_own and current_effective_deadline() >= server.deadline


def _survey(server: Server) -> Needs:
    """Learn whom a server needs, whom these need, and so on."""
    needs: dict[Server, list[Sequence[Server]]] = {}
    found = [server]
    while found:
        one = found.pop()
        if one not in needs:
            needs[one] = [awaited.blockers() for awaited in one.awaits if awaited.is_pending]
            found.extend(other for need in needs[one] for other in need)
    return needs


def _stuck(needs: Needs) -> Collection[Server]:
    """Find those that could not go on even if all went on that can."""
    stuck = set(needs)
    before = len(stuck) + 1
    while len(stuck) < before:
        before = len(stuck)
        for server in reversed(list(needs)):  # mostly the far end of a chain is what moves
            if not any(_is_lost(need, stuck) for need in needs[server]):
                stuck.discard(server)
    return stuck


def _is_lost(need: Sequence[Server], stuck: Collection[Server]) -> bool:
    return bool(need) and all(server in stuck for server in need)


def _way_back(server: Server, needs: Needs, stuck: Collection[Server]) -> tuple[str, ...]:
    """Name the shortest circle of the stuck through a server; empty if there is none."""
    seen: set[Server] = set()
    paths: deque[tuple[Server, ...]] = deque([(server,)])
    while paths:
        path = paths.popleft()
        lost = [need for need in needs[path[-1]] if _is_lost(need, stuck)]
        for other in (other for need in lost for other in need):
            if other is server:
                return tuple(one.name for one in path)
            if other not in seen:
                seen.add(other)
                paths.append((*path, other))
    return ()


def _story(cycle: Sequence[str]) -> str:
    waits = ", ".join(f"{a!r} waits for {b!r}" for a, b in pairwise((*cycle, cycle[0])))
    return (
        f"{waits}, each for room in a full queue or for a reply, which nobody else could give: "
        "give one of them a larger queue_size, another overflow or more concurrency, or let it "
        "publish less"
    )
