"""Deliveries in SQLite: claiming, renewing and settling them. Functions on a connection.

Each runs within the transaction of its caller; how a row is to be read stands in
drivers/sqlite_schema.py. A token is (group id, number, count): group ids are never given twice,
and the count rises with every claim, so it fits one claim only.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, cast

import msgspec
from msgspec import Struct

from omnidaemon.drivers.sqlite_records import apply_changes
from omnidaemon.drivers.sqlite_rows import fetch, insert
from omnidaemon.drivers.sqlite_schema import SEQ_MASK
from omnidaemon.drivers.wake import Key
from omnidaemon.messages import (
    Ack,
    Bury,
    Consumer,
    Delivery,
    Message,
    Release,
    RetryAfter,
    Settlement,
)
from omnidaemon.transports.base import Limits
from omnidaemon.transports.sqlite_topics import (
    LIVE,
    Topic,
    find_group,
    hear_of,
    key,
    ripen,
    settle_lease,
    store,
)

HANDED_BACK = -1.0
"""The due time of what was released: before all that is due by the clock."""

Token = tuple[int, int, int]

_tokens = msgspec.json.Decoder(list[Token]).decode

_STATE = f"""
SELECT t.id, t.last, t.size, t.floor, (SELECT min(due) FROM delayed WHERE topic = t.id),
    g.id, g.cursor, g.paused OR g.removed, g.lease,
    (SELECT max(lease) FROM members WHERE grp = g.id AND {LIVE}),
    (SELECT min(due) FROM deliveries WHERE grp = g.id)
FROM topics t JOIN groups g ON g.topic = t.id AND g.name = :group WHERE t.name = :topic
"""

_DUE = """
SELECT json_group_array(seq) FROM
    (SELECT seq FROM deliveries WHERE grp = ? AND due <= ? ORDER BY due, seq LIMIT ?)
"""
_TAKE_DUE = """
UPDATE deliveries SET crashes = crashes + (owner IS NOT NULL), owner = ?, count = count + 1, due = ?
WHERE grp = ? AND seq IN (SELECT value FROM json_each(?))
"""
_READ_DUE = """
SELECT d.seq, d.count, d.attempt, d.crashes, d.replays, coalesce(d.origin, d.seq) AS place,
    coalesce(d.id, e.id) AS id, coalesce(d.body, e.body) AS body
