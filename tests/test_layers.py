"""Holds the architecture: who may import whom, and who alone may touch what is delicate."""

import ast
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

# Imports go downward, or stay within a layer without a circle, also under TYPE_CHECKING.
LAYERS = {
    6: "__init__  __main__  testing  testing.*  cli  cli.*",
    5: "bus  plugins",
    4: "dispatch  runtime  watchdog  routing  sending  publisher  from_threads  requesting"
    "  registry  redriving  router  events  replay  replaying",
    3: "subscription  admission  attempts  calling  carrying_out  responding  responders  stats"
    "  registration"
    "  transports  transports.exchange  transports.memory  transports.fed_exchange"
    "  transports.feed  transports.stored_schedule  transports.burying  transports.retries"
    "  transports.dead_letters  transports.route  transports.coded  transports.probed"
    "  transports.sqlite  transports.sqlite.*",
    2: "context  probe  transports.base  transports.figures  transports.upkeep"
    "  middleware  middleware.*",
    1: "deadlocks  activity  waiters  queue  lanes  inbox  correlation  message  publishing"
    "  settling  answers  replies  contracts  schema  codec  transaction  fitting  retry  schedule"
    "  timers  threads  handlers  entry_points",
    0: "errors  signals  url  wording  bus_logger  clock  topics  cache  forks  _loop",
}

# Who alone may import what; of what is not in the standard library, nobody may what is not here.
RESERVED = {
    "anyio": "*",
    "pydantic": "*",
    "pydantic_core": "*",
    "typing_extensions": "*",
    "asyncio": "_loop  testing  testing.*",
    "trio": "_loop  testing  testing.*",
    "sniffio": "_loop",
    "pytest": "testing  testing.*",
    "rich": "cli.*",
    "typer": "cli.*",
    "watchfiles": "cli.*",
    "time": "clock  middleware.log",  # the log tells how long the machine took
    "random": "clock  retry  testing  testing.*",
    "importlib.metadata": "entry_points",
    "sqlite3": "transports.sqlite.*  publishing  publisher",  # these two for the type alone
    "compression": "transports.sqlite.zstd",
    "backports": "transports.sqlite.zstd",
    "logging": "bus_logger  registration  attempts  middleware.log  cli.run  cli.waiting"
    "  testing.simulation",
    "pickle": "nobody",
    "marshal": "nobody",
    "shelve": "nobody",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}

Sources = Mapping[str, str]
Arrow = tuple[str, str]


def core() -> Sources:
    """Read the core: the room's name, without the package's, and its source."""
    folder = Path(__file__).parents[1] / "eventbus"
    paths = {path.relative_to(folder).with_suffix(""): path for path in folder.rglob("*.py")}
    return {
        ".".join(name.parts).removesuffix(".__init__"): path.read_text("utf-8")
        for name, path in sorted(paths.items())
    }


def plugins() -> Sources:
    """Read the plugins, without their tests."""
    folder = Path(__file__).parents[1] / "plugins"
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts[1:]): path.read_text("utf-8")
        for path in sorted(folder.glob("*/eventbus_*/**/*.py"))
    }


def is_in(room: str, names: str) -> bool:
    """Ask whether a list of names, or of patterns of names, holds a room."""
    return any(fnmatchcase(room, name) for name in names.split())


def layer(room: str) -> int | None:
    """Find the layer of a room."""
    return next((level for level, names in LAYERS.items() if is_in(room, names)), None)


