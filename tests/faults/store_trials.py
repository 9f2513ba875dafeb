"""What happens to stores, and to processes on them: a program, given a trial and a folder.

Each trial forks the processes it torments, and prints what it found as JSON.
"""

__all__ = ()

import json
import logging
import os
import random
import resource
import signal
import sqlite3
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from io import StringIO
from itertools import pairwise
from pathlib import Path
from time import monotonic, monotonic_ns, sleep
from typing import Any, NamedTuple
from unittest.mock import patch

import anyio

from eventbus import Context, EventBus, NoResponders, RequestTimeout, StoreError
from eventbus.middleware import DeadLetter, Retry
from eventbus.transports.sqlite import clerks, cursors, durable, neighbours, requests, schema
from eventbus.transports.sqlite.cursors import Claimed, Outcomes
from eventbus.transports.sqlite.durable import DurableSource
from eventbus.transports.sqlite.settlements import Settlements
from tests.faults.mortals import Mortal, Say, stop_between_writes, words_of_all
from tests.faults.scale import full

EVENTS = 20
ACK_WAIT = 1.0
BACKOFF = 2.0
REPLY_WAIT = 2.0
KEYS = 64
EVENTS_PER_KEY = full(150, small=15)
FAILING = 0.05
FULL_AT = 4
PAGE_BYTES = 4096
POISON = 7
STARTS = 3


# --- An event that ends the process ---------------------------------------------------------------


async def survive(path: Path, say: Say) -> None:
    """Handle what there is, and die of one."""
    bus = EventBus(f"sqlite:///{path}", middleware=[DeadLetter()])

    @bus.on("work", name="workers", start="first", max_deliveries=STARTS)
    async def handle(event: dict[str, int], context: Context[Any]) -> None:
        say(f"{event['n']} {context.attempt}")
        if event["n"] == POISON:
            os._exit(1)
        await anyio.sleep(0.001)

    async with bus:
        await bus.join()
        for letter in await bus.dead_letters():
            say(f"dead {letter.attempts}")


async def publish_work(path: Path) -> None:
    """Store what is to be handled."""
    async with EventBus(f"sqlite:///{path}") as bus:
        await bus.publish_many("work", [{"n": n} for n in range(EVENTS)])


def poison(path: Path) -> dict[str, object]:
    """Start the process again until it ends by itself."""
    anyio.run(publish_work, path)
    words: list[str] = []
    lives = 0
    while not any(word.startswith("dead") for word in words) and lives < 3 * STARTS:
        words += Mortal(lambda say: anyio.run(survive, path, say)).words()
        lives += 1
    starts = Counter(int(word.split()[0]) for word in words if not word.startswith("dead"))
    attempts = {word.split()[1] for word in words if word.split()[0] not in {str(POISON), "dead"}}
    return {
        "poison_attempts": [word.split()[1] for word in words if word.startswith(f"{POISON} ")],
        "dead": [word for word in words if word.startswith("dead")],
        "unhandled": EVENTS - len(starts),
        "attempts_of_others": sorted(attempts),
    }


def unbounded_poison(path: Path) -> dict[str, object]:
    """Do the same where that an attempt begins is not written: the control."""
    DurableSource._attempt = _always_the_first  # type: ignore[method-assign]  # the control
    return poison(path)


def _always_the_first(self: DurableSource, claimed: Claimed) -> int:
    return 1


# --- A process that stands still ------------------------------------------------------------------


def working_bus(path: Path, say: Say, live: Callable[[int], Awaitable[None]]) -> EventBus:
    """Make a bus whose handler tells what it begins and what it has done."""
    bus = EventBus(f"sqlite:///{path}", middleware=[DeadLetter()])

    @bus.on("work", name="workers", start="first", ack_wait=ACK_WAIT)
    async def handle(event: dict[str, int], context: Context[Any]) -> None:
        say(f"begun {event['n']}")
        await live(event["n"])
        say(f"handled {event['n']} {context.attempt}")

    return bus


