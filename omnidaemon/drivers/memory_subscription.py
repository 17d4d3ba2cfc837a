"""The memory backend's subscriptions: leasing and settling, each a step under the board's lock."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence

from anyio import current_time
from anyio.lowlevel import checkpoint

from omnidaemon.drivers.bell import Ear
from omnidaemon.drivers.memory import Board, check_changes, check_messages
from omnidaemon.drivers.memory_groups import Group, Item
from omnidaemon.drivers.memory_topics import Bounds
from omnidaemon.messages import (
    Ack,
    Bury,
    Consumer,
    Delivery,
    Release,
    RetryAfter,
    Settlement,
    Verdict,
)

_SHORTEST_WAIT = 1e-6


class MemorySubscription:
    """One consumer's place in a group of a board."""

    def __init__(
        self,
        board: Board,
        consumer: Consumer,
        backlog: int,
        limits: Bounds,
        clock: Callable[[], float] | None,
    ) -> None:
        self.consumer = consumer
        self.backlog = backlog
        self._board = board
        self._limits = limits
        self._clock = clock

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """See the contract."""
        # Cancelled here, nothing was leased; from the leasing to the return nothing waits.
        await checkpoint()
        deliveries, seconds = self._lease(limit)
        if deliveries or wait <= 0 or limit <= 0:
            return deliveries
        deadline = current_time() + wait
        topic, group = self.consumer.topic, self.consumer.group
        with self._board.bell.listen(topic, (topic, group)) as ear:
            while True:
                deliveries, seconds = self._lease(limit)
                left = deadline - current_time()
                if deliveries or left <= 0:
                    return deliveries
                # Rounding may leave less than the clock can count: a virtual one would not move.
                await ear.wait(max(min(left, seconds), _SHORTEST_WAIT))

    def _lease(self, limit: int) -> tuple[list[Delivery], float]:
        """What there is up to the limit; and in how many seconds there may be more by itself."""
        consumer, board = self.consumer, self._board
        with board.lock:
            now, unix = board.now(self._clock), time.time()
            group = board.group(consumer)
            if group is None:
                return [], float("inf")
            group.hear_of(consumer.name, consumer.lease, now, unix)
            if group.paused or limit <= 0:
                return [], float("inf")
            topic = board.topics[consumer.topic]
            topic.ripen(now, unix)
            shorter = group.live(now)
            items = topic.take(group, limit, now)
            if not items:
                ripe = topic.delayed[0][0] if topic.delayed else float("inf")
                return [], min(shorter, group.next_due(), ripe) - now
            return [self._hand_out(group, item, now) for item in items], 0.0

    def _hand_out(self, group: Group, item: Item, now: float) -> Delivery:
        item.token = token = next(self._board.numbers)
        item.holder = self.consumer.name
        item.renewed = now
        group.leased[token] = item
        event = item.event
        return Delivery(
            self.consumer.topic,
            self.consumer.group,
            event.id,
            event.position,
            event.body,
            token,
            item.attempt,
            item.crashes,
            item.replays,
        )

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Verdict]:
        """See the contract. It does not wait, so that no cancellation comes between."""
        for settlement in settlements:
            if settlement.publish:
                check_messages(settlement.publish)
            if settlement.changes:
                check_changes(settlement.changes)
        consumer, board = self.consumer, self._board
        rung: set[object] = set()
        with board.lock:
            now, unix = board.now(self._clock), time.time()
            group = board.group(consumer)
            if group is None:
                return ["lost"] * len(settlements)
            group.hear_of(consumer.name, consumer.lease, now, unix)
            before = group.receipts.get(consumer.name, set())
            receipt: set[Hashable] = set()
            verdicts: list[Verdict] = []
            for settlement in settlements:
                token = settlement.delivery.token
                item = group.held(consumer.name, token)
                if item is not None:
                    self._apply(group, item, settlement, now, unix, rung)
                    receipt.add(item.token)
                    verdicts.append("applied")
                elif token in before or token in receipt:
                    receipt.add(token)
                    verdicts.append("repeated")
                else:
                    verdicts.append("lost")
            group.receipts[consumer.name] = receipt or before
            board.topics[consumer.topic].trim(self._limits)
        if rung:
            board.bell.ring(*rung)
        return verdicts

    def _apply(
        self,
        group: Group,
        item: Item,
        settlement: Settlement,
        now: float,
        unix: float,
        rung: set[object],
    ) -> None:
        del group.leased[item.token]
        topic, name = self.consumer.topic, self.consumer.group
        match settlement.action:
            case Ack():
                group.end(item)
            case RetryAfter(delay, charged):
                item.attempt += charged
                item.retrying = True
                group.put_back(item, now + delay, item.token)
                rung.add((topic, name))
            case Release():
                item.retrying = False
                group.put_back(item, now, item.token)
                rung.add((topic, name))
            case Bury(reason):
                limits = self._limits
                self._board.topics[topic].bury(name, item, reason, limits, now=now, unix=unix)
                group.end(item)
        if settlement.publish:
            rung |= self._board.publish(settlement.publish, now)
        if settlement.changes:
            self._board.apply(settlement.changes, now)
        if settlement.notice is not None:
            rung.add(("notice", settlement.notice))


class MemoryWatch:
    """Word of a task's settlements."""

    def __init__(self, ear: Ear) -> None:
        self._ear = ear

    async def wait(self, seconds: float) -> None:
        """See the contract; what there is to read is as near as the notice."""
        await self._ear.wait(seconds)
