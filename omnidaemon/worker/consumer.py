"""The path of a message: received, decoded, run, decided, settled. Read it from top to bottom."""

from __future__ import annotations

import logging
import random
import signal
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import msgspec
from anyio import CancelScope, CapacityLimiter
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from msgspec import Raw

from omnidaemon.agents import Agent
from omnidaemon.app import CallNext, Middleware
from omnidaemon.attempts import remembering
from omnidaemon.context import Context, Publish, current_run
from omnidaemon.envelope import INTERNAL, MAX_HOPS, Envelope, Wire, decode, dump, encode, wire_of
from omnidaemon.errors import DecodeError, OmniDaemonError, PayloadError
from omnidaemon.logs import about
from omnidaemon.messages import (
    Ack,
    Action,
    Bury,
    Count,
    Delivery,
    Message,
    Release,
    RetryAfter,
    Settlement,
    Verdict,
    Write,
)
from omnidaemon.outcomes import CRASH_LIMIT, Again, Cause, Dead, Done, Outcome, decide, describe
from omnidaemon.records import (
    FAILED,
    METRICS,
    PROCESSED,
    RunRecord,
    RunStatus,
    metric,
    run_write,
    tenant_changes,
)
from omnidaemon.run_index import index_changes
from omnidaemon.stores.base import Store
from omnidaemon.telemetry.runs import Runs
from omnidaemon.telemetry.sending import created
from omnidaemon.telemetry.signals import SECONDS, active
from omnidaemon.transports.base import Subscription, Transport
from omnidaemon.webhooks import hand_over
from omnidaemon.worker.leases import Held
from omnidaemon.worker.tally import Tally

logger = logging.getLogger("omnidaemon.worker")

RECEIVE_SECONDS = 30.0
PREFETCH_SECONDS = 0.05
PREFETCH_MOST = 500
PREFETCH_FAST = 32
"""As much is fetched ahead for runs that are short enough, however slowly their turn comes."""
PREFETCH_BYTES = 8_000_000
PREFETCH_PATIENCE = 0.5
UNSETTLED_BYTES = 64_000_000
SETTLE_MOST = 500
RETRY_MOST = 1.0
"""Seconds, and half of them more by chance, after which a backend that is away is asked again."""
SETTLE_SECONDS = 5.0
"""How long a forced end still tries to settle and hand back."""
YIELD_SECONDS = 0.002
"""A handler that never waits gives the loop to receiving and settling this often."""


@dataclass(frozen=True)
class Shared:
    """What all consumers of one worker share.

    Attributes:
        worker: The worker's id.
        transport: Where deliveries come from.
        store: Where records go.
        publish: What `ctx.send` publishes with.
        trouble: Told what fails, by the thing that fails; None when it works again.
        middleware: Called around each run.
        state: What the lifespan yielded.
        wire: How replies are encoded.
        result_ttl: Seconds for which results are kept.
        max_message: Bytes a reply may have.
        tally: Counts what is settled, for who asks this process itself; None if nobody does.
    """

    worker: str
    transport: Transport
    store: Store
    publish: Publish
    trouble: Callable[[str, str | None], None]
    middleware: Sequence[Middleware] = ()
    state: Any = None
    wire: Wire = "json"
    result_ttl: float = 86_400.0
    max_message: int = 1_000_000
    tally: Tally | None = None


_ACK = Ack()
_RELEASE = Release()


