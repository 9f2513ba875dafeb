"""Counts the instructions of a process from outside, with valgrind's callgrind."""

__all__ = ("COMMAND", "counted")

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

COMMAND = ("valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no")
"""What comes before the command of the process; and a `--callgrind-out-file`."""


def counted(process: int, out_file: Path, work: Callable[[], object]) -> int:
    """Give how many instructions the process executes while this waits for its work."""
    _control("--instr=on", process)
    work()
    _control("--dump=counted", process)
    _control("--instr=off", process)
    newest = max(out_file.parent.glob(f"{out_file.name}.*"), key=_number)
    found = re.search(r"^totals: (\d+)$", newest.read_text("ascii"), re.MULTILINE)
    assert found is not None, f"{newest} has no line of totals"
    return int(found[1])


def _control(word: str, process: int) -> None:
    command = ["callgrind_control", word, str(process)]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - comes with valgrind


def _number(dump: Path) -> int:
    return int(dump.suffix[1:])
