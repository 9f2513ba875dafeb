"""The behaviours that every transport has, as a class of tests to inherit."""

__all__ = ("Behaviour", "TransportContract")

from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from inspect import signature
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

import anyio
import pytest

from eventbus.testing.transports.asking import Asking
from eventbus.testing.transports.carrying import Carrying
from eventbus.testing.transports.delaying import Delaying
from eventbus.testing.transports.ending import Ending
from eventbus.testing.transports.failing import Failing
from eventbus.testing.transports.keeping import Keeping
from eventbus.testing.transports.ordering import Ordering
from eventbus.testing.transports.protocol import TalkingToSources
from eventbus.testing.transports.refusing import Refusing
from eventbus.testing.transports.rereading import Rereading
from eventbus.testing.transports.store import Store

Behaviour: TypeAlias = Callable[[Store], Awaitable[None]]
"""One test of the suite, to be run with a fresh store."""


class TransportContract(
    Asking,
    Carrying,
    Delaying,
    Ordering,
    Failing,
    Ending,
    Keeping,
    Rereading,
    Refusing,
    TalkingToSources,
):
    """Tests that show whether a transport does what a bus, and its users, rely on.

    Inherit it in a test module, and say where a fresh store is: pytest, with anyio's plugin, then
    runs each behaviour on each event loop that the transport's `capabilities` name, as far as they
    claim it. What they do not claim is skipped, or has to be refused.

    The class attributes of `Sizes` say how much of everything there is; give other values to hurry,
    or to soak.

    Example:
        >>> class TestCarrierPigeons(TransportContract):
        ...     messages = 20
        ...
        ...     def fresh_url(self, folder: Path) -> str:
        ...         return f"pigeon://{folder}"
    """

    pytestmark: ClassVar[Any] = pytest.mark.anyio

    def fresh_url(self, folder: Path) -> str:
        """Give the URL of a store that nobody has used; a bus finds it again under that URL.

        Called once for each store a test needs. `folder` exists, is empty, and belongs to it alone:
        put the store there, or make a name of it that is not used elsewhere. What needs a server
        starts it in a fixture of its own.
        """
        raise NotImplementedError("give the URL of a fresh store: `def fresh_url(self, folder)`")

    # --- how they are run -------------------------------------------------------------------

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        """Give the event loop."""
        name: str = request.param
        if name == "trio":
            pytest.importorskip("trio")
        return name

    @pytest.fixture
    def stores(self, tmp_path: Path) -> Callable[[], Store]:
        """Give what makes stores."""
        numbers = count(1)

        def fresh() -> Store:
            folder = tmp_path / f"store-{next(numbers)}"
            folder.mkdir()
            return Store(self.fresh_url(folder), self.patience)

        return fresh

    @pytest.fixture
    def store(
        self, request: pytest.FixtureRequest, stores: Callable[[], Store], anyio_backend_name: str
    ) -> Store:
        """Give a fresh store, if its transport can do what the test is about."""
        store = stores()
        if anyio_backend_name not in store.capabilities.backends:
            pytest.skip(f"it does not run on {anyio_backend_name}")
        mark = request.node.get_closest_marker("transport_needs")
        if mark is not None and (lacking := store.lacks(mark.args)):
            pytest.skip(f"its capabilities do not claim {' and '.join(lacking)}")
        return store

    @classmethod
    def behaviours(cls) -> list[str]:
        """Name the tests that need nothing but a store."""
        names = [name for name in dir(cls) if name.startswith("test_")]
        return [one for one in names if [*signature(getattr(cls, one)).parameters][1:] == ["store"]]

    def behaviours_of(self, store: Store) -> dict[str, Behaviour]:
        """Find the behaviours of a transport that can do so much, by the names of the tests."""
        found = {name: getattr(self, name) for name in self.behaviours()}
        return {name: one for name, one in found.items() if not store.lacks(_needs(one))}

    # --- the whole again --------------------------------------------------------------------

    async def test_all_of_it_many_times_at_once(
        self, store: Store, stores: Callable[[], Store]
    ) -> None:
        """Each behaviour in turn, in several copies that begin with different ones."""
        small = self.small()
        behaviours = list(small.behaviours_of(store).items())
        async with anyio.create_task_group() as group:
            for number in range(self.copies):
                first = len(behaviours) * number // self.copies
                turn = behaviours[first:] + behaviours[:first]
                group.start_soon(_run_all, turn, stores)

    def small(self) -> Self:
        """Give the same behaviours, no larger than they need to be."""
        small = copy(self)
        small.messages, small.many, small.keys = 8, 20, 3
        small.subscribers = small.topics = 3
        small.cycles, small.deaths = 2, 0
        return small


async def _run_all(
    behaviours: Sequence[tuple[str, Behaviour]], stores: Callable[[], Store]
) -> None:
    for name, behaviour in behaviours:
        try:
            await behaviour(stores())
        except Exception as error:
            error.add_note(f"in {name}, among others at the same time")
            raise


def _needs(behaviour: Behaviour) -> Sequence[str]:
    marks: Sequence[pytest.Mark] = getattr(behaviour, "pytestmark", ())
    return [word for mark in marks if mark.name == "transport_needs" for word in mark.args]
