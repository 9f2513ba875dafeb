"""The commands that look after a store."""

import json
import re
import shlex
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import pytest

from eventbus import Context, EventBus
from eventbus.cli import figures, lines, main, store
from eventbus.cli.text import age, counted, printable, size
from eventbus.clock import Clock, stopwatch
from eventbus.entry_points import own_version
from eventbus.message import Message, Receipt
from eventbus.transports.base import Capabilities, Source, SourceSpec
from tests.shell import Shell
from tests.strange_records import store_record

ORDER = '{"order_id": "o-1"}'
NASTY = "\x1b]0;owned\x07 \x9b31m \u202etxt"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a store that is not there yet."""
    return tmp_path / "events.db"


@pytest.fixture
def shell(path: Path) -> Shell:
    """Give a shell whose commands work on a store."""
    return Shell(f"sqlite:///{path}")


def is_harmless(text: str) -> bool:
    """Tell whether a terminal would only show a text."""
    return all(line.isprintable() for line in text.split("\n"))


def test_the_version_is_told(shell: Shell) -> None:
    """For a report, say: by one option, which needs no command."""
    ended = shell("--version")

    assert (ended.code, ended.output) == (0, f"eventbus {own_version()}\n")


# --- publish --------------------------------------------------------------------------------------


def test_publish_stores_one_event(shell: Shell) -> None:
    """What is given as an argument is one event; where it is stored is told."""
    ended = shell("publish", "orders.placed", ORDER)

    assert ended.code == 0
    assert ended.output.endswith(" is stored at position 1\n")
    (event,) = shell("export").json
    assert (event["topic"], event["payload"]) == ("orders.placed", {"order_id": "o-1"})


def test_publish_prints_receipts(shell: Shell) -> None:
    """A script reads what became of an event: with an id that is known, nothing."""
    first = shell("publish", "orders.placed", ORDER, "--id", "o-1", "--json")
    again = shell("publish", "orders.placed", ORDER, "--id", "o-1", "--json")

    assert first.json == [
        {"id": "o-1", "topic": "orders.placed", "position": 1, "duplicate": False}
    ]
    assert again.json[0]["duplicate"] is True
    assert "was there already" in shell("publish", "x", "1", "--id", "o-1").output


def test_publish_reads_lines(shell: Shell) -> None:
    """Each line of stdin that is not empty is an event, in their order; any JSON can be one."""
    ended = shell("publish", "readings", typed='{"n": 1}\n\n[2]\n"drei"\n4.5\nnull')

    assert ended.output == "published 5 events to readings\n"
    payloads = [event["payload"] for event in shell("export").json]
    assert payloads == [{"n": 1}, [2], "drei", 4.5, None]


def test_publish_prints_a_receipt_a_line(shell: Shell) -> None:
    """Lines can be told apart by their receipts."""
    assert [one["position"] for one in shell("publish", "n", "-", "--json", typed="1\n2").json] == [
        1,
        2,
    ]


def test_publish_says_what_travels_beside_it(shell: Shell) -> None:
    """Key, headers and expiry stand in the event."""
    shell("publish", "orders.placed", ORDER, "--key", "k", "--header", "a=b=c", "--expires", "60")

    (event,) = shell("export").json
    assert (event["key"], event["headers"]) == ("k", {"a": "b=c"})
    lasts = datetime.fromisoformat(event["expires_at"]) - datetime.fromisoformat(event["time"])
    assert abs(lasts - timedelta(seconds=60)) < timedelta(milliseconds=1)


@pytest.mark.parametrize("when", ["--delay=3600", "--at=2999-01-31T12:00:00+00:00"])
def test_publish_for_later(shell: Shell, when: str) -> None:
    """It is kept, has no position yet, and what is said is when it goes out."""
    told = shell("publish", "orders.placed", ORDER, when, "--id", "o-1")
    again = shell("publish", "orders.placed", ORDER, when, "--id", "o-1")
    (receipt,) = shell("publish", "orders.placed", ORDER, when, "--json").json
    shell("publish", "orders.placed", when, typed="1\n2")

    assert re.fullmatch(r"o-1 is stored, and goes out at \S+ \S+Z\n", told.output)
    assert again.output == "o-1 was there already, and goes out when it is due\n"
    assert (receipt["position"], datetime.fromisoformat(receipt["due"]) > datetime.now(UTC)) == (
        None,
        True,
    )
    assert shell("stats", "--json").json[0]["scheduled"] == 4
    assert shell("export").output == ""


def test_publish_of_what_is_due_is_stored(shell: Shell) -> None:
    """A time that has passed is now."""
    ended = shell("publish", "n", "1", "--at", "2001-01-31T12:00:00Z")

    assert ended.output.endswith(" is stored at position 1\n")


@pytest.mark.parametrize(
    ("words", "typed", "sentence"),
    [
        (["x", "{"], "", "the payload is no JSON: EOF"),
        (["x", "NaN"], "", "the payload is no JSON"),
        (["bad..topic", "1"], "", "'bad..topic' is not a topic"),
        (["bad..topic"], "", "'bad..topic' is not a topic"),
        (["$dlq.x", "1"], "", "'$dlq.x'"),
        (["x", "1", "--header", "a"], "", "--header 'a': give NAME=VALUE"),
        (["x", "1", "--key", ""], "", "--key ''"),
        (["x", "1", "--expires", "-1"], "", "--expires -1.0"),
        (["x", "1", "--delay", "-1"], "", "--delay -1.0: give seconds, 0 or more\n"),
        (["x", "1", "--at", "2026-01-31"], "", "--at '2026-01-31': give a time as"),
        (
            ["x", "1", "--at", "2026-01-31T12:00:00Z", "--delay", "1"],
            "",
            "--delay 1 and --at '2026-01-31T12:00:00Z': give one of them",
        ),
        (["x", "--id", "1"], "", "--id names one event"),
        (["x"], "1\n2\n{\n4\n", "line 3: the payload is no JSON"),
    ],
)
def test_publish_refuses_what_cannot_be(
    shell: Shell, words: list[str], typed: str, sentence: str
) -> None:
    """Bad input is one sentence on stderr, and code 2."""
    ended = shell("publish", *words, typed=typed)

    assert (ended.code, ended.output) == (2, "")
    assert ended.complaint.startswith(f"eventbus: {sentence}")
    assert ended.complaint.count("\n") == 1


def test_what_is_wrong_creates_no_store(shell: Shell, path: Path) -> None:
    """A command that cannot be done leaves nothing behind."""
    shell("publish", "bad..topic", "1")

    assert not path.exists()


def test_lines_before_a_bad_one_are_published(shell: Shell) -> None:
    """Whoever mends a file has to know where to go on."""
    ended = shell("publish", "n", typed="1\n2\n{\n4\n")

    assert ended.complaint.endswith("published before it: 2 events\n")
    assert [event["payload"] for event in shell("export").json] == [1, 2]


def test_a_line_without_an_end_is_refused(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, whatever is piped in."""
    monkeypatch.setattr(lines, "MOST_BYTES", 10)
    ended = shell("publish", "n", typed="1\n" + "2" * 11)

    assert ended.code == 2
    assert "line 2 is longer than 10 bytes" in ended.complaint


