"""What a bus in memory should do, in the fewest words: lists, without a loop, tasks or time."""

__all__ = ("Entry", "ModelBus", "ModelSubscription", "NoRoom", "Outcome", "Spec")

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

RETRY_SECONDS = 1.0
ASKED_SECONDS = 0.5  # where the handler asks for a retry itself
MOST_DELIVERIES = 20

Outcome: TypeAlias = Literal["return", "raise", "ack", "retry", "reject"]


class NoRoom(Exception):
    """A queue refuses, so that none is reached."""


@dataclass(frozen=True)
class Spec:
    """How a subscription behaves."""

    name: str
    topics: str  # a letter each
    overflow: Literal["fail", "drop_newest", "drop_oldest"]
    size: int
    concurrency: int = 1
    attempts: int = 1
    keys: int = 0  # the events' numbers modulo this; 0 for no lanes
    ack: Literal["auto", "manual"] = "auto"


@dataclass(frozen=True)
class Entry:
    """An event on its way to one subscription."""

    n: int
    attempt: int = 1
    holds_lane: bool = False


@dataclass
class ModelSubscription:
    """A subscription: what is queued, runs, waits to be tried again, or behind its key."""

    spec: Spec
    items: deque[Entry] = field(default_factory=deque)
    running: list[Entry] = field(default_factory=list)
    waiting: list[tuple[float, Entry]] = field(default_factory=list)
    lanes: dict[int, deque[Entry]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    is_ending: bool = False

    @property
    def depth(self) -> int:
        """Places taken."""
        behind = sum(map(len, self.lanes.values()))
        return len(self.items) + len(self.waiting) + behind

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to do."""
        return not self.depth and not self.running

    def offer(self, entry: Entry) -> None:
        """Take an entry, or drop one."""
        if self.depth < self.spec.size:
            self.items.append(entry)
            return
        self.counts["dropped"] += 1
        if self.spec.overflow == "drop_oldest" and self.items:
            dropped = self.items.popleft()
            if dropped.holds_lane:
                self._leave_lane(dropped)
            self.items.append(entry)

    def work(self) -> None:
        """Begin what can begin."""
        while self.items and len(self.running) < self.spec.concurrency:
            entry = self.items.popleft()
            if not self.spec.keys or entry.holds_lane:
                self.running.append(entry)
            elif (key := entry.n % self.spec.keys) in self.lanes:
                self.lanes[key].append(entry)
            else:
                self.lanes[key] = deque()
                self.running.append(Entry(entry.n, entry.attempt, holds_lane=True))

    def finish(self, entry: Entry, now: float, outcome: Outcome) -> bool:
        """End an attempt; True if it was given up."""
        self.running.remove(entry)
        is_done = outcome == "ack" or (outcome == "return" and self.spec.ack == "auto")
        fails = not is_done
        self.counts["failed" if fails else "succeeded"] += 1
        if fails and entry.attempt < self._attempts(outcome):
            self.counts["retried"] += 1
            again = Entry(entry.n, entry.attempt + 1, entry.holds_lane)
            delay = ASKED_SECONDS if outcome == "retry" else RETRY_SECONDS
            self.waiting.append((now + delay, again))
            return False
        self._leave_lane(entry)
        self.counts["dead_lettered"] += fails
        return fails

    def come_back(self, due: float) -> None:
        """Bring back what is due then: to the front, one after the other."""
        back = [entry for at, entry in self.waiting if at == due]
        self.waiting = [(at, entry) for at, entry in self.waiting if at != due]
        self.items.extendleft(back)

    def stop(self) -> None:
        """Forget all."""
        self.counts["abandoned"] += self.depth + len(self.running)
        for part in (self.items, self.running, self.waiting, self.lanes):
            part.clear()

    def _attempts(self, outcome: Outcome) -> int:
        if outcome == "retry" and self.spec.attempts == 1:
            return MOST_DELIVERIES
        return 1 if outcome == "reject" else self.spec.attempts

    def _leave_lane(self, entry: Entry) -> None:
        if not entry.holds_lane:
            return
        key = entry.n % self.spec.keys
        if self.lanes[key]:
            behind = self.lanes[key].popleft()
            self.items.appendleft(Entry(behind.n, behind.attempt, holds_lane=True))
        else:
            del self.lanes[key]


class ModelBus:
    """Subscriptions by name, and what became of all that was published."""

    def __init__(self, specs: Sequence[Spec]) -> None:
        self.subscriptions = {spec.name: ModelSubscription(spec) for spec in specs}
        self.letters: list[tuple[str, int]] = []  # oldest first
        self.now = 0.0
        self.scheduled: list[tuple[float, str, int]] = []  # when, where to, which
        self.published = 0
        self.is_draining = False

    def publish(self, topic: str, numbers: Sequence[int]) -> None:
        """Publish events together: all of them, or none.

        Raises:
            NoRoom: A queue that refuses has no room for all.
        """
        reached = self._reached(topic)
        for subscription in reached:
            spec = subscription.spec
            if spec.overflow == "fail" and subscription.depth + len(numbers) > spec.size:
                raise NoRoom
        for subscription in reached:
            for n in numbers:
                subscription.offer(Entry(n))
        self.published += len(numbers)
        self._go_on()

    def finish(self, name: str, entry: Entry, outcome: Outcome) -> None:
        """End an attempt that runs."""
        if self.subscriptions[name].finish(entry, self.now, outcome):
            self.letters.append((name, entry.n))
        self._go_on()

    def schedule(self, topic: str, n: int, seconds: float) -> None:
        """Publish an event later, to subscriptions that refuse nothing."""
        self.scheduled.append((self.now + seconds, topic, n))
        self.published += 1

    def cancel(self, n: int) -> bool:
        """Keep an event from going out; False if it has."""
        left = [one for one in self.scheduled if one[2] != n]
        is_kept_back, self.scheduled = len(left) < len(self.scheduled), left
        return is_kept_back

    def advance(self, seconds: float) -> None:
        """Let time pass; what is scheduled never comes at the moment of a retry."""
        end = self.now + seconds
        waiting = [(at, "", 0) for s in self.subscriptions.values() for at, _ in s.waiting]
        for due in sorted({at for at, _, _ in [*waiting, *self.scheduled] if at <= end}):
            for subscription in self.subscriptions.values():
                subscription.come_back(due)
            self._go_on()
            for _, topic, n in [one for one in self.scheduled if one[0] == due]:
                self.cancel(n)
                for subscription in self._reached(topic):
                    subscription.offer(Entry(n))
            self._go_on()
        self.now = end

    def unsubscribe(self, name: str) -> None:
        """End a subscription after its queue."""
        self.subscriptions[name].is_ending = True
        self._go_on()

    def redrive(self, letter: tuple[str, int]) -> None:
        """Send a dead letter again, to a queue that has room for it."""
        self.letters.remove(letter)
        self.subscriptions[letter[0]].items.append(Entry(letter[1]))
        self._go_on()

    def stop(self) -> None:
        """Stop at once; what was ending is gone."""
        for subscription in self.subscriptions.values():
            subscription.stop()
        self.is_draining = False
        self.scheduled.clear()
        self._go_on()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to do."""
        return not self.scheduled and all(s.is_idle for s in self.subscriptions.values())

    def _reached(self, topic: str) -> list[ModelSubscription]:
        alive = (one for one in self.subscriptions.values() if not one.is_ending)
        return [one for one in alive if topic in one.spec.topics]

    def _go_on(self) -> None:
        for name, subscription in tuple(self.subscriptions.items()):
            subscription.work()
            if subscription.is_ending and subscription.is_idle:
                del self.subscriptions[name]
