"""Work that one thread does with one connection, for tasks of the event loop.

Cancelled work that has not begun is not done. Work that has begun is finished; then the
cancellation goes on.
"""

__all__ = ("Begin", "Desk", "Job", "begin_at_once")

import os
from collections import deque
from collections.abc import Callable, Sequence
from threading import Condition, Event, Lock, Thread
from typing import Generic, Protocol, TypeAlias, TypeVar, cast

from anyio import CancelScope

from eventbus._loop import Bell, WakeUp, wake_up_type
from eventbus.errors import BusClosed, StoreError

R = TypeVar("R")

MOST_AT_ONCE = 512

Begin: TypeAlias = Callable[[], None]
"""To be called before the work on jobs begins: until then some may be withdrawn."""


def begin_at_once() -> None:
    """Begin: there is nobody who could withdraw something."""


class Job(Generic[R]):
    """One piece of work and what came of it."""

    __slots__ = ("_wake_up", "error", "is_done", "is_withdrawn", "latch", "result", "then")

    def __init__(self, then: Callable[[], None] | None = None) -> None:
        self.result: R | None = None
        self.error: BaseException | None = None
        self.is_done = False
        self.is_withdrawn = False
        self.then = then  # called in the loop when it is done
        self.latch: Event | None = None  # set in the thread, for who stands still until then
        self._wake_up: WakeUp | None = None

    def outcome(self) -> R:
        """Give the result, or raise the error."""
        if self.error is not None:
            raise self.error
        return cast("R", self.result)

    def finish(self) -> None:
        """Let who waits go on; called in the loop."""
        self.is_done = True
        if self._wake_up is not None:
            self._wake_up.set()
        if self.then is not None:
            self.then()

    async def wait(self, new_wake_up: Callable[[], WakeUp]) -> None:
        """Wait until it is done; no checkpoint if it is."""
        if not self.is_done:
            self._wake_up = new_wake_up()
            await self._wake_up.wait()


class Clerk(Protocol):
    """Does the work of a desk, in its thread."""

    def serve(self, jobs: Sequence[Job[object]], begin: Begin = begin_at_once) -> None:
        """Do these jobs and note what came of each; nothing may be raised.

        What there is to wait for, it waits for before it calls `begin`, and does not do then what
        was withdrawn meanwhile.
        """
        ...

    def follow_up(self) -> None:
        """Do what nobody has to wait for, once all have been told; nothing may be raised."""
        ...

    def idle(self) -> float | None:
        """Do what is due when nothing is; tell after how many seconds to be called again."""
        ...

    def close(self) -> None:
        """Give up the connection."""
        ...


class Desk:
    """A thread, what it has to do, and the way back into the loop."""

    def __init__(self, name: str, clerk: Clerk) -> None:
        self._clerk = clerk
        self._jobs: deque[Job[object]] = deque()
        self._taken: Sequence[Job[object]] = ()  # by the thread, which has not begun them
        self._done: deque[Job[object]] = deque()
        self._lock = Lock()
        self._arrival = Condition(self._lock)
        self._is_idle = False
        self._is_closing = False
        self._end: Job[None] = Job()
        self._process = os.getpid()
        self._bell = Bell(self._finish)
        self._new_wake_up = wake_up_type()
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._begin()

    def _begin(self) -> None:
        self._thread.start()

    def submit(self, job: "Job[R]") -> "Job[R]":
        """Hand in a job, to be done after all that were handed in before.

        Raises:
            BusClosed: The desk is closed.
            StoreError: This is a forked process, which has no such thread.
        """
        if os.getpid() != self._process:
            raise StoreError("this process was forked from that of the bus: make a bus of its own")
        # Not by the condition's own methods, and no word to one who looks anyway: 2 us of 20.
        with self._lock:
            if self._is_closing:
                raise BusClosed("the store of this bus is closed: publish before the bus ends")
            self._jobs.append(cast("Job[object]", job))
            if self._is_idle:
                self._is_idle = False
                self._arrival.notify()
        return job

    async def ask(self, job: "Job[R]") -> R:
        """Hand in a job and wait for what comes of it.

        Cancelled before it has begun, it is not done; after that it is, before this raises.
        """
        self.submit(job)
        return await self.wait(job)

    async def wait(self, job: "Job[R]") -> R:
        """Wait for a job that was handed in, as `ask`."""
        try:
            await job.wait(self._new_wake_up)
        except BaseException:
            if not self._withdraw(job):
                with CancelScope(shield=True):
                    await job.wait(self._new_wake_up)
            raise
        return job.outcome()

    def ask_standing_still(self, job: "Job[R]", seconds: float) -> R:
        """Hand in a job and stop this thread, even the loop's, until it is done.

        Raises:
            StoreError: That takes longer; what has not begun by then is not done.
        """
        job.latch = Event()
        self.submit(job)
        if not job.latch.wait(seconds):
            begun = "" if self._withdraw(job) else ", but may still do it"
            raise StoreError(f"the store did not answer within {seconds:g} s{begun}: ask again")
        return job.outcome()

    def end(self) -> None:
        """Let the thread do what was handed in, and end, without waiting for it; idempotent."""
        with self._arrival:
            self._is_closing = True
            self._arrival.notify()

    async def close(self) -> None:
        """Let the thread do what was handed in, and wait until it has ended; idempotent."""
        self.end()
        await self._end.wait(self._new_wake_up)
        self._thread.join()

    def _withdraw(self, job: "Job[R]") -> bool:
        with self._lock:
            if job in self._jobs:
                self._jobs.remove(cast("Job[object]", job))
                return True
            job.is_withdrawn = job in self._taken
            return job.is_withdrawn

    def _finish(self) -> None:
        while self._done:
            self._done.popleft().finish()

    # --- in the thread ------------------------------------------------------------------------

    def _work(self) -> None:
        while jobs := self._take():
            self._clerk.serve(jobs, self._begin_taken)
            self._begin_taken()  # if that has failed before, it is told so
            for job in jobs:
                if job.latch is not None:
                    job.latch.set()
            self._done.extend(job for job in jobs if not job.is_withdrawn)
            self._bell.ring()
            self._clerk.follow_up()
        self._clerk.close()
        self._done.append(cast("Job[object]", self._end))
        self._bell.ring()

    def _take(self) -> list[Job[object]]:
        """Take all there is to do, waiting for some; none once the desk is closed."""
        while True:
            seconds = 0.0 if self._jobs else self._clerk.idle()
            with self._arrival:
                if not self._jobs and not self._is_closing:
                    self._is_idle = True
                    self._arrival.wait(seconds)
                    self._is_idle = False
                if self._jobs:
                    most = min(len(self._jobs), MOST_AT_ONCE)
                    self._taken = [self._jobs.popleft() for _ in range(most)]
                    return self._taken
                if self._is_closing:
                    return []

    def _begin_taken(self) -> None:
        with self._lock:
            self._taken = ()
