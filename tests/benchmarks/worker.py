"""Takes samples of the eventbus of another checkout, with the benchmarks of this one.

`python -m tests.benchmarks.worker CHECKOUT` answers each line on its input, the name of a case, with
one on its output: the figure, or `nan` where that version cannot do it.
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
    from tests.benchmarks.guard import CORE
    from tests.benchmarks.measure import Case, run

    logging.disable(logging.CRITICAL)
    gc.freeze()
    gc.disable()

    def figure(case: Case) -> float:
        gc.collect()
        try:
            return run(case.sample, case.size, backend=case.backend)
        except (AttributeError, TypeError):
            return nan

    for line in sys.stdin:
        print(figure(CORE[line.strip()]), flush=True)


def _import_eventbus_of(checkout: str) -> None:
    """Import it first, so that nothing later imports another."""
    sys.path.insert(0, checkout)
    import eventbus

    sys.path.remove(checkout)
    if not Path(eventbus.__file__).is_relative_to(checkout):
        raise ImportError(f"eventbus came from {eventbus.__file__}, not from {checkout}")


if __name__ == "__main__":
    main(*sys.argv[1:])
