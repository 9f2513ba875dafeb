"""Runs each asynchronous test of the project, its plugins included, on both event loops."""

from typing import TypeAlias

import pytest

Backend: TypeAlias = tuple[str, dict[str, object]]

# In debug mode asyncio complains of what is never awaited, or called from the wrong thread.
ASYNCIO: Backend = ("asyncio", {"debug": True})
TRIO: Backend = ("trio", {})


@pytest.fixture(params=[pytest.param(ASYNCIO, id="asyncio"), pytest.param(TRIO, id="trio")])
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    """Give the loop under test, and its options."""
    backend: Backend = request.param
    return backend
