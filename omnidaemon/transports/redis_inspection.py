"""What people and tools ask of the Redis transport, apart from the path of a message."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Collection
from typing import Any

from omnidaemon.drivers import redis_scripts as scripts
from omnidaemon.drivers.redis_changes import Blobs, milliseconds
from omnidaemon.drivers.redis_client import Client, text
from omnidaemon.messages import DeadLetter, Event, GroupInfo, Place, TopicInfo
from omnidaemon.transports.base import Limits
from omnidaemon.transports.redis_publishing import Registry

_NEAR = 60_000  # milliseconds between an event's id and its storing, clocks that differ included
_AT_ONCE = 500  # delayed events looked at in one step
_SEARCHED = 200_000  # newest events looked through for an id that says no time


class RedisInspection(Client):
    """The inspecting half of the Redis transport."""

    limits: Limits

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.registry = Registry(self.keys)

    async def register(self, topic: str, *, anew: bool = False) -> None:
        """In a cluster, names the topic in the registry; elsewhere its scripts do."""
        if self.apart:
            async with self.translated():
                await self.registry.add(self.here.link, topic, anew=anew)

    async def topics(self) -> list[TopicInfo]:
        """See the contract."""
        # Together: a fleet may have hundreds, and one after another each is a round trip.
        found = await asyncio.gather(*map(self._topic_info, await self._names()))
        return [info for info in found if info is not None]

    async def _topic_info(self, name: str) -> TopicInfo | None:
        asked = await self._topic(name)
        if asked is None:
            return None
        events, size, delayed, groups, dead, memory = asked
        letters = 0
        for group in dead:
            letters += await self.call("XLEN", self.keys.group(name, text(group))[4])
        return TopicInfo(name, events, size, len(groups), delayed, letters, memory)

    async def _names(self) -> list[str]:
        return sorted(map(text, await self.call("SMEMBERS", self.keys.registry)))

    async def _topic(self, name: str) -> Any:
        """What the script returns; None for an unknown topic."""
        keys = [self.keys.registry_for(name), *self.keys.topic(name)]
        return await self.run(scripts.INSPECT_TOPIC, keys, topic=name)

    async def groups(self, topic: str) -> list[GroupInfo]:
        """See the contract."""
        asked = await self._topic(topic)
        if asked is None:
            return []
        names = sorted(map(text, asked[3]))
        found = await asyncio.gather(*(self._group(topic, name) for name in names))
        return [info for info in found if info is not None]

    async def _group(self, topic: str, name: str) -> GroupInfo | None:
        members, due, retry, _, dead = self.keys.group(topic, name)
        info = await self.run(
            scripts.INSPECT_GROUP,
            [*self.keys.topic(topic)[:2], members, due, retry, dead],
            group=name,
            dead_letter_age=milliseconds(self.limits.dead_letter_age),
        )
        if info is None:
            return None
        lag, leased, waiting, letters, consumers, lease, paused, seen, oldest = info
        return GroupInfo(
            topic,
            name,
            lag,
            leased,
            waiting,
            letters,
            consumers,
            lease / 1000,
            bool(paused),
            None if seen is None else int(seen) / 1000,
            None if oldest is None else int(oldest) / 1000,
        )

    async def browse(self, topic: str, limit: int = 10) -> list[Event]:
        """See the contract."""
        await self._topic(topic)  # what is due by now is an event
        rows = await self.call("XREVRANGE", self.keys.topic(topic)[0], "+", "-", "COUNT", limit)
        return [
            Event(text(id_), text(fields[1]), fields[3], int(id_.split(b"-")[0]) / 1000)
            for id_, fields in rows
        ]

    async def delayed(self, topic: str, limit: int = 10) -> list[Event]:
        """See the contract."""
        await self._topic(topic)  # what is due by now is an event
        if limit <= 0:
            return []
        key = self.keys.topic(topic)[2]
        flat = await self.call("ZRANGE", key, 0, limit - 1, "WITHSCORES")
        return [_later(member, due) for member, due in zip(flat[::2], flat[1::2], strict=True)]

    async def locate(self, event_id: str, topic: str | None = None) -> list[Place]:
        """See the contract; an id that is no UUID of version 7 is looked for among the newest."""
        places: list[Place] = []
        for name in await self._names() if topic is None else [topic]:
            asked = await self._topic(name)
            if asked is not None:
                places += await self._locate_in(name, event_id, asked)
        return places

    async def _locate_in(self, topic: str, event_id: str, asked: Any) -> list[Place]:
        delayed, groups, dead = asked[2:5]
        position = await self._position(topic, event_id)
        if not position and delayed and await self._delayed(topic, event_id):
            return [Place(topic, None, "pending")]
        found: list[Place] = []
        for name in sorted({text(group) for group in (*groups, *dead)}):
            _, due, retry, attempts, letters = self.keys.group(topic, name)
            keys = [*self.keys.topic(topic)[:2], due, retry, attempts, letters]
            place = await self.run(scripts.PLACE, keys, group=name, id=event_id, position=position)
            if place is not None:
                found.append(Place(topic, name, place[0].decode(), place[1]))
        if not found and position:
            return [Place(topic, None, "pending")]
        return found

    async def _position(self, topic: str, event_id: str) -> str:
        """The event's place in the stream; "" if it is not there."""
        stream = self.keys.topic(topic)[0]
        moment = _moment(event_id)
        if moment is not None:
            near = await self._find(
                stream, event_id, f"{moment + _NEAR}", f"{max(0, moment - _NEAR)}"
            )
            if near:
                return near
        return await self._find(stream, event_id, "+", "-")

    async def _find(self, stream: str, event_id: str, since: str, until: str) -> str:
        looked = 0
        while since and looked < _SEARCHED:
            found, following = await self.run(
                scripts.FIND, [stream], id=event_id, **{"from": since, "to": until}
            )
            if found:
                return text(found)
            since = text(following)
            looked += 500
        return ""

    async def find(self, topic: str, event_id: str) -> Event | None:
        """See the contract; looks as far as `locate` does."""
        await self._topic(topic)  # what is due by now is an event
        position = await self._position(topic, event_id)
        if not position:
            delayed = await self._delayed(topic, event_id)
            if delayed is not None:
                return delayed
            position = await self._position(topic, event_id)  # it came due in between, perhaps
            if not position:
                return None
        stream = self.keys.topic(topic)[0]
        for id_, fields in await self.call("XRANGE", stream, position, position):
            return Event(text(id_), event_id, fields[3], int(id_.split(b"-")[0]) / 1000)
        return None

    async def _delayed(self, topic: str, event_id: str) -> Event | None:
        keys, start, skip = [self.keys.topic(topic)[2]], "-inf", 0
        for _ in range(0, _SEARCHED, _AT_ONCE):
            found = await self.run(scripts.LATER, keys, id=event_id, **{"from": start}, skip=skip)
            if not found:
                break
            if found[0]:
                return _later(*found)
            start, skip = text(found[1]), found[2]
        return None

    # Dead letters

    async def _graves(self, topic: str, group: str | None) -> list[str]:
        """The groups that have dead letters."""
        if group is not None:
            return [group]
        asked = await self._topic(topic)
        return [] if asked is None else sorted(map(text, asked[4]))

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
        found: list[DeadLetter] = []
        newest = "+"
        if before is not None:
            if not _is_position(before):
                return []
            newest = f"({before}"
        for name in await self._graves(topic, group):
            oldest = max(0, int((time.time() - self.limits.dead_letter_age) * 1000))
            dead = self.keys.group(topic, name)[4]
            if event_id is None:
                rows = await self.call("XREVRANGE", dead, newest, oldest, "COUNT", limit)
            else:
                rows = await self._letters_of(event_id, dead, newest, oldest)
            found += [_letter(topic, name, *row) for row in rows]
        found.sort(key=lambda letter: tuple(map(int, letter.position.split("-"))), reverse=True)
        return found[:limit]

    async def _letters_of(self, event_id: str, dead: str, newest: str, oldest: int) -> list[Any]:
        """One event's, found where they are: there may be thousands, with their bodies."""
        rows: list[Any] = []
        while newest:
            asked = {"id": event_id, "from": newest, "to": oldest}
            some, following = await self.run(scripts.LETTERS_OF, [dead], **asked)
            rows += some
            newest = text(following)
        return rows

    async def replay(
        self,
        topic: str,
        group: str | None = None,
        positions: Collection[str] | None = None,
        *,
        body: bytes | None = None,
    ) -> int:
        """See the contract; the dead letters of a group that was removed stay where they are."""
        # An id that stands there twice would be handed back twice.
        ids = (
            None if positions is None else [p for p in dict.fromkeys(positions) if _is_position(p)]
        )
        count = 0
        for name in await self._graves(topic, group):
            _, due, retry, attempts, dead = self.keys.group(topic, name)
            keys = [*self.keys.topic(topic)[:2], due, retry, attempts, dead]
            arguments: dict[str, Any] = {
                "group": name,
                "channel": self.keys.wake(topic),
                "dead_letter_age": milliseconds(self.limits.dead_letter_age),
            }
            blobs = Blobs()
            if body is not None:
                arguments["body"] = blobs.place(body, "a dead letter's body")
            if ids is not None:
                count += int(await self.run(scripts.REPLAY, keys, blobs, **arguments, ids=ids))
                continue
            left = await self.call("XLEN", dead)  # what dies meanwhile is not replayed for ever
            while left > 0:
                moved = int(await self.run(scripts.REPLAY, keys, blobs, **arguments))
                count += moved
                left = left - moved if moved else 0
        return count

    async def discard(
        self, topic: str, group: str | None = None, positions: Collection[str] | None = None
    ) -> int:
        """See the contract."""
        count = 0
        for name in await self._graves(topic, group):
            dead = self.keys.group(topic, name)[4]
            if positions is None:
                ids = [row[0] for row in await self.call("XRANGE", dead, "-", "+")]
            else:
                ids = [position.encode() for position in positions if _is_position(position)]
            if ids:
                count += int(await self.call("XDEL", dead, *ids))
        return count

    # Groups and topics

    async def pause(self, topic: str, group: str) -> bool:
        """See the contract."""
        return await self._set_paused(topic, group, paused=True)

    async def resume(self, topic: str, group: str) -> bool:
        """See the contract."""
        return await self._set_paused(topic, group, paused=False)

    async def _set_paused(self, topic: str, group: str, *, paused: bool) -> bool:
        keys = [self.keys.topic(topic)[1]]
        channel = self.keys.wake(topic)
        done = await self.run(scripts.PAUSE, keys, group=group, paused=paused, channel=channel)
        return bool(done)

    async def remove_group(self, topic: str, group: str, *, dead_letters: bool = False) -> bool:
        """See the contract."""
        return bool(
            await self.run(
                scripts.REMOVE_GROUP,
                [*self.keys.topic(topic)[:2], *self.keys.group(topic, group)],
                group=group,
                dead_letters=dead_letters,
                channel=self.keys.wake(topic),
            )
        )

    async def remove_topic(self, topic: str) -> bool:
        """See the contract."""
        asked = await self._topic(topic)
        if asked is None:
            return False
        keys = [self.keys.registry_for(topic), *self.keys.topic(topic)]
        groups = [text(group) for group in asked[3]]
        for name in {*groups, *map(text, asked[4])}:
            keys += self.keys.group(topic, name)
        if self.apart:
            keys.append(self.keys.once(topic))
            async with self.translated():
                # Before it: who publishes after it names the topic anew.
                await self.registry.remove(self.here.link, topic)
        return bool(
            await self.run(
                scripts.REMOVE_TOPIC,
                keys,
                topic=topic,
                groups=groups,
                channel=self.keys.wake(topic),
            )
        )