# --- tail -----------------------------------------------------------------------------------------


def test_tail_shows_what_matches(shell: Shell) -> None:
    """People read time, position, topic, key and payload."""
    shell("publish", "parcels", "1")
    shell("publish", "orders.placed", ORDER, "--key", "k")
    ended = shell("tail", "orders.*", "--from", "first", "-n", "1")

    assert ended.code == 0
    assert ended.output.split("  ", 1)[1].split() == [
        "2",
        "orders.placed",
        "[k]",
        '{"order_id":"o-1"}',
    ]


def test_tail_ends_after_so_many(shell: Shell) -> None:
    """A script that waits for three events gets three."""
    shell("publish", "n", typed="\n".join(map(str, range(9))))

    shown = shell("tail", "--from", "2", "-n", "3", "--json").json
    assert [event["payload"] for event in shown] == [1, 2, 3]


def test_tail_begins_where_it_is_told(shell: Shell) -> None:
    """At the newest event, or at a time."""
    shell("publish", "n", typed="1\n2")

    (newest,) = shell("tail", "--from", "last", "-n", "1", "--json").json
    (since,) = shell("tail", "--from", newest["time"], "-n", "1", "--json").json
    assert newest == since
    assert newest["payload"] == 2


@pytest.mark.parametrize("start", ["nowhere", "2026-01-31", "2026-01-31T12:00:00", "-1", "5"])
def test_tail_refuses_a_start_that_is_none(shell: Shell, start: str) -> None:
    """A time needs its zone, a position has to be there or come next."""
    shell("publish", "n", "1")

    assert shell("tail", f"--from={start}").code == 2


def test_tail_refuses_a_pattern_that_is_none(shell: Shell) -> None:
    """A pattern of another system is refused with the form it has here."""
    shell("publish", "n", "1")
    ended = shell("tail", "orders.#")

    assert ended.code == 2
    assert "'>'" in ended.complaint