FROM json_each(?) j
CROSS JOIN deliveries d ON d.grp = ? AND d.seq = j.value
LEFT JOIN events e ON d.body IS NULL AND e.key = ? + d.seq
WHERE d.body IS NOT NULL OR e.body IS NOT NULL ORDER BY j.key
"""

_TAKE_NEW = f"""
INSERT INTO deliveries(grp, seq, owner, count, attempt, crashes, replays, due)
SELECT ?, key & {SEQ_MASK}, ?, 1, 1, 0, 0, ? FROM events WHERE key > ? AND key <= ?
"""
_READ_NEW = "SELECT key, id, body FROM events WHERE key > ? AND key <= ? ORDER BY key"

_HELD = """
SELECT json_group_array(json_array(grp, seq, count)) FROM deliveries
WHERE grp = ? AND owner = ? AND """
_END = "DELETE FROM deliveries WHERE grp = ? AND "
# An upsert of rows that are there: UPDATE ... FROM would look through all of the group's rows.
_GIVE_BACK = "INSERT INTO deliveries(grp, seq, count, attempt, crashes, replays, due)"
_CHANGE_IT = """
ON CONFLICT DO UPDATE SET owner = NULL, attempt = attempt + excluded.attempt, due = excluded.due
"""


class Claim(Struct):
    """What a claim gave; if nothing, when there may be something by itself."""

    deliveries: list[Delivery]
    due: float | None = None


def claim(connection: sqlite3.Connection, consumer: Consumer, limit: int, now: float) -> Claim:
    """Leases up to `limit` deliveries to the consumer."""
    row = connection.execute(
        _STATE, {"topic": consumer.topic, "group": consumer.group, "now": now}
    ).fetchone()
    if row is None or row[7] or limit <= 0:
        return Claim([])
    topic = Topic(*row[:5])
    group, cursor, _, lease, live, due = row[5:]
    ripen(connection, topic, now)
    if live is not None and live != lease:
        settle_lease(connection, group, now)
        lease = live
    until = now + lease
    deliveries: list[Delivery] = []
    if due is not None and due <= now:
        deliveries = _claim_due(connection, consumer, topic, group, limit, now, until)
    end = min(topic.last, cursor + limit - len(deliveries))
    if end > cursor:
        deliveries += _claim_new(connection, consumer, topic, group, cursor, end, until)
    if deliveries:
        return Claim(deliveries)
    return Claim([], min((at for at in (due, topic.due) if at is not None), default=None))


def _claim_due(
    connection: sqlite3.Connection,
    consumer: Consumer,
    topic: Topic,
    group: int,
    limit: int,
    now: float,
    until: float,
) -> list[Delivery]:
    (numbers,) = connection.execute(_DUE, (group, now, limit)).fetchone()
    connection.execute(_TAKE_DUE, (consumer.name, until, group, numbers))
    columns = "seq, count, attempt, crashes, replays, place, id"
    rows = fetch(connection, columns, _READ_DUE, (numbers, group, key(topic, 0)))
    return [
        Delivery(
            consumer.topic,
            consumer.group,
            id_,
            str(place),
            body,
            (group, seq, count),
            attempt,
            crashes,
            replays,
        )
        for (seq, count, attempt, crashes, replays, place, id_), body in rows
    ]


def _claim_new(
    connection: sqlite3.Connection,
    consumer: Consumer,
    topic: Topic,
    group: int,
    cursor: int,
    end: int,
    until: float,
) -> list[Delivery]:
    keys = (key(topic, cursor), key(topic, end))
    connection.execute(_TAKE_NEW, (group, consumer.name, until, *keys))
    connection.execute("UPDATE groups SET cursor = ? WHERE id = ?", (end, group))
    name, its_group, base = consumer.topic, consumer.group, key(topic, 0)
    return [
        Delivery(name, its_group, id_, str(at - base), body, (group, at - base, 1))
        for (at, id_), body in fetch(connection, "key, id", _READ_NEW, keys)
    ]


def held(
    connection: sqlite3.Connection, consumer: Consumer, deliveries: Iterable[Delivery]
) -> set[object]:
    """The tokens of these deliveries that are still the consumer's."""
    tokens: set[object] = set()
    for group, numbers in _by_group(delivery.token for delivery in deliveries):
        among, values = _among(numbers)
        row = connection.execute(_HELD + among, (group, consumer.name, *values)).fetchone()
        tokens.update(_tokens(row[0]))
    return tokens


def _by_group(tokens: Iterable[Hashable]) -> Iterator[tuple[int, list[int]]]:
    """The numbers of each group; there are several only if the group was made again meanwhile."""
    ours = cast(list[Token], list(tokens))
    for group in {token[0] for token in ours}:
        yield group, [seq for its_group, seq, _ in ours if its_group == group]


def _among(numbers: list[int]) -> tuple[str, tuple[object, ...]]:
    """A condition on `seq`; a run, which batches often are, costs half of a list."""
    first, last = min(numbers), max(numbers)
    if last - first + 1 == len(numbers):
        return "seq BETWEEN ? AND ?", (first, last)
    return "seq IN (SELECT value FROM json_each(?))", (json.dumps(numbers),)