async def stand_still(path: Path, say: Say) -> None:
    """Be stopped while the first event is handled, which then fails."""

    async def live(n: int) -> None:
        await anyio.sleep(0.1)
        if n == 0:
            raise ConnectionError("it took too long")

    logging.basicConfig(stream=Mouth(say), level=logging.WARNING, format="%(message)s")
    async with working_bus(path, say, live) as bus:
        await bus.join()


class Mouth(StringIO):
    """Says what is logged."""

    def __init__(self, say: Say) -> None:
        super().__init__()
        self._say = say

    def write(self, text: str) -> int:
        """Say it, word by word in one line."""
        if text.strip():
            self._say(f"logged {text.strip()}")
        return len(text)


async def take_over(path: Path, say: Say) -> None:
    """Handle what the other had, the first event until the other has ended."""
    has_ended = anyio.Path(path.with_name("has_ended"))
    has_come = anyio.Event()

    async def live(n: int) -> None:
        has_come.set()
        while n == 0 and not await has_ended.exists():  # noqa: ASYNC110 - of another process
            await anyio.sleep(0.01)

    async with working_bus(path, say, live) as bus:
        await has_come.wait()
        await bus.join()


async def look_for_more(path: Path, say: Say) -> None:
    """Handle what nobody has settled."""

    async def live(n: int) -> None: ...

    async with working_bus(path, say, live) as bus:
        await bus.join()


def frozen(path: Path) -> dict[str, object]:
    """Stop a process for three times its `ack_wait` while it handles, beside another."""
    anyio.run(publish_work, path)
    first = Mortal(lambda say: anyio.run(stand_still, path, say))
    first.hear("begun 0")
    stop_between_writes(first, path)
    stopped = monotonic()
    second = Mortal(lambda say: anyio.run(take_over, path, say))
    second.hear("begun 0")
    sleep(max(0.0, stopped + 3 * ACK_WAIT - monotonic()))
    first.go_on()
    of_first = first.words()
    path.with_name("has_ended").touch()
    of_second = second.words()
    later = Mortal(lambda say: anyio.run(look_for_more, path, say)).words()
    with closing(sqlite3.connect(path)) as connection:
        (unsettled,) = connection.execute("SELECT count(*) FROM delivery").fetchone()
        (dead,) = connection.execute("SELECT count(*) FROM dead_letter").fetchone()
    handled = Counter(word.split()[1] for word in of_first + of_second if word[:7] == "handled")
    return {
        "taken_over": "handled 0 1" in of_second,
        "told": any("settled too late" in word for word in of_first),
        "unhandled": EVENTS - len(handled),
        "handled_twice": sum(times > 1 for times in handled.values()),
        "later": later,
        "unsettled": unsettled,
        "dead": dead,
    }


def frozen_and_believed(path: Path) -> dict[str, object]:
    """Do the same where whoever had a delivery may settle it: the control."""
    cursors.settle = settle_for_anyone  # the control
    return frozen(path)


def settle_for_anyone(
    connection: sqlite3.Connection, subscription: int, session: int, outcomes: Outcomes
) -> int:
    """Believe whoever says how deliveries ended."""
    connection.execute("UPDATE delivery SET owner = ?", (session,))
    return settle_own(connection, subscription, session, outcomes)


settle_own = cursors.settle


# --- Several processes on one file ----------------------------------------------------------------


async def share(path: Path, say: Say) -> None:
    """Publish and handle, beside others that do so too."""
    bus = EventBus(f"sqlite:///{path}")

    @bus.on("work", name="workers", start="first", queue_size=4)
    async def handle(event: dict[str, int], context: Context[Any]) -> None:
        say(f"handled {context.message.id}")

    async with bus, anyio.create_task_group() as group:
        for _ in range(EVENTS):
            group.start_soon(bus.publish, "work", {"n": 1})
    say("ended")


def crowd(path: Path) -> dict[str, object]:
    """Let many do so at once, from the making of the file on."""
    many = [Mortal(lambda say: anyio.run(share, path, say)) for _ in range(8)]
    words = [word for mortal in many for word in mortal.words()]
    words += Mortal(lambda say: anyio.run(share, path, say)).words()
    handled = Counter(word for word in words if word.startswith("handled"))
    return {"ended": words.count("ended"), "handled_twice": sum(n > 1 for n in handled.values())}