def test_nothing_drives_the_terminal(shell: Shell) -> None:
    """What an event holds is shown, never done, whatever command shows it."""
    shell("publish", "orders.placed", json.dumps({"order_id": NASTY}))
    shell.give_up_on({"order_id": NASTY})
    (letter,) = shell("dlq", "list", "--json").json
    shown = [
        shell("tail", "--from", "first", "-n", "2"),
        shell("tail", "--from", "first", "-n", "2", "--json"),
        shell("dlq", "list"),
        shell("dlq", "list", "--json"),
        shell("dlq", "show", letter["id"]),
        shell("publish", NASTY, "1"),
    ]

    assert [is_harmless(one.output + one.complaint) for one in shown] == [True] * 6
    assert {one["payload"]["order_id"] for one in shown[1].json} == {NASTY}


# --- replay ---------------------------------------------------------------------------------------


def give_events(shell: Shell, seconds: float = 60.0) -> None:
    """Store four events, so far apart, the keys of which are a, b, a, and none."""
    lines = [
        {
            "topic": "orders.placed",
            "payload": {"n": n},
            "key": key,
            "time": f"{datetime.fromtimestamp(1.8e9 + n * seconds, UTC).isoformat()}",
        }
        for n, key in enumerate(["a", "b", "a", None], 1)
    ]
    shell("import", typed="\n".join(map(json.dumps, lines)))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([">"], [1, 2, 3, 4]),
        (["orders.*", "other"], [1, 2, 3, 4]),
        (["other"], []),
        ([">", "-n", "3"], [1, 2, 3]),
        ([">", "--count", "9", "--since", "4"], [4]),
        ([">", "--since", "2", "--until", "3"], [2, 3]),
        ([">", "--since", "2027-01-15T08:02:00Z"], [2, 3, 4]),
        ([">", "--until", "2027-01-15T08:02:30+00:00"], [1, 2]),
        ([">", "--last-per-key"], [2, 3, 4]),
    ],
)
def test_replay_prints_what_is_stored(shell: Shell, words: list[str], expected: list[int]) -> None:
    """In its order, and then it ends; as JSON it is what `export` writes."""
    give_events(shell)
    replayed = shell("replay", *words, "--json").json

    assert [event["payload"]["n"] for event in replayed] == expected
    assert [event for event in shell("export").json if event in replayed] == replayed
    assert len(shell("replay", *words).lines) == len(expected)


def test_replay_can_be_as_fast_as_it_was(shell: Shell) -> None:
    """Or several times as fast."""
    give_events(shell, seconds=0.2)
    began = stopwatch()
    ended = shell("replay", ">", "--speed", "2.0")

    assert len(ended.lines) == 4
    assert stopwatch() - began > 3 * 0.2 / 2.0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([">", "--since", "first"], "--since 'first': give a position, or a time as"),
        ([">", "--until", "2026-05-01T00:00:00"], "--until '2026-05-01T00:00:00': give a"),
        ([">", "--since", "0"], "--since 0: give a position, from 1 on, or a time with its zone\n"),
        ([">", "--since", "9"], "--since 9 is not in the log, which ends at 4"),
        ([">", "--since", "3", "--until", "2"], "--until 2 is before --since 3"),
        ([">", "--speed", "0"], "--speed 0.0: give more than 0, as 1.0 for the original speed\n"),
        (["a..b"], "'a..b'"),
        ([], "Missing argument 'patterns'"),
    ],
)
def test_replay_refuses_what_cannot_be(shell: Shell, words: list[str], sentence: str) -> None:
    """In one sentence, and with code 2."""
    give_events(shell)
    ended = shell("replay", *words)

    assert (ended.code, ended.output) == (2, "")
    assert sentence in ended.complaint


# --- export and import ----------------------------------------------------------------------------


async def publish_all_kinds(url: str) -> None:
    """Publish what is not only JSON, also as a handler does."""
    bus = EventBus(url)

    @bus.on("first", name="answering")
    async def answer(event: bytes) -> None:
        await bus.publish("third", {"n": 3}, id="chosen", expires=3600)

    async with bus:
        await bus.publish("first", b"\xff\x00", key="k", headers={"a": "b"})
        await bus.join()


def test_an_import_is_what_was_exported(shell: Shell, tmp_path: Path) -> None:
    """A copy of a store holds the same events, with their ids and times; nothing twice."""
    anyio.run(publish_all_kinds, shell.url)
    exported = shell("export").output
    (tmp_path / "events.jsonl").write_text(exported, "utf-8")
    other = Shell(f"sqlite:///{tmp_path}/copy.db")

    assert other("import", typed=exported).output == ("imported 2 events, 0 were there already\n")
    assert other("import", f"{tmp_path}/events.jsonl").output == (
        "imported 0 events, 2 were there already\n"
    )
    assert other("export").output == exported


