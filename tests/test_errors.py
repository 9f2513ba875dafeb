"""Every error of the package: one root, the bases it documents, and a way to meet it."""

import importlib
import inspect
import logging
import pkgutil
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, cast

import anyio
import pytest
from pydantic import BaseModel

import eventbus
from eventbus import EventBus, RequestTopic, Topic, errors
from eventbus.errors import (
    AlreadySettled,
    BusClosed,
    ContractError,
    DeadlockError,
    DuplicateSubscription,
    EventBusError,
    HandlerTimeout,
    InvalidEvent,
    InvalidHandler,
    InvalidOption,
    InvalidPattern,
    InvalidTopic,
    NoResponders,
    NoSubscribers,
    NotStarted,
    PositionGone,
    QueueFull,
    RemoteError,
    RequestTimeout,
    StoreCorrupt,
    StoreError,
    StoreVersion,
    UnknownTopic,
    UnknownTransport,
    UnsupportedByTransport,
)
from eventbus.middleware import Timeout
from eventbus.settling import Failing, Overtaken, Postponed
from eventbus.testing import ManualClock
from eventbus.transports.sqlite.effects import Undone

Case: TypeAlias = Callable[[], Awaitable[object]]


class Order(BaseModel):
    order_id: str


ORDER = Topic("orders.created", Order)
COUNT = RequestTopic("orders.count", Order, int)


def all_errors() -> list[type[EventBusError]]:
    """Find the root of the errors and all below it."""
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass)]
    return [each for each in classes if issubclass(each, EventBusError)]


# --- How to meet them -----------------------------------------------------------------------------


async def name_a_wildcard() -> None:
    """Publish to what is no topic."""
    Topic("orders.*", Order)


async def listen_to_nothing() -> None:
    """Listen to what is no pattern."""
    EventBus().on("orders..created")


async def misspell_an_option() -> None:
    """Say what cannot be said."""
    cast("Any", EventBus()).on("orders.*", concurency=2)


async def decorate_a_class() -> None:
    """Register what cannot handle."""
    EventBus().on("orders.*")(cast("Any", Order))


async def publish_something_else() -> None:
    """Publish what the topic's contract refuses."""
    async with EventBus() as bus:
        await bus.publish(ORDER, cast("Any", {"number": 1}))


async def publish_outside_the_world() -> None:
    """Publish to what no contract names."""
    shop = TypedDict("shop", {"orders.created": Order})
    async with EventBus(contracts=shop) as bus:
        await bus.publish("orders.craeted", {})


async def contradict_a_topic() -> None:
    """State two models for one topic."""
    bus = EventBus()
    bus.on(ORDER)(print)
    bus.on(Topic("orders.created", int))(print)


async def take_a_name_twice() -> None:
    """Give two subscriptions one name."""
    bus = EventBus()
    for _ in range(2):
        bus.on("orders.*", name="audit")(print)


async def ask_for_a_stranger() -> None:
    """Name a scheme that nobody serves."""
    EventBus("pigeon://loft")


async def publish_too_early() -> None:
    """Publish before the start."""
    await EventBus().publish("orders.created", {})


async def publish_too_late() -> None:
    """Publish after the end."""
    async with EventBus() as bus:
        pass
    await bus.publish("orders.created", {})


async def publish_too_much() -> None:
    """Publish into a full queue that refuses."""
    async with EventBus() as bus, bus.subscribe("orders.*", queue_size=1, overflow="fail"):
        for _ in range(2):
            await bus.publish("orders.created", {})


async def settle_twice() -> None:
    """Say two things about one delivery."""
    async with EventBus() as bus, bus.subscribe("orders.*", name="feed") as events:
        await bus.publish("orders.created", {})
        context = await anext(events.contexts())
        await context.ack()
        await context.reject("worn out")


