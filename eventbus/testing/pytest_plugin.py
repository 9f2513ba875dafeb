"""The pytest plugin of eventbus, which pytest finds where eventbus is installed.

Fixtures, for tests that anyio's plugin runs:

- `event_bus`: a fresh, started `TestBus`, drained after the test. Failures of handlers that the
  test did not expect are an error then; `event_bus.raise_failures = False` switches that off.
- `event_clock`: the `VirtualClock` of the loop and of `event_bus`. A test that takes it runs in
  virtual time, as one marked with `virtual_time` does.

`@pytest.mark.virtual_time` lets a test run in virtual time: `await anyio.sleep(3600)` takes a
moment. It runs on the loops that the `anyio_backend` of the project names in its `params`, else on
asyncio.
"""

__all__ = ("event_bus", "event_clock")

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from traceback import StackSummary, TracebackException
from typing import Any

import pytest

from eventbus.testing.bus import TestBus
from eventbus.testing.clock import VirtualClock
from eventbus.testing.loop import virtual_backend

PACKAGE = Path(__file__).parents[1]


@pytest.fixture
async def event_bus(request: pytest.FixtureRequest) -> AsyncGenerator[TestBus]:
    """Give a fresh bus: started, and drained after the test.

    After a test, failures that it did not expect are raised; see `TestBus`.
    """
    takes_clock = "event_clock" in request.fixturenames
    clock = request.getfixturevalue("event_clock") if takes_clock else None
    bus, told = TestBus(clock=clock), ""
    try:
        async with bus:
            yield bus
    except AssertionError as error:
        told = f"{error}\n\n{_outside_of_eventbus(error.__cause__)}"
    if told:
        pytest.fail(told, pytrace=False)  # the frames of fixtures and loops would bury it


@pytest.fixture
def event_clock() -> VirtualClock:
    """Give the clock of the loop and of `event_bus`, and let the test run in virtual time."""
    return VirtualClock()


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line(
        "markers", "virtual_time: time jumps to what is due next, in place of waiting for it."
    )
    config.addinivalue_line(
        "markers", "transport_needs(*capabilities): skip it with transports that do not claim them."
    )


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests that want virtual time an event loop that has it."""
    if "anyio_backend" in metafunc.fixturenames and _wants_virtual_time(metafunc):
        backends = [_virtual(one) for one in _backends_of(metafunc)]
        names = [name for name, _ in backends]
        metafunc.definition.add_marker(
            pytest.mark.parametrize("anyio_backend", backends, ids=names)
        )


def _outside_of_eventbus(error: BaseException | None) -> str:
    """Give the traceback of a handler's error, with the lines that are the user's own."""
    if error is None:
        return ""
    told = TracebackException.from_exception(error)
    for one in (told, *(told.exceptions or ())):
        one.stack = StackSummary.from_list([f for f in one.stack if not _is_ours(f.filename)])
    return "".join(told.format())


def _is_ours(filename: str) -> bool:
    return Path(filename).is_relative_to(PACKAGE)


def _wants_virtual_time(metafunc: pytest.Metafunc) -> bool:
    test = metafunc.definition
    is_told = any("anyio_backend" in mark.args[0] for mark in test.iter_markers("parametrize"))
    is_marked = test.get_closest_marker("virtual_time") is not None
    return (is_marked or "event_clock" in metafunc.fixturenames) and not is_told


def _backends_of(metafunc: pytest.Metafunc) -> Sequence[Any]:
    """Read which loops the project's own `anyio_backend` stands for; pytest tells it nowhere."""
    known: dict[str, Sequence[Any]] = getattr(metafunc, "_arg2fixturedefs", {})
    params = known["anyio_backend"][-1].params if known.get("anyio_backend") else None
    return [getattr(one, "values", [one])[0] for one in params or ["asyncio"]]


def _virtual(backend: str | tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    name, options = (backend, dict[str, Any]()) if isinstance(backend, str) else backend
    return virtual_backend(name, **options)
