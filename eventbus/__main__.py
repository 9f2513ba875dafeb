"""`python -m eventbus`: the command line."""

__all__ = ()

from eventbus.cli import main

if __name__ == "__main__":
    main()
