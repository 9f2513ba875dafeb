"""How a URL finds its transport, a name its middleware, and what is said when they find none."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventbus import (
    EventBus,
    EventBusError,
    InvalidOption,
    SystemClock,
    Topic,
    UnknownTransport,
    plugins,
)
from eventbus.activity import Activity
from eventbus.bus_logger import BusLogger
from eventbus.middleware import Timeout
from eventbus.plugins import exchange_for
from eventbus.timers import Timers
from eventbus.transports.memory import MemoryExchange
from tests.installing import Installer

JOBS = Topic("jobs", int)

SHOUT = """
    class Shout:
        def __init__(self, mark="!"):
            self.mark = mark

        async def __call__(self, context, call_next):
            print(context.message.topic.upper() + self.mark)
            return await call_next(context)

    class Whisper:
        async def __call__(self, message, call_next):
            print(message.topic.lower())
            return await call_next(message)
"""

TOY = """
    from eventbus import InvalidOption
    from eventbus.transports.base import Capabilities

    class Toy:
        capabilities = Capabilities()

        def __init__(self, url, clock):
            self.url, self.clock = url, clock
            if "speed" in url:
                raise InvalidOption("toy:// has no option 'speed'")

        async def __aenter__(self):
            return self

        async def __aexit__(self, *_):
            pass

        async def publish(self, messages): ...

        def open(self, spec): ...
"""

Ask = Callable[[], object]

TRANSPORTS = ("eventbus.transports", lambda: plugins.transport("toy://", SystemClock()))
MIDDLEWARE = ("eventbus.middleware", lambda: plugins.middleware("toy"))
PUBLISH_MIDDLEWARE = ("eventbus.publish_middleware", lambda: plugins.publish_middleware("toy"))

in_each_group = pytest.mark.parametrize(
    ("group", "ask"),
    [TRANSPORTS, MIDDLEWARE, PUBLISH_MIDDLEWARE],
    ids=["transports", "middleware", "publish_middleware"],
)


@pytest.fixture
def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installer]:
    """Give what installs distributions for the length of a test."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    installer = Installer(tmp_path)
    yield installer
    for module in installer.modules:
        sys.modules.pop(module, None)


# --- by URL ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["memory://", "MEMORY://", "memory:"])
def test_memory_carries_messages_in_this_process(url: str) -> None:
    """The scheme alone says it, in any case of letters."""
    clock = SystemClock()
    exchange = exchange_for(url, clock, Timers(clock), Activity(), BusLogger())

    assert isinstance(exchange, MemoryExchange)


@pytest.mark.parametrize("scheme", ["nats", "redis", "sqlite3", "memori"])
def test_an_unknown_scheme_names_the_plugin_to_install(scheme: str) -> None:
    """The next step stands in the error."""
    with pytest.raises(UnknownTransport, match=rf"'{scheme}'.*pip install eventbus-{scheme}"):
        EventBus(f"{scheme}://host:4222/path?option=1")


@pytest.mark.parametrize(
    "url",
    [
        "nats://user:s3cret@host",
        "redis://:s3cret@host:6379/0",
        "nats://host?password=s3cret",
        "nats://s3cret",
        "memory://user:s3cret@host",
        "memory://host?password=s3cret",
        "memory:///s3cret",
    ],
)
def test_no_error_shows_what_may_be_a_password(url: str) -> None:
    """Errors end up in logs; a URL's user, host, path and values do not."""
    with pytest.raises((UnknownTransport, InvalidOption)) as caught:
        EventBus(url)

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "memory", "/tmp/events.db", "://", "//host"])  # noqa: S108 - no file
def test_what_has_no_scheme_is_no_transport(url: str) -> None:
    """The error says what would be one."""
    with pytest.raises(UnknownTransport, match="memory://"):
        EventBus(url)


@pytest.mark.parametrize("url", [None, 1, b"memory://", ["memory://"]], ids=repr)
def test_what_is_no_text_is_no_url(url: object) -> None:
    """It is refused as an option that cannot be used, with its value."""
    with pytest.raises((UnknownTransport, InvalidOption), match="memory://"):
        EventBus(url)  # type: ignore[arg-type] # no text


