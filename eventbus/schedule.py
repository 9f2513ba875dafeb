"""Messages published for later, in memory.

Each is kept with its timer alone: no task, no lock. When it is due it is handed on, and nobody
waits with it where a queue is full: it lines up there, and keeps its place here until it has moved
up.
"""

__all__ = ("SCHEDULE_SIZE", "Later", "Schedule", "later_of")

from collections.abc import Callable, Sequence

from eventbus.activity import Activity
from eventbus.bus_logger import BusLogger
from eventbus.clock import Clock
from eventbus.errors import QueueFull
from eventbus.message import Entry, Message
from eventbus.timers import Heap, Timers
from eventbus.waiters import Waiter
from eventbus.wording import counted

SCHEDULE_SIZE = 1_000_000
"""How many messages may be scheduled at once, where nothing else is said."""


class Later:
    """When a message is to go out; made at the door, and set when the message is accepted."""

    # A timer itself, and the only object that waiting needs: there may be a million.
    __slots__ = ("_is_cancelled", "_message", "_schedule", "_withdraw", "at", "heap", "seconds")

    def __init__(self, at: float, seconds: float | None) -> None:
        self.at = at
        self.seconds = seconds
        self.heap: Heap | None = None
        self._is_cancelled = False
        self._message: Message | None = None
        self._schedule: Schedule | None = None
        self._withdraw: Callable[[], bool] | None = None

    def cancel(self) -> bool:
        """Keep the message from going out, also if it is not accepted yet; True once."""
        if self._withdraw is not None:
            return self._withdraw()
        if self._schedule is not None:
            return self._schedule.remove(self)
        was_cancelled, self._is_cancelled = self._is_cancelled, True
        return not was_cancelled

    def accept(self, message: Message, schedule: "Schedule") -> bool:
        """Take the message; False if it has been cancelled."""
        if self._is_cancelled:
            return False
        self._message = message
        self._schedule = schedule
        return True

    def entrust(self, withdraw: Callable[[], bool]) -> bool:
        """Leave the message to a transport that keeps it; False if it has been cancelled."""
        if self._is_cancelled:
            return False
        self._withdraw = withdraw
        return True

    def release(self) -> Message | None:
        """Give the message up: message and timer know each other, and would outlive their use."""
        message, self._message = self._message, None
        return message

    def fire(self) -> None:
        """Hand the message on."""
        message = self.release()
        if self._schedule is not None and message is not None:
            self._schedule.hand_on(message)

    def drop(self) -> None:
        """Give the message up, as the bus will have ended when it is due."""
        self.release()
        if self._schedule is not None:
            self._schedule.abandon()


class Schedule:
    """What is to go out later, so many messages at most; counts what never will.

    `send` puts a message into the queues it matches now, and gives what it could not wait for.
    """

    def __init__(
        self,
        size: int,
        clock: Clock,
        timers: Timers,
        activity: Activity,
        send: Callable[[Message], Sequence[Waiter[Entry]]],
        logger: BusLogger,
    ) -> None:
        self._logger = logger
        self.abandoned = 0
        self._size = size
        self.clock = clock
        self._timers = timers
        self._activity = activity
        self._send = send
        self._kept = 0
        self._untold = 0
        self._deadline: float | None = None

    def __len__(self) -> int:
        """Count the messages that are not yet due, or line up where a queue is full."""
        return self._kept

    def begin(self) -> None:
        """Begin anew, with no deadline."""
        self._deadline = None

    def add(self, message: Message, later: Later) -> None:
        """Keep a message until it is due, unless it was cancelled before.

        Raises:
            QueueFull: So many are kept already.
        """
        self.require_room()
        if not later.accept(message, self):
            return
        self._enter()
        if self._is_too_late(later):
            later.drop()
            self._tell()
        elif later.seconds is None:
            self._timers.set_at(later.at, later)
        else:
            self._timers.set_later(later.seconds, later)

    def require_room(self, messages: int = 1) -> None:
        """Raise unless so many more messages can be kept.

        Raises:
            QueueFull: Too many are kept already.
        """
        if messages and self._kept + messages > self._size:
            raise QueueFull(
                f"{self._kept} messages are scheduled already: publish this one when some have "
                "gone out, or give the bus a larger schedule_size"
            )

    def remove(self, later: Later) -> bool:
        """Keep a message from going out; False if it is no longer to."""
        if not self._timers.forget(later):
            return False
        later.release()
        self._leave()
        return True

    def hand_on(self, message: Message) -> None:
        """Send a message that is due; where a queue is full, it lines up there."""
        waiters = self._send(message)
        missing, is_refused = len(waiters), False

        def settled(is_taken: bool) -> None:
            nonlocal missing, is_refused
            missing -= 1
            is_refused = is_refused or not is_taken
            if not missing:
                (self.abandon if is_refused else self._leave)()

        if not waiters:
            self._leave()
        for waiter in waiters:
            waiter.then(settled)

    def abandon(self) -> None:
        """Count a message that will never go out."""
        self.abandoned += 1
        self._untold += 1
        self._leave()

    def set_deadline(self, deadline: float) -> None:
        """Abandon what is due after that monotonic time, of now and from now on."""
        self._deadline = deadline
        self._timers.drop_after(deadline)
        self._tell()

    def stop(self) -> int:
        """Abandon what is left; give how many were, without a word in the log until now."""
        while self._kept:
            self.abandon()
        untold, self._untold = self._untold, 0
        return untold

    def _is_too_late(self, later: Later) -> bool:
        if self._deadline is None:
            return False
        seconds = later.at - self.clock.now() if later.seconds is None else later.seconds
        return self.clock.monotonic() + seconds > self._deadline

    def _tell(self) -> None:
        """Say how many are abandoned, in one line: they may be a million."""
        if self._untold:
            self._logger.warning(
                "%s abandoned: due after the bus has ended",
                counted(self._untold, "scheduled message"),
            )
            self._untold = 0

    def _enter(self) -> None:
        self._kept += 1
        if self._kept == 1:
            self._activity.begin()

    def _leave(self) -> None:
        self._kept -= 1
        if not self._kept:
            self._activity.end()


def later_of(message: Message) -> Later | None:
    """Tell when a message is to go out; None if that is now."""
    traits = message.head[2]
    return traits.scheduled if traits is not None and isinstance(traits.scheduled, Later) else None
