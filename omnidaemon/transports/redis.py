"""The Redis transport: a stream per topic, its consumer groups, and scripts that take whole steps.

How a delivery stands in Redis: from its claim until it is settled it is pending in its group, in
the name of its consumer, and its idle time is its lease. What waits for a retry or was handed back
is pending in nobody's name, and `due` says when it may be claimed. A replayed dead letter has an
entry of its own in the group's retry stream. Where runs deviate from a first one, `attempts` holds
attempt, crashes and replays. A token is (stream, id, delivery count, generation of the group,
place): the count rises with every claim and never falls, so it fits one claim only.
"""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

import anyio
from redis.exceptions import RedisError

from omnidaemon.drivers.bell import Ear
from omnidaemon.drivers.redis import LinkLostError
from omnidaemon.drivers.redis_ears import Ears, ring_of
from omnidaemon.drivers.redis_errors import explain
from omnidaemon.errors import OmniDaemonError, TransportError
from omnidaemon.messages import Consumer, Message, Start
from omnidaemon.transports.base import Limits
from omnidaemon.transports.redis_elsewhere import ClusterSubscription
from omnidaemon.transports.redis_groups import RedisGroups
from omnidaemon.transports.redis_publishing import Publisher, Publishers
from omnidaemon.transports.redis_subscription import POLL, RedisSubscription


class RedisTransport(RedisGroups):
    """A transport on Redis, a server or a cluster; any number of them, and of machines, share it.

    Args:
        url: `redis://host:6379/0`, `rediss://` or `unix://`;
            `redis+sentinel://host1:26379,host2:26379/service/0`;
            `redis+cluster://host1:6379,host2:6379`; `?prefix=` is what keys start with.
        limits: How much it keeps and takes.
    """

    renewal: Literal["thread", "loop"] = "thread"

    def __init__(self, url: str, *, limits: Limits = Limits()) -> None:
        super().__init__(url, limits=limits)

    async def publish(self, *messages: Message) -> None:
        """See the contract."""
        if not messages:
            return
        here = self.here
        publisher = here.rest.get("publisher")
        if publisher is None:
            made = Publishers if self.apart else Publisher
            publisher = made(here.link, self.keys, self.limits.max_backlog, self.registry)
            here.rest["publisher"] = publisher
        try:
            await publisher.publish(messages)
        except LinkLostError as error:
            raise self._lost(error) from error
        except RedisError as error:
            raise TransportError(explain(error)) from error

    @asynccontextmanager
    async def subscribe(
        self, topic: str, group: str, *, lease: float, start: Start = "auto"
    ) -> AsyncIterator[RedisSubscription]:
        """See the contract."""
        consumer = Consumer(topic, group, f"{os.getpid()}-{secrets.token_hex(8)}", lease)
        answer = await self.join(consumer, start)
        made = ClusterSubscription if self.apart else RedisSubscription
        subscription = made(self, consumer, int(answer[1]))
        await self.trim(topic)
        try:
            yield subscription
        finally:
            # If it cannot be said, the member is counted as dead when it is not heard of.
            with anyio.CancelScope(shield=True), suppress(OmniDaemonError):
                await subscription.leave()

    @asynccontextmanager
    async def watch(self, task_id: str) -> AsyncIterator[RedisWatch]:
        """See the contract."""
        ears, channel = self.here.ears, self.keys.done(task_id)
        ring = ring_of(channel, task_id)
        try:
            with ears.bell.listen(ring) as ear:
                await ears.attend(channel)
                try:
                    yield RedisWatch(ear, ears, ring)
                finally:
                    ears.leave(channel)
        finally:
            ears.forget_news(ring)


class RedisWatch:
    """Word of a task's settlements."""

    def __init__(self, ear: Ear, ears: Ears, ring: str) -> None:
        self._ear = ear
        self._ears = ears
        self._ring = ring

    async def wait(self, seconds: float) -> bytes | None:
        """See the contract."""
        # A little less than a lost message may cost, and not all watchers at once.
        await self._ear.wait(min(seconds, POLL * (0.5 + random.random() / 2)))
        return self._ears.take_news(self._ring)
