"""What was measured with: versions and the kind of machine, by no name."""

__all__ = ("kind", "libraries")

import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.contenders import Contender

CORE = ("eventbus", "anyio", "trio", "pydantic")
CPU_INFO = Path("/proc/cpuinfo")


def libraries(contenders: Iterable[Contender]) -> str:
    """Name Python and each library, with their versions."""
    own = [f"{name} {version(name)}" for name in CORE]
    others = [one.library for one in contenders]
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return ", ".join(dict.fromkeys([python, *own, *others]))


def kind() -> str:
    """Say what kind of machine this is."""
    return f"{_processor()}, {os.cpu_count()} CPUs, {platform.system()} {platform.machine()}"


def _processor() -> str:
    lines = CPU_INFO.read_text("utf-8").splitlines() if CPU_INFO.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown processor"
