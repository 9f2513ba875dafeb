"""How numbers are put into words: in one way everywhere."""

__all__ = ("counted",)


def counted(number: int, noun: str) -> str:
    """Say how many there are: `1 delivery`, `2 deliveries`."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun.removesuffix('y') + 'ies' if noun.endswith('y') else noun + 's'}"
