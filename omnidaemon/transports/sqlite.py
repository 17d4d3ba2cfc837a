"""The SQLite transport: one file on a local disk, shared by the processes of one machine.

`sqlite:///path` syncs what is published and settled to the disk before it says so; `sqlite+fast:`
leaves that to the checkpoints, so that a power cut may undo the last moments, in order. The
database and its thread are in drivers/sqlite.py.
"""

from __future__ import annotations

import math
import os
import secrets
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal

import anyio

from omnidaemon.drivers.bell import Ear
from omnidaemon.errors import BacklogFull, OmniDaemonError, TransportError
from omnidaemon.messages import Consumer, Delivery, Message, Settlement, Start, Verdict
from omnidaemon.transports.base import Limits
from omnidaemon.transports.sqlite_inspection import SQLiteInspection
from omnidaemon.transports.sqlite_leases import Claim, claim, held, release, renew, settle
from omnidaemon.transports.sqlite_topics import (
    find_group,
    find_topic,
    hear_of,
    join,
    leave,
    refusal,
    store,
    trim,
)

_RECEIPTS = 64  # batches whose tokens a subscription remembers
_SHORTEST_WAIT = 0.001
_UNHEARD_SECONDS = 10.0
_SLACK = 10  # trimming begins at a tenth above the retention


