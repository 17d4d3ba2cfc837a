"""The memory transport: events of one process, gone with it; for tests, and the fastest there is.

`memory://name` is one board for all who name it; a bare `memory` is a new one each time. The state
stands in drivers/memory*.py; here are the calls of the contract, each under the board's lock.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Literal
from uuid import uuid4

import msgspec
from anyio.lowlevel import checkpoint

from omnidaemon.drivers.memory import check_messages, open_board
from omnidaemon.drivers.memory_groups import Dead
from omnidaemon.drivers.memory_subscription import MemorySubscription, MemoryWatch
from omnidaemon.drivers.memory_topics import Topic
from omnidaemon.drivers.opened import Opened
from omnidaemon.errors import BacklogFull
from omnidaemon.messages import (
    Consumer,
    DeadLetter,
    Delivery,
    Event,
    GroupInfo,
    Message,
    Place,
    Start,
    TopicInfo,
)
from omnidaemon.transports.base import Limits


class MemoryTransport(Opened):
    """A transport on a board of this process; any number of them share one by its name.

    Args:
        url: `memory://name`, or `memory` for a board of its own.
        limits: How much it keeps and takes.
        clock: What it reads the time from, in seconds: the same for all who share the board. None
            for the event loop's time, so that a virtual loop moves leases and retries.
    """

    renewal: Literal["thread", "loop"] = "loop"

    def __init__(
        self, url: str, *, limits: Limits = Limits(), clock: Callable[[], float] | None = None
    ) -> None:
        self._board = open_board(url)
        self.backend = self._board.backend
        self.limits = limits
        self._clock = clock

    def _now(self) -> float:
        return self._board.now(self._clock)

    async def publish(self, *messages: Message) -> None:
        """See the contract."""
        await checkpoint()  # one who publishes in a loop lets the others run
        check_messages(messages)
        board = self._board
        with board.lock:
            now = self._now()
            if self.limits.max_backlog is not None:
                self._refuse_above(self.limits.max_backlog, messages, now)
            for name in {message.topic for message in messages}:
                board.topic(name).ripen(now, time.time())  # what was due before comes before
            topics = board.publish(messages, now)
        board.bell.ring(*topics)

    def _refuse_above(self, most: int, messages: Sequence[Message], now: float) -> None:
        for name, more in Counter(message.topic for message in messages).items():
            topic = self._board.topics.get(name)
            held = 0 if topic is None else topic.unsettled(now)
            if held + more > most:
                raise BacklogFull(
                    f"topic {name!r} holds {held} unsettled events, and {more} more would pass the"
                    f" bound of {most}: nothing was stored. Start more consumers, remove groups"
                    " that nobody serves, or raise the bound"
                )

    @asynccontextmanager
    async def subscribe(
        self, topic: str, group: str, *, lease: float, start: Start = "auto"
    ) -> AsyncIterator[MemorySubscription]:
        """See the contract."""
        await checkpoint()
        board = self._board
        consumer = Consumer(topic, group, uuid4().hex, lease)
        with board.lock:
            now, unix = self._now(), time.time()
            there = board.topic(topic)
            there.ripen(now, unix)
            place = there.groups.get(group)
            if place is None:
                place = there.join(group, start)
                there.trim(self.limits)
            place.hear_of(consumer.name, lease, now, unix)
            place.live(now)
            backlog = there.end - place.cursor + len(place.waiting)
        try:
            yield MemorySubscription(board, consumer, backlog, self.limits, self._clock)
        finally:
            with board.lock:
                now = self._now()
                if (left := self._board.group(consumer)) is not None:
                    left.pardon(consumer.name, now)
                    left.leave(consumer.name)
                    left.live(now)
            board.bell.ring((topic, group))  # the lease may be shorter now

    async def renew(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """See the contract."""
        with self._board.lock:
            now = self._now()
            group = self._board.group(consumer)
            if group is None:
                return list(deliveries)
            group.hear_of(consumer.name, consumer.lease, now, time.time())
            if group.pardoned is None:
                group.pardoned = -math.inf
            lost = []
            for delivery in deliveries:
                item = group.held(consumer.name, delivery.token)
                if item is None:
                    lost.append(delivery)
                else:
                    item.renewed = now
                    group.leased.move_to_end(item.token)
            return lost

    @asynccontextmanager
    async def watch(self, task_id: str) -> AsyncIterator[MemoryWatch]:
        """See the contract."""
        with self._board.bell.listen(("notice", task_id)) as ear:
            yield MemoryWatch(ear)

    # Inspection

    async def check(self) -> None:
        """See the contract."""

    async def topics(self) -> list[TopicInfo]:
        """See the contract."""
        await checkpoint()
        with self._board.lock:
            now, unix = self._now(), time.time()
            for topic in self._board.topics.values():
                topic.ripen(now, unix)
            found = sorted(self._board.topics.items())
            return [topic.info(self.limits, now) for _, topic in found]

    async def groups(self, topic: str) -> list[GroupInfo]:
        """See the contract."""
        await checkpoint()
        with self._board.lock:
            there = self._ripe(topic)
            if there is None:
                return []
            now = self._now()
            return [there.group_info(name, self.limits, now) for name in sorted(there.groups)]

    def _ripe(self, name: str) -> Topic | None:
        topic = self._board.topics.get(name)
        if topic is not None:
            topic.ripen(self._now(), time.time())
        return topic

    async def browse(self, topic: str, limit: int = 10) -> list[Event]:
        """See the contract."""
        await checkpoint()
        with self._board.lock:
            there = self._ripe(topic)
            return [] if there is None else there.newest(limit)

    async def delayed(self, topic: str, limit: int = 10) -> list[Event]:
        """See the contract."""
        await checkpoint()
        with self._board.lock:
            there = self._ripe(topic)
            return [] if there is None else there.soonest(limit, time.time() - self._now())

    async def locate(self, event_id: str, topic: str | None = None) -> list[Place]:
        """See the contract."""
        await checkpoint()
        with self._board.lock:
            for name in self._board.topics:
                self._ripe(name)
            return [
                place
                for name, there in sorted(self._board.topics.items())
                if topic in (None, name)
                for place in there.places(event_id)
            ]

    async def find(self, topic: str, event_id: str) -> Event | None:
        """See the contract."""
        await checkpoint()
        with self._board.lock:
            there = self._ripe(topic)
            return None if there is None else there.find(event_id, time.time() - self._now())

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
        await checkpoint()
        with self._board.lock:
            dead = self._dead(topic, group, None)
        if before is not None:
            known = before.isascii() and before.isdigit() and len(before) < 19
            bound = int(before) if known else 0
            dead = [one for one in dead if int(one.letter.position) < bound]
        if event_id is not None:
            dead = [one for one in dead if one.letter.id == event_id]
        return [one.letter for one in dead[: -limit - 1 : -1]]

    def _dead(self, topic: str, group: str | None, positions: Collection[str] | None) -> list[Dead]:
        there = self._board.topics.get(topic)
        if there is None:
            return []
        dead = there.letters(group, self.limits, self._now())
        if positions is None:
            return dead
        wanted = frozenset(positions)
        return [one for one in dead if one.letter.position in wanted]

    async def replay(
        self,
        topic: str,
        group: str | None = None,
        positions: Collection[str] | None = None,
        *,
        body: bytes | None = None,
    ) -> int:
        """See the contract; the dead letters of a group that was removed stay where they are."""
        await checkpoint()
        if not isinstance(body, bytes | None):
            raise TypeError(f"a body is bytes, not {type(body).__name__}")
        board = self._board
        with board.lock:
            dead = self._dead(topic, group, positions)
            there = board.topic(topic) if dead else Topic(topic)
            back = [one for one in dead if one.letter.group in there.groups]
            there.exhume(back)
            now = self._now()
            for one in back:
                if body is not None:
                    event = msgspec.structs.replace(one.event, body=body)
                    one = msgspec.structs.replace(one, event=event)
                there.groups[one.letter.group].replay(one, now, next(board.numbers))
        board.bell.ring(*{(topic, one.letter.group) for one in back})
        return len(back)

    async def discard(
        self, topic: str, group: str | None = None, positions: Collection[str] | None = None
    ) -> int:
        """See the contract."""
        await checkpoint()
        with self._board.lock:
            dead = self._dead(topic, group, positions)
            if dead:
                self._board.topics[topic].exhume(dead)
            return len(dead)

    async def pause(self, topic: str, group: str) -> bool:
        """See the contract."""
        return await self._set_paused(topic, group, paused=True)

    async def resume(self, topic: str, group: str) -> bool:
        """See the contract."""
        return await self._set_paused(topic, group, paused=False)

    async def _set_paused(self, topic: str, group: str, *, paused: bool) -> bool:
        await checkpoint()
        with self._board.lock:
            there = self._board.topics.get(topic)
            if there is None or group not in there.groups:
                return False
            there.groups[group].paused = paused
        self._board.bell.ring((topic, group))
        return True

    async def remove_group(self, topic: str, group: str, *, dead_letters: bool = False) -> bool:
        """See the contract."""
        await checkpoint()
        with self._board.lock:
            there = self._board.topics.get(topic)
            if there is None:
                return False
            if dead_letters:
                there.dead.pop(group, None)
            removed = there.groups.pop(group, None)
            if removed is not None:
                there.trim(self.limits)
            return removed is not None

    async def remove_topic(self, topic: str) -> bool:
        """See the contract."""
        await checkpoint()
        with self._board.lock:
            return self._board.topics.pop(topic, None) is not None
