"""The command line in the process of the tests, on a store of its own."""

__all__ = ("Shell",)

import json
from collections.abc import Sequence
from typing import Any

import anyio
from typer.testing import CliRunner

from eventbus import EventBus
from eventbus.cli.commands import app
from eventbus.middleware import DeadLetter


class Ended:
    """What a command printed, and the code it ended with."""

    def __init__(self, code: int, output: str, complaint: str) -> None:
        self.code = code
        self.output = output
        self.complaint = complaint

    @property
    def lines(self) -> list[str]:
        """The lines it printed."""
        return self.output.splitlines()

    @property
    def json(self) -> list[Any]:
        """The lines it printed, as JSON."""
        return [json.loads(line) for line in self.lines]


class Shell:
    """Runs commands as a terminal would, with the store's URL in the environment."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._environment = {"EVENTBUS_URL": url}

    def __call__(self, *words: str, typed: str | bytes = "", **environment: str) -> Ended:
        """Run a command to its end, with what is typed on its stdin."""
        ended = CliRunner().invoke(
            app, list(words), input=typed, env={**self._environment, **environment}
        )
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return Ended(ended.exit_code, ended.stdout, ended.stderr)

    def give_up_on(self, *events: dict[str, Any], name: str | None = "books") -> None:
        """Leave dead letters of events: of a durable subscription, if it has a name."""
        anyio.run(self._give_up_on, events, name)

    async def _give_up_on(self, events: Sequence[dict[str, Any]], name: str | None) -> None:
        bus = EventBus(self.url, middleware=[DeadLetter()])

        @bus.on("orders.placed", name=name)
        async def refuse(event: dict[str, Any]) -> None:
            raise ValueError(f"cannot ship {event.get('order_id')}")

        async with bus:
            for event in events:
                await bus.publish("orders.placed", event, key="k", headers={"user": "ann"})
            await bus.join()
