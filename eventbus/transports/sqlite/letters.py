"""Dead letters in the store, each with a record of its own: retention does not reach them."""

__all__ = ("MOST_KEPT", "bury", "newest", "purge", "read_records", "send_again", "unsend")

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic_core import from_json, to_json

from eventbus.bus_logger import BusLogger
from eventbus.context import FailedDelivery
from eventbus.errors import InvalidOption
from eventbus.message import Message
from eventbus.transports.sqlite.damage import OnDamage
from eventbus.transports.sqlite.losses import count_lost
from eventbus.transports.sqlite.records import (
    EXACT_COLUMNS_AS_JSON,
    Record,
    message_of,
    sound_record_of,
)
from eventbus.transports.sqlite.schema import RECORD
from eventbus.transports.sqlite.sequence import COUNT, let_go

MOST_KEPT = 10_000
_FAILURE = "letter, subscription, error_type, error, traceback, attempts, failed_at"


def bury(
    connection: sqlite3.Connection,
    logger: BusLogger,
    failure: FailedDelivery,
    position: int,
    lane: str | None = None,
) -> bool:
    """Keep a failure of the record at a position; False if that is no longer there.

    The oldest have to go for it where there are too many; but not those with a `lane`, for which
    messages of that key wait.
    """
    values = _values_of(failure, lane)
    if position < 0:
        return _bury_again(connection, values, -position)
    statement = (
        f"INSERT INTO dead_letter ({_FAILURE}, lane, {RECORD}) "
        f"SELECT ?, ?, ?, ?, ?, ?, ?, ?, {RECORD} FROM log WHERE position = ?"
    )
    is_kept = connection.execute(statement, (*values, position)).rowcount > 0
    if not is_kept:
        count_lost(connection, 1)
        logger.warning(
            "%s does not keep the dead letter of position %d: retention has removed its message",
            failure.subscription,
            position,
        )
    _forget_oldest(connection)
    return is_kept


def _values_of(failure: FailedDelivery, lane: str | None) -> tuple[object, ...]:
    return (
        failure.id,
        failure.subscription,
        _storable(failure.error_type),
        _storable(failure.error),
        _storable(failure.traceback),
        failure.attempts,
        _micros(failure.failed_at),
        lane,
    )


def _bury_again(connection: sqlite3.Connection, values: Sequence[object], number: int) -> bool:
    """Keep what was sent again and has failed again; it has its own record already."""
    statement = (
        f"UPDATE dead_letter SET ({_FAILURE}, lane, is_sent) = (?, ?, ?, ?, ?, ?, ?, ?, 0) "
        "WHERE number = ?"
    )
    return connection.execute(statement, (*values, number)).rowcount > 0


def _forget_oldest(connection: sqlite3.Connection) -> None:
    connection.execute(
        "DELETE FROM dead_letter WHERE is_sent = 0 AND lane IS NULL AND number <= "
        "(SELECT number FROM dead_letter WHERE is_sent = 0 AND lane IS NULL "
        "ORDER BY number DESC LIMIT 1 OFFSET ?)",
        (MOST_KEPT,),
    )