def test_import_tells_programs(shell: Shell) -> None:
    """How many were stored, and how many were there."""
    shell("publish", "n", typed="1\n2")
    exported = shell("export").output + '{"topic": "n", "payload": 3}'

    assert shell("import", "--json", typed=exported).json == [{"imported": 1, "duplicates": 2}]


async def read_all(url: str) -> list[Message]:
    """Read messages as an application does."""
    bus, messages = EventBus(url), list[Message]()

    @bus.on(">", name="all", start="first")
    async def read(event: object, context: Context[object]) -> None:
        messages.append(context.message)

    async with bus:
        await bus.join()
    return messages


def test_an_imported_event_says_all_it_said(shell: Shell, tmp_path: Path) -> None:
    """Bytes, key, headers and conversation arrive where they are handled."""
    line = {"topic": "orders", "correlation_id": "c", "causation_id": "d", "payload": None}
    anyio.run(publish_all_kinds, shell.url)
    first = shell("export").lines[0]
    other = Shell(f"sqlite:///{tmp_path}/copy.db")
    other("import", typed=f"{first}\n{json.dumps(line)}")

    one, two = anyio.run(read_all, other.url)
    assert (one.payload, one.key, one.headers) == (b"\xff\x00", "k", {"a": "b"})
    assert (two.payload, two.correlation_id, two.causation_id) == (None, "c", "d")


def test_export_chooses(shell: Shell) -> None:
    """By pattern, and by where it begins."""
    shell("publish", "n", typed="1\n2")
    shell("publish", "m", "3")

    assert [one["payload"] for one in shell("export", "n").json] == [1, 2]
    assert [one["payload"] for one in shell("export", "--from", "2").json] == [2, 3]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 1: this is no event"),
        ('{"topic": "x"}', "line 1: this event has no payload"),
        ('{"topic": "x", "payload": 1, "extra": 1}', "line 1: this is no event"),
        ('{"topic": "x..", "payload": 1}', "line 1: 'x..' is not a topic"),
        ('{"topic": "x", "payload": 1, "time": "2026-01-01"}', "line 1: this is no event"),
        ('{"topic": "x", "payload": 1, "key": "a\\nb"}', "line 1: key="),
        ('{"topic": "x", "payload_base64": "%"}', "line 1: this event's payload_base64 is none"),
    ],
)
def test_import_refuses_what_is_no_event(shell: Shell, line: str, sentence: str) -> None:
    """A line that `export` did not write is named."""
    ended = shell("import", typed=line)

    assert ended.code == 2
    assert ended.complaint.startswith(f"eventbus: {sentence}")


def test_import_names_the_file_it_cannot_read(shell: Shell, tmp_path: Path) -> None:
    """The work failed: code 1."""
    ended = shell("import", f"{tmp_path}/none")

    assert ended.code == 1
    assert ended.complaint == f"eventbus: {tmp_path}/none: No such file or directory\n"


# --- stats and top --------------------------------------------------------------------------------


def test_who_looks_is_no_bus_that_has_it_open(shell: Shell) -> None:
    """Neither for people nor for programs."""
    shell("publish", "n", "1")

    assert shell("stats", "--json").json[0]["buses"] == 0
    assert shell("stats").lines[0].endswith("open in 0 buses")


def test_stats_shows_a_table(shell: Shell) -> None:
    """Whoever looks sees the store, and how far each subscription is."""
    shell.give_up_on({"order_id": "o-1"})
    shell("publish", "orders.placed", ORDER)
    summary, _, header, _, row = shell("stats").lines

    assert summary.startswith("2 records up to position 2, ")
    assert summary.endswith("1 dead letter, open in 0 buses")
    assert header.split()[:3] == ["subscription", "patterns", "lag"]
    assert row.split()[:6] == ["books", "orders.placed", "1", "0", "0", "1"]


def test_stats_tells_what_is_scheduled(shell: Shell) -> None:
    """Where nothing is, it says nothing of that."""

    async def schedule() -> None:
        async with EventBus(shell.url) as bus:
            await bus.publish("orders.placed", {}, delay=3600)

    shell("publish", "n", "1")
    before = shell("stats").output
    anyio.run(schedule)

    assert "scheduled" not in before
    assert ", 1 scheduled, " in shell("stats").output
    assert shell("stats", "--json").json[0]["scheduled"] == 1


def test_stats_of_a_store_without_subscriptions_is_a_line(shell: Shell) -> None:
    """An empty table would say nothing."""
    shell("publish", "n", "1")

    assert len(shell("stats").lines) == len(shell("top", "--once", "--interval=0.05").lines) == 1


