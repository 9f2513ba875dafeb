"""What every transport has to do, as tests: see `contract`."""

__all__ = ()
