"""What people and tools ask of the SQLite transport, apart from the path of a message."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from typing import Any

from omnidaemon.drivers.sqlite_client import Client
from omnidaemon.drivers.sqlite_schema import SEQ_MASK, TOPIC_SHIFT
from omnidaemon.messages import DeadLetter, Event, GroupInfo, Place, TopicInfo
from omnidaemon.transports.base import Limits
from omnidaemon.transports.sqlite_topics import (
    LIVE,
    Topic,
    find_group,
    find_topic,
    first_kept,
    keep_floor,
    key,
    ripen,
    trim,
)

# A replay keeps the order of the dead letters, below all numbers that events have.
_REPLAY_BASE = 1 << TOPIC_SHIFT

_COUNT_TOPIC = """
SELECT (SELECT count(*) FROM groups WHERE topic = :topic AND NOT removed),
    (SELECT count(*) FROM delayed WHERE topic = :topic),
    (SELECT count(*) FROM dead WHERE grp IN (SELECT id FROM groups WHERE topic = :topic)
        AND buried > :buried)
"""

_GROUPS = f"""
SELECT name, :last - cursor,
    (SELECT count(*) FROM deliveries WHERE grp = g.id AND owner IS NOT NULL),
    (SELECT count(*) FROM deliveries WHERE grp = g.id AND owner IS NULL),
    (SELECT count(*) FROM dead WHERE grp = g.id AND buried > :buried),
    (SELECT count(*) FROM members WHERE grp = g.id AND {LIVE}),
    coalesce((SELECT max(lease) FROM members WHERE grp = g.id AND {LIVE}), lease),
    paused, max(seen, coalesce((SELECT max(seen) FROM members WHERE grp = g.id), seen)),
    (SELECT stored FROM events WHERE key = :base | coalesce(
        (SELECT min(seq) FROM deliveries WHERE grp = g.id AND seq > 0), cursor + 1))
FROM groups g WHERE topic = :topic AND NOT removed ORDER BY name
"""

_DEAD = """
FROM dead d JOIN groups g ON g.id = d.grp JOIN topics t ON t.id = g.topic
WHERE t.name = :topic AND (:group IS NULL OR g.name = :group) AND d.buried > :buried
    AND (:numbers IS NULL OR d.n IN (SELECT value FROM json_each(:numbers)))
"""

_REPLAY = f"""
INSERT INTO deliveries(grp, seq, count, attempt, crashes, replays, due, origin, id, body)
SELECT grp, n - {_REPLAY_BASE}, 0, 1, 0, replays + 1, ?, seq, id, coalesce(?, body)
FROM dead WHERE n IN (SELECT value FROM json_each(?))
"""

_TOPICS_HOLDING = f"""
SELECT key >> {TOPIC_SHIFT} FROM events WHERE id = :id
UNION SELECT topic FROM delayed WHERE id = :id
UNION SELECT topic FROM groups WHERE id IN (SELECT grp FROM deliveries WHERE id = :id)
UNION SELECT topic FROM groups WHERE id IN (SELECT grp FROM dead WHERE id = :id)
"""

# Of each group: the delivery of a replay, that of the event, the dead letter; in this order.
_PLACES = """
SELECT g.name, g.removed, g.cursor, d.owner, d.due, d.attempt, d.replays, x.attempt
FROM groups g
LEFT JOIN deliveries d ON d.grp = g.id AND d.seq = coalesce(
    (SELECT max(seq) FROM deliveries WHERE id = :id AND grp = g.id), :seq)
LEFT JOIN dead x ON x.n =
    (SELECT max(n) FROM dead WHERE id = :id AND grp = g.id AND buried > :buried)