def test_stats_as_json(shell: Shell) -> None:
    """Scripts read the same figures."""
    shell.give_up_on({"order_id": "o-1"})
    (told,) = shell("stats", "--json").json

    assert (told["first"], told["last"], told["dead_letters"]) == (1, 1, 1)
    assert told["subscriptions"][0]["name"] == "books"


def test_top_adds_rates(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks it is seen how much was published."""
    shell.give_up_on({"order_id": "o-1"})

    class Busy:
        def wait(self, seconds: float) -> None:
            shell("publish", "orders.placed", ORDER)

    monkeypatch.setattr(figures, "Event", Busy)
    (told,) = shell("top", "--once", "--json").json
    assert told["rate"] > 0
    assert told["subscriptions"][0]["rate"] == 0
    table = shell("top", "--once").lines
    assert table[0].endswith("published/s")
    assert table[2].split()[-1] == "records/s"


def test_top_goes_on_until_interrupted(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look is a line of JSON; an interrupt is how it ends, and no failure."""
    shell("publish", "n", "1")

    class Impatient:
        looks = 0

        def wait(self, seconds: float) -> None:
            self.looks += 1
            if self.looks == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(figures, "Event", Impatient)
    ended = shell("top", "--json")
    assert (ended.code, len(ended.lines)) == (0, 2)


def test_top_draws_on_terminals_only(shell: Shell) -> None:
    """A pipe full of drawings helps nobody."""
    shell("publish", "n", "1")
    ended = shell("top")

    assert ended.code == 2
    assert "add --once or --json" in ended.complaint


# --- dead letters ---------------------------------------------------------------------------------


def test_dlq_list_shows_a_table(shell: Shell) -> None:
    """Newest first: who gave up on what, and why."""
    shell.give_up_on({"order_id": "o-1"}, {"order_id": "o-2"})
    rows = shell("dlq", "list").lines[2:]

    assert ["o-2" in rows[0], "o-1" in rows[1]] == [True, True]
    assert "ValueError: cannot ship" in rows[0]


def test_dlq_list_says_that_there_are_none(shell: Shell) -> None:
    """No table is not an answer."""
    shell("publish", "n", "1")

    assert shell("dlq", "list").output == "no dead letters\n"


def test_dlq_list_chooses(shell: Shell) -> None:
    """By subscription, page by page."""
    shell.give_up_on({"order_id": "o-1"}, {"order_id": "o-2"})
    shell.give_up_on({"order_id": "o-3"}, name="other")
    (newest,) = shell("dlq", "list", "--json", "-s", "books", "--limit", "1").json
    (older,) = shell("dlq", "list", "--json", "-s", "books", "--before", newest["id"]).json

    assert newest["event"]["payload"] == {"order_id": "o-2"}
    assert (older["event"]["payload"], older["attempts"]) == ({"order_id": "o-1"}, 1)
    assert shell("dlq", "list", "--before", "x").code == 2


def test_dlq_show_tells_all(shell: Shell) -> None:
    """The event, what travelled beside it, and the traceback."""
    shell.give_up_on({"order_id": "o-1"})
    (letter,) = shell("dlq", "list", "--json").json
    output = shell("dlq", "show", letter["id"]).output

    for part in ("books gave up on orders.placed", "key: k", "header user: ann", "after 1 attempt"):
        assert part in output
    assert 'payload: {"order_id":"o-1"}' in output
    assert output.endswith("ValueError: cannot ship o-1\n")
    (told,) = shell("dlq", "show", letter["id"], "--json").json
    assert told["traceback"].endswith("ValueError: cannot ship o-1\n")


def test_dlq_show_looks_on_every_page(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest of many is found."""
    monkeypatch.setattr("eventbus.cli.store.LETTERS_AT_ONCE", 1)
    shell.give_up_on({"order_id": "o-1"}, {"order_id": "o-2"})
    *_, oldest = shell("dlq", "list", "--json").json

    assert shell("dlq", "show", oldest["id"]).code == 0
    ended = shell("dlq", "show", "x")
    assert (ended.code, ended.complaint) == (
        2,
        "eventbus: no dead letter 'x' is kept: see `eventbus dlq list`\n",
    )


async def handled_by_books(url: str) -> list[object]:
    """Let the application that gave up handle what it gets now."""
    bus, handled = EventBus(url), list[object]()
    bus.on("orders.placed", name="books")(handled.append)
    async with bus:
        await bus.join()
    return handled


def test_a_redriven_dead_letter_waits_for_its_application(shell: Shell) -> None:
    """It need not run meanwhile; when it does, it gets what was chosen, and no more."""
    shell.give_up_on({"order_id": "o-1"}, {"order_id": "o-2"})
    chosen, _ = shell("dlq", "list", "--json").json

    assert shell("dlq", "redrive", chosen["id"]).output == "redriven: 1\n"
    assert anyio.run(handled_by_books, shell.url) == [{"order_id": "o-2"}]
    assert shell("dlq", "redrive", "--all", "--json").json == [{"redriven": 1}]
    assert anyio.run(handled_by_books, shell.url) == [{"order_id": "o-1"}]


def test_redrive_tells_what_stays(shell: Shell) -> None:
    """What belongs to a subscription that is not durable has nowhere to go: code 1."""
    shell.give_up_on({"order_id": "o-1"}, name=None)
    (letter,) = shell("dlq", "list", "--json").json
    ended = shell("dlq", "redrive", letter["id"])

    assert (ended.code, ended.output) == (1, "redriven: 0\n")
    assert "1 dead letter could not be redriven" in ended.complaint


def test_purge_forgets(shell: Shell) -> None:
    """Of a subscription, or by id."""
    shell.give_up_on({"order_id": "o-1"}, {"order_id": "o-2"})
    shell.give_up_on({"order_id": "o-3"}, name="other")
    other, *_ = shell("dlq", "list", "--json").json

    assert shell("dlq", "purge", "-s", "books").output == "purged: 2\n"
    assert shell("dlq", "purge", other["id"]).output == "purged: 1\n"
    assert shell("dlq", "list").output == "no dead letters\n"


@pytest.mark.parametrize("verb", ["list", "redrive", "purge"])
def test_a_subscription_that_is_none_is_refused(shell: Shell, verb: str) -> None:
    """With those there are: durable ones, and those that have but dead letters: code 2."""
    shell.give_up_on({"order_id": "o-1"})
    shell.give_up_on({"order_id": "o-2"}, name=None)
    passing = shell("dlq", "list", "--json").json[0]["subscription"]
    ended = shell("dlq", verb, "-s", "boks")

    assert (ended.code, ended.output) == (2, "")
    assert ended.complaint == (
        f"eventbus: no subscription 'boks' is in the store: give 'books', {passing!r}; "
        "did you mean 'books'?\n"
    )
    assert shell("dlq", verb, "-s", passing).code == 0


def test_a_subscription_without_dead_letters_is_one(shell: Shell) -> None:
    """There is nothing to do, and nothing wrong; where none is known, that is said."""
    shell("publish", "n", "1")
    assert "is in the store: there are none\n" in shell("dlq", "list", "-s", "books").complaint
    shell.give_up_on()

    assert shell("dlq", "list", "-s", "books").output == "no dead letters\n"
    assert shell("dlq", "purge", "-s", "books").output == "purged: 0\n"


@pytest.mark.parametrize("verb", ["redrive", "purge"])
@pytest.mark.parametrize("words", [[], ["--all", "x"], ["--all", "-s", "books"]])
def test_which_dead_letters_has_to_be_said(shell: Shell, verb: str, words: list[str]) -> None:
    """Nobody loses all of them by leaving something out."""
    shell.give_up_on({"order_id": "o-1"})

    assert shell("dlq", verb, *words).code == 2
    assert len(shell("dlq", "list", "--json").json) == 1


# --- forget ---------------------------------------------------------------------------------------


def names_of(shell: Shell) -> list[str]:
    """Name the durable subscriptions there are."""
    return [one["name"] for one in shell("stats", "--json").json[0]["subscriptions"]]


@pytest.mark.parametrize(
    ("words", "typed", "left"),
    [
        ([], "y\n", []),
        ([], "YES", []),
        (["--yes"], "", []),
        ([], "\n", ["books"]),
        ([], "", ["books"]),
    ],
)
def test_forget_asks_before_it_does(
    shell: Shell, words: list[str], typed: str, left: list[str]
) -> None:
    """What is lost by it is said; nothing but a yes is one."""
    shell.give_up_on({"order_id": "o-1"})
    shell("publish", "orders.placed", ORDER)
    ended = shell("forget", "books", *words, typed=typed)

    assert ended.code == (1 if left else 0)
    assert ended.output == ("" if left else "forgotten: books\n")
    assert ("forget 'books', with 1 event for it? [y/N] " in ended.complaint) is (not words)
    assert ("'books' is not forgotten: answer y, or give --yes" in ended.complaint) is bool(left)
    assert names_of(shell) == left
    assert len(shell("dlq", "list", "--json").json) == 1


def test_forget_tells_programs(shell: Shell) -> None:
    """Whom it has forgotten."""
    shell.give_up_on()

    assert shell("forget", "books", "--yes", "--json").json == [{"forgotten": "books"}]


def test_forget_refuses_who_is_not_there(shell: Shell) -> None:
    """With those that are, before it asks."""
    shell.give_up_on()
    ended = shell("forget", "boks")

    assert (ended.code, names_of(shell)) == (2, ["books"])
    assert ended.complaint == (
        "eventbus: no subscription 'boks' is in the store: give 'books'; did you mean 'books'?\n"
    )


# --- verify ---------------------------------------------------------------------------------------


def test_verify_reads_all(shell: Shell) -> None:
    """A sound store is said to be."""
    shell("publish", "n", typed="\n".join(map(str, range(600))))
    shell.give_up_on({"order_id": "o-1"})

    assert shell("verify").output == "601 records and 1 dead letter are sound\n"


def test_verify_names_all_that_is_damaged(shell: Shell, path: Path) -> None:
    """Changed bytes are found, and what is missing: code 1, and no traceback."""
    for number in range(5):
        shell.give_up_on({"order_id": f"o-{number}"})
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE log SET payload = '{}' WHERE position IN (1, 5)")
        connection.execute("DELETE FROM log WHERE position IN (2, 3)")
        connection.execute("UPDATE dead_letter SET key = 'x' WHERE number IN (1, 4)")
    ended = shell("verify")

    assert ended.code == 1
    assert sorted(ended.lines) == [
        "1 record and 3 dead letters are sound",
        "the dead letter number 1 is damaged",
        "the dead letter number 4 is damaged",
        "the record at position 1 is damaged",
        "the record at position 5 is damaged",
        "the records at positions 2 to 3 are missing",
    ]
    assert ended.complaint.startswith("eventbus: the store is damaged: restore it from a copy")


def test_verify_tells_programs(shell: Shell, path: Path) -> None:
    """Each damage is an object, and so is the sum of it all, in which nothing may be missing."""
    shell("publish", "n", typed="1\n2\n")
    shell.give_up_on({"order_id": "o-1"})
    assert shell("verify", "--json").json == [
        {"records": 3, "dead_letters": 1, "damaged": 0, "unreadable": 0}
    ]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE log SET payload = '{}' WHERE position = 1")
    store_record(path, b"{")
    ended = shell("verify", "--json")
    damage, told = ended.json

    assert ended.code == 1
    assert damage == {"damage": "the record at position 1 is damaged"}
    assert told.pop("first_unreadable").startswith("the payload at position 4 cannot be read")
    assert told == {"records": 3, "dead_letters": 1, "damaged": 1, "unreadable": 1}


def test_verify_counts_what_cannot_be_read(shell: Shell, path: Path) -> None:
    """It is as it was written: no damage, but told with its reason."""
    shell("publish", "n", typed="1\n2\n")
    store_record(path, b"{")
    store_record(path, b"[", content_type="text/csv")

    assert shell("verify").lines == [
        "4 records and 0 dead letters are sound",
        "2 payloads will not be read, the first because the payload at position 3 cannot be read: "
        "it is no JSON: EOF while parsing an object at line 1 column 1",
    ]


# --- packed payloads ------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_packed_payloads_are_as_others(shell: Shell, compression: str) -> None:
    """For each command that reads or writes, whether its URL has the option or not."""
    text = json.dumps({"text": " ".join(map(str, range(1000)))})
    packing = Shell(f"{shell.url}?compression={compression}")
    packing("publish", "n", text)
    packing.give_up_on(json.loads(text))
    exported = shell("export").output

    assert [json.loads(line)["payload"] for line in exported.splitlines()] == [json.loads(text)] * 2
    assert [one["payload"] for one in packing("export").json] == [json.loads(text)] * 2
    assert shell("tail", "n", "--from", "first", "-n", "1", "--json").json[0][
        "payload"
    ] == json.loads(text)
    assert "0 1 2 3" in shell("dlq", "show", shell("dlq", "list", "--json").json[0]["id"]).output
    assert shell("verify").output == "2 records and 1 dead letter are sound\n"
    assert packing("import", typed=exported).output == "imported 0 events, 2 were there already\n"


# --- the store ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("sqlite:///none.db", "there is no store none.db"),
        ("sqlite:///:memory:", "sqlite:///:memory: is no file: write memory:// for a bus in"),
        ("memory://", "memory:// is within one process"),
        ("nonsense://secret", "no transport serves the scheme 'nonsense'"),
        ("sqllite:///secret.db", "no transport serves the scheme 'sqllite'"),
        ("secret.db", "the URL has no scheme: write 'sqlite:///events.db' for a file events.db"),
        ("sqlite:///events.db?no=1", "sqlite:// has no option 'no'"),
    ],
)
def test_a_url_without_a_store_is_refused(url: str, sentence: str) -> None:
    """A URL that is misspelt creates nothing: code 2."""
    ended = Shell(url)("stats")

    assert ended.code == 2
    assert ended.complaint.startswith(f"eventbus: {sentence}")
    assert "secret" not in ended.complaint


@pytest.mark.parametrize("words", [["stats"], ["compact"], ["dlq", "purge", "--all"]])
def test_an_empty_file_is_no_store_yet(shell: Shell, path: Path, words: list[str]) -> None:
    """It stays empty until something is published."""
    path.touch()
    ended = shell(*words)

    assert (ended.code, path.stat().st_size) == (2, 0)
    assert "is an empty file, and no store yet: publish to it first" in ended.complaint
    assert shell("publish", "n", "1").code == 0


def test_a_url_is_needed() -> None:
    """Whoever gives none is told both ways to do it."""
    ended = Shell("")("stats")

    assert ended.code == 2
    assert "--url" in ended.complaint
    assert "EVENTBUS_URL" in ended.complaint


def test_another_database_is_no_store(shell: Shell, path: Path) -> None:
    """What the store refuses is one sentence: code 1."""
    path.write_text("hello " * 100, "utf-8")
    ended = shell("stats")

    assert ended.code == 1
    assert "is no database" in ended.complaint


class Bare:
    """A transport that can do nothing but what it must."""

    capabilities = Capabilities()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

    async def publish(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        return messages

    async def serve(self) -> None: ...

    def open(self, spec: SourceSpec) -> Source:
        raise NotImplementedError


@pytest.mark.parametrize(
    "words",
    [["stats"], ["replay", ">"], ["dlq", "list"], ["dlq", "purge", "--all"], ["forget", "x"]],
)
def test_a_transport_that_cannot_is_named(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a plugin's transport does not offer is no traceback."""

    def make(url: str, clock: Clock) -> Bare:
        return Bare()

    monkeypatch.setattr(store, "transport", make)
    ended = Shell("bare://")(*words)

    assert ended.code == 1
    assert ended.complaint.startswith("eventbus: the transport of this URL")


# --- text -----------------------------------------------------------------------------------------


def test_text_can_be_read_or_is_escaped() -> None:
    """Letters of any script stay; what cannot be seen is written as JSON writes it."""
    assert printable("größer 日本 😀") == "größer 日本 😀"
    assert printable("\x1b\x7f\u202e\U000e0001ü") == "\\u001b\\u007f\\u202e\\udb40\\udc01ü"


def test_figures_are_read_at_a_glance() -> None:
    """Sizes and ages have units, and nouns their plural."""
    assert [size(0), size(57_344), size(2_500_000), size(3e12)] == [
        "0 B",
        "57.3 kB",
        "2.5 MB",
        "3,000.0 GB",
    ]
    assert [age(0.25), age(90), age(7200), age(200_000)] == ["0.2 s", "1.5 min", "2.0 h", "2.3 d"]
    assert [counted(1, "bus", "buses"), counted(2, "bus", "buses")] == ["1 bus", "2 buses"]


# --- the README -----------------------------------------------------------------------------------

ENDLESS = {"tail": ["--from=first", "-n1"], "top": ["--once"]}


def commands_of_the_readme() -> list[list[str]]:
    """Find the commands on a store that the README shows, without what a shell does with them."""
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    lines = re.findall(r"^eventbus (?!run)(.*)$", readme, re.MULTILINE)
    return [shlex.split(line.partition(" > ")[0], comments=True) for line in lines]


def test_the_commands_of_the_readme_work(shell: Shell) -> None:
    """Whoever types them one after the other, beside the README's `books`, sees each succeed."""
    shell.give_up_on()
    commands = commands_of_the_readme()
    codes = [shell(*words, *ENDLESS.get(words[0], ())).code for words in commands]

    assert len(codes) >= 7
    assert codes == [0] * len(codes)


# --- what has to be installed ---------------------------------------------------------------------


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has installed the bus alone is told how to have the commands."""
    for name in [name for name in sys.modules if name.startswith("eventbus.cli.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(SystemExit, match=r"pip install 'eventbus\[cli\]'"):
        main()


def test_another_missing_module_is_no_matter_of_installing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A mistake of ours does not hide behind advice."""
    monkeypatch.delitem(sys.modules, "eventbus.cli.commands")
    monkeypatch.setitem(sys.modules, "eventbus.cli.tail", None)

    with pytest.raises(ModuleNotFoundError):
        main()
