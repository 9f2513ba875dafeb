"""Who has read how far: subscriptions, and their deliveries that are not settled.

All that is many is written and read by one statement, as JSON, for the reason told in `records`.
"""

__all__ = (
    "Claimed",
    "Established",
    "Outcomes",
    "Taken",
    "claim_new",
    "establish",
    "forget",
    "has_free",
    "recover",
    "release",
    "settle",
)

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import NamedTuple

from pydantic_core import from_json, to_json

from eventbus.errors import InvalidOption, StoreCorrupt
from eventbus.transports.base import Start
from eventbus.transports.sqlite.beginning import Begin, begin_of, is_sought
from eventbus.transports.sqlite.log import first_and_last
from eventbus.transports.sqlite.losses import Loss, still_kept, tell
from eventbus.transports.sqlite.sequence import leave_waiting


class Established(NamedTuple):
    """A subscription: its number, its cursor, and the last position that was there before it."""

    number: int
    cursor: int
    began: int
    loss: Loss | None = None


class Taken(NamedTuple):
    """What was claimed of new records: where the cursor is now, and the positions that are ours."""

    cursor: int
    ours: frozenset[int]
    loss: Loss | None = None


class Claimed(NamedTuple):
    """A delivery that is ours now; `attempts` were begun before, as far as is known."""

    position: int
    attempts: int
    is_suspect: bool


@dataclass(slots=True)
class Outcomes:
    """How deliveries of one subscription ended, to be written together; times in microseconds."""

    done: list[int] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    later: list[tuple[int, int, int]] = field(default_factory=list)  # position, attempts, due
    dead: list[tuple[int, Callable[[sqlite3.Connection], object]]] = field(default_factory=list)


# --- subscriptions --------------------------------------------------------------------------------


def establish(
    connection: sqlite3.Connection,
    name: str,
    patterns: Sequence[str],
    start: Start,
    first_new: int | None = None,
    found: Begin | None = None,
) -> Established | Begin:
    """Find a subscription, or create it where it is to start.

    Where that has to be looked for, it is not created yet: what is given is to be completed, and
    then to be given here as `found`.

    Raises:
        InvalidOption: The name stands for other patterns.
        PositionGone: It is to start where nothing is kept any more.
        StoreCorrupt: It has read what is no longer there.
    """
    wanted = to_json(sorted(patterns))
    row = connection.execute(
        "SELECT id, CAST(patterns AS BLOB), cursor, began FROM subscription WHERE name = ?", (name,)
    ).fetchone()
    if row is None:
        begin = found or begin_of(connection, start, first_new)
        is_known = found is not None or not is_sought(start)
        return _create(connection, name, wanted, begin) if is_known else begin
    number, stored, cursor, began = row
    if stored != wanted:
        raise InvalidOption(
            f"the store knows {name!r} as a subscription to {', '.join(from_json(stored))}, not to "
            f"{', '.join(sorted(patterns))}: take another name, or `await bus.forget({name!r})` "
            "first"
        )
    _check_cursor(connection, name, cursor)
    return Established(number, cursor, began, tell(connection, number, cursor))


def _create(
    connection: sqlite3.Connection, name: str, patterns: bytes, begin: Begin
) -> Established:
    removed, _ = first_and_last(connection)
    cursor = max(removed, begin.cursor)  # Race: retention goes on while a start is looked for
    number = connection.execute(
        "INSERT INTO subscription (name, patterns, cursor, began) VALUES (?, ?, ?, ?)",
        (name, patterns.decode(), cursor, begin.began),
    ).lastrowid
    return Established(number or 0, cursor, begin.began)


def _check_cursor(connection: sqlite3.Connection, name: str, cursor: int) -> None:
    _, last = first_and_last(connection)
    if cursor > last:
        raise StoreCorrupt(
            f"{name!r} has read up to position {cursor}, but the log ends at {last}: restore the "
            "store from a copy"
        )