@pytest.mark.parametrize(
    ("url", "flaw"),
    [
        ("memory://?size=5", "'size'"),
        ("memory://?durability=", "'durability'"),
        ("memory://?codec=json&codec=json", "'codec' twice"),
        ("memory://host", "host"),
        ("memory:///path", "path"),
    ],
)
def test_memory_refuses_what_it_does_not_have(url: str, flaw: str) -> None:
    """An option that would be ignored is a mistake."""
    with pytest.raises(InvalidOption, match=flaw):
        EventBus(url)


@pytest.mark.parametrize(
    "url", ["nats://[::1", "nats://[host]", "memory://[", "redis://:a@[s3cret"]
)
def test_a_broken_url_is_an_error_of_ours(url: str) -> None:
    """What Python cannot even split is refused like any other, and not shown."""
    with pytest.raises((UnknownTransport, InvalidOption)) as caught:
        EventBus(url)

    assert "s3cret" not in str(caught.value)


def test_a_plugin_serves_its_scheme(installer: Installer) -> None:
    """It is given the whole URL, and the clock of the bus."""
    installer.install("eventbus-toy", "eventbus.transports", "toy = eventbus_toy:Toy", TOY)
    clock = SystemClock()

    made = plugins.transport("TOY://box?colour=red", clock)

    assert type(made).__name__ == "Toy"
    assert vars(made) == {"url": "TOY://box?colour=red", "clock": clock}


def test_a_misspelt_scheme_meets_the_one_that_was_meant(installer: Installer) -> None:
    """What is installed is offered, and `memory` with it."""
    installer.install("eventbus-pigeon", "eventbus.transports", "pigeon = pigeons:Pigeon")

    with pytest.raises(UnknownTransport, match="did you mean 'pigeon'"):
        EventBus("pigeons://host")
    with pytest.raises(UnknownTransport, match="did you mean 'memory'"):
        EventBus("memroy://")


def test_a_transport_refuses_its_options_in_its_own_words(installer: Installer) -> None:
    """What the plugin says as an error of the bus's family reaches the user as it is."""
    installer.install("eventbus-toy", "eventbus.transports", "toy = eventbus_toy:Toy", TOY)

    with pytest.raises(InvalidOption, match=r"^toy:// has no option 'speed'$"):
        plugins.transport("toy://?speed=9", SystemClock())


def test_an_error_of_a_transport_does_not_show_the_url(installer: Installer) -> None:
    """Its own error may, and is the cause of ours."""
    code = "def make(url, clock): raise ValueError(url)"
    installer.install("eventbus-toy", "eventbus.transports", "toy = eventbus_toy:make", code)

    with pytest.raises(UnknownTransport, match="'eventbus-toy' failed with ValueError") as caught:
        plugins.transport("toy://user:s3cret@host", SystemClock())

    assert "s3cret" not in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("code", "shape"),
    [
        ("def make(url, clock): return None", "NoneType"),
        (TOY + "\n    def make(url, clock): return Toy", "the class Toy"),
        (TOY + "\n    del Toy.open\n    make = Toy", "Toy"),
        (TOY + "\n    Toy.capabilities = {}\n    make = Toy", "Toy"),
    ],
    ids=["nothing", "class", "part missing", "other capabilities"],
)
def test_what_is_no_transport_is_refused(installer: Installer, code: str, shape: str) -> None:
    """The error says what the plugin gave, and what it has to give."""
    installer.install("eventbus-toy", "eventbus.transports", "toy = eventbus_toy:make", code)

    with pytest.raises(UnknownTransport, match=rf"gave {shape}, which is no transport.*publish"):
        plugins.transport("toy://", SystemClock())


# --- by name --------------------------------------------------------------------------------------


