"""Runs every Python block of the READMEs, and holds what it prints against the block below it."""

import ast
import codeop
import inspect
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import indent
from typing import Any

import anyio
import pytest

pytest_plugins = ("pytester",)

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
READMES = [README, *sorted(ROOT.glob("plugins/*/README.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n^```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """Code of a README, where it stands, and what it promises to print."""

    file: Path
    line: int
    code: str
    output: str

    @property
    def is_program(self) -> bool:
        """Whether it runs alone; the others continue one another."""
        return "anyio.run(" in self.code

    def run(self, namespace: dict[str, Any]) -> Any:
        """Run it; what awaits at its top level comes back as a coroutine."""
        source = "\n" * self.line + self.code  # so that a traceback shows the README's lines
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        return eval(compile(source, self.file, "exec", flags), namespace)  # noqa: S307 - ours


def collect(file: Path) -> list[Block]:
    """Find the blocks of a README, in their order."""
    text = file.read_text("utf-8")
    return [
        Block(file, text[: found.start()].count("\n") + 1, found[1], found[2] or "")
        for found in BLOCK.finditer(text)
    ]


TESTS = [block for block in collect(README) if "async def test_" in block.code]
PROGRAMS = [block for file in READMES for block in collect(file) if block.is_program]
SNIPPETS = [block for block in collect(README) if not block.is_program]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    "program", PROGRAMS, ids=lambda program: f"{program.file.parent.name}_{program.line}"
)
def test_a_program_runs(
    program: Block,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A newcomer who types a program alone sees what the README says."""
    monkeypatch.setattr(anyio, "run", partial(anyio.run, backend=backend))
    program.run({"__name__": "__main__"})

    assert capsys.readouterr().out == program.output


async def test_the_snippets_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newcomer who types the snippets one after the other sees what the README says."""
    monkeypatch.chdir(tmp_path)  # they write files
    namespace: dict[str, Any] = {"__name__": "readme"}
    for snippet in SNIPPETS:
        awaiting = snippet.run(namespace)
        if inspect.isawaitable(awaiting):
            await awaiting
        printed = capsys.readouterr().out
        assert (snippet.line, printed) == (snippet.line, snippet.output)


@pytest.mark.parametrize("test", TESTS, ids=lambda test: f"line_{test.line}")
def test_a_test_passes(test: Block, pytester: pytest.Pytester) -> None:
    """A newcomer who pastes a test into a file of its own sees it pass."""
    pytester.makepyfile(test.code)
    result = pytester.runpytest_inprocess("--anyio-mode=auto")

    assert result.parseoutcomes().keys() == {"passed"}


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: f"line_{snippet.line}")
def test_a_snippet_can_be_pasted(snippet: Block) -> None:
    """A newcomer pastes a snippet into `python -m asyncio`, where an empty line ends a block."""
    read = codeop.CommandCompiler()
    read.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    pending: list[str] = []
    for line in [*snippet.code.splitlines(), ""]:
        pending.append(line)
        if read("\n".join(pending)) is not None:
            pending.clear()

    assert pending == []


@pytest.mark.timeout(180)  # seconds: mypy may have no cache yet
def test_all_of_it_is_typed(tmp_path: Path) -> None:
    """`mypy --strict` has nothing to say about the programs, nor about the snippets together."""
    sources = [program.code for program in PROGRAMS]
    body = "".join(snippet.code for snippet in SNIPPETS)
    sources.append("async def snippets() -> None:\n" + indent(body, "    "))
    files = [tmp_path / f"readme_{number}.py" for number in range(len(sources))]
    for file, source in zip(files, sources, strict=True):
        file.write_text(source, "utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", *map(str, files)]
    run = subprocess.run(  # noqa: S603 - the command is written above
        command, cwd=README.parent, capture_output=True, text=True, check=False
    )

    assert (run.returncode, run.stderr) == (0, ""), run.stdout


def anchor(title: str) -> str:
    """Give the name under which GitHub finds a section."""
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


def test_its_contents_are_those_it_lists() -> None:
    """Whoever looks for a section finds it in the list above, and by each link to it."""
    text = README.read_text("utf-8")
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    listed = re.findall(r"\[([^]]+)\]\(#", text.partition("\n## ")[0])

    assert listed == titles
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) == {anchor(title) for title in titles}


@pytest.mark.parametrize("file", [README, ROOT / "tests/faults/README.md"], ids=["root", "faults"])
def test_the_tests_it_names_are_there(file: Path) -> None:
    """Whoever asks what shows a promise finds it."""
    named = set(re.findall(r"\btest_\w+\.py", file.read_text("utf-8")))
    there = {
        test.name for folder in ("tests", "tests/faults") for test in (ROOT / folder).iterdir()
    }

    assert named
    assert named - there == set()


def test_no_block_is_overlooked() -> None:
    """The README shows code in blocks that these tests find, and programs among them."""
    fences = re.findall(r"^```(\w+)$", README.read_text("utf-8"), re.MULTILINE)

    assert len(collect(README)) == fences.count("python")
    assert sum(bool(block.output) for block in collect(README)) == fences.count("text")
    assert len(PROGRAMS) >= 2


@pytest.mark.parametrize("file", READMES[1:], ids=lambda file: file.parent.name)
def test_a_plugin_shows_whole_programs(file: Path) -> None:
    """All that a plugin's README shows runs by itself, and says what it prints."""
    blocks = collect(file)

    assert blocks
    assert [block.line for block in blocks if not (block.is_program and block.output)] == []
