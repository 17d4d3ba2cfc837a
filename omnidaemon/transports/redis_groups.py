"""What a Redis transport does for its groups: consumers join them, keep their leases, events go."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

from omnidaemon.drivers import redis_scripts as scripts
from omnidaemon.drivers.redis import LinkLostError
from omnidaemon.drivers.redis_changes import milliseconds
from omnidaemon.errors import ConnectionLost, OmniDaemonError, TransportError
from omnidaemon.messages import Consumer, Delivery, Settlement, Start
from omnidaemon.transports.base import Limits
from omnidaemon.transports.redis_inspection import RedisInspection
from omnidaemon.transports.redis_settling import Token

_SLACK = 10  # trimming begins at a tenth above the retention


class RedisGroups(RedisInspection):
    """The part of the Redis transport that its subscriptions stand on."""

    failure = TransportError

    def __init__(self, url: str, *, limits: Limits) -> None:
        super().__init__(url)
        self.limits = limits
        self._settled: dict[str, tuple[int, int]] = {}
        self._trimmed: dict[str, float] = {}

    def _lost(self, error: LinkLostError) -> OmniDaemonError:
        return ConnectionLost(str(error), may_be_stored=error.sent)

    async def join(self, consumer: Consumer, start: Start, *, repair: bool = False) -> Any:
        """Adds a consumer to its group, which is made; or, to repair it, made where it was lost."""
        keys, topic = self.keys, consumer.topic
        await self.register(topic, anew=True)
        return await self.run(
            scripts.JOIN,
            [
                keys.registry_for(topic),
                *keys.topic(topic)[:2],
                *keys.group(topic, consumer.group)[:2],
            ],
            topic=consumer.topic,
            group=consumer.group,
            consumer=consumer.name,
            lease=milliseconds(consumer.lease),
            start=start,
            repair=repair,
        )

    async def renew(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """See the contract."""
        stream, meta, _ = self.keys.topic(consumer.topic)
        members, _, retry, *_ = self.keys.group(consumer.topic, consumer.group)
        lost = await self.run(
            scripts.RENEW,
            [stream, meta, members, retry],
            group=consumer.group,
            consumer=consumer.name,
            lease=milliseconds(consumer.lease),
            tokens=[cast(Token, delivery.token)[:4] for delivery in deliveries],
        )
        # Else what the slowest group held back would stay until much more has been settled.
        topic = consumer.topic
        since = time.monotonic() - self._trimmed.get(topic, -math.inf)
        if any(self._settled.get(topic, ())) and since > consumer.lease / 3:
            with suppress(OmniDaemonError):  # a later one trims
                await self._trim_now(topic)
        return [deliveries[place] for place in lost]

    async def trim(self, topic: str) -> bool:
        """Removes settled events beyond the retention; True if there are more."""
        limits = self.limits
        return bool(
            await self.run(
                scripts.TRIM,
                self.keys.topic(topic)[:2],
                retention=limits.retention,
                bytes=limits.retention_bytes,
            )
        )

    async def trim_after(self, topic: str, settlements: Sequence[Settlement]) -> None:
        """Trims the topic once enough has been settled since the last time."""
        count, size = self._settled.get(topic, (0, 0))
        count += len(settlements)
        size += sum(len(settlement.delivery.body) for settlement in settlements)
        limits = self.limits
        if count * _SLACK > limits.retention or size * _SLACK > limits.retention_bytes:
            await self._trim_now(topic)
        else:
            self._settled[topic] = (count, size)

    async def _trim_now(self, topic: str) -> None:
        self._trimmed[topic] = time.monotonic()
        enough = (max(1, self.limits.retention), 0)
        self._settled[topic] = (0, 0)  # before: others settle meanwhile
        try:
            more = await self.trim(topic)
        except OmniDaemonError:
            self._settled[topic] = enough
            raise
        if more:
            self._settled[topic] = enough
