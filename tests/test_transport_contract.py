"""Every transport of the core does what the contract says, and the contract sees who does not."""

import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from eventbus.testing import TransportContract
from eventbus.testing.transports.contract import Behaviour
from eventbus.testing.transports.store import Store
from tests.faults.scale import full
from tests.installing import Installer


class TestMemory(TransportContract):
    many = full(10_000, small=1000)

    def fresh_url(self, folder: Path) -> str:
        return "memory://"


class TestMemoryThroughJson(TransportContract):
    many = full(10_000, small=1000)

    def fresh_url(self, folder: Path) -> str:
        return "memory://?codec=json"


class TestSqlite(TransportContract):
    many = full(10_000, small=500)
    cycles = full(20, small=5)
    deaths = full(20, small=1)

    def fresh_url(self, folder: Path) -> str:
        return f"sqlite:///{folder}/events.db"


# --- The contract sees who does not do it ---------------------------------------------------------

FAULTS = {
    "losing": [
        "messages_arrive_whole",
        "a_batch_arrives_as_it_was_given",
        "each_subscription_gets_every_message",
        "the_members_of_a_group_share",
        "order_holds_within_each_key",
        "it_goes_on_after_errors",
        "closing_right_after_publishing_loses_nothing",
        "a_source_misses_nothing_after_open",
    ],
    "mixing": [
        "topics_do_not_mix",
        "many_topics_are_carried_at_once",
        "wildcards_match_as_they_do_in_memory",
        "every_valid_name_is_carried",
    ],
    "forgetting": [
        "stopping_again_and_again_loses_nothing",
        "a_process_that_dies_at_work_loses_nothing",
        "a_retry_outlasts_the_bus",
        "how_a_delivery_ended_outlasts_the_transport",
    ],
    "straying": [
        "a_replay_gives_what_matches",
        "a_replay_keeps_to_its_range",
        "the_newest_of_each_key_is_replayed",
        "what_was_there_before_is_a_replay",
    ],
}
"""What each faulty transport of `broken_transports` does not do."""

SOUND = {
    "losing": [
        "topics_do_not_mix",
        "names_are_checked_on_every_path",
        "a_handler_ends_when_its_bus_is_stopped",
        "a_delivery_is_settled_once",
    ],
    "mixing": [
        "messages_arrive_whole",
        "the_next_waits_for_the_one_before",
        "what_failed_comes_again",
        "a_process_that_dies_at_work_loses_nothing",
    ],
    "forgetting": [
        "messages_arrive_whole",
        "topics_do_not_mix",
        "what_failed_comes_again",
        "a_subscription_goes_on_where_it_was",
    ],
    "straying": [
        "messages_arrive_whole",
        "what_is_kept_is_replayed_whole",
        "a_replay_ends",
        "a_reading_tells_where_it_is",
    ],
}
"""What it does nevertheless."""


class Contract(TransportContract):
    """The contract for a faulty transport, which is not to be waited for."""

    messages = 20
    many = 40
    subscribers = topics = 3
    cycles = 2
    patience = 1.5

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme

    def fresh_url(self, folder: Path) -> str:
        return f"{self.scheme}:///{folder}/events.db"

    async def failing(self, names: list[str], folder: Path) -> list[str]:
        """Run behaviours at once; give the names of those that failed."""
        failed: list[str] = []

        async def run(name: str, behaviour: Behaviour, store: Store) -> None:
            try:
                await behaviour(store)
            except (Exception, pytest.fail.Exception):  # noqa: BLE001 - tests fail as they like
                failed.append(name)

        async with anyio.create_task_group() as group:
            for name in names:
                (folder / name).mkdir()
                store = Store(self.fresh_url(folder / name), self.patience)
                group.start_soon(run, name, self.behaviours_of(store)[f"test_{name}"], store)
        return sorted(failed)


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the faulty transports, each under a scheme of its own."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    source = (Path(__file__).parent / "broken_transports.py").read_text("utf-8")
    schemes = "\n".join(f"{one} = eventbus_broken:{one.title()}" for one in FAULTS)
    Installer(tmp_path).install("eventbus-broken", "eventbus.transports", schemes, source)
    yield
    sys.modules.pop("eventbus_broken", None)


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # what it sees, it sees on either
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_fails_the_tests_it_should(fault: str, tmp_path: Path) -> None:
    """A transport that loses, mixes or forgets fails there, and nowhere else."""
    names = [*FAULTS[fault], *SOUND[fault]]

    assert await Contract(fault).failing(names, tmp_path) == sorted(FAULTS[fault])


def test_whoever_inherits_it_must_say_where_a_store_is(tmp_path: Path) -> None:
    """In the words of the class."""
    with pytest.raises(NotImplementedError, match="fresh_url"):
        TransportContract().fresh_url(tmp_path)
