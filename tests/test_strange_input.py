"""What no program should publish, or store: refused with a reason, and harmful to nobody."""

import ast
import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from eventbus import (
    Context,
    EventBus,
    EventBusError,
    InvalidEvent,
    InvalidOption,
    StoreError,
    Topic,
    handlers,
)
from eventbus.middleware import DeadLetter, Retry
from eventbus.transports.sqlite import cursors
from eventbus.transports.sqlite.records import StoredMessage
from tests.strange_records import store_record


class Order(BaseModel):
    order_id: str
    total: float = 0.0


class Anything(BaseModel, extra="allow"):
    pass


# --- stored by another program --------------------------------------------------------------------

SOUND = b'{"order_id": "o-1"}'
STRANGE: dict[str, dict[str, Any]] = {
    "bad JSON": {"payload": b'{"order_id": '},
    "nothing": {"payload": b""},
    "invalid UTF-8": {"payload": b'{"order_id": "\xff"}'},
    "a NUL": {"payload": b'{"order_id": "\x00"}'},
    "a lone surrogate": {"payload": b'{"order_id": "\\ud800"}'},
    "NaN": {"payload": b'{"order_id": NaN}'},
    "Infinity": {"payload": b'{"order_id": -Infinity}'},
    "deep lists": {"payload": b"[" * 1_000_000 + b"]" * 1_000_000},
    "deep objects": {"payload": b'{"a":' * 100_000 + b"1" + b"}" * 100_000},
    "many digits": {"payload": b'{"order_id": ' + b"1" * 1_000_000 + b"}"},
    "unknown content type": {"payload": SOUND, "content_type": "application/xml"},
    "unknown way of packing": {"payload": SOUND, "content_type": "application/json; coding=lzma"},
    "packed by nobody": {"payload": SOUND, "content_type": "application/json; coding=zlib"},
    "no version": {"payload": SOUND, "schema_version": 0},
    "said no JSON": {"payload": SOUND, "traits": "{"},
    "said a list": {"payload": SOUND, "traits": "[]"},
    "said the unknown": {"payload": SOUND, "traits": '{"is_required": true}'},
    "said a number": {"payload": SOUND, "traits": '{"correlation_id": 7}'},
    "headers of numbers": {"payload": SOUND, "traits": '{"headers": {"a": 1}}'},
    "answered nowhere": {"payload": SOUND, "traits": '{"reply_to": ["inbox"]}'},
    "expires some day": {"payload": SOUND, "traits": '{"expires_at": "monday"}'},
}

each = pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE.keys())


@each
@pytest.mark.parametrize(
    ("model", "name"), [(Order, "billing"), (dict, None)], ids=["model", "dict"]
)
async def test_what_cannot_be_read_is_one_dead_letter(
    store: Path, strange: dict[str, Any], model: Any, name: str | None
) -> None:
    """At once, with the reason, and the bytes as they are; the subscription goes on."""
    store_record(store, SOUND)
    position = store_record(store, **strange)
    store_record(store, SOUND)
    bus = EventBus(f"sqlite:///{store}", middleware=[DeadLetter(), Retry(attempts=5)])
    handled: list[int | None] = []

    @bus.on("orders.*", name=name, start="first", model=model)
    async def bill(event: Any, context: Context[Any]) -> None:
        handled.append(context.message.position)

    async with bus:
        await bus.join()
        (letter,) = await bus.dead_letters()
        stats = bus.stats()

    assert handled == [1, 3]
    assert (letter.message.position, letter.attempts) == (position, 0)
    assert letter.error
    assert letter.message.payload in (strange["payload"], {"order_id": float("-inf")})
    assert (stats.invalid, stats.dead_lettered, stats.retried, stats.failed) == (1, 1, 0, 0)


@each
async def test_it_stays_a_dead_letter(store: Path, strange: dict[str, Any]) -> None:
    """After a restart it is listed as it was, shown to `$dlq` handlers, and refused again."""
    store_record(store, **strange)
    bus = EventBus(f"sqlite:///{store}", middleware=[DeadLetter()])
    bus.on("orders.*", name="billing", start="first", model=Order)(lambda event: None)
    async with bus:
        await bus.join()
    again = EventBus(f"sqlite:///{store}", middleware=[DeadLetter()])
    again.on("orders.*", name="billing", model=Order)(lambda event: None)
    shown: list[object] = []
    again.on("$dlq.billing")(shown.append)
    async with again:
        (before,) = await again.dead_letters()
        assert await again.redrive() == 1
        await again.join()
        (after,) = await again.dead_letters()

    assert before.message.payload == after.message.payload == strange["payload"]
    assert shown == [strange["payload"]]
    assert after.error == before.error


