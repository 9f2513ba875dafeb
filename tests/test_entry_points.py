"""Which major versions of eventbus a plugin is for, read from what its distribution requires."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from eventbus.entry_points import MAJOR, majors


@pytest.mark.parametrize(
    ("requirement", "fitting"),
    [
        ("eventbus>=1.2", {1}),
        ("eventbus >= 1.2", {1}),
        ("eventbus (>=1.2)", {1}),
        ("eventbus>1.2", {1}),
        ("eventbus~=1.2", {1}),
        ("eventbus==1.*", {1}),
        ("eventbus==v1.2.3", {1}),
        ("eventbus[cli]>=1", {1}),
        ("EventBus>=1", {1}),
        ("eventbus>=1,!=2.0", {1}),
        ("eventbus<2,>=1.2", {1}),
        ("eventbus>=1.2,<2.0", {1}),
        ("eventbus>=1,<2.0a1", {1}),
        ("eventbus>=1,<2.1", {1, 2}),
        ("eventbus>=1,<3", {1, 2}),
        ("eventbus>=1,<=3.4", {1, 2, 3}),
        ("eventbus>=10", {10}),
        ("eventbus>=0.1", {0}),
        ("eventbus>=1; python_version >= '3.12'", {1}),
    ],
)
def test_a_requirement_says_which_versions_a_plugin_is_for(
    requirement: str, fitting: set[int]
) -> None:
    """The lowest it names, and the ones up to an upper bound."""
    assert majors([requirement]) == fitting


@pytest.mark.parametrize(
    "requirement",
    [
        "eventbus",
        "eventbus<2",
        "eventbus; python_version >= '3.12'",
        "eventbus @ https://example.org/eventbus-1.0.zip",
        "eventbus-toy>=1",
        "eventbus_toy>=1",
        "eventbus.toy>=1",
        "eventbus2>=1",
        "anyio>=1",
    ],
)
def test_what_names_no_beginning_is_for_no_version(requirement: str) -> None:
    """A requirement that any version meets says nothing, and another distribution's neither."""
    assert majors([requirement]) == set()


def test_one_of_several_requirements_is_enough() -> None:
    """A plugin may need another eventbus on another Python."""
    assert majors(["anyio>=4", "eventbus>=1; extra == 'old'", "eventbus>=2"]) == {1, 2}


def test_the_major_version_is_that_of_the_project() -> None:
    """What plugins are held against cannot lag behind the release."""
    pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))

    assert pyproject["project"]["version"].partition(".")[0] == str(MAJOR)


def test_a_bus_without_plugins_looks_for_none() -> None:
    """What is installed beside the bus costs neither its import nor its making anything."""
    program = (
        "from importlib import metadata\n"
        "metadata.entry_points = None\n"
        "from eventbus import EventBus\n"
        "EventBus('memory://')\n"
    )

    subprocess.run([sys.executable, "-c", program], check=True)  # noqa: S603 - written above


def test_a_look_for_plugins_is_seen() -> None:
    """The rule above can fail."""
    program = (
        "from importlib import metadata\n"
        "metadata.entry_points = None\n"
        "from eventbus import EventBus\n"
        "EventBus('toy://')\n"
    )
    run = subprocess.run(  # noqa: S603 - written above
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert "TypeError: 'NoneType' object is not callable" in run.stderr
