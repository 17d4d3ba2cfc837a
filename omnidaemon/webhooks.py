"""Webhooks: the outcome of a run as an event on an internal topic, and the agent that posts it.

The event is published by the settlement of the run, so it exists exactly if the run is settled.
What posts it is an agent like others, which gets retries, leases and dead letters from the worker.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio
import msgspec
from msgspec import Raw, Struct

from omnidaemon.agents import Agent
from omnidaemon.binding import Binding
from omnidaemon.context import Context
from omnidaemon.envelope import INTERNAL, Envelope, encode
from omnidaemon.errors import PayloadError, Retry
from omnidaemon.messages import Delivery, Message
from omnidaemon.outcomes import Backoff, Cause, RetryPolicy
from omnidaemon.posting import Answer, Post, Sender, Undeliverable, Undelivered
from omnidaemon.records import iso
from omnidaemon.telemetry.sending import created, posting
from omnidaemon.telemetry.signals import active
from omnidaemon.webhook_rules import Target, parse_target, retry_after, signature, verdict

TOPIC = f"{INTERNAL}webhooks"
AGENT = "deliver"

SCHEDULE = RetryPolicy(retries=19, backoff=Backoff(5.0, 3.0, 6 * 3600.0, jitter=0.2))
"""Five tries in the first four minutes, for a receiver that restarts; eight in the first three
hours, for one that somebody mends; then one every six hours, so that one that broke on a Friday
evening gets its events on Monday. Given up after three days."""

LEASE = 60.0
RETRY_AFTER_MOST = 86_400.0
AT_ONCE = 256
"""Deliveries in a worker's hands: a receiver that hangs holds at most HOST_POSTS + HOST_WAITS of
them, so that sixteen such receivers delay nobody else."""
HOST_POSTS = 8
HOST_WAITS = 8
PATIENCE = 30.0


class Hook(Struct, frozen=True):
    """What the receiver is told, and where: the content of an event on the internal topic."""

    url: str
    task_id: str
    status: Literal["success", "error"]
    result: Raw
    error: str | None
    topic: str
    agent: str
    correlation_id: str | None
    timestamp: str

    @property
    def body(self) -> bytes:
        """The JSON that is posted, the same on every try."""
        told: dict[str, Any] = {
            "task_id": self.task_id,
            "status": self.status,
            "result": self.result,
            "data": self.result,
            "error": self.error,
            "topic": self.topic,
            "agent": self.agent,
            "correlation_id": self.correlation_id,
            "timestamp": self.timestamp,
        }
        return msgspec.json.encode(told)


def hand_over(
    url: str,
    envelope: Envelope,
    delivery: Delivery,
    *,
    result: bytes,
    cause: Cause | None,
    finished_at: float,
) -> Message:
    """The event that has the outcome of a finished run posted, to be published by its settlement.

    Its id is made of the task, the agent and the replay: who hands the same outcome over twice
    (after a crash, where settling is no single step) makes an event that the receiver recognises.
    """
    hook = Hook(
        url,
        envelope.id,
        "success" if cause is None else "error",
        Raw(result),
        None if cause is None else f"{cause.type}: {cause.message}",
        delivery.topic,
        delivery.group,
        envelope.correlation_id,
        iso(finished_at),
    )
    named = msgspec.json.encode((envelope.id, delivery.topic, delivery.group, delivery.replays))
    event = Envelope(
        TOPIC,
        Raw(msgspec.json.encode(hook)),
        f"msg_{hashlib.sha256(named).hexdigest()[:32]}",
        tenant_id=envelope.tenant_id,
        correlation_id=envelope.correlation_id or envelope.id,
        causation_id=envelope.id,
        source=envelope.source,
        headers=envelope.headers,
    )
    signals = active()
    if signals is not None:
        event = created(signals, event)
    # Always JSON: results are, and need not be encoded again.
    return Message(event.topic, event.id, encode(event, "json"))


def webhook_agent(send: Sender, keys: tuple[bytes, ...]) -> Agent:
    """The agent that posts outcomes; `keys` sign them."""
    return Agent(
        topic=TOPIC,
        name=AGENT,
        binding=Binding(_Deliveries(send, keys).deliver),
        consumers=AT_ONCE,
        policy=SCHEDULE,
        lease=LEASE,
        start="oldest",
        description="Posts outcomes to webhooks.",
    )


class _Deliveries:
    """Posts what it is handed, in turns: no host gets more than its share of the slots."""

    def __init__(self, send: Sender, keys: tuple[bytes, ...]) -> None:
        self._send = send
        self._keys = keys
        self._lines: dict[tuple[str, int], _Line] = {}

    async def deliver(self, ctx: Context) -> None:
        try:
            hook = msgspec.json.decode(ctx.raw, type=Hook)
        except msgspec.MsgspecError as error:
            raise Undeliverable(f"this is no outcome of a task: {error}") from error
        about = f"(task {hook.task_id}, agent {hook.agent!r} on {hook.topic!r})"
        try:
            target = parse_target(hook.url)
            async with self._turn(target):
                await self._post(ctx, hook, target)
        except Undelivered as error:
            raise Undelivered(f"{error} {about}", delay=error.delay) from error
        except (Undeliverable, PayloadError) as error:
            raise Undeliverable(f"{error} {about}") from error

    async def _post(self, ctx: Context, hook: Hook, target: Target) -> None:
        body, now = hook.body, time.time()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "omnidaemon",
            "webhook-id": ctx.id,
            "webhook-timestamp": str(int(now)),
        }
        if self._keys:
            headers["webhook-signature"] = signature(self._keys, ctx.id, int(now), body)
        answer = await self._tell(Post(target, headers, body))
        match verdict(answer.status):
            case "delivered":
                return
            case "again":
                delay = SCHEDULE.backoff.delay(ctx.attempt, random.random())
                asked = retry_after(answer.retry_after, now, RETRY_AFTER_MOST)
                # The receiver says when at the earliest; our schedule, how long we go on.
                raise Undelivered(
                    f"{target.shown} answered {answer.status}", delay=max(delay, asked or 0.0)
                )
            case "never":
                more = ", and redirects are not followed" if answer.status < 400 else ""
                raise Undeliverable(f"{target.shown} answered {answer.status}{more}")

    async def _tell(self, post: Post) -> Answer:
        signals = active()
        if signals is None:
            return await self._send(post)
        target = post.target
        with posting(signals, target.host, target.port, post.headers) as (headers, answered):
            answer = await self._send(msgspec.structs.replace(post, headers=headers))
            answered(answer.status)
            return answer

    @asynccontextmanager
    async def _turn(self, target: Target) -> AsyncIterator[None]:
        """Waits for the host's turn a while, or puts the event off, which charges nothing."""
        key = target.host, target.port
        line = self._lines.setdefault(key, _Line())
        if line.length >= HOST_POSTS + HOST_WAITS:
            raise line.postponed(target)
        line.length += 1
        try:
            await line.join(target)
            started = anyio.current_time()
            try:
                yield
            finally:
                line.leave(anyio.current_time() - started)
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[key]


class _Line:
    """Those that want to post to one host, or do."""

    def __init__(self) -> None:
        self.length = 0
        self._mean = 0.25
        self._places = anyio.Semaphore(HOST_POSTS)

    async def join(self, target: Target) -> None:
        """Waits for a place, or raises what puts the event off."""
        joined = False
        with anyio.move_on_after(PATIENCE):
            await self._places.acquire()
            joined = True
        if not joined:
            raise self.postponed(target)

    def leave(self, seconds: float) -> None:
        """Gives the place to the next."""
        self._mean += 0.2 * (seconds - self._mean)
        self._places.release()

    def postponed(self, target: Target) -> Retry:
        """Comes back about when those who are here now are through."""
        wait = min(PATIENCE, max(0.25, self._mean * self.length / HOST_POSTS))
        return Retry(
            f"{target.shown} has as many deliveries as it gets at a time",
            delay=wait * (0.5 + random.random()),
            charged=False,
        )
