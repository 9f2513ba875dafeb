"""Keep what a subscription gave up on."""

__all__ = ("DeadLetter",)


class DeadLetter:
    """Policy: keep deliveries that were given up on, to be inspected and redriven.

    Without it they are logged and counted `lost`. They are kept under `$dlq.<subscription>`, where
    a handler can listen, and listed by `bus.dead_letters()`; the newest 10,000.

    With `sequenced=True`, in a durable subscription, later messages of the same key wait in the
    store, behind the dead letter: until that is sent again and succeeds, or is purged. Other keys
    go on, and so do messages without a key. Such letters are kept however many there are.
    """

    __slots__ = ("sequenced",)

    def __init__(self, sequenced: bool = False) -> None:
        self.sequenced = sequenced

    @property
    def policy(self) -> str:
        """The kind of policy."""
        return "dead_letter"