def forget(connection: sqlite3.Connection, name: str) -> bool:
    """Forget a subscription and where it was; False if there is none."""
    for table in ("delivery", "waiting", "loss"):
        connection.execute(
            f"DELETE FROM {table} WHERE subscription = "  # one of three names
            "(SELECT id FROM subscription WHERE name = ?)",
            (name,),
        )
    removed = connection.execute("DELETE FROM subscription WHERE name = ?", (name,)).rowcount
    return removed > 0


# --- claiming -------------------------------------------------------------------------------------


def claim_new(
    connection: sqlite3.Connection,
    subscription: int,
    session: int,
    *,
    entries: Sequence[tuple[int, str | None]],
    seen: int,
    most: int,
    is_sequenced: bool = False,
) -> Taken | None:
    """Make new records deliveries of ours, and move the cursor.

    None if the subscription is not there: another process has forgotten it.

    `entries` are the positions and keys of all that is wanted between the cursor, as it was when
    they were read, and `seen`. Another process may have moved it meanwhile: what is behind it now
    is left out, as is what retention has removed. What has to wait for an earlier delivery of its
    key, elsewhere, becomes a free one; and what has to wait for a dead letter of its key, if that
    `is_sequenced`, becomes none yet.
    """
    row = connection.execute(
        "SELECT cursor, EXISTS (SELECT 1 FROM loss WHERE subscription = id) FROM subscription "
        "WHERE id = ?",
        (subscription,),
    ).fetchone()
    if row is None:
        return None
    before, has_lost = row
    left = [entry for entry in entries if entry[0] > before]
    if has_lost:
        kept = still_kept(connection, [position for position, _ in left])
        left = [entry for entry in left if entry[0] in kept]
    chosen = left[:most]
    cursor = chosen[-1][0] if len(chosen) < len(left) else max(seen, before)
    connection.execute("UPDATE subscription SET cursor = ? WHERE id = ?", (cursor, subscription))
    if is_sequenced:
        chosen = leave_waiting(connection, subscription, chosen)
    ours = _insert(connection, subscription, session, chosen)
    return Taken(cursor, ours, tell(connection, subscription, cursor) if has_lost else None)


def _insert(
    connection: sqlite3.Connection,
    subscription: int,
    session: int,
    entries: Sequence[tuple[int, str | None]],
) -> frozenset[int]:
    taken: Collection[str | None] = ()
    if any(key is not None for _, key in entries):
        taken = _keys_elsewhere(connection, subscription, session)
    rows = [(position, key, None if key in taken else session) for position, key in entries]
    connection.execute(
        "INSERT INTO delivery (subscription, position, key, owner) "
        "SELECT ?, value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)",
        (subscription, to_json(rows).decode()),
    )
    return frozenset(position for position, _, owner in rows if owner is not None)


def _keys_elsewhere(
    connection: sqlite3.Connection, subscription: int, session: int
) -> frozenset[str]:
    (keys,) = connection.execute(
        "SELECT json_group_array(DISTINCT key) FROM delivery "
        "WHERE subscription = ? AND key IS NOT NULL AND owner IS NOT ?",
        (subscription, session),
    ).fetchone()
    return frozenset(from_json(keys))


def has_free(connection: sqlite3.Connection, subscription: int) -> bool:
    """Tell whether there are deliveries that belong to nobody."""
    row = connection.execute(
        "SELECT 1 FROM delivery WHERE subscription = ? AND owner IS NULL LIMIT 1", (subscription,)
    ).fetchone()
    return row is not None


def recover(
    connection: sqlite3.Connection,
    subscription: int,
    session: int,
    *,
    now: int,
    most: int,
    is_calm: bool,
) -> tuple[list[Claimed], bool]:
    """Take over free deliveries that are due: several, or a suspect one if nothing else runs.

    That its attempt begins is written with it. One is left where it is while an earlier one of its
    key is not settled elsewhere. Tells, too, whether a suspect one waits for calm.
    """
    due = list(_due(_unsettled_elsewhere(connection, subscription, session), now))
    chosen = list(islice(takewhile(lambda one: not one.is_suspect, due), most))
    if due and not chosen:
        if not is_calm:
            return [], True
        chosen = due[:1]
    if chosen:
        connection.execute(
            "UPDATE delivery SET owner = ?, due = 0, attempts = attempts + suspect "
            "WHERE subscription = ? AND position IN (SELECT value FROM json_each(?))",
            (session, subscription, to_json([one.position for one in chosen]).decode()),
        )
    return chosen, False