class AgentConsumer:
    """Runs one agent in this process, at most `agent.consumers` at a time.

    Attributes:
        agent: The agent.
        held: What it holds, whose leases are kept.
        running: Runs in progress.
        buried: True once it has made a dead letter; who has looked at that sets it back.
    """

    def __init__(
        self, agent: Agent, subscription: Subscription, held: Held, shared: Shared
    ) -> None:
        self.agent = agent
        self._subscription = subscription
        self.held = held
        self._shared = shared
        self._call = _composed(agent, shared.middleware)
        self._label = f"{agent.topic}/{agent.name}"
        self._recorded = not agent.topic.startswith(INTERNAL)
        self._signals = active()
        self._seen: Runs | None = None
        if self._signals is not None:
            self._seen = Runs(
                self._signals, topic=agent.topic, agent=agent.name, worker=shared.worker
            )
            held.on_lost = self._seen.lease_lost
        self._atomic = shared.transport.backend == shared.store.backend
        self._processed = [metric(self._label, name) for name in PROCESSED]
        self._failed = [metric(self._label, name) for name in FAILED]
        self._dead = metric(self._label, "dead")
        self._retried = metric(self._label, "retried")
        self._queue: deque[Delivery] = deque()
        self._parked: list[anyio.Event] = []
        self._outbox: list[Settlement] = []
        self._settling = 0
        self._unsettled_bytes = 0
        self._taken = self._seen_taken = 0
        self._stalled_from = 0.0
        self._failing = False
        self._pace = _Pace(agent.consumers)
        self._room = anyio.Event()
        self._finished = anyio.Event()
        self._stopping = False
        self._ended = False
        self._settle_until = float("inf")
        self._receiving = CancelScope()
        self._runs = CancelScope()
        self.running = 0
        self.buried = False

    async def run(self) -> None:
        """Works until stopped, and returns when all that was held is settled or handed back."""
        try:
            async with anyio.create_task_group() as outer:
                outer.start_soon(self._settle, outer.cancel_scope)
                outer.start_soon(self._settle_soon_if_cancelled)
                await self._work()
        finally:
            if self._seen is not None:
                self._seen.close()

    async def _work(self) -> None:
        try:
            with self._runs:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._receive)
                    for _ in range(self.agent.consumers):
                        group.start_soon(self._keep_consuming)
        finally:
            self._ended = True
            self._finished.set()

    async def _settle_soon_if_cancelled(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:  # from outside, or because it broke: nobody counts the grace, or not any more
            until = anyio.current_time() + SETTLE_SECONDS
            self._settle_until = min(self._settle_until, until)

    def stop(self) -> None:
        """Receives nothing more, hands back what has not started, lets the rest finish."""
        self._stopping = True
        self._receiving.cancel()

    def abort(self) -> None:
        """Cancels what runs and hands it back, uncharged."""
        self.stop()
        self._runs.cancel()

    def give_up(self) -> None:
        """Stops trying to settle: what is left goes to another worker when its lease ends."""
        self._settle_until = 0.0

    # 1. Received: as many as can start at once, and a few that will within 50 ms.

    async def _receive(self) -> None:
        try:
            with self._receiving:
                await self._receive_on()
        finally:
            # Also when all is cancelled at once: what stayed leased would count as a crash.
            while self._queue:
                self._finish(Settlement(self._queue.popleft(), _RELEASE))
            while self._parked:
                self._wake_one()

    async def _receive_on(self) -> None:
        pause = 0.1
        while not self._stopping:
            self._hand_back_if_stalled()
            credit = self._credit()
            if credit <= 0:
                await self._wait_for_room()
                continue
            try:
                deliveries = await self._subscription.receive(credit, self._patience())
            except OmniDaemonError as error:
                self._shared.trouble(self._label, f"receiving: {error}")
                await anyio.sleep(pause * (0.5 + random.random()))
                pause = min(RETRY_MOST, pause * 2)
                continue
            self._shared.trouble(self._label, None)
            pause = 0.1
            # Nothing may be awaited between receiving and this: what is leased is ours.
            if deliveries:
                self.held.add(deliveries)
                self._queue.extend(deliveries)
                self._stalled_from = anyio.current_time()
                self._pace.saw(deliveries)
                if self._seen is not None:
                    self._seen.received(len(deliveries))
                self._wake_one()
                await checkpoint()  # what came starts before more is asked for

    async def _wait_for_room(self) -> None:
        self._room = anyio.Event()
        with anyio.move_on_after(self._patience()):
            await self._room.wait()

    def _patience(self) -> float:
        return PREFETCH_PATIENCE if self._queue else RECEIVE_SECONDS

    def _hand_back_if_stalled(self) -> None:
        """Hands back what was fetched ahead and does not start: some run is slower than before.

        It would have started long ago, and other workers may have a slot free. Nothing more is
        fetched ahead until runs end again.
        """
        now = anyio.current_time()
        if self._taken != self._seen_taken or not self._queue:
            self._seen_taken, self._stalled_from = self._taken, now
        elif now - self._stalled_from >= PREFETCH_PATIENCE:
            self._pace.stalled()
            while self._queue:
                self._finish(Settlement(self._queue.popleft(), _RELEASE))

    def _credit(self) -> int:
        """How many more deliveries may be held: free slots and the prefetch.

        Finished runs whose settlement is on its way do not count, up to a bound; while settling
        fails no further work is taken.
        """
        prefetch = self._pace.prefetch()
        most = self.agent.consumers + prefetch
        held = self.running + len(self._queue)
        if held - self.agent.consumers > prefetch / 2:
            return 0  # enough waits beyond the slots: few large batches cost less than many small
        if self._failing or len(self._outbox) + self._settling > 2 * most + SETTLE_MOST:
            return 0
        if self._unsettled_bytes > UNSETTLED_BYTES:
            return 0
        return most - held

    async def _keep_consuming(self) -> None:
        """Consumes until stopped, whatever a handler leaves behind in the task that ran it."""
        while True:
            try:
                await self._consume()
            except anyio.get_cancelled_exc_class():
                # Raises again if it is we who cancel. Else a handler has cancelled its own task
                # (asyncio's `task.cancel()`) and returned: that is no reason to lose the slot.
                await _raise_if_cancelled()
                logger.warning("agent %r left a cancellation of its task behind", self.agent.name)
            else:
                return

    async def _consume(self) -> None:
        yielded = time.perf_counter()
        while True:
            while not self._queue:
                if self._stopping:
                    return
                current_run.set(None)
                await self._park()
                yielded = time.perf_counter()
            delivery = self._queue.popleft()
            self._taken += 1
            if self._queue:
                self._wake_one()
            self.running += 1
            try:
                started = time.perf_counter()
                settlement = await self._run(delivery, started)
            except anyio.get_cancelled_exc_class():
                self._finish(Settlement(delivery, _RELEASE))
                raise
            finally:
                self.running -= 1
                if self._seen is not None:
                    self._seen.ended(delivery)
            self._finish(settlement)
            now = time.perf_counter()
            self._pace.finished(now - started)
            if now - yielded > YIELD_SECONDS:
                await checkpoint()
                yielded = time.perf_counter()

    async def _park(self) -> None:
        event = anyio.Event()
        self._parked.append(event)
        try:
            await event.wait()
        except BaseException:
            if event.is_set():
                self._wake_one()  # the word was for whoever can run something
            else:
                self._parked.remove(event)
            raise

    def _wake_one(self) -> None:
        if self._parked:
            self._parked.pop().set()

    # 2. Decoded, and run. Whatever it comes to is an outcome, and every outcome is settled.

    async def _run(self, delivery: Delivery, started: float) -> Settlement:
        try:
            envelope = decode(delivery.body)
        except DecodeError as error:
            return self._unread(delivery, error)
        ctx = Context(
            envelope,
            agent=self.agent.name,
            publish=self._shared.publish,
            attempt=delivery.attempt,
            replays=delivery.replays,
            state=self._shared.state,
            worker=self._shared.worker,
            wire=wire_of(delivery.body),
        )
        current_run.set(ctx)
        if self._seen is not None:
            self._seen.start(delivery, envelope)
        refused = self._refuse(delivery, envelope)
        if refused is not None:
            dead = Dead(refused)
            if self._seen is not None:
                self._seen.decided(delivery, dead, None)
            return self._settlement(delivery, envelope, dead, started, ran=False)
        try:
            value = await self._call(ctx)
            result = dump(value, what="result")
            replies = self._replies(envelope, value, result)
        except BaseException as error:
            # Raises again if it is we who cancel: an interruption is no failure, however it shows.
            if isinstance(error, anyio.get_cancelled_exc_class()):
                await _raise_if_cancelled()
            else:
                await checkpoint_if_cancelled()
            if isinstance(error, KeyboardInterrupt) and _ctrl_c_raises():
                raise
            # All else is the run's outcome: sys.exit() in a handler ends no worker, nor does a
            # cancellation that comes from within it.
            return self._failed_run(delivery, envelope, error, started)
        return self._settlement(delivery, envelope, Done(), started, result=result, replies=replies)

    def _refuse(self, delivery: Delivery, envelope: Envelope) -> Cause | None:
        """Why this must not be run at all, if so."""
        if delivery.crashes >= CRASH_LIMIT:
            return Cause(
                "WorkerLost",
                f"{delivery.crashes} workers vanished while they ran this event, so it is not run "
                "again: it may be what kills them (memory, a crash in native code)",
            )
        if envelope.hops > MAX_HOPS:
            return Cause(
                "TooManyHops",
                f"this event is the end of {envelope.hops} replies: two agents answer each other",
            )
        return None

    def _replies(self, envelope: Envelope, value: Any, result: bytes) -> tuple[Message, ...]:
        """The result as events: where this one asks for it, and where the agent always sends it."""
        if value is None or (envelope.reply_to is None and self.agent.reply_to is None):
            return ()
        asked = dict.fromkeys((envelope.reply_to, self.agent.reply_to))
        return tuple(self._reply(envelope, topic, value, result) for topic in asked if topic)

    def _reply(self, envelope: Envelope, topic: str, value: Any, result: bytes) -> Message:
        wire = self._shared.wire
        caused = Envelope(
            topic,
            Raw(result) if wire == "json" else value,
            tenant_id=envelope.tenant_id,
            correlation_id=envelope.correlation_id or envelope.id,
            causation_id=envelope.id,
            source=envelope.source,
            headers=envelope.headers,
            hops=envelope.hops + 1,
        )
        if self._signals is not None:
            caused = created(self._signals, caused)
        body = encode(caused, wire)
        if len(body) > self._shared.max_message:
            raise PayloadError(
                f"the reply to {topic!r} has {len(body):,} bytes, and "
                f"{self._shared.max_message:,} are allowed: return where the data is instead"
            )
        return Message(caused.topic, caused.id, body)

    # 3. Decided: the outcome becomes a settlement, a value that holds all that follows from it.

    def _failed_run(
        self, delivery: Delivery, envelope: Envelope, error: BaseException, started: float
    ) -> Settlement:
        outcome = decide(self.agent.policy, delivery.attempt, error, random.random())
        if self._seen is not None:
            self._seen.decided(delivery, outcome, error)
        if isinstance(outcome, Again) and not outcome.charged:  # it was no run: nothing to record
            return Settlement(delivery, RetryAfter(outcome.delay, charged=False))
        return self._settlement(delivery, envelope, outcome, started)

    def _settlement(
        self,
        delivery: Delivery,
        envelope: Envelope,
        outcome: Outcome,
        started: float,
        *,
        result: bytes = b"null",
        replies: tuple[Message, ...] = (),
        ran: bool = True,
    ) -> Settlement:
        seconds = time.perf_counter() - started
        now = time.time()
        cause: Cause | None = None
        retry_at: float | None = None
        action: Action = _ACK
        status: RunStatus = "succeeded"
        took = 0 if seconds <= SECONDS[0] else bisect_left(SECONDS, seconds)
        counts = [self._processed[took]]
        if isinstance(outcome, Again):
            cause, retry_at = outcome.cause, now + outcome.delay
            action, status = RetryAfter(outcome.delay), "failed"
            counts = [self._failed[took], self._retried]
        elif isinstance(outcome, Dead):
            cause, status = outcome.cause, "dead"
            action = Bury(self._reason(delivery, cause, now)) if outcome.keep else _ACK
            counts = [self._failed[took], self._dead] if ran else [self._dead]
        if cause is not None:
            self._log(delivery, outcome, cause)
        if ran:
            counts.append(Count(METRICS, self._label, "seconds", seconds))
        if not self._recorded:
            return Settlement(delivery, action, replies, tuple(counts))
        if envelope.webhook is not None and not isinstance(outcome, Again):
            hook = hand_over(
                envelope.webhook, envelope, delivery, result=result, cause=cause, finished_at=now
            )
            replies = (*replies, hook)
        record = RunRecord(
            envelope.id,
            delivery.topic,
            self.agent.name,
            status,
            Raw(result),
            cause,
            delivery.attempt,
            delivery.replays,
            now - seconds,
            now,
            retry_at,
            self._shared.worker,
            envelope.correlation_id,
            envelope.tenant_id,
            envelope.causation_id,
            envelope.source,
            delivery.crashes,
        )
        ttl = self._shared.result_ttl
        write = run_write(record, ttl)
        changes: tuple[Any, ...] = (write, *counts)
        if envelope.tenant_id:
            changes += tenant_changes(record, ttl, counts)
        changes += index_changes(record, ttl)
        return Settlement(delivery, action, replies, changes, envelope.id, write.value)

    def _unread(self, delivery: Delivery, error: DecodeError) -> Settlement:
        """What cannot be decoded has no task id that could be trusted: a dead letter alone."""
        cause = describe(error)
        if self._seen is not None:
            self._seen.start(delivery, None)
            self._seen.decided(delivery, Dead(cause), None)
        current_run.set(None)
        # What it says quotes the event, and is for those who look at the dead letter.
        logger.error(
            "agent %r on %r: event %s is no envelope that can be read; a dead letter",
            self.agent.name,
            self.agent.topic,
            delivery.id,
            extra=about(delivery),
        )
        reason = self._reason(delivery, cause, time.time())
        return Settlement(delivery, Bury(reason), changes=(self._dead,), notice=delivery.id)

    def _reason(self, delivery: Delivery, cause: Cause, now: float) -> bytes:
        return msgspec.json.encode(
            {
                "type": cause.type,
                "message": cause.message,
                "traceback": cause.traceback,
                "attempts": delivery.attempt,
                "crashes": delivery.crashes,
                "replays": delivery.replays,
                "failed_at": now,
                "worker": self._shared.worker,
            }
        )

    def _log(self, delivery: Delivery, outcome: Outcome, cause: Cause) -> None:
        agent = self.agent
        text = f"agent {agent.name!r} on {agent.topic!r}, event {delivery.id}"
        what = (
            f"run {delivery.attempt} of {agent.policy.retries + 1}: {cause.type}: {cause.message}"
        )
        if isinstance(outcome, Again):
            logger.warning("%s, %s; again in %.1f s", text, what, outcome.delay)
            return
        kept = "a dead letter" if agent.policy.dead_letter else "dropped, as configured"
        raised = f"\n{cause.traceback}" if cause.traceback else ""
        logger.error("%s, %s; %s%s", text, what, kept, raised)

    # 4. Settled: in batches, one in flight while the next gathers; shielded from cancellation.

    def _finish(self, settlement: Settlement) -> None:
        self._outbox.append(settlement)
        self._unsettled_bytes += _size(settlement)
        self._finished.set()
        self._room.set()

    async def _settle(self, outer: CancelScope) -> None:
        with CancelScope(shield=True):
            while True:
                try:
                    await self._settle_on()
                except anyio.get_cancelled_exc_class():
                    # Not ours, which the shield keeps off: asyncio.run ends its loop, and cancels
                    # every task once. What is held is handed back all the same.
                    continue
                break
        outer.cancel()  # nothing is left to do

    async def _settle_on(self) -> None:
        while True:
            while not self._outbox:
                if self._ended:
                    return
                self._finished = anyio.Event()
                await self._finished.wait()
            batch, self._outbox = self._outbox[:SETTLE_MOST], self._outbox[SETTLE_MOST:]
            self._settling = len(batch)
            try:
                await self._settle_batch(batch)
            except anyio.get_cancelled_exc_class():
                self._outbox = batch + self._outbox  # what was applied is recognised
                raise
            self._settling = 0
            self._unsettled_bytes -= sum(map(_size, batch))
            self._room.set()

    async def _settle_batch(self, batch: list[Settlement]) -> None:
        """Settles until it is done: a finished run is never repeated because a store is away."""
        settle = self._subscription.settle if self._atomic else self._settle_apart()
        settle = remembering(self._shared.store, settle)
        what = f"{self._label} settling"
        pause = 0.05
        failures = 0
        while batch and anyio.current_time() < self._settle_until:
            # One settlement that a backend chokes on must not hold up all the others.
            parts = [batch] if failures < 3 else [[settlement] for settlement in batch]
            left: list[Settlement] = []
            trouble: OmniDaemonError | None = None
            for part in parts:
                began, failure = time.perf_counter(), None
                try:
                    verdicts = await settle(part)
                except OmniDaemonError as error:
                    trouble = error
                    failure = type(error).__name__
                    left += part
                else:
                    self._settled(part, verdicts)
                if self._seen is not None:
                    self._seen.settling(time.perf_counter() - began, failure)
            self._shared.trouble(what, None if trouble is None else str(trouble))
            batch = left
            self._failing = bool(batch)
            if batch:
                failures += 1
                await anyio.sleep(pause * (0.5 + random.random()))
                pause = min(RETRY_MOST, pause * 2)

    def _settled(self, settlements: Sequence[Settlement], verdicts: Sequence[Verdict]) -> None:
        seen, tally = self._seen, self._shared.tally
        for settlement, verdict in zip(settlements, verdicts, strict=True):
            delivery = settlement.delivery
            self.held.drop(delivery)
            self.buried |= isinstance(settlement.action, Bury)
            if tally is not None:
                tally.settled(settlement, verdict)
            if seen is not None:
                seen.settled(settlement, verdict)
            if verdict == "lost" and not isinstance(settlement.action, Release):
                logger.warning(
                    "agent %r on %r, event %s: its lease had gone to another worker, so nothing of "
                    "this run is kept",
                    self.agent.name,
                    self.agent.topic,
                    delivery.id,
                    extra=about(delivery),
                )

    def _settle_apart(self) -> Callable[[list[Settlement]], Awaitable[Sequence[Verdict]]]:
        """Settles where the store is another backend: records first, then the rest in one step.

        1. Renewing says who has lost a delivery, and writes nothing; the others have a whole lease
           for what follows. Only a store that takes longer than that, while the keeper's renewals
           fail as well, lets a late record replace the one of the run that settled.
        2. Records are written before anybody can be told that the event is done.
        3. Replies, ack and notice are one step of the transport. Replies published before the
           records would be published again with each repeat, and could be answered by an agent
           that asks for a result that is not there yet.

        A crash after 1 or 2 leaves the delivery leased: it is run again, its record replaces this
        one, its replies are published once. Counters may then count it twice, as they do if a store
        wrote and its answer was lost; no order can avoid that.
        """
        # Of this batch alone: what an earlier try wrote is not counted again.
        written: set[Any] = set()

        async def settle(batch: list[Settlement]) -> Sequence[Verdict]:
            consumer = self._subscription.consumer
            deliveries = [settlement.delivery for settlement in batch]
            lost = {d.token for d in await self._shared.transport.renew(consumer, deliveries)}
            fresh = [s for s in batch if s.delivery.token not in lost | written]
            changes = [change for settlement in fresh for change in settlement.changes]
            if changes:
                await self._shared.store.write(*changes)
            written.update(settlement.delivery.token for settlement in fresh)
            return await self._subscription.settle(
                [msgspec.structs.replace(settlement, changes=()) for settlement in batch]
            )

        return settle


async def _raise_if_cancelled() -> None:
    """Raises if a scope around this task is cancelled, be it in this very turn of the loop.

    `asyncio.run` ends a loop by cancelling its tasks one by one, in any order: those within a task
    group may be told before the task that holds the group, which then cancels its scope.
    """
    await checkpoint()


def _size(settlement: Settlement) -> int:
    """About how many bytes it keeps in memory: the body, and the record, which comes first."""
    first = settlement.changes[0] if settlement.changes else None
    kept = first.value if isinstance(first, Write) and first.value else b""
    return len(settlement.delivery.body) + len(kept)


def _ctrl_c_raises() -> bool:
    """Whether a KeyboardInterrupt can come from a terminal; else the handler itself raised it."""
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


class _Pace:
    """How fast runs end, and so how many more deliveries will start within 50 ms.

    Among 200 busy agents each one's runs end rarely, and by their rate alone each would fetch and
    settle a handful at a time, which costs three times as much per event. What counts for short
    runs is how long they take, not how long they wait for their turn.
    """

    def __init__(self, consumers: int) -> None:
        self._consumers = consumers
        self._mean: float | None = None
        self._rate = 0.0
        self._size = 0.0
        self._ended = 0
        self._since = time.perf_counter()

    def saw(self, deliveries: Sequence[Delivery]) -> None:
        """Remembers how large bodies are, so that the prefetch stays small in memory, too."""
        if deliveries:
            size = sum(len(delivery.body) for delivery in deliveries) / len(deliveries)
            self._size = size if not self._size else 0.8 * self._size + 0.2 * size

    def finished(self, seconds: float) -> None:
        """A run took this long."""
        self._ended += 1
        mean = self._mean
        self._mean = seconds if mean is None else mean + 0.1 * (seconds - mean)

    def stalled(self) -> None:
        """What was fetched ahead did not start: until runs end again, nothing is."""
        self._rate = 0.0
        self._ended = 0
        self._mean = None

    def prefetch(self) -> int:
        """Deliveries to hold beyond the free slots; none for slow handlers."""
        now = time.perf_counter()
        passed = now - self._since
        if self._ended and passed > 0.001:
            self._rate += 0.3 * (self._ended / passed - self._rate)
            self._ended = 0
            self._since = now
        mean = self._mean
        if mean is None or mean > PREFETCH_SECONDS:
            return 0
        most = min(PREFETCH_MOST, PREFETCH_BYTES // max(1.0, self._size))
        short = min(PREFETCH_FAST, self._consumers * PREFETCH_SECONDS / max(mean, 1e-6))
        ahead = max(self._rate * PREFETCH_SECONDS, short)
        return int(min(most, ahead))


def _composed(agent: Agent, middleware: Sequence[Middleware]) -> CallNext:
    """The handler with its timeout, and the middleware around it, the first outermost."""
    run = agent.binding.runner(CapacityLimiter(agent.consumers))
    call: CallNext = run if agent.timeout is None else partial(_timed, agent, run, agent.timeout)
    for layer in reversed(middleware):
        call = partial(_layered, layer, call)
    return call


async def _layered(layer: Middleware, call_next: CallNext, ctx: Context) -> Any:
    return await layer(ctx, call_next)


async def _timed(agent: Agent, run: CallNext, timeout: float, ctx: Context) -> Any:
    late = TimeoutError(f"agent {agent.name!r} ran for longer than its timeout of {timeout} s")
    if not agent.binding.is_async:
        # A thread cannot be cancelled: it keeps its slot to the end, and then counts as failed.
        started = anyio.current_time()
        value = await run(ctx)
        if anyio.current_time() - started > timeout:
            raise late
        return value
    scope = anyio.move_on_after(timeout)
    try:
        with scope:
            try:
                value = await run(ctx)
            except anyio.get_cancelled_exc_class() as cancelled:
                late = late.with_traceback(cancelled.__traceback__)  # what it was waiting for
                raise
    except Exception as error:
        if scope.cancel_called:  # what the handler made of being cancelled
            raise late from error
        raise
    else:
        if scope.cancel_called:
            raise late
        return value
    finally:
        del late  # its traceback leads to here: the handler's locals would stay for the collector
