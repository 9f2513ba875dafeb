"""How numbers and models are put into words: in one way everywhere."""

__all__ = ("counted",)


def counted(number: int, one: str, several: str | None = None) -> str:
    """Say how many there are: `1 attempt`, `2 attempts`."""
    return f"{number} {one if number == 1 else several or one + 's'}"