class _Unsettled(NamedTuple):
    position: int
    key: str | None
    attempts: int
    suspect: int
    due: int
    owner: int | None


def _unsettled_elsewhere(
    connection: sqlite3.Connection, subscription: int, session: int
) -> list[_Unsettled]:
    (rows,) = connection.execute(
        "SELECT json_group_array(json_array(position, key, attempts, suspect, due, owner)) FROM ("
        "SELECT * FROM delivery WHERE subscription = ? AND owner IS NOT ? ORDER BY position)",
        (subscription, session),
    ).fetchone()
    return [_Unsettled(*row) for row in from_json(rows)]


def _due(unsettled: Iterable[_Unsettled], now: int) -> Iterator[Claimed]:
    """Give those that may be taken, in their order: none behind another of its key."""
    blocked: set[str] = set()
    for one in unsettled:
        if one.owner is None and one.due <= now and one.key not in blocked:
            yield Claimed(one.position, one.attempts, bool(one.suspect))
        elif one.key is not None:
            blocked.add(one.key)


# --- settling -------------------------------------------------------------------------------------


def settle(
    connection: sqlite3.Connection, subscription: int, session: int, outcomes: Outcomes
) -> int:
    """Write how deliveries ended; give how many of them were another's by then.

    What was freed meanwhile, but is with nobody yet, is settled by whoever had it: it has been
    handled, and is not to be handled again. What is given back is not counted.
    """
    over = [*outcomes.done, *(position for position, _ in outcomes.dead)]
    ours = _ours(connection, subscription, session, [p for p, _ in outcomes.dead])
    for position, bury in outcomes.dead:
        if position in ours:
            bury(connection)
    settled = 0
    if over:
        settled += connection.execute(
            "DELETE FROM delivery WHERE subscription = ? AND ifnull(owner, ?) = ? "
            "AND position IN (SELECT value FROM json_each(?))",
            (subscription, session, session, to_json(over).decode()),
        ).rowcount
    if outcomes.released:
        connection.execute(
            "UPDATE delivery SET owner = NULL, attempts = max(0, attempts - suspect) "
            "WHERE subscription = ? AND owner = ? "
            "AND position IN (SELECT value FROM json_each(?))",
            (subscription, session, to_json(outcomes.released).decode()),
        )
    for position, attempts, due in outcomes.later:
        settled += connection.execute(
            "UPDATE delivery SET attempts = ?, due = ?, suspect = 0 "
            "WHERE subscription = ? AND position = ? AND owner = ?",
            (attempts, due, subscription, position, session),
        ).rowcount
    return len(over) + len(outcomes.later) - settled


def _ours(
    connection: sqlite3.Connection, subscription: int, session: int, positions: Sequence[int]
) -> frozenset[int]:
    if not positions:
        return frozenset()
    (ours,) = connection.execute(
        "SELECT json_group_array(position) FROM delivery "
        "WHERE subscription = ? AND ifnull(owner, ?) = ? "
        "AND position IN (SELECT value FROM json_each(?))",
        (subscription, session, session, to_json(positions).decode()),
    ).fetchone()
    return frozenset(from_json(ours))


def release(
    connection: sqlite3.Connection, subscription: int, session: int, *, but: Sequence[int]
) -> None:
    """Give back what is ours, as if it had not been taken, but for some that still run."""
    connection.execute(
        "UPDATE delivery SET owner = NULL, attempts = max(0, attempts - suspect) "
        "WHERE subscription = ? AND owner = ? AND position NOT IN (SELECT value FROM json_each(?))",
        (subscription, session, to_json(but).decode()),
    )
