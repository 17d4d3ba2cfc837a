"""The Redis transport: a stream per topic, its consumer groups, and scripts that take whole steps.

How a delivery stands in Redis: from its claim until it is settled it is pending in its group, in
the name of its consumer, and its idle time is its lease. What waits for a retry or was handed back
is pending in nobody's name, and `due` says when it may be claimed. A replayed dead letter has an
entry of its own in the group's retry stream. Where runs deviate from a first one, `attempts` holds
attempt, crashes and replays. A token is (stream, id, delivery count, generation of the group,
place): the count rises with every claim and never falls, so it fits one claim only.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal, cast

import anyio
from redis.exceptions import RedisError, ResponseError

from omnidaemon.drivers import redis_scripts as scripts
from omnidaemon.drivers.bell import Ear
from omnidaemon.drivers.redis import LinkLostError
from omnidaemon.drivers.redis_changes import milliseconds
from omnidaemon.drivers.redis_client import explain, pack
from omnidaemon.errors import ConnectionLost, OmniDaemonError, TransportError
from omnidaemon.messages import Consumer, Delivery, Message, Settlement, Start, Verdict
from omnidaemon.transports.base import Limits
from omnidaemon.transports.redis_inspection import RedisInspection
from omnidaemon.transports.redis_publishing import Publisher
from omnidaemon.transports.redis_settling import Batch, Token

_RECEIPTS = 64  # batches whose tokens a subscription remembers
_POLL = 5.0  # seconds; what a lost wake-up costs at most
_POLL_DEAF = 0.5  # the same while there is no pub/sub connection
_SLACK = 10  # trimming begins at a tenth above the retention


class RedisTransport(RedisInspection):
    """A transport on a Redis server; any number of them, and of machines, share it.

    Args:
        url: `redis://host:6379/0`, `rediss://` or `unix://`; `?prefix=` is what keys start with.
        limits: How much it keeps and takes.
    """

    failure = TransportError
    renewal: Literal["thread", "loop"] = "thread"

    def __init__(self, url: str, *, limits: Limits = Limits()) -> None:
        super().__init__(url)
        self.limits = limits
        self._settled: dict[str, tuple[int, int]] = {}

    def _lost(self, error: LinkLostError) -> OmniDaemonError:
        return ConnectionLost(str(error), may_be_stored=error.sent)

    async def publish(self, *messages: Message) -> None:
        """See the contract."""
        if not messages:
            return
        here = self.here
        publisher = here.rest.get("publisher")
        if publisher is None:
            publisher = Publisher(here.link, self.keys, self.limits.max_backlog)
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
        subscription = RedisSubscription(self, consumer, int(answer[1]))
        await self.trim(topic)
        try:
            yield subscription
        finally:
            # If it cannot be said, the member is counted as dead when it is not heard of.
            with anyio.CancelScope(shield=True), suppress(OmniDaemonError):
                await subscription.leave()

    async def join(self, consumer: Consumer, start: Start, *, repair: bool = False) -> Any:
        """Adds a consumer to its group, which is made; or, to repair it, made where it was lost."""
        registry_and_topic = [self.keys.registry, *self.keys.topic(consumer.topic)[:2]]
        return await self.run(
            scripts.JOIN,
            [*registry_and_topic, *self.keys.group(consumer.topic, consumer.group)[:2]],
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
        return [deliveries[place] for place in lost]

    @asynccontextmanager
    async def watch(self, task_id: str) -> AsyncIterator[RedisWatch]:
        """See the contract."""
        ears, channel = self.here.ears, self.keys.done(task_id)
        with ears.bell.listen(channel) as ear:
            await ears.attend(channel)
            try:
                yield RedisWatch(ear)
            finally:
                ears.leave(channel)

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
            self._settled[topic] = (0, 0)
            if await self.trim(topic):
                self._settled[topic] = (limits.retention, 0)
        else:
            self._settled[topic] = (count, size)


class RedisSubscription:
    """One consumer's place in a group.

    Attributes:
        consumer: See the contract.
        backlog: See the contract.
    """

    def __init__(self, transport: RedisTransport, consumer: Consumer, backlog: int) -> None:
        self.consumer = consumer
        self.backlog = backlog
        self._transport = transport
        self._here = transport.here
        self._channel = transport.keys.wake(consumer.topic)
        self._attending = False
        self._removed = False
        self._held: set[Token] = set()
        self._doubtful = False
        self._claiming = asyncio.Lock()
        self._returning: asyncio.Task[None] | None = None
        self._compared = time.monotonic()
        self._receipts: deque[set[Token]] = deque(maxlen=_RECEIPTS)
        keys, topic, group = transport.keys, consumer.topic, consumer.group
        stream, meta, delayed = keys.topic(topic)
        members, due, retry, attempts, dead = keys.group(topic, group)
        registry = keys.registry
        self._claim_keys = [registry, stream, meta, delayed, members, due, retry, attempts]
        self._leave_keys = [stream, meta, members, due, retry]
        receipts = keys.receipts(f"{topic}/{group}/{consumer.name}")
        self._settle_keys = [registry, stream, meta, due, retry, attempts, dead, receipts]

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """See the contract."""
        if limit <= 0:
            return []
        ears = self._here.ears
        deadline = anyio.current_time() + wait
        # Listening begins before looking: what comes in between rings.
        with ears.bell.listen(self._channel) as ear:
            if wait > 0 and not self._attending:
                await ears.attend(self._channel)
                self._attending = True
            while True:
                deliveries, again = await self._claim(limit)
                left = deadline - anyio.current_time()
                if deliveries or left <= 0:
                    return deliveries
                await ear.wait(min(left, again, _POLL if ears.up else _POLL_DEAF))

    async def _claim(self, limit: int) -> tuple[list[Delivery], float]:
        """Leases deliveries; without any, the seconds after which to look again."""
        # One after another: each tells what it knows to be held, and must not miss a reply.
        async with self._claiming:
            try:
                answer = await self._ask(limit)
            except LinkLostError as error:
                self._doubtful = True
                raise ConnectionLost(str(error), may_be_stored=error.sent) from error
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise TransportError(explain(error)) from error
                answer = [b"missing"]
            except asyncio.CancelledError:
                # What this claim leases nobody will see: it is handed back right after it.
                self._doubtful = True
                self._returning = asyncio.create_task(self._return())
                raise
        if answer[0] == b"ok":
            self._removed = self._doubtful = False
            _, generation, again, back, fresh = answer
            pause = again / 1000 if again >= 0 else _POLL
            return self._deliveries(generation.decode(), back, fresh), pause
        if answer[0] == b"missing" and not self._removed:
            # Lost otherwise than by removing it: made again where it was.
            joined = await self._transport.join(self.consumer, "auto", repair=True)
            if joined[0] == b"joined":
                return [], 0.0
        self._removed = True
        return [], _POLL

    async def _ask(self, limit: int) -> Any:
        consumer = self.consumer
        arguments: dict[str, Any] = {
            "topic": consumer.topic,
            "group": consumer.group,
            "consumer": consumer.name,
            "channel": self._channel,
            "limit": limit,
        }
        # Now and then without cause: a server that hung may execute an old claim late.
        if self._doubtful or time.monotonic() - self._compared > consumer.lease / 3:
            arguments["known"] = self._known()
            self._compared = time.monotonic()
        return await self._here.link.run(scripts.CLAIM, self._claim_keys, pack(arguments))

    def _known(self) -> list[str]:
        return [f"{kind}{id_} {count}" for kind, id_, count, *_ in self._held]

    async def _return(self) -> None:
        """Hands back what a claim has leased for nobody."""
        async with self._claiming:
            if self._doubtful:
                with suppress(LinkLostError, RedisError):  # the next claim does it
                    await self._ask(0)
                    self._doubtful = False

    def _deliveries(self, generation: str, back: list[Any], fresh: list[Any]) -> list[Delivery]:
        topic, group = self.consumer.topic, self.consumer.group
        deliveries: list[Delivery] = []
        for kind, count, runs, (position, fields) in back:
            attempt, crashes, replays = map(int, runs.split())
            place = position.decode()
            token: Token = (kind.decode(), place, count, generation, int(_field(fields, 5)))
            if token[0] == "r":
                place = _field(fields, 7).decode()
            event, body = _event(place, fields)
            deliveries.append(
                Delivery(topic, group, event, place, body, token, attempt, crashes, replays)
            )
        for position, fields in fresh:
            place = position.decode()
            event, body = _event(place, fields)
            token = ("s", place, 1, generation, int(_field(fields, 5)))
            deliveries.append(Delivery(topic, group, event, place, body, token))
        self._held.update(cast(Token, delivery.token) for delivery in deliveries)
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Verdict]:
        """See the contract."""
        verdicts: dict[Token, Verdict] = {}
        generations: dict[str, dict[Token, Settlement]] = {}
        for settlement in settlements:
            token = cast(Token, settlement.delivery.token)
            generations.setdefault(token[3], {}).setdefault(token, settlement)
        for batch in generations.values():  # more than one only after the group was made again
            await self._settle_all(batch, verdicts)
        answer: list[Verdict] = []
        for settlement in settlements:
            token = cast(Token, settlement.delivery.token)
            answer.append(verdicts[token])
            if verdicts[token] == "applied":
                verdicts[token] = "repeated"  # a second time in this batch
        if "applied" in answer:
            with suppress(OmniDaemonError):  # the next batch trims
                await self._transport.trim_after(self.consumer.topic, settlements)
        return answer

    async def _settle_all(
        self, batch: dict[Token, Settlement], verdicts: dict[Token, Verdict]
    ) -> None:
        """Settles those that are held: all in one step, without those that turn out not to be."""
        while batch:
            letters = await self._ask_to_settle(list(batch.values()))
            if letters is None:
                self._receipts.append(set(batch))
                verdicts |= dict.fromkeys(batch, "applied")
                self._held -= batch.keys()
                return
            for token, letter in zip(list(batch), letters, strict=True):
                if letter == "h":
                    continue
                before = letter == "r" or any(token in receipt for receipt in self._receipts)
                verdicts[token] = "repeated" if before else "lost"
                self._held.discard(token)
                del batch[token]

    async def _ask_to_settle(self, settlements: Sequence[Settlement]) -> Sequence[str] | None:
        """None if all were applied; else a letter each, and nothing was applied."""
        transport = self._transport
        batch = Batch(transport.keys, transport.limits, self.consumer, settlements)
        arguments = batch.packed(len(self._held) + 16)
        keys = self._settle_keys + batch.keys
        try:
            answer = await self._here.link.run(scripts.SETTLE, keys, arguments, *batch.blobs)
        except LinkLostError as error:
            raise ConnectionLost(str(error), may_be_stored=error.sent) from error
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise TransportError(explain(error)) from error
            return "l" * len(settlements)  # with the group its leases are gone
        return None if answer == b"a" else batch.in_order(answer)

    async def leave(self) -> None:
        """Forgets the consumer; what nobody was given is handed back."""
        if self._attending:
            self._here.ears.leave(self._channel)
        if self._returning is not None:
            await asyncio.wait([self._returning])
        consumer = self.consumer
        await self._transport.run(
            scripts.LEAVE,
            self._leave_keys,
            group=consumer.group,
            consumer=consumer.name,
            channel=self._channel,
            known=self._known(),
        )


class RedisWatch:
    """Word of a task's settlements."""

    def __init__(self, ear: Ear) -> None:
        self._ear = ear

    async def wait(self, seconds: float) -> None:
        """See the contract."""
        # A little less than a lost message may cost, and not all watchers at once.
        await self._ear.wait(min(seconds, _POLL * (0.5 + random.random() / 2)))


def _field(fields: list[bytes], place: int) -> bytes:
    return fields[place] if len(fields) > place else b"0"


def _event(position: str, fields: list[bytes]) -> tuple[str, bytes]:
    """The id and body of an entry; of one that another program added, what there is."""
    if len(fields) > 3 and fields[0] == b"id":
        return fields[1].decode(errors="replace"), fields[3]
    found = dict(zip(fields[::2], fields[1::2], strict=False))
    return found.get(b"id", position.encode()).decode(errors="replace"), found.get(b"body", b"")
