"""Runs the webhooks application on real deliveries, and on lines that cannot be used."""

import json
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest

USABLE = b'{"topic": "github.push", "payload": {"ref": "refs/heads/main", "commits": []}}'


@dataclass
class Outcome:
    """What a run of the application left behind."""

    code: object
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        """The lines of the table below its header, in words."""
        lines = [line.split() for line in self.out.splitlines()]
        return [line for line in lines if len(line) > 2 and line[1].isdigit()]

    @property
    def complaints(self) -> list[str]:
        """The lines on stderr."""
        return self.err.splitlines()


Run: TypeAlias = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give what runs `python -m examples.webhooks` with some arguments."""

    def run_webhooks(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["webhooks", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_module("examples.webhooks", run_name="__main__")
        written = capsys.readouterr()
        return Outcome(end.value.code, written.out, written.err)

    monkeypatch.setenv("COLUMNS", "120")  # a narrow terminal would shorten the table
    return run_webhooks


@pytest.fixture
def deliveries(test_data: Path) -> Path:
    """Give the file of real deliveries."""
    return test_data / "github-webhooks.jsonl"


def written(folder: Path, *lines: bytes) -> Path:
    """Write a file of these lines."""
    file = folder / "deliveries.jsonl"
    file.write_bytes(b"\n".join(lines) + b"\n")
    return file


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_table_counts_real_deliveries(run: Run, deliveries: Path, backend: str) -> None:
    """Every real delivery reaches the handlers it is for, and none is refused."""
    outcome = run(deliveries, "--backend", backend)

    assert [row[:3] for row in outcome.rows] == [
        ["issues", "23", "0"],
        ["pull_requests", "19", "0"],
        ["pushes", "4", "0"],
        ["everything", "190", "0"],
    ]
    assert "deliveries published: 190, to no handler: 0, bad lines: 0" in outcome.out
    assert (outcome.code, outcome.err) == (0, "")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_json_tells_the_same(run: Run, deliveries: Path, backend: str) -> None:
    """With `--json` a program reads what a person reads in the table."""
    report = json.loads(run(deliveries, "--json", "--backend", backend).out)

    handlers = report.pop("handlers")
    assert report == {"published": 190, "bad_lines": 0, "unmatched": 0}
    assert {name: (one["handled"], one["refused"]) for name, one in handlers.items()} == {
        "issues": (23, 0),
        "pull_requests": (19, 0),
        "pushes": (4, 0),
        "everything": (190, 0),
    }


def test_handlers_read_their_models(run: Run, deliveries: Path) -> None:
    """What the handlers tallied comes from inside the payloads."""
    handlers = json.loads(run(deliveries, "--json").out)["handlers"]

    assert handlers["issues"]["tally"]["opened"] == 4
    assert handlers["pull_requests"]["tally"] == {"ready": 19}
    assert handlers["pushes"]["tally"] == {"without commits": 3, "with commits": 1}
    assert handlers["everything"]["tally"]["Codertocat"] == 161
    assert handlers["everything"]["tally"]["(no sender)"] == 2


def test_the_table_needs_no_rich(
    run: Run, deliveries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rich is not installed, the same table is aligned with spaces."""
    drawn = run(deliveries)
    monkeypatch.setitem(sys.modules, "rich.table", None)
    aligned = run(deliveries)

    assert aligned.rows == drawn.rows
    assert aligned.out != drawn.out


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"ping", "Invalid JSON: "),
        (b'{"topic": "github.push"', "Invalid JSON: "),
        (b"\xff\xfe{}", "Invalid JSON: "),
        (b'"github.push"', "Input should be an object"),
        (b'{"payload": {}}', "topic: Field required"),
        (b'{"topic": "github.push"}', "payload: Field required"),
        (b'{"topic": 7, "payload": {}}', "topic: Input should be a valid string"),
        (b'{"topic": "github.push", "payload": []}', "payload: Input should be an object"),
        (b'{"topic": "github..push", "payload": {}}', "'github..push' is not a topic"),
        (b'{"topic": "github.*", "payload": {}}', "'github.*' is not a topic"),
        (b'{"topic": "$dlq.push", "payload": {}}', "'$dlq.push' is the bus's own"),
    ],
)
def test_a_bad_line_is_reported(run: Run, tmp_path: Path, line: bytes, reason: str) -> None:
    """A line that cannot be used is reported with its number and why; the others are handled."""
    outcome = run(written(tmp_path, USABLE, line, USABLE))

    assert len(outcome.complaints) == 1
    assert outcome.complaints[0].startswith(f"line 2: {reason}")
    assert outcome.rows[2] == ["pushes", "2", "0", "without", "commits", "2"]
    assert "bad lines: 1" in outcome.out
    assert outcome.code == 1


def test_a_payload_no_handler_can_use_is_reported(run: Run, tmp_path: Path) -> None:
    """A payload without what a handler needs is named by line, topic and handler."""
    unusable = b'{"topic": "github.push", "payload": {"ref": "refs/heads/main"}}'
    outcome = run(written(tmp_path, USABLE, unusable))

    assert len(outcome.complaints) == 1
    assert outcome.complaints[0].startswith("line 2: pushes cannot handle this github.push: ")
    assert [row[:3] for row in outcome.rows[2:]] == [["pushes", "1", "1"], ["everything", "2", "0"]]
    assert outcome.code == 1


def test_bad_lines_leave_json_readable(run: Run, tmp_path: Path) -> None:
    """What is wrong goes to stderr alone, and is counted in the report."""
    outcome = run(written(tmp_path, b"ping", USABLE), "--json")

    assert json.loads(outcome.out)["bad_lines"] == 1
    assert len(outcome.complaints) == 1
    assert outcome.code == 1


def test_other_topics_are_counted(run: Run, tmp_path: Path) -> None:
    """A topic without a handler is no fault of the line."""
    outcome = run(written(tmp_path, b'{"topic": "gitlab.push", "payload": {}}'))

    assert "deliveries published: 1, to no handler: 1, bad lines: 0" in outcome.out
    assert (outcome.code, outcome.err) == (0, "")


def test_empty_lines_are_no_deliveries(run: Run, tmp_path: Path) -> None:
    """Lines without anything on them are passed over, and still count for the line numbers."""
    outcome = run(written(tmp_path, b"", USABLE, b"  \r", b"ping"))

    assert [complaint[:8] for complaint in outcome.complaints] == ["line 4: "]
    assert "deliveries published: 1, " in outcome.out


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_a_file_that_cannot_be_read(run: Run, tmp_path: Path, name: str) -> None:
    """Without a readable file there is one sentence, and no table."""
    outcome = run(tmp_path / name)

    assert len(outcome.complaints) == 1
    assert outcome.complaints[0].startswith(f"Cannot read {tmp_path / name}: ")
    assert (outcome.code, outcome.out) == (1, "")
