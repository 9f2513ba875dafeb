"""A task's wait for anything to change."""

__all__ = ("Pulse",)

from eventbus._loop import WakeUp, wake_up_type


class Pulse:
    """Wakes who waits, whenever it beats; a beat while nobody waits is not remembered."""

    def __init__(self) -> None:
        self._new_wake_up = wake_up_type()
        self._waiting: list[WakeUp] = []

    def beat(self) -> None:
        """Let all who wait look again."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.set()

    async def wait(self) -> None:
        """Wait for the next beat."""
        one = self._new_wake_up()
        self._waiting.append(one)
        await one.wait()