WHERE g.topic = :topic ORDER BY g.name
"""


class SQLiteInspection(Client):
    """The inspecting half of the SQLite transport."""

    limits: Limits

    async def check(self) -> None:
        """See the contract."""
        await self.run(lambda connection: connection.execute("SELECT 1 FROM topics"), write=False)

    async def topics(self) -> list[TopicInfo]:
        """See the contract."""

        def work(connection: sqlite3.Connection) -> list[TopicInfo]:
            names = connection.execute("SELECT name FROM topics ORDER BY name").fetchall()
            return [self._topic_info(connection, name) for (name,) in names]

        return await self.run(work, durable=False)

    def _topic_info(self, connection: sqlite3.Connection, name: str) -> TopicInfo:
        topic = self._ripe(connection, name)
        assert topic is not None  # within one transaction
        first, before = first_kept(connection, topic)
        groups, delayed, dead = connection.execute(
            _COUNT_TOPIC, {"topic": topic.id, "buried": self._oldest_burial()}
        ).fetchone()
        return TopicInfo(
            name=name,
            events=topic.last - first + 1,
            size=topic.size - before,
            groups=groups,
            delayed=delayed,
            dead=dead,
            memory=topic.size - before,
        )

    def _ripe(self, connection: sqlite3.Connection, name: str) -> Topic | None:
        """The topic, with what is due by now among its events."""
        topic = find_topic(connection, name)
        if topic is not None:
            ripen(connection, topic, self.clock())
        return topic

    def _oldest_burial(self) -> float:
        return self.clock() - self.limits.dead_letter_age

    async def groups(self, topic: str) -> list[GroupInfo]:
        """See the contract."""

        def work(connection: sqlite3.Connection) -> list[GroupInfo]:
            found = self._ripe(connection, topic)
            if found is None:
                return []
            values = {
                "topic": found.id,
                "last": found.last,
                "base": key(found, 0),
                "now": self.clock(),
                "buried": self._oldest_burial(),
            }
            return [
                GroupInfo(
                    topic,
                    name,
                    lag,
                    leased,
                    waiting,
                    dead,
                    consumers,
                    lease,
                    bool(paused),
                    seen,
                    oldest,
                )
                for (
                    name,
                    lag,
                    leased,
                    waiting,
                    dead,
                    consumers,
                    lease,
                    paused,
                    seen,
                    oldest,
                ) in connection.execute(_GROUPS, values)
            ]

        return await self.run(work, durable=False)

    async def browse(self, topic: str, limit: int = 10) -> list[Event]:
        """See the contract."""

        def work(connection: sqlite3.Connection) -> list[Event]:
            found = self._ripe(connection, topic)
            if found is None:
                return []
            rows = connection.execute(
                "SELECT key, id, body, stored FROM events WHERE key > ? AND key <= ?"
                " ORDER BY key DESC LIMIT ?",
                (key(found, 0), key(found, SEQ_MASK), limit),
            )
            return [Event(str(at & SEQ_MASK), id_, body, stored) for at, id_, body, stored in rows]

        return await self.run(work, durable=False)

    async def delayed(self, topic: str, limit: int = 10) -> list[Event]:
        """See the contract."""

        def work(connection: sqlite3.Connection) -> list[Event]:
            found = self._ripe(connection, topic)
            if found is None:
                return []
            rows = connection.execute(
                "SELECT n, id, body, due FROM delayed WHERE topic = ? ORDER BY due, n LIMIT ?",
                (found.id, limit),
            )
            return [Event(f"delayed-{n}", id_, body, 0.0, due) for n, id_, body, due in rows]

        return await self.run(work, durable=False)

    async def locate(self, event_id: str, topic: str | None = None) -> list[Place]:
        """See the contract."""

        def work(connection: sqlite3.Connection) -> list[Place]:
            topics = connection.execute(
                f"SELECT id, name FROM topics WHERE id IN ({_TOPICS_HOLDING})"
                " AND (:topic IS NULL OR name = :topic) ORDER BY name",
                {"id": event_id, "topic": topic},
            ).fetchall()
            return [
                place
                for number, name in topics
                for place in self._places(connection, number, name, event_id)
            ]

        return await self.run(work, durable=False)

    def _places(
        self, connection: sqlite3.Connection, topic: int, name: str, event_id: str
    ) -> list[Place]:
        self._ripe(connection, name)
        base = topic << TOPIC_SHIFT
        (at,) = connection.execute(
            "SELECT max(key) FROM events WHERE id = ? AND key > ? AND key <= ?",
            (event_id, base, base | SEQ_MASK),
        ).fetchone()
        seq = None if at is None else at & SEQ_MASK
        (delayed,) = connection.execute(
            "SELECT count(*) FROM delayed WHERE topic = ? AND id = ?", (topic, event_id)
        ).fetchone()
        if delayed and seq is None:
            return [Place(name, None, "pending")]
        rows = connection.execute(
            _PLACES,
            {"topic": topic, "id": event_id, "seq": seq, "buried": self._oldest_burial()},
        ).fetchall()
        places = [place for row in rows if (place := _place(name, seq, *row)) is not None]
        if not places and seq is not None:
            return [Place(name, None, "pending")]
        return places

    async def find(self, topic: str, event_id: str) -> Event | None:
        """See the contract."""

        def work(connection: sqlite3.Connection) -> Event | None:
            found = self._ripe(connection, topic)
            if found is None:
                return None
            row = connection.execute(
                "SELECT key, body, stored FROM events WHERE id = ? AND key > ? AND key <= ?"
                " ORDER BY key DESC LIMIT 1",
                (event_id, key(found, 0), key(found, SEQ_MASK)),
            ).fetchone()
            if row is not None:
                return Event(str(row[0] & SEQ_MASK), event_id, row[1], row[2])
            row = connection.execute(
                "SELECT n, body, due FROM delayed WHERE topic = ? AND id = ?"
                " ORDER BY n DESC LIMIT 1",
                (found.id, event_id),
            ).fetchone()
            if row is None:
                return None
            return Event(f"delayed-{row[0]}", event_id, row[1], 0.0, row[2])

        return await self.run(work, durable=False)

    # Dead letters

    def _dead(
        self, topic: str, group: str | None, positions: Collection[str] | None
    ) -> dict[str, Any]:
        """What `_DEAD` asks; a position that is no number of ours finds nothing."""
        numbers = None
        if positions is not None:
            numbers = json.dumps([int(p) for p in positions if p.isascii() and p.isdigit()])
        return {
            "topic": topic,
            "group": group,
            "numbers": numbers,
            "buried": self._oldest_burial(),
        }

    async def dead_letters(
        self,
        topic: str,
        group: str | None = None,
        *,
        limit: int = 10,
        before: str | None = None,
        event_id: str | None = None,
    ) -> list[DeadLetter]:
        """See the contract."""
        values = self._dead(topic, group, None) | {"limit": limit, "before": None, "id": event_id}
        of_event = "" if event_id is None else "AND d.id = :id"
        if before is not None:
            values["before"] = int(before) if _is_position(before) else 0

        def work(connection: sqlite3.Connection) -> list[DeadLetter]:
            rows = connection.execute(
                f"SELECT g.name, d.n, d.id, d.body, d.reason, d.buried {_DEAD}"
                f" AND (:before IS NULL OR d.n < :before) {of_event}"
                " ORDER BY d.buried DESC, d.n DESC LIMIT :limit",
                values,
            )
            return [
                DeadLetter(topic, name, str(n), id_, body, reason, buried)
                for name, n, id_, body, reason, buried in rows
            ]

        return await self.run(work, write=False)

    async def replay(
        self,
        topic: str,
        group: str | None = None,
        positions: Collection[str] | None = None,
        *,
        body: bytes | None = None,
    ) -> int:
        """See the contract; the dead letters of a group that was removed stay where they are."""
        if not isinstance(body, bytes | None):
            raise TypeError(f"a body is bytes, not {type(body).__name__}")
        values = self._dead(topic, group, positions)

        def work(connection: sqlite3.Connection) -> int:
            count, numbers = connection.execute(
                f"SELECT count(*), json_group_array(d.n) {_DEAD} AND NOT g.removed", values
            ).fetchone()
            connection.execute(_REPLAY, (self.clock(), body, numbers))
            _remove_dead(connection, numbers)
            self.database.ring(("topics", topic))
            return int(count)

        return await self.run(work)

    async def discard(
        self, topic: str, group: str | None = None, positions: Collection[str] | None = None
    ) -> int:
        """See the contract."""
        values = self._dead(topic, group, positions)

        def work(connection: sqlite3.Connection) -> int:
            count, numbers = connection.execute(
                f"SELECT count(*), json_group_array(d.n) {_DEAD}", values
            ).fetchone()
            _remove_dead(connection, numbers)
            return int(count)

        return await self.run(work)

    # Groups and topics

    async def pause(self, topic: str, group: str) -> bool:
        """See the contract."""
        return await self._set_paused(topic, group, paused=True)

    async def resume(self, topic: str, group: str) -> bool:
        """See the contract."""
        return await self._set_paused(topic, group, paused=False)

    async def _set_paused(self, topic: str, group: str, *, paused: bool) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            found = find_group(connection, topic, group)
            if found is None:
                return False
            connection.execute("UPDATE groups SET paused = ? WHERE id = ?", (paused, found))
            self.database.ring(("topics", topic))
            return True

        return await self.run(work)

    async def remove_group(self, topic: str, group: str, *, dead_letters: bool = False) -> bool:
        """See the contract."""

        def work(connection: sqlite3.Connection) -> bool:
            found = self._ripe(connection, topic)
            if found is None:
                return False
            if dead_letters:
                connection.execute(
                    "DELETE FROM dead WHERE grp IN"
                    " (SELECT id FROM groups WHERE topic = ? AND name = ?)",
                    (found.id, group),
                )
            number = find_group(connection, topic, group)
            if number is None:
                return False
            keep_floor(connection, found)
            connection.execute("UPDATE groups SET removed = 1, paused = 0 WHERE id = ?", (number,))
            connection.execute("DELETE FROM deliveries WHERE grp = ?", (number,))
            connection.execute("DELETE FROM members WHERE grp = ?", (number,))
            # What only this group had not settled may go now; the rest of it with later trims.
            trim(connection, found, self.limits)
            return True

        return await self.run(work)

    async def remove_topic(self, topic: str) -> bool:
        """See the contract."""

        def work(connection: sqlite3.Connection) -> bool:
            found = find_topic(connection, topic)
            if found is None:
                return False
            of_groups = "grp IN (SELECT id FROM groups WHERE topic = ?)"
            for table in ("deliveries", "dead", "members"):
                connection.execute(f"DELETE FROM {table} WHERE {of_groups}", (found.id,))
            connection.execute("DELETE FROM groups WHERE topic = ?", (found.id,))
            connection.execute("DELETE FROM delayed WHERE topic = ?", (found.id,))
            connection.execute(
                "DELETE FROM events WHERE key > ? AND key <= ?",
                (key(found, 0), key(found, SEQ_MASK)),
            )
            connection.execute("DELETE FROM topics WHERE id = ?", (found.id,))
            return True

        return await self.run(work)


def _is_position(position: str) -> bool:
    return position.isascii() and position.isdigit() and len(position) < 19  # it fits SQLite


def _remove_dead(connection: sqlite3.Connection, numbers: str) -> None:
    connection.execute("DELETE FROM dead WHERE n IN (SELECT value FROM json_each(?))", (numbers,))


def _place(
    topic: str,
    seq: int | None,
    group: str,
    removed: int,
    cursor: int,
    owner: str | None,
    due: float | None,
    attempt: int | None,
    replays: int | None,
    dead_attempt: int | None,
) -> Place | None:
    """Where an event stands in one group; None if the group knows nothing of it."""
    if due is not None and attempt is not None:
        if owner is not None:
            return Place(topic, group, "running", attempt)
        never_run = bool(replays) and attempt == 1
        return Place(topic, group, "pending" if due < 0 or never_run else "waiting", attempt)
    if dead_attempt is not None:
        return Place(topic, group, "dead", dead_attempt)
    if removed or seq is None:
        return None
    return Place(topic, group, "pending" if seq > cursor else "settled")