def impatient_crowd(path: Path) -> dict[str, object]:
    """Do the same where nobody waits for a lock: the control."""
    with patch.object(clerks, "insist", ask_once), patch.object(schema, "insist", ask_once):
        return crowd(path)


def ask_once(connection: sqlite3.Connection, statement: str) -> None:
    """Execute it, or fail."""
    connection.execute(statement)


# --- Keys in order --------------------------------------------------------------------------------


class Attempt(NamedTuple):
    """What a process told of one attempt; the times are of a clock that all of them share."""

    key: str
    n: int
    began: int
    ended: int
    has_succeeded: bool


async def publish_keys(path: Path) -> None:
    """Store events of many keys, those of each numbered."""
    async with EventBus(f"sqlite:///{path}") as bus:
        for n in range(EVENTS_PER_KEY):
            for key in range(KEYS):
                await bus.publish("work", {"n": n}, key=f"k-{key}")


async def work_on_keys(path: Path, say: Say) -> None:
    """Handle some, fail now and then, and tell of each attempt."""
    retry = Retry(attempts=1000, initial=0.005)
    bus = EventBus(f"sqlite:///{path}", middleware=[retry])

    @bus.on("work", group="workers", start="first", concurrency=8, queue_size=32)
    async def handle(event: dict[str, int], context: Context[Any]) -> None:
        began = monotonic_ns()
        await anyio.sleep(random.uniform(0, 0.002))
        has_succeeded = random.random() > FAILING
        key = context.message.key
        say(f"{key} {event['n']} {began} {monotonic_ns()} {int(has_succeeded)}")
        if not has_succeeded:
            raise ConnectionError("now and then")

    logging.disable()  # every failure would be told of
    async with bus:
        await bus.join()


def keys(path: Path) -> dict[str, object]:
    """Let four processes handle them, and one what they leave to each other."""
    anyio.run(publish_keys, path)
    four = [Mortal(lambda say: anyio.run(work_on_keys, path, say)) for _ in range(4)]
    told = words_of_all(four)
    told.append(Mortal(lambda say: anyio.run(work_on_keys, path, say)).words())
    attempts = [read_attempt(word) for words in told for word in words]
    by_key: defaultdict[str, list[Attempt]] = defaultdict(list)
    for one in attempts:
        by_key[one.key].append(one)
    pairs = [pair for of_key in by_key.values() for pair in pairwise(sorted(of_key, key=began))]
    succeeded = Counter((one.key, one.n) for one in attempts if one.has_succeeded)
    return {
        "shared": min(map(len, told[:4])),
        "failed": sum(not one.has_succeeded for one in attempts),
        "unhandled": KEYS * EVENTS_PER_KEY - len(succeeded),
        "handled_twice": sum(times > 1 for times in succeeded.values()),
        "overlaps": sum(later.began < earlier.ended for earlier, later in pairs),
        "inversions": sum(later.n != earlier.n + earlier.has_succeeded for earlier, later in pairs),
    }


def read_attempt(word: str) -> Attempt:
    """Read what was told."""
    key, *numbers = word.split()
    n, began, ended, has_succeeded = map(int, numbers)
    return Attempt(key, n, began, ended, bool(has_succeeded))


def began(attempt: Attempt) -> int:
    """Give when an attempt began."""
    return attempt.began


def keys_of_nobody(path: Path) -> dict[str, object]:
    """Do the same where a process does not ask what others have of a key: the control."""
    cursors.claim_new = claim_whatever_comes  # the control
    return keys(path)


def claim_whatever_comes(
    connection: sqlite3.Connection,
    subscription: int,
    session: int,
    *,
    entries: Sequence[tuple[int, str | None]],
    seen: int,
    most: int,
    is_sequenced: bool = False,
) -> cursors.Taken | None:
    """Claim as if no message had a key."""
    keyless = [(position, None) for position, _ in entries]
    return claim_carefully(connection, subscription, session, entries=keyless, seen=seen, most=most)


claim_carefully = cursors.claim_new


# --- A responder that is killed -------------------------------------------------------------------