async def test_middleware_is_found_by_its_name(
    installer: Installer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A factory gets the options; what it makes is middleware as any other."""
    installer.install("eventbus-shout", "eventbus.middleware", "shout = shouting:Shout", SHOUT)
    installer.install("whisper", "eventbus.publish_middleware", "soft = whispering:Whisper", SHOUT)
    bus = EventBus(
        middleware=[plugins.middleware("shout", mark="?")],
        publish_middleware=[plugins.publish_middleware("soft")],
    )
    bus.on(JOBS)(_do_nothing)

    async with bus:
        await bus.publish(JOBS, 1)

    assert capsys.readouterr().out == "jobs\nJOBS?\n"


async def _do_nothing(job: int) -> None: ...


def test_a_policy_may_come_from_a_plugin(installer: Installer) -> None:
    """What stands in `middleware=` is found by name, policies too."""
    code = "from eventbus.middleware import Timeout"
    installer.install("hurry", "eventbus.middleware", "hurry = hurrying:Timeout", code)

    assert isinstance(plugins.middleware("hurry", seconds=5.0), Timeout)


def test_an_unknown_name_names_the_plugin_to_install(installer: Installer) -> None:
    """The next step stands in the error, and the name that was meant."""
    installer.install("eventbus-shout", "eventbus.middleware", "shout = shouting:Shout", SHOUT)

    with pytest.raises(InvalidOption, match=r"middleware 'shuot'.*`pip install eventbus-shuot`"):
        plugins.middleware("shuot")
    with pytest.raises(InvalidOption, match=r"did you mean 'shout'"):
        plugins.middleware("shuot")
    with pytest.raises(InvalidOption, match="publish middleware 'shout'"):
        plugins.publish_middleware("shout")
    with pytest.raises(InvalidOption, match="middleware 1"):
        plugins.middleware(1)  # type: ignore[arg-type]  # on purpose


def test_options_that_the_factory_does_not_take_are_refused(installer: Installer) -> None:
    """Its own error is the cause, and names the option."""
    installer.install("eventbus-shout", "eventbus.middleware", "shout = shouting:Shout", SHOUT)

    with pytest.raises(InvalidOption, match="'eventbus-shout' failed with TypeError") as caught:
        plugins.middleware("shout", volume=11)

    assert "volume" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("code", "shape"),
    [
        ("def make(): return 1", "int"),
        (SHOUT + "\n    def make(): return Shout", "the class Shout"),
        ("async def make(): ...", "coroutine"),
    ],
    ids=["number", "class", "coroutine"],
)
@pytest.mark.parametrize(
    ("group", "ask"), [MIDDLEWARE, PUBLISH_MIDDLEWARE], ids=["middleware", "publish_middleware"]
)
def test_what_is_no_middleware_is_refused(
    installer: Installer, group: str, ask: Ask, code: str, shape: str
) -> None:
    """The error says whose it is, what it gave, and what it has to give."""
    installer.install("eventbus-toy", group, "toy = eventbus_toy:make", code)

    with pytest.raises(InvalidOption, match=rf"'eventbus-toy' gave {shape}, no middleware:.*give"):
        ask()


# --- whatever it brings ---------------------------------------------------------------------------


@in_each_group
def test_two_distributions_of_one_name_are_one_too_many(
    installer: Installer, group: str, ask: Ask
) -> None:
    """Which of them was meant, nobody can know."""
    installer.install("eventbus-toy", group, "toy = eventbus_toy:Toy")
    installer.install("toys-for-all", group, "toy = toys:Toy")

    with pytest.raises(EventBusError, match="eventbus-toy and toys-for-all both bring 'toy'"):
        ask()


@in_each_group
@pytest.mark.parametrize(
    ("requires", "version"),
    [
        ("eventbus>=7.1", "eventbus 7.x"),
        ("eventbus>=7.1,<9", "eventbus 7.x and 8.x"),
        ("eventbus", "unknown version"),
        (None, "unknown version"),
    ],
)
def test_a_plugin_for_another_major_version_is_refused_before_it_is_imported(
    installer: Installer, group: str, ask: Ask, requires: str | None, version: str
) -> None:
    """The version it is for and the one that is there stand in one sentence."""
    code = "raise SystemExit('imported')"
    installer.install("eventbus-toy", group, "toy = eventbus_toy:Toy", code, requires=requires)

    with pytest.raises(EventBusError, match=rf"eventbus-toy .*{version}.*this is 0\.x: install"):
        ask()


@in_each_group
@pytest.mark.parametrize(
    ("code", "flaw"),
    [
        ("import a_module_that_nobody_has", "a_module_that_nobody_has"),
        ("this is no Python", "SyntaxError"),
        ("Top = 1", "Toy"),
        ("Toy = 1", "is 1: its entry point has to name a function or class"),
    ],
    ids=["import", "syntax", "attribute", "no factory"],
)
def test_a_plugin_that_cannot_be_imported_says_why(
    installer: Installer, group: str, ask: Ask, code: str, flaw: str
) -> None:
    """Whose it is, and what went wrong, stand in the error."""
    installer.install("eventbus-toy", group, "toy = eventbus_toy:Toy", code)

    with pytest.raises(EventBusError, match=rf"eventbus-toy brings 'toy', but .*{flaw}"):
        ask()
