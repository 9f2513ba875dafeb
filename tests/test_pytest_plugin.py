"""The fixtures and the mark, as a project that uses them finds them."""

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

pytest_plugins = ("pytester",)


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """Give a project that runs asynchronous tests by anyio's plugin, on both loops."""
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nanyio_mode = "auto"\n')
    return pytester


def outcomes(project: pytest.Pytester, test: str, *options: str) -> pytest.RunResult:
    """Run a test file by itself."""
    project.makepyfile(dedent(test))
    return project.runpytest_inprocess("-p", "no:cacheprovider", *options)


def test_the_bus_is_started_and_drained(project: pytest.Pytester) -> None:
    """A test publishes at once, and what it left is handled afterwards."""
    result = outcomes(
        project,
        """
        handled = []

        async def test_one(event_bus):
            event_bus.on("a", model=dict)(handled.append)
            await event_bus.publish("a", {"n": 1})

        def test_two():
            assert handled == [{"n": 1}] * 2
        """,
    )

    result.assert_outcomes(passed=3)


def test_a_handlers_error_fails_the_test(project: pytest.Pytester) -> None:
    """With the handler's own line, unless the test switches that off."""
    result = outcomes(
        project,
        """
        async def test_loud(event_bus):
            @event_bus.on("a")
            async def handle(event):
                raise KeyError("the handler's own")
            await event_bus.publish("a", {})

        async def test_silent(event_bus):
            event_bus.raise_failures = False
            @event_bus.on("a")
            async def handle(event):
                raise KeyError
            await event_bus.publish("a", {})
        """,
    )

    result.assert_outcomes(passed=4, errors=2)
    result.stdout.fnmatch_lines(["*assert_failed(...)*", '*raise KeyError("the handler\'s own")'])


def test_what_a_project_reads_is_about_itself(project: pytest.Pytester) -> None:
    """No frame of a fixture, of a loop or of ours stands between a test and why it failed."""
    result = outcomes(
        project,
        """
        from eventbus.testing import simulate

        async def test_handler(event_bus):
            @event_bus.on("a")
            async def handle(event):
                raise KeyError
            await event_bus.publish("a", {})

        @simulate(seeds=3)
        async def test_simulation(simulation):
            assert simulation is None
        """,
        "--show-capture=no",
    )

    result.assert_outcomes(passed=2, errors=2, failed=1)
    result.stdout.no_fnmatch_line("*site-packages*")
    result.stdout.no_fnmatch_line("*eventbus/*.py*")
    result.stdout.no_fnmatch_line("*During handling*")
    result.stdout.fnmatch_lines(["*assert simulation is None", "*seed 0 on asyncio*"])


def test_who_takes_the_clock_runs_in_virtual_time(project: pytest.Pytester) -> None:
    """So does who is marked, on the loops of the project; others do not."""
    result = outcomes(
        project,
        """
        import anyio, pytest, time
        from eventbus.testing import VirtualLoop

        async def test_clock(event_clock, event_bus):
            assert event_bus.clock is event_clock
            await event_clock.sleep(3600)

        @pytest.mark.virtual_time
        async def test_mark():
            await anyio.sleep(3600)

        async def test_neither(event_bus):
            began = time.monotonic()
            await anyio.sleep(0.01)
            assert time.monotonic() - began >= 0.009

        @pytest.mark.virtual_time
        def test_synchronous():
            pass
        """,
        "--timeout=30",
        "-v",
    )

    result.assert_outcomes(passed=7)
    result.stdout.fnmatch_lines(["*test_clock?asyncio? PASSED*", "*test_clock?trio? PASSED*"])


def test_the_projects_own_loops_are_kept(project: pytest.Pytester) -> None:
    """A project on asyncio alone stays there, with its options; a test may say another."""
    project.makeconftest(
        """
        import pytest

        @pytest.fixture(params=[pytest.param(("asyncio", {"debug": True}), id="debug")])
        def anyio_backend(request):
            return request.param
        """
    )
    result = outcomes(
        project,
        """
        import anyio, asyncio, pytest
        from eventbus.testing import VirtualLoop, virtual_backend

        async def test_options(event_clock):
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop) and loop.get_debug()

        @pytest.mark.parametrize("anyio_backend", [virtual_backend("trio")])
        async def test_own(event_clock):
            import trio
            await event_clock.sleep(3600)
            assert trio.current_time() >= 3600
        """,
    )

    result.assert_outcomes(passed=2)


def test_a_fixed_loop_becomes_virtual_on_asyncio(project: pytest.Pytester) -> None:
    """Where the project's fixture names no parameters, nobody can tell which loop it gives."""
    project.makeconftest(
        """
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"
        """
    )
    result = outcomes(
        project,
        """
        async def test_sleep(event_clock):
            await event_clock.sleep(3600)
        """,
    )

    result.assert_outcomes(passed=1)


def test_without_anyios_plugin_other_tests_run(project: pytest.Pytester) -> None:
    """The plugin asks nothing of a project that does not use it."""
    result = outcomes(project, "def test_one(): pass", "-p", "no:anyio")

    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("module", "missing"),
    [("eventbus.testing", "pytest"), ("eventbus.testing.pytest_plugin", "trio")],
)
def test_the_kit_needs_no_more_than_is_used(tmp_path: Path, module: str, missing: str) -> None:
    """Who runs other tests installs no pytest, and who has pytest no second event loop."""
    program = f"import sys; sys.modules[{missing!r}] = None; import {module}"
    run = subprocess.run(  # noqa: S603 - the command is written above
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert (run.returncode, run.stderr) == (0, "")
