"""Topics and groups in SQLite: storing events, making groups, trimming. Functions on a connection.

Each runs within the transaction of its caller; how a row is to be read stands in
drivers/sqlite_schema.py.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from omnidaemon.drivers.sqlite_rows import insert
from omnidaemon.drivers.sqlite_schema import SEQ_MASK, TOPIC_SHIFT
from omnidaemon.errors import BacklogFull
from omnidaemon.messages import Consumer, Message, Start
from omnidaemon.transports.base import Limits

UNSEEN = 86_400.0
"""Seconds after which a group without a live consumer no longer counts for the backlog."""

LIVE = "seen > :now - lease"
"""Of a member: it lives. One that says nothing for its lease has lost what it held as well."""

_RIPE_AT_ONCE = 1000
_TRIM_AT_ONCE = 5000


class Topic(Struct):
    """A topic's row, and when the next of its delayed events is due."""

    id: int
    last: int
    size: int
    floor: int
    due: float | None


def find_topic(connection: sqlite3.Connection, name: str) -> Topic | None:
    """The topic of that name."""
    row = connection.execute(
        "SELECT id, last, size, floor, (SELECT min(due) FROM delayed WHERE topic = topics.id)"
        " FROM topics WHERE name = ?",
        (name,),
    ).fetchone()
    return None if row is None else Topic(*row)


def make_topic(connection: sqlite3.Connection, name: str, now: float) -> Topic:
    """The topic of that name, made if it is not there, with the events that are due by now."""
    topic = find_topic(connection, name)
    if topic is None:
        done = connection.execute(
            "INSERT INTO topics(name, last, size, floor) VALUES (?, 0, 0, 1)", (name,)
        )
        return Topic(done.lastrowid or 0, 0, 0, 1, None)
    ripen(connection, topic, now)
    return topic


def ripen(connection: sqlite3.Connection, topic: Topic, now: float) -> None:
    """Makes events of the delayed ones that are due, in the order in which they are."""
    while topic.due is not None and topic.due <= now:
        numbers, count, size = connection.execute(
            "SELECT json_group_array(n), count(*), sum(length(body)) FROM"
            " (SELECT n, body FROM delayed WHERE topic = ? AND due <= ? ORDER BY due, n LIMIT ?)",
            (topic.id, now, _RIPE_AT_ONCE),
        ).fetchone()
        connection.execute(
            "INSERT INTO events(key, id, pos, stored, body)"
            " SELECT ? + row_number() OVER w, id, ? + sum(length(body)) OVER w, ?, body"
            " FROM delayed WHERE n IN (SELECT value FROM json_each(?))"
            " WINDOW w AS (ORDER BY due, n ROWS UNBOUNDED PRECEDING)",
            (key(topic, topic.last), topic.size, now, numbers),
        )
        connection.execute(
            "DELETE FROM delayed WHERE n IN (SELECT value FROM json_each(?))", (numbers,)
        )
        _advance(connection, topic, count, size)
        (topic.due,) = connection.execute(
            "SELECT min(due) FROM delayed WHERE topic = ?", (topic.id,)
        ).fetchone()


def key(topic: Topic, seq: int) -> int:
    """The key of the topic's event with that number."""
    return topic.id << TOPIC_SHIFT | seq


def _advance(connection: sqlite3.Connection, topic: Topic, count: int, size: int) -> None:
    topic.last += count
    topic.size += size
    connection.execute(
        "UPDATE topics SET last = ?, size = ? WHERE id = ?", (topic.last, topic.size, topic.id)
    )


def store(connection: sqlite3.Connection, messages: Sequence[Message], now: float) -> list[str]:
    """Stores the messages; returns the names of their topics, whose consumers want to know."""
    topics: dict[str, list[Message]] = {}
    for message in messages:
        topics.setdefault(message.topic, []).append(message)
    for name, its_messages in topics.items():
        topic = make_topic(connection, name, now)
        events: list[tuple[int, str, int, float, bytes]] = []
        later: list[tuple[int, float, str, bytes]] = []
        at, pos = key(topic, topic.last), topic.size
        for message in its_messages:
            if message.delay > 0:
                later.append((topic.id, now + message.delay, message.id, message.body))
                continue
            at += 1
            pos += len(message.body)
            events.append((at, message.id, pos, now, message.body))
        if events:
            insert(connection, "INSERT INTO events(key, id, pos, stored, body)", events)
            _advance(connection, topic, len(events), pos - topic.size)
        if later:
            insert(connection, "INSERT INTO delayed(topic, due, id, body)", later)
    return list(topics)