def _storable(text: str) -> str:
    """Write out what no file can hold: an error may say anything."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def newest(
    connection: sqlite3.Connection,
    subscription: str | None,
    *,
    limit: int,
    before: str | None,
    on_damage: OnDamage,
) -> list[FailedDelivery]:
    """List failures, newest first, from the one that failed just before the given id on.

    Raises:
        InvalidOption: A limit below 1, or an id that is not kept.
        StoreCorrupt: One of them is damaged, and `on_damage` stops there.
    """
    if limit < 1:
        raise InvalidOption(f"limit={limit!r}: give 1 or more")
    upper, found = _number_of(connection, before), list[FailedDelivery]()
    while len(found) < limit:
        rows = _rows_below(connection, upper, subscription, limit - len(found))
        if not rows:
            break
        upper = rows[-1][0]
        for number, said, record in rows:
            if (failure := _failure_of(bytes.fromhex(said), bytes.fromhex(record))) is not None:
                found.append(failure)
            else:
                on_damage(f"the dead letter number {number} is damaged")
    return found


def _rows_below(
    connection: sqlite3.Connection, upper: int, subscription: str | None, most: int
) -> list[tuple[int, str, str]]:
    """Read letters, and their records, so that what is damaged in one harms no other."""
    (rows,) = connection.execute(
        "SELECT json_group_array(json_array(number, hex(json_array(letter, subscription, "
        f"error_type, error, traceback, attempts, failed_at, {COUNT})), "
        f"hex({EXACT_COLUMNS_AS_JSON}))) FROM (SELECT * FROM dead_letter WHERE is_sent = 0 "
        "AND number < ? AND (? IS NULL OR subscription = ?) "
        "ORDER BY number DESC LIMIT ?) AS dead_letter",
        (upper, subscription, subscription, most),
    ).fetchone()
    found: list[tuple[int, str, str]] = from_json(rows)
    return found


def _number_of(connection: sqlite3.Connection, letter: str | None) -> int:
    if letter is None:
        return 2**62
    row = connection.execute(
        "SELECT number FROM dead_letter WHERE letter = ? AND is_sent = 0", (letter,)
    ).fetchone()
    if row is None:
        raise InvalidOption(f"before={letter!r}: no dead letter with this id is kept any more")
    number: int = row[0]
    return number


def _failure_of(said: bytes, text: bytes) -> FailedDelivery | None:
    """Read a letter; None if it is damaged."""
    record = sound_record_of(text)
    try:
        return None if record is None else _failure(message_of(record), *from_json(said))
    except ValueError:
        return None


def _failure(
    message: Message,
    letter: str,
    subscription: str,
    error_type: str,
    error: str,
    traceback: str,
    attempts: int,
    failed_at: int,
    waiting: int,
) -> FailedDelivery:
    return FailedDelivery(
        id=letter,
        message=message,
        subscription=subscription,
        error_type=error_type,
        error=error,
        traceback=traceback,
        attempts=attempts,
        failed_at=datetime.fromtimestamp(failed_at / 1e6, UTC),
        waiting=waiting,
    )


def purge(
    connection: sqlite3.Connection, subscription: str | None, ids: Sequence[str] | None
) -> int:
    """Forget dead letters; give how many."""
    purged = connection.execute(
        "DELETE FROM dead_letter WHERE is_sent = 0 AND (? IS NULL OR subscription = ?) "
        "AND (? IS NULL OR letter IN (SELECT value FROM json_each(?)))",
        (subscription, subscription, _json(ids), _json(ids)),
    ).rowcount
    let_go(connection)
    return purged


def send_again(
    connection: sqlite3.Connection, subscription: str | None, ids: Sequence[str] | None
) -> int:
    """Make dead letters deliveries again, of the subscriptions that failed; give how many.

    Those of subscriptions the store does not know stay as they are.
    """
    chosen = (
        "FROM dead_letter JOIN subscription ON subscription.name = dead_letter.subscription "
        "WHERE is_sent = 0 AND (? IS NULL OR subscription.name = ?) "
        "AND (? IS NULL OR letter IN (SELECT value FROM json_each(?)))"
    )
    sent = connection.execute(
        "INSERT INTO delivery (subscription, position, key) "
        f"SELECT subscription.id, -dead_letter.number, ifnull(lane, dead_letter.key) {chosen}",
        (subscription, subscription, _json(ids), _json(ids)),
    ).rowcount
    connection.execute(
        f"UPDATE dead_letter SET is_sent = 1 WHERE number IN (SELECT dead_letter.number {chosen})",
        (subscription, subscription, _json(ids), _json(ids)),
    )
    return sent


def unsend(connection: sqlite3.Connection, positions: Sequence[int]) -> None:
    """Forget dead letters that were sent again, and are now done with."""
    connection.execute(
        "DELETE FROM dead_letter WHERE is_sent = 1 AND number IN (SELECT -value FROM json_each(?))",
        (_json(positions),),
    )
    let_go(connection)


def read_records(
    connection: sqlite3.Connection, positions: Sequence[int], on_damage: OnDamage
) -> dict[int, Record]:
    """Read the records that deliveries stand for, by the deliveries' positions.

    Raises:
        StoreCorrupt: One of them is damaged, and `on_damage` stops there.
    """
    (rows,) = connection.execute(
        f"SELECT json_group_array(json_array(place, hex({EXACT_COLUMNS_AS_JSON}))) FROM ("
        f"SELECT position AS place, {RECORD} FROM log "
        "WHERE position IN (SELECT value FROM json_each(?)) "
        f"UNION ALL SELECT -number AS place, {RECORD} FROM dead_letter "
        "WHERE number IN (SELECT -value FROM json_each(?)))",
        (_json(positions),) * 2,
    ).fetchone()
    records: dict[int, Record] = {}
    for place, text in from_json(rows):
        if (record := sound_record_of(bytes.fromhex(text))) is not None:
            records[place] = record
        else:
            what = "record at position" if place > 0 else "dead letter number"
            on_damage(f"the {what} {abs(place)} is damaged")
    return records


def _json(values: Sequence[object] | None) -> str | None:
    return None if values is None else to_json(values).decode()


def _micros(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6)