async def test_that_a_handler_would_see_garbage(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: where nobody asks whether it could be read, bytes reach a handler of dicts."""

    def decoded(message: StoredMessage) -> object:
        return message.event

    monkeypatch.setattr(StoredMessage, "decoded", decoded)
    store_record(store, b"{")
    bus, seen = EventBus(f"sqlite:///{store}"), list[object]()
    bus.on("orders.*", start="first", model=dict[str, Any])(seen.append)
    async with bus:
        await bus.join()

    assert seen == [b"{"]


async def test_numbers_and_keys_are_as_json_has_them(store: Path) -> None:
    """The last of equal keys counts, and what is beyond all numbers is infinite."""
    store_record(store, b'{"order_id": "a", "order_id": "b", "total": 1e400}')
    bus, seen = EventBus(f"sqlite:///{store}"), list[Order]()
    bus.on("orders.*", start="first", model=Order)(seen.append)
    async with bus:
        await bus.join()

    assert seen == [Order(order_id="b", total=float("inf"))]


# --- published ------------------------------------------------------------------------------------


def nested(depth: int) -> dict[str, Any]:
    """Make an object of objects."""
    inner: dict[str, Any] = {}
    for _ in range(depth):
        inner = {"a": inner}
    return inner


@pytest.mark.parametrize(
    "payload",
    [
        {"n": float("nan")},
        {"n": [float("inf")]},
        {"n": -float("inf")},
        {"n": 10**4300},
        {"n": 10**1_000_000},
        {"n": "\ud800"},
        {"\ud800": 1},
        {"n": b"\xff"},
        nested(201),
        nested(250),
        nested(100_000),
    ],
    ids=[
        "nan",
        "inf",
        "-inf",
        "digits",
        "many digits",
        "surrogate",
        "key",
        "bytes",
        "201",
        "250",
        "deep",
    ],
)
async def test_what_could_not_be_read_is_not_stored(store: Path, payload: Any) -> None:
    """The publisher is told; nothing is in the log."""
    async with EventBus(f"sqlite:///{store}") as bus:
        with pytest.raises(InvalidEvent, match="cannot be JSON"):
            await bus.publish("orders.placed", payload)
        assert (await bus.publish("orders.placed", {})).position == 1


SOUND_PAYLOADS: dict[str, Any] = {
    "many digits": {"n": 10**4299},
    "deep": nested(190),
    "words": {"n": "NaN, Infinity"},
    "digits": {"n": "1" * 10_000},
    "lists": [[]] * 500,
}


@pytest.mark.parametrize("payload", SOUND_PAYLOADS.values(), ids=SOUND_PAYLOADS.keys())
async def test_what_only_looks_so_is_stored(store: Path, payload: Any) -> None:
    """And comes back."""
    bus, seen = EventBus(f"sqlite:///{store}"), list[object]()
    bus.on("orders.*", model=dict[str, Any])(seen.append)
    async with bus:
        await bus.publish("orders.placed", payload)
        await bus.join()

    assert seen == [payload]


@pytest.mark.parametrize("url", ["memory://", "memory://?codec=json", "sqlite"])
@pytest.mark.parametrize("payload", [one["payload"] for one in STRANGE.values()][:10])
async def test_strange_bytes_are_the_publishers_error(
    store: Path, url: str, payload: bytes
) -> None:
    """Where the topic has a contract: for whatever parser it takes, it is `InvalidEvent`."""
    topic = Topic("orders.placed", Order)
    async with EventBus(f"sqlite:///{store}" if url == "sqlite" else url) as bus:
        with pytest.raises(InvalidEvent):
            await bus.publish(topic, payload)  # type: ignore[misc] # bytes are no Order


@pytest.mark.parametrize("url", ["memory://", "memory://?codec=json", "sqlite"])
@pytest.mark.parametrize("payload", [one["payload"] for one in STRANGE.values()][:10])
async def test_strange_bytes_without_a_contract_are_a_dead_letter(
    store: Path, url: str, payload: bytes
) -> None:
    """Of a subscription with a model; one that takes bytes gets them."""
    bus = EventBus(f"sqlite:///{store}" if url == "sqlite" else url, middleware=[DeadLetter()])
    models, seen = list[Order](), list[object]()
    bus.on("orders.*", name="models", model=Order)(models.append)
    bus.on("orders.*", name="bytes", model=bytes)(seen.append)
    async with bus:
        await bus.publish("orders.placed", payload)
        await bus.join()
        (letter,) = await bus.dead_letters()

    assert (models, seen) == ([], [payload])
    assert (letter.subscription, letter.message.payload) == ("models", payload)


async def test_errors_of_any_text_are_kept(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What an error says may be no text that a file can hold: it is kept as far as it is."""
    caplog.set_level(logging.CRITICAL)  # one process could not tell another what is logged
    bus = EventBus(f"sqlite:///{store}", middleware=[DeadLetter()])

    @bus.on("orders.*", name="billing")
    async def fail(event: object) -> None:
        raise ValueError("\ud800 \x00 \x1b[31m")

    async with bus:
        await bus.publish("orders.placed", {})
        await bus.join()
        (letter,) = await bus.dead_letters()

    assert letter.error_type == "ValueError"
    assert "[31m" in letter.error


# --- names ----------------------------------------------------------------------------------------

HOSTILE = ["'; DROP TABLE log; --", '" OR 1=1', "%", "_", "a%b", "--", "\\", "*", "[a-z]", "a'b"]


FOUL_NAMES = ["../x", "a/b", "a\\b", ".", "..", "a.", "", "a b", "a\0", "a\n", "x" * 300, "ä"]
ODD_NAMES = ["CON", "nul", "con", "aux.txt", "-rf", "events.db"]


@pytest.mark.parametrize("name", [*FOUL_NAMES, *HOSTILE[:3]])
def test_strange_names_are_refused(store: Path, name: str) -> None:
    """They are words with dots between: nothing that could name a file, or end a statement."""
    with pytest.raises(InvalidOption):
        EventBus(f"sqlite:///{store}").on("orders.*", name=name)(lambda event: None)


async def handle_under(names: Sequence[str], store: Path) -> list[str]:
    """Handle an event under each of some names; give those that did."""
    bus, seen = EventBus(f"sqlite:///{store}"), list[str]()

    def noting(name: str) -> Callable[[object], None]:
        return lambda event: seen.append(name)

    for name in names:
        bus.on("orders.*", name=name)(noting(name))
    async with bus:
        await bus.publish("orders.placed", {})
        await bus.join()
    return seen


def files_in(folder: Path) -> set[str]:
    """Name what is in a folder, or below."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def look_away(name: object) -> None:
    """Find no flaw in a name."""


async def test_no_name_makes_a_file(store: Path) -> None:
    """Not even those that are devices elsewhere; and twins in other letters are two."""
    assert sorted(await handle_under(ODD_NAMES, store)) == sorted(ODD_NAMES)
    assert all(file.startswith("events.db") for file in files_in(store.parent))


async def test_no_name_makes_a_file_if_it_gets_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should a strange name not be refused, it is a name still, and no path."""
    monkeypatch.setattr(handlers, "_flaw_of_name", look_away)
    (tmp_path / "here").mkdir()

    await handle_under(FOUL_NAMES, tmp_path / "here" / "events.db")
    files = files_in(tmp_path) - {"here"}
    assert all(file.startswith("here/events.db") for file in files)


async def test_that_a_file_by_such_a_name_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: where names are not looked at, and a subscription has a file of its name."""
    monkeypatch.setattr(handlers, "_flaw_of_name", look_away)

    def establish_in_a_file(connection: Any, name: str, *arguments: Any) -> Any:
        (tmp_path / "here" / name).touch()
        return establish(connection, name, *arguments)

    establish = cursors.establish
    monkeypatch.setattr(cursors, "establish", establish_in_a_file)
    (tmp_path / "here").mkdir()

    await handle_under(["../x"], tmp_path / "here" / "events.db")
    assert "x" in files_in(tmp_path)


@pytest.mark.parametrize(
    "file",
    ["a b.db", "a%25b.db", "a'b.db", 'a"b.db', "ä.db", "a%3Fb.db", "a%26b=c.db", "-x.db", ";.db"],
)
async def test_a_store_may_have_any_file_name(tmp_path: Path, file: str) -> None:
    """It is the only file that is made, with what stands beside it."""
    async with EventBus(f"sqlite:///{tmp_path}/{file}") as bus:
        await bus.publish("orders.placed", {})
        made = files_in(tmp_path)

    (name,) = {one for one in made if one.endswith(".db")}
    assert all(one.startswith(name) for one in made)


@pytest.mark.parametrize("file", ["x" * 300 + ".db", "none/../../nowhere/x.db", "a%00b.db"])
async def test_a_file_that_cannot_be_is_refused(tmp_path: Path, file: str) -> None:
    """With an error of ours, before anything is made."""
    with pytest.raises((StoreError, InvalidOption)):
        async with EventBus(f"sqlite:///{tmp_path}/{file}"):
            pass
    assert files_in(tmp_path) == set()


# --- SQL ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
async def test_text_of_users_is_never_a_pattern_or_a_statement(store: Path, text: str) -> None:
    """In topics, keys, headers, ids, and wherever dead letters are asked for, it is that text."""
    bus = EventBus(f"sqlite:///{store}", middleware=[DeadLetter()])
    topic = f"orders.{text.replace(' ', '')}" if text != "*" else "orders.star"
    seen: list[tuple[str, str | None]] = []

    @bus.on(topic if "*" not in topic else "orders.>", name="billing")
    async def fail(event: object, context: Context[object]) -> None:
        seen.append((context.message.topic, context.message.key))
        raise ConnectionError

    async with bus:
        await bus.publish("orders.other", {}, id="other")
        await bus.publish(topic, {}, key=text, id="hostile")
        await bus.join()
        assert await bus.dead_letters(text) == []
        assert await bus.purge_dead_letters(text) == 0
        assert await bus.redrive(ids=[text]) == 0
        with pytest.raises(EventBusError):
            await bus.dead_letters(before=text)
        letters = await bus.dead_letters("billing")

    assert seen == [(topic, text)]
    assert [one.message.id for one in letters] == ["hostile"]
    with closing(sqlite3.connect(store)) as connection:
        assert connection.execute("SELECT count(*) FROM log").fetchone() == (2,)


ASKED_FOR = {
    ("guard", "sql"): "what a handler wrote for `context.transaction`: it is guarded there",
    ("log", "statement"): "one of those that `_inserts` makes of constants and `schema`",
    ("log", "schema"): "what `outbox` quotes: the name under which a connection knows the store",
    ("log", "where"): "one of two conditions beside the function",
    ("log", "among"): "a constant, said just before it",
    ("losses", "where"): "one of those that `removal` removes by",
    ("removal", "where"): "one of two conditions beside the function",
    ("outbox", "schema"): "as in `log`",
    ("outbox", "patience"): "a number, by its format",
    ("schema", "durability"): "one of two words, by its type and where it is read",
    ("schema", "statement"): "of the tables and steps, and of who insists",
    ("schema", "version"): "a number, counted up there",
}
"""What is no constant in a statement, and why that is no text of a user's."""


def statements(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.expr]]:
    """Give each call that executes something: the function it is in, and what it executes."""
    functions = [
        one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    for function in functions:
        for call in ast.walk(function):
            if isinstance(call, ast.Call):
                name = getattr(call.func, "attr", getattr(call.func, "id", ""))
                if name in {"execute", "executemany", "executescript"}:
                    yield function, call.args[0]
                elif name == "insist":
                    yield function, call.args[1]


def unknown_in(expression: ast.expr, function: ast.AST) -> Iterator[str]:
    """Name what a statement holds that is neither a constant nor made of constants just there."""
    if isinstance(expression, ast.Constant):
        return
    if isinstance(expression, ast.JoinedStr | ast.Tuple):
        for value in getattr(expression, "values", getattr(expression, "elts", [])):
            yield from unknown_in(value, function)
    elif isinstance(expression, ast.FormattedValue):
        yield from unknown_in(expression.value, function)
    elif isinstance(expression, ast.BinOp):
        yield from unknown_in(expression.left, function)
        yield from unknown_in(expression.right, function)
    elif isinstance(expression, ast.Name):
        if not expression.id.isupper():
            made = list(values_of(expression.id, function))
            for value in made:
                yield from unknown_in(value, function)
            if not made:
                yield expression.id
    else:
        yield ast.unparse(expression)


def values_of(name: str, function: ast.AST) -> Iterator[ast.expr]:
    """Find what a name is given in a function, by assignment or as one of several constants."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and any(ast.unparse(one) == name for one in node.targets):
            yield node.value
        if not isinstance(node, ast.comprehension | ast.For):
            continue
        if isinstance(node.iter, ast.Tuple) and ast.unparse(node.target) == name:
            yield node.iter


def not_constant(source: str, room: str) -> set[tuple[str, str]]:
    """Name all that reaches a statement of a module and is no constant."""
    return {
        (room, name)
        for function, statement in statements(ast.parse(source))
        for name in unknown_in(statement, function)
    }


def test_only_constants_and_bound_parameters_reach_sqlite() -> None:
    """What a statement is made of is known here, all of it; and nothing that is not used."""
    found: set[tuple[str, str]] = set()
    for path in (Path(__file__).parents[1] / "eventbus").rglob("*.py"):
        source = path.read_text("utf-8")
        found |= not_constant(source, path.stem)
        assert not any(f" {word} " in source for word in ("GLOB", "LIKE", "REGEXP"))

    assert found == ASKED_FOR.keys()


def test_that_text_in_a_statement_would_be_seen() -> None:
    """Control: a name put into a statement is named, whichever way it gets there."""
    source = """
def forget(connection, name):
    connection.execute(f"DELETE FROM subscription WHERE name = '{name}'")
    connection.execute("DELETE FROM log WHERE topic = " + topic)
    statement = "DELETE FROM %s" % table
    connection.execute(statement)
    connection.execute("DELETE FROM {}".format(other))
"""
    assert {name for _, name in not_constant(source, "")} == {
        "name",
        "topic",
        "table",
        "'DELETE FROM {}'.format(other)",
    }
