"""Holds what `pyproject.toml` promises."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    """Read the settings of the project and its tools."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def code_folders() -> set[str]:
    """Name the folders at the top that hold Python code."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."]
    return {folder.name for folder in folders if any(folder.rglob("*.py"))}


def test_the_core_needs_three_packages(pyproject: dict[str, Any]) -> None:
    """An application that takes the bus takes little with it."""
    names = [requirement.partition(">")[0] for requirement in pyproject["project"]["dependencies"]]

    assert names == ["anyio", "pydantic", "typing_extensions"]


def test_every_folder_of_code_is_type_checked(pyproject: dict[str, Any]) -> None:
    """A new folder cannot stay outside the reach of mypy and basedpyright."""
    tools = pyproject["tool"]

    assert code_folders() - set(tools["mypy"]["files"]) == set()
    assert code_folders() - set(tools["basedpyright"]["include"]) == set()
