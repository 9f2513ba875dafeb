"""The contract of transports holds for stores while many processes keep the machine busy."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.scale import full

ROOT = Path(__file__).parents[2]
PROCESSES = full(10, small=2)
CHOSEN = "TestSqlite and " + full("not many_times", small="order")  # many times: ten in each


@pytest.mark.timeout(3600)  # seconds, in full
def test_the_contract_holds_side_by_side(tmp_path: Path) -> None:
    """Each process runs all of it, on stores of its own, at the same time as the others."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", CHOSEN]
    command += ["-o", "timeout=600", "tests/test_transport_contract.py"]
    running = [
        subprocess.Popen(  # noqa: S603 - the command is written above
            [*command, f"--basetemp={tmp_path / str(n)}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for n in range(PROCESSES)
    ]
    told = [process.communicate()[0] for process in running]

    for process, words in zip(running, told, strict=True):
        assert process.returncode == 0, words[-3000:]
        assert " passed" in words


def test_that_a_breach_would_be_seen(tmp_path: Path) -> None:
    """Control: a process whose tests fail ends with another code, and says so."""
    test = tmp_path / "test_breach.py"
    test.write_text("def test_breach():\n    assert False\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - as above

    assert done.returncode == 1
    assert "1 failed" in done.stdout
