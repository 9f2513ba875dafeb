"""The bounded queue between publishers and the workers of one subscription.

Short way
    A publisher that finds `len(queue.items) < queue.limit` appends to `queue.items` and is done.
    `limit` is 0 whenever anything else is needed: somebody to wake, somebody already waiting, a
    policy that looks at each entry. Then `offer` decides.

Back pressure
    `size` counts what is queued and what is held (waiting retries, entries set aside behind their
    key), not what is running. When nothing fits, the overflow policy speaks: `block` makes the
    publisher wait, first come first served and overtaken by nobody; `fail` refuses; `drop_newest`
    and `drop_oldest` lose one and count it; `latest` replaces the waiting entry of the same key.

Waking
    A parked worker is woken for an entry, never handed one: what is not taken stays queued, so a
    worker cancelled after its wake-up loses nothing.

Threads
    It belongs to the thread that made it. On the short way nobody looks; who has to wake or to wait
    for somebody is refused in another one, where that would not work.

Closing
    A closed queue takes nothing more; what is in it can still be taken.
"""

__all__ = ("DROPPING", "DeliveryQueue", "Overflow")

from collections import deque
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Generic, Literal, TypeAlias, TypeVar, cast

from anyio import Event

from eventbus._loop import WakeUp
from eventbus.activity import Activity
from eventbus.deadlocks import Server, break_deadlock
from eventbus.errors import BusClosed
from eventbus.waiters import RoomWaiter, Waiter, wait_for_places

T = TypeVar("T")

Overflow: TypeAlias = Literal["block", "fail", "drop_newest", "drop_oldest", "latest"]

DROPPING = frozenset({"drop_newest", "drop_oldest"})
"""The policies under which nobody ever waits or is refused."""

_STOPPED = "the bus stopped while this publish waited for room in a full queue"


