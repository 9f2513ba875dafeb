"""Keep what a subscription gave up on."""

__all__ = ("DeadLetter",)


class DeadLetter:
    """Policy: keep deliveries that were given up on, to be inspected and redriven.

    Without it they are logged and counted `lost`. They are kept under `$dlq.<subscription>`, where
    a handler can listen, and listed by `bus.dead_letters()`; in memory the newest 10,000.
    """

    __slots__ = ()

    @property
    def policy(self) -> str:
        """The kind of policy."""
        return "dead_letter"
