"""Runs each asynchronous test of the project, its plugins included, on both event loops."""

import logging
import os
import signal
from pathlib import Path
from typing import TypeAlias

import pytest

Backend: TypeAlias = tuple[str, dict[str, object]]

# In debug mode asyncio complains of what is never awaited, or called from the wrong thread.
ASYNCIO: Backend = ("asyncio", {"debug": True})
TRIO: Backend = ("trio", {})

if "PYTEST_XDIST_WORKER" in os.environ:
    # This process is measured, but not the programs that tests start: they would begin much later.
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell starts what runs in the background: the programs of tests would never hear one.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# That a step took long tells nothing on a busy machine; what is never retrieved is an error.
logging.getLogger("asyncio").setLevel(logging.ERROR)


@pytest.fixture(params=[pytest.param(ASYNCIO, id="asyncio"), pytest.param(TRIO, id="trio")])
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    """Give the loop under test, and its options."""
    backend: Backend = request.param
    return backend


def pytest_runtest_logstart(nodeid: str) -> None:
    """Leave word which test runs: one that hangs is ended with the process, and says no name."""
    if place := os.environ.get("EVENTBUS_RUNNING_TEST"):
        Path(place).write_text(nodeid, encoding="utf-8")
