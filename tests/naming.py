"""Names for parameters that are the same in every process, so that several can share the tests."""

__all__ = ("name_of",)

import re


def name_of(value: object) -> str:
    """Describe a value without the place where it lies in memory."""
    text = value if isinstance(value, str) else repr(value)
    return re.sub(r" at 0x[0-9a-f]+", "", text)
