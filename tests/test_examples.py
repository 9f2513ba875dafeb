"""Runs the numbered examples against the output their docstrings promise, and the tour."""

import ast
import logging
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import TypeAlias

import pytest

Printed: TypeAlias = pytest.CaptureFixture[str]

FOLDER = Path(__file__).parents[1] / "examples"
NUMBERED = sorted(FOLDER.glob("[0-9]*.py"))
BACKENDS = ("asyncio", "trio")

each_example = pytest.mark.parametrize("example", NUMBERED, ids=lambda path: path.stem)
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def promised(example: Path) -> str:
    """Read from an example's docstring what it prints."""
    docstring = ast.get_docstring(ast.parse(example.read_text("utf-8"))) or ""
    return dedent(docstring.partition("Prints:\n\n")[2]) + "\n"


@pytest.fixture(autouse=True)
def leave_the_logger() -> Iterator[None]:
    """Leave the logger as it was: an example may choose how much it says."""
    yield
    logging.getLogger("eventbus").setLevel(logging.NOTSET)


@each_example
@each_backend
def test_an_example_prints_what_it_promises(
    example: Path, backend: str, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    """An example can be believed, on either loop."""
    monkeypatch.setattr(sys, "argv", [str(example), *(["--trio"] if backend == "trio" else [])])
    runpy.run_path(str(example), run_name="__main__")

    assert capsys.readouterr().out == promised(example)


@each_example
def test_an_example_is_short(example: Path) -> None:
    """An example is read in a minute."""
    assert len(example.read_text("utf-8").splitlines()) < 60


def test_the_examples_are_numbered_in_order() -> None:
    """A newcomer meets 01 first, and each number once."""
    numbers = [int(path.name.partition("_")[0]) for path in NUMBERED]

    assert numbers == sorted(set(numbers))
    assert numbers[0] == 1


@pytest.fixture(params=BACKENDS)
def tour(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> dict[str, str]:
    """Give what the demo prints: by the title of each section, the lines below it."""
    monkeypatch.setattr(sys, "argv", ["demo", "--backend", request.param])
    monkeypatch.setenv("COLUMNS", "100")  # a narrow terminal would shorten the table
    runpy.run_module("examples.demo", run_name="__main__")
    sections = re.split(r"^\d+\. ", capsys.readouterr().out, flags=re.MULTILINE)[1:]
    return {title: text for title, _, text in (one.partition("\n") for one in sections)}


def below(tour: dict[str, str], word: str) -> str:
    """Give the text of the one section whose title holds a word, without its layout."""
    (text,) = [text for title, text in tour.items() if word in title]
    return " ".join(text.split())


def number(pattern: str, text: str) -> float:
    """Read the number that stands in a sentence."""
    found = re.search(pattern, text)
    assert found, text
    return float(found[1])


def test_the_tour_shows_what_the_bus_does(tour: dict[str, str]) -> None:
    """Each thing worth seeing has its section, and each section its proof."""
    assert "running" in below(tour, "The bus starts")
    heard = below(tour, "all hear it")
    for order in ("web-1", "web-2", "till-1"):
        assert all(f"{order} placed -> {who}" in heard for who in ("warehouse", "billing", "mail"))
    patterns = below(tour, "sensors.>")
    assert patterns.count("ALARM") == 2
    assert patterns.count("display") == 2
    assert "9 parcels packed: Ann" in below(tour, "queue group")
    assert number(r"(\d+) had to wait", below(tour, "Back pressure")) >= 1
    assert number(r"wait, for (\d+) ms", below(tour, "Back pressure")) >= 5
    failures = below(tour, "dead letters")
    assert failures.count("refused unattempted: ValidationError") == 2
    assert failures.count("attempts: ConnectionError") == 1
    assert "1 could be redriven" in failures
    assert "reached 0" in below(tour, "Unsubscribing")
    assert "before 10, after 14" in below(tour, "Draining")
    assert "BusClosed" in below(tour, "Draining")
    assert "payments 3 1 2 1 2 0" in below(tour, "Statistics")
    assert len(tour) == 9