class DeliveryQueue(Generic[T]):
    """A bounded FIFO of entries for one subscription; see the module for how it behaves.

    `workers` is how many takers may be started, one at a time, by `start_worker`, when an entry
    comes and none is idle; `blockers` names those of them of whom one has to go on before a place
    comes free; `refuse_thread` raises what another thread is told. `items`, `limit` and `waiters`
    are public for the hot path alone.
    """

    __slots__ = (
        "_activity",
        "_blockers",
        "_idle",
        "_key_of",
        "_latest",
        "_new_wake_up",
        "_now_idle",
        "_on_dropped",
        "_refuse_thread",
        "_spare",
        "_start_worker",
        "_started",
        "_thread",
        "dropped",
        "held",
        "is_closed",
        "is_stopped",
        "items",
        "limit",
        "overflow",
        "size",
        "waiters",
    )

    def __init__(
        self,
        size: int,
        overflow: Overflow = "block",
        *,
        workers: int = 0,
        start_worker: Callable[[], None] = lambda: None,
        key_of: Callable[[T], str | None] = lambda _: None,
        activity: Activity | None = None,
        new_wake_up: Callable[[], WakeUp] = Event,
        on_dropped: Callable[[T], None] = lambda _: None,
        blockers: Callable[[], Sequence[Server]] = lambda: (),
        refuse_thread: Callable[[], None] = lambda: None,
    ) -> None:
        self._thread = get_ident()
        self._refuse_thread = refuse_thread
        self.items: deque[T] = deque()
        self.waiters: deque[Waiter[T]] | tuple[()] = ()  # a deque is 0.7 kB: made when needed
        self.size = size
        self.overflow: Overflow = overflow
        self.held = 0
        self.dropped = 0
        self.is_closed = False
        self.is_stopped = False
        self._new_wake_up = new_wake_up
        self._on_dropped = on_dropped
        self._blockers = blockers
        self._idle: list[WakeUp] = []
        self._spare = workers
        self._started = 0
        self._start_worker = start_worker
        self._key_of = key_of
        self._latest: dict[str | None, T] | None = {} if overflow == "latest" else None
        self._activity = activity
        self._now_idle: Event | None = None
        self.limit = 0
        if activity is not None:
            activity.add(self)
        self._update()

    # --- publishers -----------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """Places taken: what is queued, waiting for a retry, or set aside behind its key."""
        return len(self.items) + self.held

    def has_room_for(self, entries: Sequence[T]) -> bool:
        """Tell whether these would all be taken without waiting, refusing or dropping."""
        if self.waiters:
            return False
        if self._latest is None:
            return self.depth + len(entries) <= self.size
        fresh = {self._key_of(entry) for entry in entries} - self._latest.keys()
        return self.depth + len(fresh) <= self.size

    def offer(self, entry: T) -> Waiter[T] | None:
        """Take an entry the short way could not; where that needs waiting, give what to wait for.

        A `fail` queue must have been asked for room first: here it drops, as nobody could be told.

        Raises:
            EventBusError: This is another thread than the bus's.
        """
        if get_ident() != self._thread:
            self._refuse_thread()
        if self.waiters or self.is_closed or self._latest is not None:
            return self._offer_behind(entry)
        if len(self.items) + self.held >= self.size:
            return self._overflow(entry)
        self.items.append(entry)
        self._wake()
        return None

    def offer_all(self, entries: Sequence[T]) -> list[Waiter[T]]:
        """Take entries in their order, together where there is room for them together."""
        waiters: list[Waiter[T]] = []
        for index, entry in enumerate(entries):
            if len(self.items) + len(entries) - index <= self.limit:
                self.items.extend(entries[index:])
                break
            if (waiter := self.offer(entry)) is not None:
                waiters.append(waiter)
        return waiters

    def enter_all(self, entries: Sequence[T]) -> list[Waiter[T]]:
        """Take entries that nobody can be told were refused: where `fail` would, they line up."""
        if self.overflow == "fail" and not self.is_closed and not self.has_room_for(entries):
            return [self.line_up(entry) for entry in entries]
        return self.offer_all(entries)

    def line_up(self, entry: T) -> Waiter[T]:
        """Take an entry as soon as there is room, whatever the policy; give what to wait for."""
        waiter = self._line_up(Waiter(self, entry))
        self.refill()
        return waiter

    async def wait_for_room(self) -> None:
        """Wait until at least half of the places are free; no checkpoint if they are.

        Raises:
            BusClosed: The bus stopped first.
        """
        if self.depth > self.size // 2 or self.waiters:
            nothing = cast("T", None)
            await wait_for_places([self._line_up(RoomWaiter(self, nothing))])

    def blockers(self) -> Sequence[Server]:
        """Name those of its takers of whom one has to go on before a place comes free.

        None where a place may come free otherwise.
        """
        return self._blockers()

    def leave_line(self, waiter: Waiter[T]) -> None:
        """Take a waiting publisher out of the line; idempotent."""
        if not isinstance(self.waiters, tuple) and waiter in self.waiters:
            self.waiters.remove(waiter)
            # Race: it may have been the last to wait while the worker is parked. Were the limit
            # raised here without a look at that, later publishers would append and wake nobody.
            self.refill()

    def _offer_behind(self, entry: T) -> Waiter[T] | None:
        """Take an entry where others may be before it: who waits, or an older one of its key."""
        if self.is_closed:
            return None
        if self.waiters or not (self.depth < self.size or self._replaces(entry)):
            return self._overflow(entry)
        self._append(entry)
        return None

    def _overflow(self, entry: T) -> Waiter[T] | None:
        if self.overflow in {"block", "latest"}:
            waiter = self._line_up(Waiter(self, entry))
            self._update()
            return waiter
        self.dropped += 1
        if self.overflow == "drop_oldest" and self.items:
            self._on_dropped(self.items.popleft())
            self._append(entry)
        return None

    def _line_up(self, waiter: Waiter[T]) -> Waiter[T]:
        if isinstance(self.waiters, tuple):
            self.waiters = deque()
        self.waiters.append(waiter)
        return waiter

    def _append(self, entry: T) -> None:
        if self._latest is not None:
            key = self._key_of(entry)
            older = self._latest.get(key)
            self._latest[key] = entry
            if older is not None:
                self.dropped += 1
                self._on_dropped(older)
                return
        self.items.append(entry)
        self._wake()

    def _replaces(self, entry: T) -> bool:
        return self._latest is not None and self._key_of(entry) in self._latest

    # --- takers ---------------------------------------------------------------------------------

    def take_nowait(self) -> T:
        """Take the oldest entry and let a waiting publisher move up.

        Raises:
            IndexError: There is none.
        """
        entry = self.items.popleft()
        if self._latest is not None:
            entry = self._latest.pop(self._key_of(entry), entry)
        if self.waiters:
            self.refill()
        return entry

    @property
    def quick_take(self) -> Callable[[], T]:
        """What a hot path calls to take the oldest entry; then it refills if anybody waits."""
        return self.items.popleft if self._latest is None else self.take_nowait

    @property
    def parked(self) -> int:
        """How many takers wait for an entry."""
        return len(self._idle)

    @property
    def is_finished(self) -> bool:
        """Whether nothing will ever be taken any more."""
        return self.is_closed and not self.depth

    async def wait(self) -> None:
        """Park until there may be an entry, or the queue closes; wakes without a cause happen."""
        if self.is_finished:
            return
        wake_up = self._new_wake_up()
        self._idle.append(wake_up)
        self._update()
        if self.waiters or self.held:  # perhaps all that is queued is set aside
            self._break_deadlocks()
        try:
            await wake_up.wait()
        except BaseException:
            self._unpark(wake_up)
            raise

    def refill(self) -> None:
        """Let waiting publishers move up, in the order they came, as far as there is room."""
        while self.waiters:
            waiter = self.waiters[0]
            # Race: a publisher that is being cancelled, or is refused, has not run yet; its entry
            # must not go out.
            if waiter.is_gone():
                self.waiters.popleft()
            elif waiter.is_for_room:
                if self.depth > self.size // 2:
                    break
                self.waiters.popleft()
                waiter.dismiss()
            elif self.depth < self.size or self._replaces(waiter.entry):
                self.waiters.popleft()
                self._append(waiter.entry)
                waiter.admit()
            else:
                break
        self._update()

    def _unpark(self, wake_up: WakeUp) -> None:
        if wake_up in self._idle:
            self._idle.remove(wake_up)
        elif self.items:
            self._wake()  # the wake-up it was given goes on to the next
        self._update()

    def _wake(self) -> None:
        if self._idle:
            self._idle.pop(0).set()
        elif self._spare:
            self._spare -= 1
            self._started += 1
            self._start_worker()
        self._update()

    # --- places kept ----------------------------------------------------------------------------

    def hold(self) -> None:
        """Keep a place for an entry that is neither queued nor running."""
        self.held += 1
        self._update()

    def restore(self, entry: T) -> bool:
        """Put an entry back at the front, into the place that was kept for it.

        False where a newer one of its key is waiting already: then it is dropped.
        """
        self.held -= 1
        is_newest = not self._replaces(entry)
        if is_newest:
            if self._latest is not None:
                self._latest[self._key_of(entry)] = entry
            self.items.appendleft(entry)
            self._wake()
        else:
            self.dropped += 1
        self.refill()  # in a `latest` queue a newer one of its key may wait to replace it
        self._break_deadlocks()
        return is_newest

    def release(self) -> None:
        """Give up a kept place."""
        self.held -= 1
        self.refill()
        self._break_deadlocks()
        if self.is_closed:
            self.wake_all()

    def forget_held(self) -> int:
        """Give up all kept places; give how many."""
        held, self.held = self.held, 0
        self.wake_all()
        return held

    # --- life -----------------------------------------------------------------------------------

    def add_worker(self) -> None:
        """Allow one more taker to be started; at once, where something is queued."""
        self._spare += 1
        self._update()
        if self.items:
            self._wake()

    def remove_unstarted(self, workers: int) -> None:
        """Allow so many fewer takers to be started."""
        self._spare -= workers
        self._update()

    def worker_ended(self) -> None:
        """Count a taker that has gone for good; the others look around whether they may go too."""
        self._started -= 1
        if self.items and not self._idle:
            self._wake()  # Race: it was woken for an entry, and had to go before it took it.
        self.wake_all()
        self._break_deadlocks()

    @property
    def is_busy(self) -> bool:
        """Whether there is work that is going to be done: queued, held, waiting or running."""
        is_working = self.items or self.held or self.waiters or len(self._idle) < self._started
        return bool(is_working) and not self.is_stopped

    async def wait_idle(self) -> None:
        """Wait until nothing is queued and no taker is at work."""
        if self.is_busy:
            self._now_idle = self._now_idle or Event()
            await self._now_idle.wait()

    def wake_all(self) -> None:
        """Wake every parked taker, so that it looks around."""
        while self._idle:
            self._idle.pop(0).set()
        self._update()

    def close(self) -> None:
        """Take nothing more; takers end when it is empty, waiting publishers go on; idempotent."""
        self.is_closed = True
        while self.waiters:
            self.waiters.popleft().dismiss()
        self.wake_all()

    def give_back(self) -> None:
        """Close and forget what is in it: somebody else will handle that."""
        self.refuse_waiting()
        self.items.clear()
        self.held = 0
        self.close()

    def stop(self) -> int:
        """Close and forget what is in it; give the number of entries that will not be handled."""
        self.is_stopped = True
        self.refuse_waiting()
        abandoned = self.depth
        self.items.clear()
        self.held = 0
        self.close()
        if self._activity is not None:
            self._activity.remove(self)
        return abandoned

    def refuse_waiting(self) -> None:
        """Tell all publishers that wait that their entries were not taken."""
        while self.waiters:
            self.waiters.popleft().refuse(BusClosed(_STOPPED))
        self._update()

    def _break_deadlocks(self) -> None:
        """Look whether waiting handlers have lost the last who could have let them go on."""
        if self.waiters or self.depth:
            for server in self._blockers():
                break_deadlock(server)

    def _update(self) -> None:
        """Set `limit`, and tell who waits for an end: the one place, called at every change."""
        has_shortcut = not (
            self._idle or self._spare or self.waiters or self.is_closed or self._latest is not None
        )
        self.limit = self.size - self.held if has_shortcut else 0
        if self._now_idle is not None and not self.is_busy:
            self._now_idle.set()
            self._now_idle = None