def renew(
    connection: sqlite3.Connection, consumer: Consumer, deliveries: Sequence[Delivery], now: float
) -> list[Delivery]:
    """Notes that the consumer lives and renews its leases; returns those it lost."""
    group = find_group(connection, consumer.topic, consumer.group)
    if group is None:
        return list(deliveries)
    hear_of(connection, group, consumer, now)
    connection.execute("UPDATE groups SET pardoned = 0 WHERE id = ? AND pardoned IS NULL", (group,))
    if not deliveries:
        return []
    mine = held(connection, consumer, deliveries)
    # What was settled and handed to this very consumer again is held, but by another token.
    numbers = [cast(Token, delivery.token)[1] for delivery in deliveries if delivery.token in mine]
    if numbers:
        among, values = _among(numbers)
        connection.execute(
            "UPDATE deliveries SET due = ? + (SELECT lease FROM groups WHERE id = grp)"
            f" WHERE grp = ? AND {among}",
            (now, group, *values),
        )
    return [delivery for delivery in deliveries if delivery.token not in mine]


def release(connection: sqlite3.Connection, deliveries: Sequence[Delivery]) -> None:
    """Hands back, uncharged, what nobody ever saw."""
    for delivery in deliveries:
        connection.execute(
            "UPDATE deliveries SET owner = NULL, due = ? WHERE grp = ? AND seq = ? AND count = ?",
            (HANDED_BACK, *cast(Token, delivery.token)),
        )


def settle(
    connection: sqlite3.Connection,
    settlements: Sequence[Settlement],
    limits: Limits,
    now: float,
    ring: Callable[[Key], None],
) -> None:
    """Applies settlements whose deliveries are held; each is there once."""
    ended: list[Hashable] = []
    back: list[tuple[int, int, int, int, int, int, float]] = []
    dead: list[tuple[Any, ...]] = []
    messages: list[Message] = []
    for settlement in settlements:
        delivery = settlement.delivery
        match settlement.action:
            case Ack():
                ended.append(delivery.token)
            case Bury(reason):
                ended.append(delivery.token)
                dead.append(_letter(delivery, now, reason))
            case RetryAfter(delay, charged):
                back.append(_return(delivery, int(charged), now + delay))
            case Release():
                back.append(_return(delivery, 0, HANDED_BACK))
        if settlement.publish:
            messages += settlement.publish
        if settlement.notice is not None:
            ring(("tasks", settlement.notice))
    for group, numbers in _by_group(ended):
        among, values = _among(numbers)
        connection.execute(_END + among, (group, *values))
    if back:
        insert(connection, _GIVE_BACK, back, _CHANGE_IT)
        ring(("topics", settlements[0].delivery.topic))
    if dead:
        _bury(connection, dead, limits, now)
    apply_changes(connection, chain.from_iterable(s.changes for s in settlements), now)
    for topic in store(connection, messages, now):
        ring(("topics", topic))


def _return(
    delivery: Delivery, charge: int, due: float
) -> tuple[int, int, int, int, int, int, float]:
    group, seq, count = cast(Token, delivery.token)
    return group, seq, count, charge, 0, 0, due


def _letter(delivery: Delivery, now: float, reason: bytes) -> tuple[Any, ...]:
    return (
        cast(Token, delivery.token)[0],
        int(delivery.position),
        delivery.id,
        delivery.attempt,
        delivery.replays,
        now,
        reason,
        delivery.body,
    )


def _bury(
    connection: sqlite3.Connection, letters: list[tuple[Any, ...]], limits: Limits, now: float
) -> None:
    head = "INSERT INTO dead(grp, seq, id, attempt, replays, buried, reason, body)"
    insert(connection, head, letters)
    for group in {letter[0] for letter in letters}:
        connection.execute(
            "DELETE FROM dead WHERE grp = ? AND buried <= ?", (group, now - limits.dead_letter_age)
        )
        connection.execute(
            "DELETE FROM dead WHERE n IN (SELECT n FROM dead WHERE grp = ?"
            " ORDER BY buried DESC, n DESC LIMIT -1 OFFSET ?)",
            (group, limits.dead_letters),
        )