async def answer(path: Path, say: Say) -> None:
    """Answer requests until killed."""
    bus = EventBus(f"sqlite:///{path}")

    @bus.on("numbers", reply=int)
    async def reply(event: dict[str, int]) -> int:
        if event["n"] == 2:
            say("asked")
            await anyio.sleep_forever()
        return event["n"]

    async with bus:
        say("ready")
        await anyio.sleep_forever()


async def ask(path: Path, say: Say) -> None:
    """Ask while the responder lives, while it dies, and when it is dead."""
    is_dead = anyio.Path(path.with_name("is_dead"))
    async with EventBus(f"sqlite:///{path}") as bus:
        say(await ask_one(bus, 1))
        say(await ask_one(bus, 2))
        while not await is_dead.exists():  # noqa: ASYNC110 - of another process
            await anyio.sleep(0.01)
        began = monotonic()
        say(await ask_one(bus, 3))
        say(f"{monotonic() - began}")


async def ask_one(bus: EventBus, n: int) -> str:
    """Ask once, and tell what came of it."""
    try:
        return f"reply {await bus.request('numbers', {'n': n}, reply=int, timeout=REPLY_WAIT)}"
    except (NoResponders, RequestTimeout) as error:
        return type(error).__name__


def dead_responder(path: Path) -> dict[str, object]:
    """Kill the only responder while it is asked, and ask again."""
    responder = Mortal(lambda say: anyio.run(answer, path, say))
    responder.hear("ready")
    asking = Mortal(lambda say: anyio.run(ask, path, say))
    responder.hear("asked")
    responder.kill()
    responder.words()
    path.with_name("is_dead").touch()
    *told, seconds = asking.words()
    with closing(sqlite3.connect(path)) as connection:
        (left,) = connection.execute("SELECT count(*) FROM reply").fetchone()
    return {"told": told, "seconds": float(seconds), "left": left}


def believed_responder(path: Path) -> dict[str, object]:
    """Do the same where nobody looks whether a process lives: the control."""
    never = "is_gone", is_never_gone
    with patch.object(requests, *never), patch.object(neighbours, *never):
        return dead_responder(path)


def is_never_gone(place: str, process: int) -> bool:
    """Believe that a process is there."""
    return False


# --- A full disk ----------------------------------------------------------------------------------


async def fill(path: Path, say: Say) -> None:
    """Publish until the disk is full, handle what there is, make room, and go on."""
    bus = EventBus(f"sqlite:///{path}")
    stored, has_begun, is_full = 0, anyio.Event(), anyio.Event()

    @bus.on("work", name="workers", start="first", queue_size=FULL_AT, concurrency=FULL_AT)
    async def handle(event: dict[str, str], context: Context[Any]) -> None:
        has_begun.set()
        await is_full.wait()
        say(f"handled {context.message.id}")

    async with bus:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
        began = monotonic()
        try:
            while stored < 10_000:
                began = monotonic()
                await bus.publish("work", {"text": "x" * 1000}, id=f"m-{stored}")
                stored += 1
        except StoreError as error:
            say(f"refused {type(error).__name__}")
            say(f"seconds {monotonic() - began}")
        await has_begun.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE_BYTES, hard))  # no room for less, either
        is_full.set()
        await anyio.sleep(1)  # for what is told to the store meanwhile
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await bus.publish("work", {}, id="again")
        stored += 1
        say(f"stored {stored}")
        await bus.join()


async def count(path: Path, say: Say) -> None:
    """Read all there is."""
    bus = EventBus(f"sqlite:///{path}")
    ids: set[str] = set()

    @bus.on("work", start="first")
    async def handle(event: dict[str, str], context: Context[Any]) -> None:
        ids.add(context.message.id)

    @bus.on("work", name="workers")
    async def handle_again(event: dict[str, str], context: Context[Any]) -> None:
        say(f"handled {context.message.id}")

    async with bus:
        await bus.join()
    say(f"found {len(ids)}")


