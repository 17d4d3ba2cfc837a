"""Changes of records and counters, on a connection: for the store, and for settlements."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from omnidaemon.drivers.sqlite_rows import insert
from omnidaemon.messages import Count, Write

_Row = tuple[str, str, str | None, float, float | None, bytes]

_SWEEP_EVERY = 500  # writes; each sweep removes up to twice as many, so it keeps up
_PUT = "REPLACE INTO records(collection, key, label, written, expires, value)"
_DELETE = "DELETE FROM records WHERE collection = ? AND key IN (SELECT value FROM json_each(?))"
_ADD = "INSERT INTO counters(collection, key, field, value)"
_ADD_UP = "ON CONFLICT DO UPDATE SET value = value + excluded.value"
_SWEEP = (
    "DELETE FROM records WHERE n IN"
    " (SELECT n FROM records WHERE expires <= ? ORDER BY expires LIMIT 1000)"
)


def apply_changes(
    connection: sqlite3.Connection, changes: Iterable[Write | Count], now: float
) -> None:
    """Applies the changes as if one after another; of several to one record the last counts."""
    writes: dict[tuple[str, str], _Row | None] = {}
    sums: dict[tuple[str, str, str], float] = {}
    for change in changes:
        if isinstance(change, Count):
            counter = (change.collection, change.key, change.field)
            sums[counter] = sums.get(counter, 0.0) + change.amount
            continue
        collection, key, value, ttl = change.collection, change.key, change.value, change.ttl
        record = (collection, key)
        writes.pop(record, None)  # the order is that of the last writes: newest last
        if value is None:
            writes[record] = None
        else:
            expires = None if ttl is None else now + ttl
            writes[record] = (collection, key, change.label, now, expires, value)
    if writes:
        _write(connection, writes, now)
    if sums:
        insert(connection, _ADD, [(*key, amount) for key, amount in sums.items()], _ADD_UP)


def _write(
    connection: sqlite3.Connection, writes: dict[tuple[str, str], _Row | None], now: float
) -> None:
    puts = [row for row in writes.values() if row is not None]
    if len(puts) < len(writes):
        gone: dict[str, list[str]] = {}
        for (collection, key), row in writes.items():
            if row is None:
                gone.setdefault(collection, []).append(key)
        for collection, keys in gone.items():
            connection.execute(_DELETE, (collection, json.dumps(keys)))
    if puts:
        # REPLACE gives the row a new number, which makes it the newest.
        number = insert(connection, _PUT, puts)
        if number % _SWEEP_EVERY < len(puts):
            connection.execute(_SWEEP, (now,))
