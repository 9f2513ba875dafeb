"""What type checkers say of the programs in `tests/typing`: every planted error, and no other."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeAlias

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted(ROOT.glob("tests/typing/*.py"))
MARK = "# expect-error"

Findings: TypeAlias = list[tuple[Path, int, str]]
"""File, line and what is wrong there."""


def lines_of(command: list[str]) -> str:
    """Run a checker, which fails by design, and give what it wrote."""
    run = subprocess.run(  # noqa: S603 - the command is written below
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.stdout, run.stderr
    return run.stdout


@cache
def mypy() -> Findings:
    """Read all programs with mypy, as strictly as pyproject.toml says."""
    output = lines_of(["mypy", "--strict", "--output", "json", *map(str, PROGRAMS)])
    found = [json.loads(line) for line in output.splitlines()]
    errors = (one for one in found if one["severity"] == "error")
    return [(ROOT / one["file"], one["line"], one["message"]) for one in errors]


@cache
def basedpyright() -> Findings:
    """Read all programs with basedpyright, as strictly as their pyrightconfig.json says."""
    interpreter = ["--pythonpath", sys.executable]
    output = lines_of(["basedpyright", "--outputjson", "-p", "tests/typing", *interpreter])
    found = json.loads(output)["generalDiagnostics"]
    errors = (one for one in found if one["severity"] == "error")
    return [
        (Path(one["file"]), one["range"]["start"]["line"] + 1, one["message"]) for one in errors
    ]


def planted(program: Path) -> Iterator[int]:
    """Give the lines that are wrong on purpose."""
    for number, line in enumerate(program.read_text().splitlines(), start=1):
        if line.endswith(MARK):
            yield number


@pytest.mark.timeout(300)  # seconds: the first test waits for a checker that has no cache yet
@pytest.mark.parametrize("program", [pytest.param(one, id=one.stem) for one in PROGRAMS])
@pytest.mark.parametrize("checker", [mypy, basedpyright])
def test_checkers_find_the_planted_errors(checker: Callable[[], Findings], program: Path) -> None:
    """Each marked line is an error, and no other line is."""
    found = {line: message for file, line, message in checker() if file == program}
    expected = set(planted(program))

    assert {line: found[line] for line in found.keys() - expected} == {}
    assert expected - found.keys() == set()


def test_there_are_planted_errors() -> None:
    """A mark that nobody finds any more would make the test above empty."""
    assert sum(len(list(planted(program))) for program in PROGRAMS) > 150
