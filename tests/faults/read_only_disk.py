"""Looks at a store on a disk that is mounted read-only, and tells what came of it.

`unshare --mount python -m tests.faults.read_only_disk LIFE FOLDER`, with one of `LIVES`. The disk
is writable again outside of the namespace of the process.
"""

__all__ = ("LOOKS",)

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import anyio

from eventbus import EventBus, StoreError

LOOKS = ("stats --json", "verify", "export", "replay work", "dlq list --json")

Found = dict[str, object]


async def look_at_what_is_closed(store: Path) -> Found:
    """Look when nobody has it open; try to open it, as a bus does."""
    async with EventBus(f"sqlite:///{store}") as bus:
        await bus.publish("work", {"n": 1})
    mount_read_only(store.parent)
    found = look(store)
    try:
        async with EventBus(f"sqlite:///{store}"):
            return found
    except StoreError as error:
        return {**found, "refused": str(error)}


async def look_at_what_is_at_work(store: Path) -> Found:
    """Look while a bus has it open that could write: it had opened its files before."""
    async with EventBus(f"sqlite:///{store}") as bus:
        await bus.publish("work", {"n": 1})
        mount_read_only(store.parent)
        await bus.publish("work", {"n": 2})
        found = await anyio.to_thread.run_sync(look, store)
        await bus.publish("work", {"n": 3})
    return found


LIVES: Mapping[str, Callable[[Path], Awaitable[Found]]] = {
    "closed": look_at_what_is_closed,
    "at work": look_at_what_is_at_work,
}


def mount_read_only(folder: Path) -> None:
    """Let nothing more be changed there by who opens it from now on."""
    for options in (["--bind", str(folder)], ["-o", "remount,ro,bind"]):
        command = ["mount", *options, str(folder)]
        subprocess.run(command, check=True)  # noqa: S603 - it is written above


def look(store: Path) -> Found:
    """Run all commands that look, each as a process; give what they printed, and their codes."""
    before = names_in(store.parent)
    ended = [
        subprocess.run(  # noqa: S603 - the commands are written above
            [sys.executable, "-m", "eventbus", *words.split(), "--url", f"sqlite:///{store}"],
            capture_output=True,
            text=True,
            check=False,
        )
        for words in LOOKS
    ]
    return {
        "codes": [one.returncode for one in ended],
        "output": dict(zip(LOOKS, (one.stdout for one in ended), strict=True)),
        "complaint": "".join(one.stderr for one in ended),
        "is_as_before": names_in(store.parent) == before,
    }


def names_in(folder: Path) -> list[str]:
    """Name the files of a folder."""
    return sorted(path.name for path in folder.iterdir())


def main(name: str, folder: str) -> None:
    """Live on the disk, and tell what was seen."""
    print(json.dumps(anyio.run(LIVES[name], Path(folder) / "events.db")))  # noqa: T201 - see above


if __name__ == "__main__":
    main(*sys.argv[1:])