async def wait_for_oneself() -> None:
    """Join the bus in one of its handlers, and bring out what it got."""
    caught: list[Exception] = []
    bus = EventBus()

    @bus.on("orders.*")
    async def handler(event: object) -> None:
        try:
            await bus.join()
        except DeadlockError as error:
            caught.append(error)

    async with bus:
        await bus.publish("orders.created", {})
    raise caught[0]


async def require_somebody() -> None:
    """Ask for a subscription where there is none."""
    async with EventBus() as bus:
        await bus.publish("orders.created", {}, require=True)


async def ask_nobody() -> None:
    """Ask where nobody answers."""
    async with EventBus() as bus:
        await bus.request(COUNT, Order(order_id="o-1"))


async def ask_who_fails() -> None:
    """Ask a responder that does not know."""
    bus = EventBus()

    @bus.on(COUNT)
    async def count(order: Order) -> int:
        raise LookupError(f"no order {order.order_id}")

    async with bus:
        await bus.request(COUNT, Order(order_id="o-1"))


async def ask_who_says_nothing() -> None:
    """Ask a responder that takes its time."""
    bus = EventBus(drain_timeout=0)

    @bus.on(COUNT)
    async def count(order: Order) -> int:
        await anyio.sleep_forever()
        return 0

    async with bus:
        await bus.request(COUNT, Order(order_id="o-1"), timeout=0.01)


async def take_too_long() -> None:
    """Run longer than allowed, and bring out what the log shows of it."""
    logged: list[logging.LogRecord] = []
    log = logging.Handler()
    setattr(log, "emit", logged.append)  # noqa: B010 - a list is all it takes
    bus = EventBus(middleware=[Timeout(0.01)])

    @bus.on("orders.*", name="slow")
    async def slow(event: object) -> None:
        await anyio.sleep_forever()

    logging.getLogger("eventbus").addHandler(log)
    try:
        async with bus:
            await bus.publish("orders.created", {})
            await bus.join()
    finally:
        logging.getLogger("eventbus").removeHandler(log)
    error = logged[0].exc_info
    assert error is not None
    assert error[1] is not None
    raise error[1]


class Sickening:
    """Makes a store that cannot be used."""

    def __init__(self, spoil: Callable[[Path], object], options: str = "") -> None:
        self._spoil = spoil
        self._options = options

    async def __call__(self) -> None:
        """Start a bus on it, after it was used once."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "events.db"
            async with EventBus(f"sqlite:///{path}") as bus:
                await bus.publish_many("orders.created", [{}, {}])
            self._spoil(path)
            async with EventBus(f"sqlite:///{path}"):
                pass


def replace_with_folder(path: Path) -> None:
    """Put a folder where the file was."""
    path.unlink()
    path.mkdir()


def replace_with_text(path: Path) -> None:
    """Put a letter where the database was."""
    path.write_text("Dear reader, " * 100, "utf-8")


async def start_too_early() -> None:
    """Begin where retention has removed what was."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/events.db?max_count=1"
        clock = ManualClock()
        async with EventBus(url, clock=clock) as bus:
            await bus.publish_many("orders.created", [{}, {}])
            while await removed_up_to(Path(folder) / "events.db") < 1:
                await clock.advance(1.0)
        late = EventBus(url)
        late.on("orders.*", start=1)(print)
        async with late:
            pass


async def removed_up_to(path: Path) -> int:
    """Read what retention has removed."""
    with closing(sqlite3.connect(path)) as connection:
        (position,) = connection.execute("SELECT removed FROM meta").fetchone()
    return int(position)


async def be_durable_in_memory() -> None:
    """Ask memory to remember."""
    bus = EventBus()
    bus.on("orders.*", name="audit", durable=True)(print)
    async with bus:
        pass