class SQLiteTransport(SQLiteInspection):
    """A transport on a file; any number of them, and of processes, share it.

    Args:
        url: `sqlite:///absolute/path`, `sqlite:relative/path`, or `sqlite+fast:` likewise.
        limits: How much it keeps and takes.
        clock: Unix time in seconds; leases and delays are measured by it, waiting is not.
    """

    failure = TransportError
    renewal: Literal["thread", "loop"] = "thread"

    def __init__(
        self, url: str, *, limits: Limits = Limits(), clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(url, clock)
        self.limits = limits
        self._settled: dict[str, tuple[int, int]] = {}
        self._trimmed: dict[str, float] = {}
        self._unheard_until = 0.0

    async def publish(self, *messages: Message) -> None:
        """See the contract."""
        if not messages:
            return

        def work(connection: sqlite3.Connection) -> BacklogFull | None:
            now = self.clock()
            if self.limits.max_backlog is not None:
                # Returned, not raised: what others have in this transaction need not be undone.
                refused = refusal(connection, messages, self.limits.max_backlog, now)
                if refused is not None:
                    return refused
            for topic in store(connection, messages, now):
                self.database.ring(("topics", topic))
            return None

        refused = await self.run(work)
        if refused is not None:
            raise refused

    @asynccontextmanager
    async def subscribe(
        self, topic: str, group: str, *, lease: float, start: Start = "auto"
    ) -> AsyncIterator[SQLiteSubscription]:
        """See the contract."""
        # Short, because it stands in every row that it holds.
        consumer = Consumer(topic, group, f"{os.getpid()}-{secrets.token_hex(8)}", lease)

        def enter(connection: sqlite3.Connection) -> int:
            backlog, joined = join(connection, consumer, start, self.clock())
            trim(connection, joined, self.limits)
            return backlog

        def exit_(connection: sqlite3.Connection) -> None:
            leave(connection, consumer, self.clock())
            self.database.ring(("topics", topic))  # the lease may be shorter now

        backlog = await self.run(enter)
        try:
            yield SQLiteSubscription(self, consumer, backlog)
        finally:
            # If it cannot be said, the member is counted as dead when it is not heard of. Once one
            # could not, the others do not wait for the same lock one after another.
            if time.monotonic() >= self._unheard_until:
                with anyio.CancelScope(shield=True):
                    try:
                        await self.run(exit_, durable=False)
                    except OmniDaemonError:
                        self._unheard_until = time.monotonic() + _UNHEARD_SECONDS

    async def renew(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """See the contract."""
        lost = await self.run(
            lambda connection: renew(connection, consumer, deliveries, self.clock()), durable=False
        )
        # Else what the slowest group held back would stay until much more has been settled.
        topic = consumer.topic
        since = self.clock() - self._trimmed.get(topic, -math.inf)
        if any(self._settled.get(topic, ())) and since > consumer.lease / 3:
            with suppress(OmniDaemonError):  # a later one trims
                await self.run(lambda connection: self._trim(connection, topic), durable=False)
        return lost

    @asynccontextmanager
    async def watch(self, task_id: str) -> AsyncIterator[SQLiteWatch]:
        """See the contract."""
        with self.database.listen(("tasks", task_id)) as ear:
            await self.run(
                lambda connection: self.database.attend(connection, "tasks"), durable=False
            )
            yield SQLiteWatch(ear)

    def trim_after(
        self, connection: sqlite3.Connection, topic: str, settlements: Sequence[Settlement]
    ) -> None:
        """Trims the topic once enough has been settled since the last time; in the thread."""
        count, size = self._settled.get(topic, (0, 0))
        count += len(settlements)
        size += sum(len(settlement.delivery.body) for settlement in settlements)
        self._settled[topic] = (count, size)
        limits = self.limits
        if count * _SLACK > limits.retention or size * _SLACK > limits.retention_bytes:
            self._trim(connection, topic)

    def _trim(self, connection: sqlite3.Connection, topic: str) -> None:
        self._trimmed[topic] = self.clock()
        found = find_topic(connection, topic)
        if found is None or not trim(connection, found, self.limits):
            self._settled[topic] = (0, 0)


class SQLiteSubscription:
    """One consumer's place in a group.

    Attributes:
        consumer: See the contract.
        backlog: See the contract.
    """

    def __init__(self, transport: SQLiteTransport, consumer: Consumer, backlog: int) -> None:
        self.consumer = consumer
        self.backlog = backlog
        self._transport = transport
        self._heard = transport.clock()
        self._receipts: deque[set[object]] = deque(maxlen=_RECEIPTS)

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """See the contract."""
        transport = self._transport
        deadline = anyio.current_time() + wait

        def work(connection: sqlite3.Connection) -> Claim:
            transport.database.attend(connection, "topics")
            now = transport.clock()
            self._say_alive(connection, now)
            return claim(connection, self.consumer, limit, now)

        # Listening begins before looking: what comes in between rings.
        with transport.database.listen(("topics", self.consumer.topic)) as ear:
            while True:
                # A claim lost in a power cut is one that nobody holds: it need not be synced.
                found = await transport.run(work, durable=False, cancelled=self._hand_back)
                left = deadline - anyio.current_time()
                if found.deliveries or left <= 0:
                    return found.deliveries
                if found.due is not None:
                    left = min(left, max(found.due - transport.clock(), _SHORTEST_WAIT))
                await ear.wait(left)

    def _say_alive(self, connection: sqlite3.Connection, now: float) -> None:
        if now - self._heard < self.consumer.lease / 3:
            return
        self._heard = now
        group = find_group(connection, self.consumer.topic, self.consumer.group)
        if group is not None:
            hear_of(connection, group, self.consumer, now)

    def _hand_back(self, found: Claim) -> None:
        database, topic = self._transport.database, self.consumer.topic

        def work(connection: sqlite3.Connection) -> None:
            release(connection, found.deliveries)
            database.ring(("topics", topic))

        if found.deliveries:
            database.run_later(work)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Verdict]:
        """See the contract."""
        if not settlements:
            return []
        transport = self._transport

        def work(connection: sqlite3.Connection) -> set[object]:
            mine = held(connection, self.consumer, (s.delivery for s in settlements))
            fitting: dict[object, Settlement] = {}
            for settlement in settlements:
                if settlement.delivery.token in mine:
                    fitting.setdefault(settlement.delivery.token, settlement)
            applied = list(fitting.values())
            if applied:
                settle(
                    connection,
                    applied,
                    transport.limits,
                    transport.clock(),
                    transport.database.ring,
                )
                transport.trim_after(connection, self.consumer.topic, applied)
            return set(fitting)

        # A settlement whose answer was cancelled happened all the same: a resend says "repeated".
        applied = await transport.run(work, cancelled=self._receipts.append)
        fresh = set(applied)
        verdicts: list[Verdict] = []
        for settlement in settlements:
            token = settlement.delivery.token
            if token in fresh:
                fresh.discard(token)
                verdicts.append("applied")
            elif token in applied or any(token in receipt for receipt in self._receipts):
                verdicts.append("repeated")
            else:
                verdicts.append("lost")
        self._receipts.append(applied)
        return verdicts


class SQLiteWatch:
    """Word of a task's settlements."""

    def __init__(self, ear: Ear) -> None:
        self._ear = ear

    async def wait(self, seconds: float) -> None:
        """See the contract."""
        await self._ear.wait(seconds)