def refusal(
    connection: sqlite3.Connection, messages: Sequence[Message], most: int, now: float
) -> BacklogFull | None:
    """The error to raise if these messages would pass the bound on unsettled events."""
    more: dict[str, int] = {}
    for message in messages:
        more[message.topic] = more.get(message.topic, 0) + 1
    for name, count in more.items():
        topic = find_topic(connection, name)
        held = 0 if topic is None else _unsettled(connection, topic, now)
        if held + count > most:
            return BacklogFull(
                f"topic {name!r} holds {held} unsettled events, and {count} more would pass the"
                f" bound of {most}: nothing was stored. Start more consumers, remove groups that"
                " nobody serves, or raise the bound"
            )
    return None


def _unsettled(connection: sqlite3.Connection, topic: Topic, now: float) -> int:
    (delayed,) = connection.execute(
        "SELECT count(*) FROM delayed WHERE topic = ?", (topic.id,)
    ).fetchone()
    groups, counted, cursor, ids = connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE counts), min(cursor) FILTER (WHERE counts),"
        " json_group_array(id) FILTER (WHERE counts) FROM (SELECT id, cursor, coalesce((SELECT"
        " max(seen) FROM members WHERE grp = groups.id), seen) >= ? AS counts"
        " FROM groups WHERE topic = ? AND NOT removed)",
        (now - UNSEEN, topic.id),
    ).fetchone()
    if not groups:
        return int(delayed + topic.last - topic.floor + 1)
    if not counted:
        return int(delayed)
    # Beyond the least cursor each event lacks somebody; below, those that a group has open.
    (opened,) = connection.execute(
        "SELECT count(DISTINCT seq) FROM deliveries"
        " WHERE grp IN (SELECT value FROM json_each(?)) AND seq BETWEEN 1 AND ?",
        (ids, cursor),
    ).fetchone()
    return int(delayed + topic.last - cursor + opened)


# Groups


def join(
    connection: sqlite3.Connection, consumer: Consumer, start: Start, now: float
) -> tuple[int, Topic]:
    """Adds the consumer to its group, made if need be; returns how many events it will receive."""
    topic = make_topic(connection, consumer.topic, now)
    row = connection.execute(
        "SELECT id, cursor, removed FROM groups WHERE topic = ? AND name = ?",
        (topic.id, consumer.group),
    ).fetchone()
    if row is None or row[2]:
        cursor = _start(connection, topic, start)
        done = connection.execute(
            "REPLACE INTO groups(topic, name, cursor, lease, seen) VALUES (?, ?, ?, ?, ?)",
            (topic.id, consumer.group, cursor, consumer.lease, now),
        )
        group = done.lastrowid or 0
        if row is not None:  # it has a new id, and keeps its dead letters
            connection.execute("UPDATE dead SET grp = ? WHERE grp = ?", (group, row[0]))
    else:
        group, cursor = row[:2]
    hear_of(connection, group, consumer, now)
    (waiting,) = connection.execute(
        "SELECT count(*) FROM deliveries WHERE grp = ? AND (owner IS NULL OR due <= ?)",
        (group, now),
    ).fetchone()
    return topic.last - cursor + waiting, topic


def _start(connection: sqlite3.Connection, topic: Topic, start: Start) -> int:
    """The cursor of a new group: the number before the first event that it gets."""
    if start == "new":
        return topic.last
    if start == "auto":
        return unsettled_floor(connection, topic) - 1
    return first_kept(connection, topic)[0] - 1


def hear_of(connection: sqlite3.Connection, group: int, consumer: Consumer, now: float) -> None:
    """Notes that a consumer lives, and what that makes of the group's lease."""
    _pardon(connection, group, consumer, now)
    connection.execute(
        "REPLACE INTO members(grp, name, lease, seen) VALUES (?, ?, ?, ?)",
        (group, consumer.name, consumer.lease, now),
    )
    connection.execute("UPDATE groups SET seen = max(seen, ?) WHERE id = ?", (now, group))
    settle_lease(connection, group, now)


def _pardon(connection: sqlite3.Connection, group: int, consumer: Consumer, now: float) -> None:
    """Gives one more lease for what is held if nobody was heard of for half a lease until now.

    One who lives is heard of thrice in a lease, and this one has not just joined: the machine or
    the file stood still, or all of them did. Who is heard first is no sign of who lives.
    """
    row = connection.execute(
        "SELECT lease, pardoned, (SELECT max(seen) FROM members WHERE grp = groups.id)"
        " FROM groups WHERE id = ? AND pardoned IS NOT NULL AND EXISTS"
        " (SELECT 1 FROM members WHERE grp = groups.id AND name = ?)",
        (group, consumer.name),
    ).fetchone()
    if row is None:
        return
    lease, pardoned, heard = row
    if heard + lease / 2 >= now:
        return
    connection.execute("UPDATE groups SET pardoned = ? WHERE id = ?", (now, group))
    # Of one lease after another, as where all are always late: what nobody has renewed since the
    # last time is a dead consumer's.
    connection.execute(
        "UPDATE deliveries SET due = :due"
        " WHERE grp = :grp AND owner IS NOT NULL AND due < :due AND due > :before",
        {"due": now + lease, "grp": group, "before": pardoned + lease},
    )
    # Else the shorter lease of who is heard first would hold for all.
    connection.execute("UPDATE members SET seen = ? WHERE grp = ?", (now, group))