def imports(source: str) -> Iterator[tuple[str, str]]:
    """Name what a source imports, wherever it does: the module, and the name taken from it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def inner_arrows(sources: Sources) -> Iterator[Arrow]:
    """Draw an arrow from each room to each room it imports from."""
    for room, source in sources.items():
        for module, name in imports(source):
            package, _, origin = module.partition(".")
            submodule = f"{origin}.{name}".removeprefix(".")
            if package == "eventbus":
                yield room, submodule if submodule in sources else origin or "__init__"


def outer_arrows(sources: Sources) -> Iterator[Arrow]:
    """Draw an arrow from each room to each thing outside the project it imports."""
    for room, source in sources.items():
        for module, name in imports(source):
            full = f"{module}.{name}".removesuffix(".")
            package = module.partition(".")[0]
            if package != "eventbus":
                yield (
                    room,
                    next((key for key in RESERVED if f"{full}.".startswith(f"{key}.")), package),
                )


def strays(sources: Sources) -> list[str]:
    """Name each room the table does not know."""
    return [f"{room} is in no layer" for room in sources if layer(room) is None]


def upward(sources: Sources) -> list[str]:
    """Draw each arrow that goes up."""
    arrows = [(room, target, layer(room), layer(target)) for room, target in inner_arrows(sources)]
    return [
        f"{room} (layer {low}) -> {target} (layer {high})"
        for room, target, low, high in arrows
        if low is not None and high is not None and low < high
    ]


def circle(sources: Sources) -> list[str]:
    """Draw one circle of arrows, where there is one."""
    graph: TopologicalSorter[str] = TopologicalSorter()
    for room, target in inner_arrows(sources):
        graph.add(room, target)
    try:
        graph.prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def trespasses(sources: Sources) -> list[str]:
    """Draw each arrow to what is reserved for other rooms, or is no dependency."""
    return [
        f"{room} -> {target}"
        for room, target in outer_arrows(sources)
        if not (
            is_in(room, RESERVED[target])
            if target in RESERVED
            else target in sys.stdlib_module_names
        )
    ]


def public_names(source: str) -> set[str]:
    """Read what a module offers: its `__all__`."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def intrusions(sources: Sources) -> list[str]:
    """Draw each arrow from a plugin to what the core does not offer."""
    rooms = core()
    return [
        f"{plugin} -> {module}.{name}"
        for plugin, source in sources.items()
        for module, name in imports(source)
        for room in [module.removeprefix("eventbus").removeprefix(".") or "__init__"]
        if module.partition(".")[0] == "eventbus"
        and ("._" in f".{module}" or name not in public_names(rooms.get(room, "")))
    ]


def forbidden_calls(sources: Sources) -> list[str]:
    """Name each call that turns text into code."""
    return [
        f"{room}, line {node.lineno}: {node.func.id}"
        for room, source in sources.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in FORBIDDEN_CALLS
    ]


def test_every_room_has_its_layer() -> None:
    """A new module names its place in the table before it is used."""
    assert strays(core()) == []


def test_no_import_goes_up() -> None:
    """A room can be read and tested without the rooms above it."""
    assert upward(core()) == []


def test_no_imports_go_in_circles() -> None:
    """Rooms of one layer have an order in which they can be read."""
    assert circle(core()) == []


def test_delicate_modules_stay_in_their_rooms() -> None:
    """Loops, clocks, chance, logging and what needs installing have their rooms; pickle none."""
    assert trespasses(core()) == []


def test_text_never_becomes_code() -> None:
    """No payload and no pattern can run anything."""
    assert forbidden_calls(core()) == []
    assert forbidden_calls(plugins()) == []


def test_plugins_use_what_the_core_offers() -> None:
    """Whoever writes a plugin elsewhere can do all that ours do."""
    assert intrusions(plugins()) == []
    assert plugins()


def test_an_offence_of_each_kind_is_seen() -> None:
    """The rules above can fail: a small core that breaks every one of them is reported."""
    planted = {
        "attic": "import json",
        "queue": "if TYPE_CHECKING:\n    from eventbus.bus import EventBus",
        "errors": "from eventbus import topics",
        "topics": "def late():\n    from eventbus.errors import InvalidTopic",
        "bus": "import asyncio.queues\nfrom importlib import metadata\nimport requests",
        "transports.sqlite.log": "from logging import getLogger",
        "_loop": "import asyncio\nimport json",
        "message": "eval('1')",
    }

    assert strays(planted) == ["attic is in no layer"]
    assert upward(planted) == ["queue (layer 1) -> bus (layer 5)"]
    assert circle(planted) in (["errors", "topics", "errors"], ["topics", "errors", "topics"])
    assert trespasses(planted) == [
        "bus -> asyncio",
        "bus -> importlib.metadata",
        "bus -> requests",
        "transports.sqlite.log -> logging",
    ]
    assert forbidden_calls(planted) == ["message, line 1: eval"]


def test_an_intrusion_of_each_kind_is_seen() -> None:
    """The rule about plugins can fail too."""
    planted = {
        "eventbus_toy": "from eventbus import EventBus\nfrom eventbus.clock import stopwatch",
        "eventbus_toy.a": "from eventbus._loop import wake_up_type",
        "eventbus_toy.b": "from eventbus.plugins import _split",
        "eventbus_toy.c": "from eventbus.attic import anything",
        "eventbus_toy.d": "import eventbus.bus",
    }

    assert intrusions(planted) == [
        "eventbus_toy.a -> eventbus._loop.wake_up_type",
        "eventbus_toy.b -> eventbus.plugins._split",
        "eventbus_toy.c -> eventbus.attic.anything",
        "eventbus_toy.d -> eventbus.bus.",
    ]