def _later(member: bytes, due: bytes) -> Event:
    """A delayed event, of a member of the sorted set and its score in milliseconds."""
    end = 24 + int(member[16:24], 16)
    place, id_, body = int(member[:16]), member[24:end], member[end:]
    return Event(f"delayed-{place}", text(id_), body, 0.0, float(due) / 1000)


def _moment(event_id: str) -> int | None:
    """The milliseconds since 1970 that a UUID of version 7 starts with."""
    try:
        parsed = uuid.UUID(event_id)
    except ValueError:
        return None
    return parsed.int >> 80 if parsed.version == 7 else None


def _is_position(position: str) -> bool:
    ms, _, seq = position.partition("-")
    return _is_number(ms) and _is_number(seq)


def _is_number(digits: str) -> bool:
    """Whether Redis writes a part of an id so: another spelling would name an entry twice."""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
        return False
    return str(int(digits)) == digits and int(digits) < 1 << 64


def _letter(topic: str, group: str, position: bytes, fields: list[bytes]) -> DeadLetter:
    found = dict(zip(fields[::2], fields[1::2], strict=True))
    return DeadLetter(
        topic,
        group,
        position.decode(),
        text(found[b"id"]),
        found[b"body"],
        found[b"reason"],
        int(position.split(b"-")[0]) / 1000,
    )
