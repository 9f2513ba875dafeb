"""Holds the outline of the repository, and what `pyproject.toml` promises."""

import shutil
import subprocess
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eventbus.entry_points import MAJOR, find, majors
from eventbus.errors import EventBusError

ROOT = Path(__file__).parents[1]
TOP = {
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "conftest.py",
    "eventbus",
    "examples",
    "plugins",
    "pyproject.toml",
    "tests",
}
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))

each_plugin = pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    """Read the settings of the project and its tools."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def code_folders() -> set[str]:
    """Name the folders at the top that hold Python code."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."]
    return {folder.name for folder in folders if any(folder.rglob("*.py"))}


def top_level() -> set[str]:
    """Name what git keeps at the top, without what begins with a dot."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("only git tells what belongs to the repository, and this is no clone of it")
    command = [git, "ls-files"]
    listing = subprocess.run(  # noqa: S603 - the command is written above
        command, cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = {path.partition("/")[0] for path in listing.stdout.splitlines()}
    return {name for name in names if not name.startswith(".")}


def test_the_top_level_stays_as_it_is() -> None:
    """Who opens the repository sees the few things that it consists of."""
    assert top_level() == TOP


def test_the_core_needs_three_packages(pyproject: dict[str, Any]) -> None:
    """An application that takes the bus takes little with it."""
    names = [requirement.partition(">")[0] for requirement in pyproject["project"]["dependencies"]]

    assert names == ["anyio", "pydantic", "typing_extensions"]


def test_every_folder_of_code_is_type_checked(pyproject: dict[str, Any]) -> None:
    """A new folder cannot stay outside the reach of mypy and basedpyright."""
    tools = pyproject["tool"]

    assert code_folders() - set(tools["mypy"]["files"]) == set()
    assert code_folders() - set(tools["basedpyright"]["include"]) == set()


def test_every_package_is_measured(pyproject: dict[str, Any]) -> None:
    """No plugin stays outside the reach of the tests and their coverage."""
    tools = pyproject["tool"]
    of_the_core = {
        Path(one).stem for one in tools["hatch"]["build"]["targets"]["wheel"]["packages"]
    }
    of_plugins = {path.parent.name for path in ROOT.glob("plugins/*/*/py.typed")}

    assert set(tools["coverage"]["run"]["source"]) == of_the_core | of_plugins
    assert set(tools["pytest"]["testpaths"]) == {"tests", "plugins"}


def test_no_two_files_of_tests_have_one_name() -> None:
    """Those of plugins are modules side by side, which mypy takes for one where they are alike."""
    names = Counter(path.name for path in ROOT.glob("plugins/*/tests/*.py"))
    names.update(path.name for path in ROOT.glob("tests/*.py"))

    assert [name for name, count in names.items() if count > 1] == []


@each_plugin
def test_a_plugin_is_a_distribution_of_its_own(plugin: Path) -> None:
    """It has what the core has: types, tests, a README, and a list of what its tests need."""
    package = plugin.name.replace("-", "_")
    project = tomllib.loads((plugin / "pyproject.toml").read_text("utf-8"))["project"]

    assert project["name"] == plugin.name
    assert MAJOR in majors(project["dependencies"])
    assert "test" in project["optional-dependencies"]
    assert (plugin / package / "py.typed").exists()
    assert (plugin / "README.md").exists()
    assert list(plugin.glob(f"tests/test_{package.removeprefix('eventbus_')}_*.py"))


@each_plugin
def test_a_plugin_is_found_by_each_of_its_names(plugin: Path) -> None:
    """What a distribution says that it brings can be had from where it is installed."""
    project = tomllib.loads((plugin / "pyproject.toml").read_text("utf-8"))["project"]
    offers = [(group, name) for group, names in project["entry-points"].items() for name in names]

    assert offers
    assert [offer for offer in offers if find(*offer, EventBusError) is None] == []


def test_there_are_plugins_to_look_at() -> None:
    """The rules about plugins can fail."""
    assert len(PLUGINS) >= 1
