"""Takes samples of the eventbus of some checkout, with the benchmarks of this one.

`python -m tests.benchmarks.worker CHECKOUT` answers each line on its input, a size and the name of
a case, with one on its output: the figure, or `nan` where that version fails at it.
"""

__all__ = ("main",)

import gc
import logging
import sys
from math import nan
from pathlib import Path


def main(checkout: str) -> None:
    """Answer until the input ends."""
    _import_eventbus_of(checkout)
    # Only now: what these import from eventbus has to be that of the checkout.
    from tests.benchmarks.guard import CORE
    from tests.benchmarks.measure import Case, run, undisturbed

    def figure(case: Case, size: int) -> float:
        try:
            return run(case.sample, size, backend=case.backend)
        except Exception as error:  # noqa: BLE001 - another version may fail in any way
            print(repr(error), file=sys.stderr)
            return nan

    logging.disable(logging.CRITICAL)
    with undisturbed():
        for line in sys.stdin:
            size, _, case = line.strip().partition(" ")
            answer = figure(CORE[case], int(size))
            gc.collect()
            print(answer, flush=True)


def _import_eventbus_of(checkout: str) -> None:
    sys.path.insert(0, checkout)
    import eventbus

    sys.path.remove(checkout)
    if not Path(eventbus.__file__).is_relative_to(checkout):
        raise ImportError(f"eventbus came from {eventbus.__file__}, not from {checkout}")


if __name__ == "__main__":
    main(*sys.argv[1:])
