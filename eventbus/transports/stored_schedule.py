"""What is published for later, where the transport keeps it: work, until it has gone out."""

__all__ = ("StoredSchedule",)

from collections.abc import Callable, Sequence
from functools import partial

from eventbus.activity import Activity
from eventbus.message import Message
from eventbus.schedule import later_of
from eventbus.transports.base import KeepsSchedule


class StoredSchedule:
    """The schedule of a transport, as its bus sees it; empty of one that keeps none.

    `on_departure` is called when some have gone out, before they are no longer waited for.
    """

    def __init__(
        self, transport: object, activity: Activity, *, size: int, on_departure: Callable[[], None]
    ) -> None:
        self._keeper = transport if isinstance(transport, KeepsSchedule) else None
        self._activity = activity
        self._on_departure = on_departure
        self._is_running = False
        self._is_busy = False
        if self._keeper is not None:
            self._keeper.schedule_size = size
            self._keeper.on_departure = self._note_departure

    def begin(self) -> None:
        """Wait, from now on, for what is to go out."""
        self._is_running = True

    def end(self) -> None:
        """Wait for nothing more: it goes out by the next bus on the transport; idempotent."""
        self._is_running = False
        self.look()

    def keeps_any_of(self, messages: Sequence[Message]) -> bool:
        """Tell whether some are to be kept for later."""
        return self._keeper is not None and any(map(later_of, messages))

    def entrust(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Have the transport cancel messages from now on; leave out what is cancelled already."""
        return [one for one in messages if self._takes_on(one)]

    def _takes_on(self, message: Message) -> bool:
        later, keeper = later_of(message), self._keeper
        return later is None or keeper is None or later.entrust(partial(keeper.cancel, message.id))

    def look(self) -> None:
        """Count as busy while something this bus has scheduled is to go out, unless it drains."""
        keeper = self._keeper if self._is_running else None
        is_busy = keeper is not None and keeper.has_awaited
        if is_busy != self._is_busy:
            self._is_busy = is_busy
            (self._activity.begin if is_busy else self._activity.end)()

    def _note_departure(self) -> None:
        self._on_departure()  # first: what went out is read before it is no longer waited for
        self.look()