def settle_lease(connection: sqlite3.Connection, group: int, now: float) -> None:
    """Makes the group's lease the largest of its live consumers', for what they hold already too.

    With none alive it stays what it was.
    """
    connection.execute(f"DELETE FROM members WHERE grp = :grp AND NOT {LIVE}", _at(group, now))
    old, new = connection.execute(
        "SELECT lease, (SELECT max(lease) FROM members WHERE grp = groups.id) FROM groups"
        " WHERE id = ?",
        (group,),
    ).fetchone()
    if new is not None and new != old:
        connection.execute("UPDATE groups SET lease = ? WHERE id = ?", (new, group))
        connection.execute(
            "UPDATE deliveries SET due = due + ? WHERE grp = ? AND owner IS NOT NULL",
            (new - old, group),
        )


def _at(group: int, now: float) -> dict[str, Any]:
    return {"grp": group, "now": now}


def leave(connection: sqlite3.Connection, consumer: Consumer, now: float) -> None:
    """Forgets a consumer; what it holds stays its own until the lease is over."""
    group = find_group(connection, consumer.topic, consumer.group)
    if group is not None:
        _pardon(connection, group, consumer, now)
        connection.execute("DELETE FROM members WHERE grp = ? AND name = ?", (group, consumer.name))
        connection.execute("UPDATE groups SET seen = max(seen, ?) WHERE id = ?", (now, group))
        settle_lease(connection, group, now)


def find_group(connection: sqlite3.Connection, topic: str, name: str) -> int | None:
    """The id of a group that is there (not removed)."""
    row = connection.execute(
        "SELECT g.id FROM topics t JOIN groups g ON g.topic = t.id"
        " WHERE t.name = ? AND g.name = ? AND NOT g.removed",
        (topic, name),
    ).fetchone()
    return None if row is None else int(row[0])


# Trimming


def unsettled_floor(connection: sqlite3.Connection, topic: Topic) -> int:
    """The number of the oldest event that some group has not settled; past the last if none."""
    (floor,) = connection.execute(
        "SELECT min(coalesce((SELECT min(seq) FROM deliveries WHERE grp = groups.id AND seq > 0),"
        " cursor + 1)) FROM groups WHERE topic = ? AND NOT removed",
        (topic.id,),
    ).fetchone()
    return topic.floor if floor is None else int(floor)


def keep_floor(connection: sqlite3.Connection, topic: Topic) -> int:
    """Notes the oldest unsettled event with the topic, for when its last group is removed."""
    floor = unsettled_floor(connection, topic)
    if floor != topic.floor:
        topic.floor = floor
        connection.execute("UPDATE topics SET floor = ? WHERE id = ?", (floor, topic.id))
    return floor


def first_kept(connection: sqlite3.Connection, topic: Topic) -> tuple[int, int]:
    """The number of the oldest event kept, and the topic's size before it."""
    row = connection.execute(
        "SELECT key, pos - length(body) FROM events WHERE key > ? AND key <= ?"
        " ORDER BY key LIMIT 1",
        (key(topic, 0), key(topic, SEQ_MASK)),
    ).fetchone()
    return (topic.last + 1, topic.size) if row is None else (row[0] & SEQ_MASK, row[1])


def trim(connection: sqlite3.Connection, topic: Topic, limits: Limits) -> bool:
    """Removes settled events beyond the retention; True if there are more than it does at once."""
    floor = keep_floor(connection, topic)
    first, before = first_kept(connection, topic)
    if first >= floor:
        return False
    cut = max(first, floor - limits.retention)  # the first number to keep
    settled = _size_up_to(connection, topic, floor - 1)
    least = settled - limits.retention_bytes
    if least > before:
        # pos rises with the number: halve the range until the first is found that is kept.
        low, high = cut, floor
        while low < high:
            middle = (low + high) // 2
            # An event is kept if what was stored from its beginning on is within the bytes.
            if middle > first and _size_up_to(connection, topic, middle - 1) >= least:
                high = middle
            else:
                low = middle + 1
        cut = low
    end = min(cut, first + _TRIM_AT_ONCE)
    connection.execute(
        "DELETE FROM events WHERE key >= ? AND key < ?", (key(topic, first), key(topic, end))
    )
    return end < cut


def _size_up_to(connection: sqlite3.Connection, topic: Topic, seq: int) -> int:
    (pos,) = connection.execute(
        "SELECT pos FROM events WHERE key = ?", (key(topic, seq),)
    ).fetchone()
    return int(pos)
