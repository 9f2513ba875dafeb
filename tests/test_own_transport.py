"""A transport of one's own, found by its entry point, does what the contract says."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventbus import Clock, Context, EventBus, InvalidOption, Topic, UnsupportedByTransport
from eventbus.bus_logger import BusLogger
from eventbus.testing import TransportContract
from eventbus.transports.base import LogsAsBus
from tests.installing import Installer
from tests.toy_transport import Toy

JOBS = Topic("jobs.new", int)


@pytest.fixture(autouse=True)
def toy(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Install a distribution that brings `toy://`."""
    folder = tmp_path_factory.mktemp("installed")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    source = (Path(__file__).parent / "toy_transport.py").read_text("utf-8")
    Installer(folder).install(
        "eventbus-toy", "eventbus.transports", "toy = eventbus_toy:Toy", source
    )
    yield
    sys.modules.pop("eventbus_toy", None)


class TestToy(TransportContract):
    copies = 3  # each bus looks for the entry point anew, which takes 15 ms

    def fresh_url(self, folder: Path) -> str:
        return "toy://"


async def test_join_waits_for_what_it_carries() -> None:
    """What a handler publishes in its turn is waited for, too, as positions tell where it is."""
    bus = EventBus("toy://")
    done: list[int] = []

    @bus.on(JOBS)
    async def work(job: int, context: Context[int]) -> None:
        await context.publish("jobs.done", {"job": job})

    @bus.on("jobs.done")
    async def note(event: dict[str, int]) -> None:
        done.append(event["job"])

    async with bus:
        await bus.publish(JOBS, 1)
        await bus.join()

        assert done == [1]


async def test_requests_are_refused_where_replies_cannot_travel() -> None:
    """Asking, and answering."""
    async with EventBus("toy://") as running:
        with pytest.raises(UnsupportedByTransport, match=r"'jobs\.new'.*in memory"):
            await running.request("jobs.new", {}, reply=int)
    bus = EventBus("toy://")
    bus.on("jobs.new", model=int, reply=int)(abs)
    with pytest.raises(UnsupportedByTransport, match="answers requests"):
        async with bus:
            pass


def test_its_own_refusal_reaches_the_user() -> None:
    """In the words of the plugin."""
    with pytest.raises(InvalidOption, match="toy:// takes neither host nor path"):
        EventBus("toy://box")


def test_it_may_log_as_its_bus_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it has the attribute for that."""
    EventBus("toy://")  # which imports it
    carriers: list[LogsAsBus] = []

    class Talker(Toy):
        def __init__(self, url: str, clock: Clock) -> None:
            super().__init__(url, clock)
            self.bus_logger = BusLogger()
            carriers.append(self)

    monkeypatch.setattr(sys.modules["eventbus_toy"], "Toy", Talker)
    EventBus("toy://", name="shop")
    carriers[0].bus_logger.warning("%s", "late")

    assert caplog.messages == ["shop: late"]