CASES: dict[type[EventBusError], tuple[Case, str]] = {
    AlreadySettled: (settle_twice, r"feed.*reject.*ack\(\).*one thing"),
    BusClosed: (publish_too_late, "before it drains or closes"),
    ContractError: (contradict_a_topic, r"'orders\.created'.*int.*Order"),
    DeadlockError: (wait_for_oneself, r"join\(\)"),
    DuplicateSubscription: (take_a_name_twice, "'audit'.*group="),
    HandlerTimeout: (take_too_long, r"slow.*0\.01"),
    InvalidEvent: (publish_something_else, r"'orders\.created'.*Order.*order_id"),
    InvalidHandler: (decorate_a_class, "Order.*model="),
    InvalidOption: (misspell_an_option, "'concurency'.*'concurrency'"),
    InvalidPattern: (listen_to_nothing, r"'orders\.\.created'"),
    InvalidTopic: (name_a_wildcard, r"'orders\.\*'"),
    NoResponders: (ask_nobody, r"'orders\.count'.*responder"),
    NoSubscribers: (require_somebody, r"'orders\.created'.*require"),
    NotStarted: (publish_too_early, "async with"),
    PositionGone: (start_too_early, "position 1: begin at 2"),
    QueueFull: (publish_too_much, r"'orders\.created'.*queue_size"),
    RemoteError: (ask_who_fails, r"'orders\.count'.*LookupError: no order o-1; see the log"),
    RequestTimeout: (ask_who_says_nothing, r"'orders\.count'.*timeout=0\.01"),
    StoreCorrupt: (Sickening(Path.unlink), "ends at position 0, .* up to 2 .* delete .*-mark"),
    StoreError: (Sickening(replace_with_folder), "its folder exists"),
    StoreVersion: (Sickening(replace_with_text), "no database: name another file"),
    UnsupportedByTransport: (be_durable_in_memory, "'audit': durable=True.*sqlite://"),
    UnknownTopic: (publish_outside_the_world, r"'orders\.craeted'.*'orders\.created'"),
    UnknownTransport: (ask_for_a_stranger, "'pigeon'.*eventbus-pigeon"),
}
"""How to meet each error, and what its text must say: the value, and the next step."""


# --- The tests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [one for one in all_errors() if one is not EventBusError])
async def test_every_error_can_be_met(error: type[EventBusError]) -> None:
    """No class is there that nothing raises, and each text helps."""
    case, text = CASES[error]

    with pytest.raises(error, match=text) as caught:
        await case()

    assert type(caught.value) is error


def test_every_error_has_the_one_root() -> None:
    """No module of the package has an error of its own: one `except` catches them all."""
    modules = [
        importlib.import_module(one.name)
        for one in pkgutil.walk_packages(eventbus.__path__, "eventbus.")
    ]
    strangers = {
        each
        for module in modules
        for _, each in inspect.getmembers(module, inspect.isclass)
        if issubclass(each, BaseException) and each.__module__.startswith("eventbus")
    } - set(all_errors())
    verdicts = {
        each for each in strangers if issubclass(each, (Failing, Overtaken, Postponed, Undone))
    }  # no errors, and not seen

    assert len(modules) > 20
    assert strangers - verdicts == set()


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (InvalidTopic, ValueError),
        (InvalidPattern, ValueError),
        (InvalidOption, ValueError),
        (InvalidHandler, TypeError),
        (HandlerTimeout, TimeoutError),
        (RequestTimeout, TimeoutError),
    ],
)
def test_some_errors_are_also_what_python_calls_them(
    error: type[Exception], base: type[Exception]
) -> None:
    """Who catches the built-in class catches ours."""
    assert issubclass(error, base)


def test_the_others_are_nothing_else() -> None:
    """An error that is a `ValueError` by accident would be caught by accident."""
    timeouts = {HandlerTimeout, RequestTimeout}
    documented = {InvalidTopic, InvalidPattern, InvalidOption, InvalidHandler, *timeouts}
    others = set(all_errors()) - documented

    assert {one for one in others if issubclass(one, ValueError | TypeError | OSError)} == set()


def test_the_list_of_errors_is_complete() -> None:
    """The overview at the head of the module names every class, and no other."""
    overview = errors.__doc__ or ""

    assert [one.__name__ for one in all_errors() if one.__name__ not in overview] == []
