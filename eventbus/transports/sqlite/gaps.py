"""What retention has removed from the middle of the log, so that anything else missing is noticed.

Gaps are disjoint, in order, and do not touch: there is at most one for each record that is kept.
Each has a checksum, so that a damaged one excuses nothing.
"""

__all__ = ("Span", "absorb", "check_removed", "count_removed", "widen")

import sqlite3
from collections.abc import Iterator, Sequence
from typing import TypeAlias
from zlib import crc32

from pydantic_core import from_json, to_json

from eventbus.transports.sqlite.damage import OnDamage, stop

Span: TypeAlias = tuple[int, int]
"""The first and the last of positions that follow one another."""


def check_removed(
    connection: sqlite3.Connection, spans: Sequence[Span], on_damage: OnDamage = stop
) -> None:
    """Make sure that what is missing at these positions was removed by retention.

    Raises:
        StoreCorrupt: Something was lost, or a record is where it does not belong, and `on_damage`
            stops there.
    """
    removed, gaps = connection.execute(
        "SELECT (SELECT removed FROM meta), json_group_array(json_array(first, last, checksum)) "
        "FROM gap WHERE first <= ? "
        "AND first >= (SELECT ifnull(max(first), 0) FROM gap WHERE first <= ?)",
        (spans[-1][1], spans[0][0]),
    ).fetchone()
    known = sorted([(1, removed), *_sound_spans(gaps)])
    for span in spans:
        for what in _flaws(span, known):
            on_damage(what)


def _sound_spans(gaps: bytes) -> Iterator[Span]:
    for first, last, checksum in from_json(gaps):
        if checksum == _checksum(first, last):
            yield first, last


def _flaws(span: Span, known: Sequence[Span]) -> Iterator[str]:
    """Tell what is wrong where nothing is, though those that are known, in order, do not say so."""
    begin, end = span
    if begin > end:
        yield f"the record at position {end + 1} is out of order"
    for first, last in known:
        if begin < first <= end:
            yield _missing(begin, first - 1)
        begin = max(begin, last + 1)
    if begin <= end:
        yield _missing(begin, end)


def _missing(first: int, last: int) -> str:
    if first == last:
        return f"the record at position {first} is missing"
    return f"the records at positions {first} to {last} are missing"


def widen(connection: sqlite3.Connection, positions: Sequence[int]) -> None:
    """Note that retention removes these positions, which rise."""
    (touched,) = connection.execute(
        "SELECT json_group_array(json_array(first, last)) FROM gap WHERE first <= ? "
        "AND first >= (SELECT ifnull(max(first), 0) FROM gap WHERE first <= ?)",
        (positions[-1] + 1, positions[0]),
    ).fetchone()
    before = [(first, last) for first, last in from_json(touched)]
    after = _joined(sorted([*before, *((at, at) for at in positions)]))
    _replace(connection, set(before) - set(after), set(after) - set(before))


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Make one of those that touch or overlap."""
    joined = [spans[0]]
    for first, last in spans[1:]:
        begin, end = joined[-1]
        if first <= end + 1:
            joined[-1] = (begin, max(end, last))
        else:
            joined.append((first, last))
    return joined


def _replace(connection: sqlite3.Connection, old: set[Span], new: set[Span]) -> None:
    connection.execute(
        "DELETE FROM gap WHERE first IN (SELECT value FROM json_each(?))",
        (to_json([first for first, _ in old]).decode(),),
    )
    connection.executemany(
        "INSERT INTO gap VALUES (?, ?, ?)",
        [(first, last, _checksum(first, last)) for first, last in new],
    )


def absorb(connection: sqlite3.Connection) -> None:
    """Count gaps that begin where the log does as removed from its begin."""
    connection.execute(
        "UPDATE meta SET removed = max(removed, (SELECT ifnull(max(last), 0) FROM gap "
        "WHERE first <= removed + 1))"
    )
    connection.execute("DELETE FROM gap WHERE last <= (SELECT removed FROM meta)")


def count_removed(connection: sqlite3.Connection) -> int:
    """Tell how many records retention has removed, since there is the store."""
    (count,) = connection.execute(
        "SELECT removed + (SELECT ifnull(sum(last - first + 1), 0) FROM gap) FROM meta"
    ).fetchone()
    counted: int = count
    return counted


def _checksum(first: int, last: int) -> int:
    return crc32(b"%d %d" % (first, last))
