"""A running bus belongs to one process and one thread, and says so everywhere else."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from eventbus import EventBus, EventBusError

PROGRAM = """
import json, os, sys, threading
import anyio
from eventbus import EventBus

bus, seen = EventBus(name="shop"), []
new = EventBus()

@bus.on("work")
async def work(event: dict[str, int]) -> None:
    await anyio.sleep(0)
    seen.append(event["n"])

async def outcome(function, *arguments):
    try:
        with anyio.fail_after(2.0):
            result = function(*arguments)
            if hasattr(result, "__await__"):
                await result
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "done"

async def use_copy(outcomes):
    for name, *call in [
        ("publish", bus.publish, "work", {"n": 9}),
        ("publish_nowait", bus.publish_nowait, "work", {"n": 9}),
        ("publish_many", bus.publish_many, "work", [{"n": 9}]),
        ("publish_from_thread", bus.publish_from_thread, "work", {"n": 9}),
        ("redrive", bus.redrive),
        ("unsubscribe", bus.unsubscribe, work),
        ("join", bus.join),
        ("drain", bus.drain),
        ("enter", bus.__aenter__),
        ("subscribe", bus.subscribe("work").__aenter__),
    ]:
        outcomes[name] = await outcome(*call)
    async with new:
        outcomes["new"] = await outcome(new.publish, "work", {})

def in_child():
    "Use the copy as a child does, which has a loop of its own."
    used = {}
    thread = threading.Thread(target=lambda: anyio.run(use_copy, used, backend=sys.argv[1]))
    thread.start()
    thread.join()
    return {"new": used.pop("new"), "used": used, "published": bus.stats().published}

async def main():
    async with bus:
        for n in range(3):
            await bus.publish("work", {"n": n})
        await bus.join()
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, json.dumps(in_child()).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            child = json.load(pipe)
        os.wait()
        await bus.publish("work", {"n": 3})
        await bus.join()
    print(json.dumps({"child": child, "seen": seen}))

if sys.argv[2] == "unnoticed":
    from eventbus.runtime import Runtime
    Runtime.is_copy = False
    Runtime.is_in_its_thread = lambda runtime: True
anyio.run(main, backend=sys.argv[1])
"""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")


def fork_in(backend: str, how: str = "noticed") -> dict[str, Any]:
    """Run the program, and give what its child and it itself found."""
    done = subprocess.run(  # noqa: S603 - the program is written above
        [sys.executable, "-c", PROGRAM, backend, how],
        capture_output=True,
        text=True,
        check=True,
        timeout=30.0,
        cwd=Path(__file__).parents[2],
    )
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


@needs_fork
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_copy_in_a_child_is_refused(backend: str) -> None:
    """Whatever is asked of it; its figures can be read, and the parent goes on unharmed."""
    found = fork_in(backend)

    for refusal in found["child"]["used"].values():
        assert refusal.startswith("EventBusError: <EventBus 'shop', forked> was running when")
    assert found["child"]["published"] == 3
    assert found["child"]["new"] == "done"
    assert found["seen"] == [0, 1, 2, 3]


@needs_fork
def test_control_unnoticed_a_copy_takes_what_nobody_will_handle() -> None:
    """A publish in the child would seem to work."""
    assert fork_in("asyncio", "unnoticed")["child"]["used"]["publish"] == "done"


async def hear_nothing(bus: EventBus) -> None:
    """Subscribe for a moment."""
    async with bus.subscribe("new.topic"):
        pass


async def publish_nowait(bus: EventBus) -> None:
    """Publish without waiting."""
    bus.publish_nowait("new.topic", {})


USES: dict[str, Callable[[EventBus], Awaitable[object]]] = {
    "publish": lambda bus: bus.publish("new.topic", {}),
    "publish again": lambda bus: bus.publish("work", {}),
    "publish later": lambda bus: bus.publish("work", {}, delay=1.0),
    "publish_nowait": publish_nowait,
    "publish_many": lambda bus: bus.publish_many("new.topic", [{}]),
    "request": lambda bus: bus.request("question", {}, reply=int),
    "wait_for": lambda bus: bus.wait_for("new.topic"),
    "subscribe": hear_nothing,
    "unsubscribe": lambda bus: bus.unsubscribe("worker"),
    "join": EventBus.join,
    "drain": EventBus.drain,
    "dead_letters": EventBus.dead_letters,
    "redrive": EventBus.redrive,
    "purge_dead_letters": EventBus.purge_dead_letters,
}


@pytest.mark.parametrize("use", USES)
async def test_another_loop_in_another_thread_is_refused(use: str) -> None:
    """It says so before anything is done, and the bus is unharmed."""
    seen: list[object] = []
    bus = EventBus()
    bus.on("work", name="worker")(seen.append)
    bus.on("question", reply=int)(len)

    async def use_from_there() -> None:
        with anyio.fail_after(5.0):
            with pytest.raises(EventBusError, match="runs in another thread"):
                await USES[use](bus)
            refused.set()

    refused = threading.Event()
    async with bus:
        await bus.publish("work", {})
        await bus.request("question", {}, reply=int)
        await bus.join()  # while a handler works, a publish from elsewhere may not be noticed
        thread = threading.Thread(target=anyio.run, args=(use_from_there,))
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        await bus.publish("work", {})

    assert refused.is_set()
    assert seen == [{}, {}]
    assert bus.stats().published == 3
