"""Finding what is to be removed where patterns have limits of their own.

A pass goes over the log from its newest record to its oldest, and adds up what each limit has to
keep: what comes after that is beyond it. It remembers nothing from pass to pass, so that it finds
the same whatever other processes do meanwhile. It changes nothing itself, and comes in rounds.
"""

__all__ = ("Sweep",)

import sqlite3
from collections.abc import Sequence

from pydantic_core import from_json

from eventbus.cache import BoundedCache
from eventbus.transports.sqlite.damage import legible
from eventbus.transports.sqlite.limits import Limit, limits_of

PER_ROUND = 1000
"""Records looked at in one round at most."""

BYTES_PER_RECORD = 150
"""What a record takes beside its payload, topic and traits: mostly its id, which is indexed."""

TOPICS_KEPT = 4096


class _Meter:
    """What there is of one limit: how much of it has been seen."""

    def __init__(self, limit: Limit, now: int) -> None:
        self._limit = limit
        self._oldest = now - round(limit.most * 1e6)
        self._seen = 0

    def is_beyond(self, time: int, size: int) -> bool:
        """Tell of the next older record whether it is too much."""
        if self._limit.name == "max_age":
            return time < self._oldest
        self._seen += 1 if self._limit.name == "max_count" else size
        return self._seen > self._limit.most


class Sweep:
    """One pass, at a moment in microseconds."""

    def __init__(self, limits: Sequence[Limit], last: int, now: int) -> None:
        self.length = last
        self._before = last + 1
        self._meters = {limit: _Meter(limit, now) for limit in limits}
        self._by_topic: BoundedCache[str, list[_Meter]] = BoundedCache(TOPICS_KEPT)
        self.is_done = False

    @property
    def looked_at(self) -> int:
        """How many positions have been passed."""
        return self.length + 1 - self._before

    def round(self, connection: sqlite3.Connection) -> Sequence[int]:
        """Look at some more records; give the positions of those to be removed, rising.

        The newest of all is never among them: it tells where the log ends.
        """
        (rows,) = connection.execute(
            "SELECT json_group_array(json_array(position, hex(topic), time, size)) FROM ("
            "SELECT position, topic, time, "
            "length(payload) + length(topic) + ifnull(length(traits), 0) + ? AS size "
            "FROM log WHERE position < ? ORDER BY position DESC LIMIT ?)",
            (BYTES_PER_RECORD, self._before, PER_ROUND),
        ).fetchone()
        records: list[tuple[int, str, int, int]] = from_json(rows)
        self.is_done = len(records) < PER_ROUND
        self._before = 1 if self.is_done else records[-1][0]
        beyond = [at for at, topic, time, size in records if self._is_beyond(topic, time, size)]
        return [position for position in reversed(beyond) if position < self.length]

    def _is_beyond(self, topic: str, time: int, size: int) -> bool:
        """Tell of a record, its topic in hexadecimal, whether one of its limits has had enough."""
        meters = self._by_topic.get(topic)
        if meters is None:
            limits = limits_of(legible(topic), tuple(self._meters))
            meters = [self._meters[limit] for limit in limits]
            self._by_topic.put(topic, meters)
        return any([meter.is_beyond(time, size) for meter in meters])  # noqa: C419 - each has to see it
