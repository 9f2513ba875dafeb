"""Where threads put what the loop is to take: bounded, in order, and cheap.

A thread appends under a lock and has the loop woken, if that has found the inbox empty since it was
last woken: so however many items come, there is one wake-up. That it is empty and will need to be
woken, the loop finds and notes under the same lock, or an item could come in between and lie there
unseen.

Having taken something, the loop looks again by itself half a millisecond later, before it has to be
woken: a thread that publishes much would else wake it for each item, and be interrupted by that.

Where the inbox is full, threads wait until the loop has taken what is in it.
"""

__all__ = ("INBOX_SIZE", "Inbox")

from collections.abc import Callable, Sequence
from threading import Condition, Lock, get_ident
from typing import Generic, TypeVar

from anyio import sleep
from anyio.lowlevel import checkpoint

from eventbus._loop import CallSoon, WakeUp
from eventbus.activity import Activity
from eventbus.errors import BusClosed, DeadlockError

T = TypeVar("T")

INBOX_SIZE = 4096
NAP_SECONDS = 0.0005  # in which a thread fills a quarter of that


class Inbox(Generic[T]):
    """Takes items from threads; made in the loop's own, to which all but `put` belongs.

    What is in it, or has been taken and is not yet `done`, counts as activity.
    """

    def __init__(
        self,
        size: int,
        activity: Activity,
        call_soon: CallSoon,
        new_wake_up: Callable[[], WakeUp],
        refuse_copies: Callable[[], None] = lambda: None,
    ) -> None:
        self.is_closed = False
        self._size = size
        self._thread = get_ident()
        self._activity = activity
        self._call_soon = call_soon
        self._new_wake_up = new_wake_up
        self._refuse_copies = refuse_copies
        self._items: list[T] = []
        self._in_hand = 0
        self._lock = Lock()
        self._room = Condition(self._lock)
        self._waiting = 0
        self._is_awake = False
        self._limit = 0
        self._is_busy = False
        self._parked: WakeUp | None = None

    @property
    def has_items(self) -> bool:
        """Whether there is something to take."""
        return bool(self._items)

    @property
    def waiting(self) -> int:
        """How many threads wait for room."""
        return self._waiting

    @property
    def is_parked(self) -> bool:
        """Whether the loop waits to be woken."""
        return self._parked is not None

    def put(self, item: T) -> None:
        """Put an item in; where it is full, the thread waits.

        Raises:
            BusClosed: It takes nothing more.
            DeadlockError: This is the loop's own thread, which nobody else could wake.
        """
        if get_ident() == self._thread:
            raise DeadlockError(
                "publish_from_thread in the thread of the bus's event loop would block it: use "
                "`await publish`, or publish_nowait"
            )
        with self._lock:
            # One comparison covers all that is to be done but this: see `_set_limit`.
            if len(self._items) < self._limit:
                self._items.append(item)
                return
            must_wake = self._put_patiently(item)
        if must_wake:
            self._wake_loop()

    async def take(self) -> Sequence[T]:
        """Wait for items and take all of them; none once it is closed."""
        if self._is_awake:
            await (checkpoint() if self._waiting else sleep(NAP_SECONDS))
        while not self.is_closed:
            batch = self._take_nowait()
            if batch:
                return batch
            self._parked = self._new_wake_up()
            await self._parked.wait()
        return ()

    def done(self, items: int) -> None:
        """Note that so many of those taken have gone where they should."""
        self._in_hand -= items

    def look(self) -> None:
        """Notice what has been put in: woken by a thread, or because somebody wants to know."""
        if self._items and not self.is_closed:
            self._set_busy(is_busy=True)
            self._unpark()

    def close_if_empty(self) -> bool:
        """Take nothing more, unless there is something in it; tell which."""
        with self._lock:  # Race: a thread may have passed the door before the bus began to drain.
            if self._items or self._in_hand:
                return False
            self._refuse()
        self._unpark()
        return True

    def close(self) -> None:
        """Take nothing more, and refuse the threads that wait; idempotent."""
        with self._lock:
            self._refuse()
        self._unpark()

    def stop(self) -> int:
        """Close, and forget what is in it; give how much that was."""
        self.close()
        abandoned = len(self._items) + self._in_hand
        self._items, self._in_hand = [], 0
        self._set_busy(is_busy=False)
        return abandoned

    def _refuse(self) -> None:
        self.is_closed = True
        self._set_limit(is_awake=self._is_awake)
        self._room.notify_all()

    def _put_patiently(self, item: T) -> bool:
        """Wait for room, and tell whether the loop has to be woken: which may have changed then."""
        self._refuse_copies()  # in a forked child nobody takes anything
        while len(self._items) >= self._size and not self.is_closed:
            self._wait()
        if self.is_closed:
            raise _closed()
        self._items.append(item)
        was_awake = self._is_awake
        self._set_limit(is_awake=True)
        return not was_awake

    def _set_limit(self, *, is_awake: bool) -> None:
        self._is_awake = is_awake
        self._limit = self._size if is_awake and not self.is_closed else 0

    def _take_nowait(self) -> Sequence[T]:
        with self._lock:
            batch, self._items = self._items, []
            self._set_limit(is_awake=bool(batch))
            if self._waiting:
                self._room.notify_all()
        self._in_hand = len(batch)
        self._set_busy(is_busy=bool(batch))
        return batch

    def _wait(self) -> None:
        self._waiting += 1
        try:
            self._room.wait()
        finally:
            self._waiting -= 1

    def _wake_loop(self) -> None:
        try:
            self._call_soon(self.look)
        except RuntimeError:  # the loop has ended without the bus
            raise _closed() from None

    def _unpark(self) -> None:
        parked, self._parked = self._parked, None
        if parked is not None:
            parked.set()

    def _set_busy(self, *, is_busy: bool) -> None:
        if is_busy != self._is_busy:
            self._is_busy = is_busy
            (self._activity.begin if is_busy else self._activity.end)()


def _closed() -> BusClosed:
    return BusClosed("the bus takes nothing new: publish before it drains or closes")