def full_disk(path: Path) -> Mapping[str, object]:
    """Let one publish onto a full disk, and handle there, then count what is there."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    words = Mortal(lambda say: anyio.run(fill, path, say)).words()
    words += Mortal(lambda say: anyio.run(count, path, say)).words()
    handled = Counter(word for word in words if word.startswith("handled"))
    told = [word.split(maxsplit=1) for word in words if word not in handled]
    return dict(told) | {"handled": len(handled), "handled_twice": handled.total() - len(handled)}


def full_and_forgetful(path: Path) -> Mapping[str, object]:
    """Do the same where what could not be written is not written later: the control."""
    with patch.object(durable, "Settlements", Forgetful):
        return full_disk(path)


class Forgetful(Settlements):
    """Keeps nothing of what could not be written."""

    def _end(self) -> None:
        if self._job is not None and self._job.error is not None:
            self._batch = []
        super()._end()


# --- A process that is killed while a retry waits -------------------------------------------------


async def fail_first(path: Path, say: Say) -> None:
    """Fail each first attempt, and tell of every attempt and its time."""
    retry = Retry(attempts=4, initial=BACKOFF, jitter=False)
    bus = EventBus(f"sqlite:///{path}", middleware=[retry])

    @bus.on("work", name="workers", start="first")
    async def handle(event: dict[str, int], context: Context[Any]) -> None:
        say(f"begun {event['n']} {context.attempt} {monotonic()}")
        if context.attempt == 1:
            raise ConnectionError("not yet")
        say(f"done {event['n']}")

    logging.disable()  # every failure would be told of
    async with bus:
        await anyio.sleep_forever()


def backoff(path: Path) -> dict[str, object]:
    """Kill a process once all retries wait, and let another go on."""
    anyio.run(publish_work, path)
    first = Mortal(lambda say: anyio.run(fail_first, path, say))
    until(lambda: waiting(path) == EVENTS)
    first.kill()
    failed = first.words()
    second = Mortal(lambda say: anyio.run(fail_first, path, say))
    for n in range(EVENTS):
        second.hear(f"done {n}")
    second.kill()
    begun = [word.split() for word in failed + second.words() if word.startswith("begun")]
    times = {(int(n), int(attempt)): float(time) for _, n, attempt, time in begun}
    waits = [times.get((n, 2), 0.0) - times[n, 1] for n in range(EVENTS)]
    return {
        "attempts": sorted(Counter(int(one[2]) for one in begun).items()),
        "earliest": min(waits),
        "latest": max(waits),
    }


def until(is_so: Callable[[], bool]) -> None:
    """Wait for a state that nothing tells of."""
    is_over = monotonic() + 60
    while not is_so() and monotonic() < is_over:
        sleep(0.01)


def waiting(path: Path) -> int:
    """Count the deliveries whose first attempt has failed, as far as that is known outside."""
    with closing(sqlite3.connect(path)) as connection:
        (one,) = connection.execute("SELECT count(*) FROM delivery WHERE attempts = 1").fetchone()
    return int(one)


def forgotten_backoff(path: Path) -> dict[str, object]:
    """Do the same where it is not written when a retry is due: the control."""
    cursors.settle = settle_without_due  # the control
    return backoff(path)


def settle_without_due(
    connection: sqlite3.Connection, subscription: int, session: int, outcomes: Outcomes
) -> int:
    """Write that an attempt has failed, and not when the next is due."""
    outcomes.later = [(position, attempts, 0) for position, attempts, _ in outcomes.later]
    return settle_own(connection, subscription, session, outcomes)


TRIALS: dict[str, Callable[[Path], Mapping[str, object]]] = {
    "poison": poison,
    "unbounded_poison": unbounded_poison,
    "frozen": frozen,
    "frozen_and_believed": frozen_and_believed,
    "crowd": crowd,
    "impatient_crowd": impatient_crowd,
    "keys": keys,
    "keys_of_nobody": keys_of_nobody,
    "backoff": backoff,
    "forgotten_backoff": forgotten_backoff,
    "dead_responder": dead_responder,
    "believed_responder": believed_responder,
    "full_disk": full_disk,
    "full_and_forgetful": full_and_forgetful,
}

if __name__ == "__main__":
    print(json.dumps(TRIALS[sys.argv[1]](Path(sys.argv[2]) / "events.db")))  # noqa: T201 - its use
