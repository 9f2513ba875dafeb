"""Change what is published."""

__all__ = ("Transform",)

from collections.abc import Callable
from typing import cast

from eventbus.errors import InvalidOption
from eventbus.message import Message, Receipt
from eventbus.middleware.chain import PublishNext


class Transform:
    """Publish middleware that passes on what a function makes of each message.

    The function gives the message back, or a copy with changes, `message.replace(...)`, which is
    checked as what is published is. What it raises reaches the publisher.

    Example:
        >>> stamped = Transform(lambda message: message.replace(headers={"tenant": "ann"}))

    Raises:
        InvalidOption: It cannot be called.
    """

    __slots__ = ("_change",)

    def __init__(self, change: Callable[[Message], Message]) -> None:
        if not callable(change):
            raise InvalidOption(f"Transform({change!r}): give a function of the message")
        self._change = change

    async def __call__(self, message: Message, call_next: PublishNext, /) -> Receipt:
        """Pass on the changed message.

        Raises:
            InvalidOption: The function gave something that is no message.
        """
        changed = self._change(message)
        if not isinstance(cast("object", changed), Message):
            raise InvalidOption(
                f"Transform({self._change!r}) gave {changed!r}: return the message, or "
                "message.replace(...)"
            )
        return await call_next(changed)
