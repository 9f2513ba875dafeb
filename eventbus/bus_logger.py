"""The logger `eventbus`, as one bus writes to it."""

__all__ = ("BusLogger",)

import logging
from collections.abc import MutableMapping
from typing import Any


class BusLogger(logging.LoggerAdapter[logging.Logger]):
    """Puts the name of a bus that has one before each line, and into the field `bus` of each."""

    def __init__(self, bus: str | None = None) -> None:
        super().__init__(logging.getLogger("eventbus"))
        self._prefix = "" if bus is None else f"{bus}: "
        self._fields = {"bus": "eventbus" if bus is None else bus}

    def process(
        self, msg: object, kwargs: MutableMapping[str, Any]
    ) -> tuple[str, MutableMapping[str, Any]]:
        """Add the name to a line, every one of which has arguments, and to its fields."""
        kwargs["extra"] = {**self._fields, **kwargs.get("extra", {})}
        return f"{self._prefix.replace('%', '%%')}{msg}", kwargs
