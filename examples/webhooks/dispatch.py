"""From lines of JSON to the bus, and what came of it."""

__all__ = ("HandlerReport", "Report", "dispatch")

from collections.abc import Callable, Iterable
from textwrap import shorten
from typing import Any

from pydantic import BaseModel, ValidationError

from eventbus import BusStats, EventBus, FailedDelivery, InvalidTopic
from eventbus.middleware import DeadLetter
from examples.webhooks.handlers import Handlers


class Delivery(BaseModel):
    """A line of the file."""

    topic: str
    payload: dict[str, Any]


class HandlerReport(BaseModel):
    handled: int
    refused: int
    tally: dict[str, int]


class Report(BaseModel):
    """`refused` counts payloads that a handler could not use; `unmatched`, what nobody wanted."""

    published: int
    bad_lines: int
    unmatched: int
    handlers: dict[str, HandlerReport]

    @property
    def is_clean(self) -> bool:
        """Whether every line could be used by every handler it was for."""
        return not self.bad_lines and not any(one.refused for one in self.handlers.values())


async def dispatch(lines: Iterable[bytes], complain: Callable[[str], None]) -> Report:
    """Publish each line's payload under its topic; complain of what cannot be used, and go on."""
    bus, handlers = EventBus(name="webhooks", middleware=[DeadLetter()]), Handlers()
    bus.include(handlers)
    async with bus:
        bad_lines = await _publish_all(bus, lines, complain)
    stats = bus.stats()
    for letter in reversed(await bus.dead_letters(limit=stats.dead_lettered or 1)):
        complain(_refusal(letter))
    return _report(stats, bad_lines, handlers)


async def _publish_all(
    bus: EventBus, lines: Iterable[bytes], complain: Callable[[str], None]
) -> int:
    bad_lines = 0
    for number, line in enumerate(map(bytes.strip, lines), 1):
        if not line:
            continue
        try:
            one = Delivery.model_validate_json(line)
            await bus.publish(one.topic, one.payload, headers={"line": str(number)})
        except (ValidationError, InvalidTopic) as error:
            bad_lines += 1
            complain(f"line {number}: {_reason(error)}")
    return bad_lines


def _reason(error: ValidationError | InvalidTopic) -> str:
    if isinstance(error, InvalidTopic):
        return str(error)
    flaws = [(*map(str, one["loc"]), one["msg"]) for one in error.errors()]
    return "; ".join(map(": ".join, flaws)).replace(" at line 1 column", " at column")


def _refusal(letter: FailedDelivery) -> str:
    line, topic = letter.message.headers["line"], letter.message.topic
    reason = shorten(letter.error, 120, placeholder=" ...")
    return f"line {line}: {letter.subscription} cannot handle this {topic}: {reason}"


def _report(stats: BusStats, bad_lines: int, handlers: Handlers) -> Report:
    return Report(
        published=stats.published,
        bad_lines=bad_lines,
        unmatched=stats.unmatched,
        handlers={
            name: HandlerReport(
                handled=one.succeeded,
                refused=one.dead_lettered,
                tally=dict(handlers.tallies[name].most_common()),
            )
            for name, one in stats.subscriptions.items()
        },
    )
