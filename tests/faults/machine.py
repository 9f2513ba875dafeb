"""What a machine must have for some of these tests."""

__all__ = ("UNSHARE", "demand", "demand_mounts")

import os
import subprocess

import pytest

UNSHARE = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
"""Begins a command that may mount disks of its own; they are gone with its process."""


def demand_mounts() -> None:
    """Skip a test where nothing can be mounted, as `demand`."""
    missing = "no disk can be made here: that takes `unshare --mount`, and the right to use it"
    demand(is_met=_may_unshare(), missing=missing)


def _may_unshare() -> bool:
    try:
        subprocess.run([*UNSHARE, "true"], check=True)  # noqa: S603 - the command is written above
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def demand(*, is_met: bool, missing: str) -> None:
    """Skip a test where something is missing; on a build server, where none is skipped, fail."""
    if is_met:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)
