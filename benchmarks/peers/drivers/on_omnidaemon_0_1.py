"""The omnidaemon 0.1.1 of the package index: an older, different project."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from harness import CONSUMERS, NAP, URL, Peer
from redis.asyncio import Redis

from omnidaemon import AgentConfig, EventEnvelope, OmniDaemonSDK, PayloadBase, SubscriptionConfig

sdk = OmniDaemonSDK()
AGENTS = ("noop", "nap", "clock")


async def noop(message: dict[str, Any]) -> dict[str, Any]:
    return {"ok": True}


async def nap(message: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(NAP)
    return {"ok": True}


async def clock(message: dict[str, Any]) -> dict[str, Any]:
    return {"at": time.time()}


async def prepare() -> None:
    """The groups that its worker makes at "$": what is sent earlier would never be delivered."""
    async with Redis.from_url(URL) as redis:
        for name in AGENTS:
            stream = f"omni-stream:{name}"
            await redis.xgroup_create(stream, f"group:{name}:{name}", id="$", mkstream=True)


@contextlib.asynccontextmanager
async def connect() -> AsyncIterator[None]:
    yield
    await sdk.shutdown()


async def send(name: str) -> str:
    event = EventEnvelope(topic=name, payload=PayloadBase(content={"n": 1}))
    task_id: str = await sdk.publish_task(event_envelope=event)
    return task_id


async def ask() -> float:
    task_id = await send("clock")
    while (record := await sdk.get_result(task_id)) is None:
        await asyncio.sleep(0.001)
    while "at" not in record:  # wrapped, once or twice
        record = record.get("result") or record.get("data")
    at: float = record["at"]
    return at


async def work() -> None:
    # It runs ten at once for each consumer.
    settings = SubscriptionConfig(consumer_count=max(1, CONSUMERS // 10))
    for function in (noop, nap, clock):
        name = function.__name__
        agent = AgentConfig(topic=name, name=name, callback=function, config=settings)
        await sdk.register_agent(agent_config=agent)
    await sdk.start()
    await asyncio.Event().wait()


PEER = Peer(
    worker=["-c", "import asyncio, uvloop, on_omnidaemon_0_1 as m; uvloop.run(m.work())"],
    connect=connect,
    send=send,
    ask=ask,
    prepare=prepare,
)
