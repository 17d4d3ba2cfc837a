"""What settlements leave in other slots of a cluster: records, counters, messages to other topics.

No step spans two slots, so they are left there first, and the settlement follows in the topic's
slot. Each leaves them under a name, made of the delivery and its attempt, that the other slot keeps
for a while: what comes again under it (a settlement repeated, or a run repeated because its worker
died in between) changes nothing. So the first run of an attempt that got so far is the one whose
record, counts and messages stand. Who has lost a delivery leaves nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import msgspec
from redis.exceptions import ResponseError

from omnidaemon.drivers import redis_scripts as scripts
from omnidaemon.drivers.redis_changes import Blobs, milliseconds, packed_changes
from omnidaemon.drivers.redis_cluster import Refusal
from omnidaemon.errors import ConnectionLost, TransportError
from omnidaemon.messages import (
    Consumer,
    Delivery,
    Message,
    Release,
    RetryAfter,
    Settlement,
    Verdict,
)
from omnidaemon.transports.redis_groups import RedisGroups
from omnidaemon.transports.redis_publishing import check_bodies
from omnidaemon.transports.redis_settling import Token
from omnidaemon.transports.redis_subscription import RedisSubscription

_KEPT_LEASES = 2  # for so many leases a name is kept once its settlement is done
_SETTLED_MOST = 10_000  # names of done settlements that wait to be told

T = TypeVar("T")
_Names = dict[Token, list[tuple[str, str]]]


class ClusterSubscription(RedisSubscription):
    """A place in a group on a cluster: what lies in other slots is settled before the rest."""

    def __init__(self, groups: RedisGroups, consumer: Consumer, backlog: int) -> None:
        super().__init__(groups, consumer, backlog)
        self._elsewhere = Elsewhere(groups, consumer)

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """See the contract."""
        return await self._followed(lambda: super(ClusterSubscription, self).receive(limit, wait))

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Verdict]:
        """See the contract."""
        rest, names = await self._elsewhere.leave(settlements)
        verdicts = await self._followed(lambda: super(ClusterSubscription, self).settle(rest))
        self._elsewhere.confirm(names, settlements, verdicts)
        return verdicts

    async def _followed(self, do: Callable[[], Awaitable[T]]) -> T:
        """Does it again on the node that the one asked has named: it has done nothing itself."""
        turn = 0
        while True:
            try:
                return await do()
            except TransportError as error:
                if Refusal.of(error.__cause__) is None:
                    raise
                if not await self._here.link.follow(error.__cause__, turn):
                    raise ConnectionLost(str(error.__cause__), may_be_stored=False) from error
            turn += 1


class Elsewhere:
    """Leaves in other slots what one consumer's settlements need there."""

    def __init__(self, groups: RedisGroups, consumer: Consumer) -> None:
        self._groups = groups
        self._consumer = consumer
        self._keep = _KEPT_LEASES * milliseconds(consumer.lease)
        self._asked_at = 0.0
        self._settled: defaultdict[str, list[str]] = defaultdict(list)
        self._waiting = 0

    async def leave(self, settlements: Sequence[Settlement]) -> tuple[list[Settlement], _Names]:
        """Does all that is not in the topic's slot.

        Returns:
            The settlements without it, and under which names it was left where.
        """
        for settlement in settlements:
            check_bodies(settlement.publish)
        apart: dict[Token, Settlement] = {}
        for settlement in settlements:
            if settlement.changes or any(map(self._is_foreign, settlement.publish)):
                apart.setdefault(cast(Token, settlement.delivery.token), settlement)
        names: _Names = {}
        if apart:
            steps = self._steps(apart.values(), names)
            held = await self._held(apart)
            for step in steps:
                if time.monotonic() - self._asked_at > self._consumer.lease / 3:
                    held = await self._held({token: apart[token] for token in held})
                await step(held)
        return [self._rest(settlement) for settlement in settlements], names

    def confirm(
        self, names: _Names, settlements: Sequence[Settlement], verdicts: Sequence[Verdict]
    ) -> None:
        """Says which are done; the other slots are told along with what comes next."""
        if self._waiting > _SETTLED_MOST:  # they stay there for a day instead
            self._settled.clear()
            self._waiting = 0
        for settlement, verdict in zip(settlements, verdicts, strict=True):
            if verdict != "lost":
                for where, name in names.pop(cast(Token, settlement.delivery.token), ()):
                    self._settled[where].append(name)
                    self._waiting += 1

    def _is_foreign(self, message: Message) -> bool:
        return message.topic != self._consumer.topic

    def _rest(self, settlement: Settlement) -> Settlement:
        own = tuple(message for message in settlement.publish if not self._is_foreign(message))
        return msgspec.structs.replace(settlement, changes=(), publish=own)

    async def _held(self, settlements: dict[Token, Settlement]) -> set[Token]:
        """Which of them are the consumer's still; their leases begin anew."""
        self._asked_at = time.monotonic()
        deliveries = [settlement.delivery for settlement in settlements.values()]
        try:
            lost = await self._groups.renew(self._consumer, deliveries)
        except TransportError as error:
            if isinstance(error.__cause__, ResponseError) and "NOGROUP" in str(error.__cause__):
                return set()  # with the group its leases are gone
            raise
        return settlements.keys() - {cast(Token, delivery.token) for delivery in lost}

    def _steps(
        self, settlements: Iterable[Settlement], names: _Names
    ) -> list[Callable[[set[Token]], Awaitable[None]]]:
        """Records first: who sees a reply finds the record. All is packed before any is sent."""
        writing: dict[Token, tuple[str, Settlement]] = {}
        topics: dict[str, list[tuple[Token, str, Message]]] = {}
        for settlement in settlements:
            token = cast(Token, settlement.delivery.token)
            run = _run(settlement)
            its = names[token] = []
            if settlement.changes:
                packed_changes(settlement.changes, Blobs())  # raises for what is unfit
                writing[token] = (run, settlement)
                its.append((self._groups.keys.once(), run))
            for message in filter(self._is_foreign, settlement.publish):
                same = topics.setdefault(message.topic, [])
                # Counted by topic: another run may publish to one topic more, or less.
                number = sum(other is token for other, _, _ in same[-len(settlement.publish) :])
                same.append((token, f"{run}/{number}", message))
                its.append((self._groups.keys.once(message.topic), same[-1][1]))

        async def write(held: set[Token]) -> None:
            await self._write({t: found for t, found in writing.items() if t in held})

        async def publish(held: set[Token]) -> None:
            done = await asyncio.gather(
                *(
                    self._publish(topic, [one for one in some if one[0] in held])
                    for topic, some in topics.items()
                ),
                return_exceptions=True,  # none is left behind running
            )
            for failure in done:
                if failure is not None:
                    raise failure

        return [write, publish]

    async def _write(self, writing: dict[Token, tuple[str, Settlement]]) -> None:
        keys, where = self._groups.keys, self._groups.keys.once()
        while writing:
            changes = [
                change for _, settlement in writing.values() for change in settlement.changes
            ]
            blobs = Blobs()
            packed = packed_changes(changes, blobs)
            collections = dict.fromkeys(change.collection for change in changes)
            settled = list(self._settled[where])
            before = await self._groups.run(
                scripts.WRITE_ONCE,
                [where, *keys.collections(collections)],
                blobs,
                prefix=keys.records,
                names=[run for run, _ in writing.values()],
                settled=settled,
                keep=self._keep,
                changes=packed,
            )
            if not before:
                self._told(where, settled)
                return
            for token in [list(writing)[place] for place in before]:
                del writing[token]

    async def _publish(self, topic: str, some: list[tuple[Token, str, Message]]) -> None:
        if not some:
            return
        keys, where = self._groups.keys, self._groups.keys.once(topic)
        blobs, messages = Blobs(), list[Any]()
        for _, _, message in some:
            messages += message.id, blobs.place(message.body, message.id)
            messages.append(milliseconds(message.delay))
        settled = list(self._settled[where])
        await self._groups.register(topic)
        opened = await self._groups.run(
            scripts.PUBLISH_ONCE,
            [keys.registry_for(topic), *keys.topic(topic), where],
            blobs,
            topic=topic,
            channel=keys.wake(topic),
            messages=messages,
            names=[name for _, name, _ in some],
            settled=settled,
            keep=self._keep,
        )
        self._told(where, settled)
        if opened:
            await self._groups.register(topic, anew=True)

    def _told(self, where: str, settled: list[str]) -> None:
        del self._settled[where][: len(settled)]
        if not self._settled[where]:
            del self._settled[where]
        self._waiting -= len(settled)


def _run(settlement: Settlement) -> str:
    """Names what the settlement does: the same for all runs of one attempt."""
    delivery = settlement.delivery
    name = (
        f"{delivery.topic}/{delivery.group}/{delivery.position}"
        f"/{delivery.replays}/{delivery.attempt}"
    )
    action = settlement.action
    if isinstance(action, Release) or (isinstance(action, RetryAfter) and not action.charged):
        # The attempt is yet to come.
        name += f"/released-{cast(Token, delivery.token)[2]}"
    return name
