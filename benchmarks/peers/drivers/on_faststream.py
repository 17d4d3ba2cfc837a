"""FastStream on Redis streams; return values are published to a stream of results."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub
from harness import CONSUMERS, NAP, URL, Peer
from redis.asyncio import Redis

broker = RedisBroker(URL, logger=None)
app = FastStream(broker, logger=None)
AT_ONCE: dict[str, Any] = {"max_workers": CONSUMERS} if CONSUMERS > 1 else {}


def stream(name: str) -> StreamSub[Any]:
    return StreamSub(name, group="bench", consumer="bench", last_id=">", max_records=100)


@broker.subscriber(stream=stream("noop"), **AT_ONCE)
@broker.publisher(stream="results")
async def noop(n: int) -> dict[str, bool]:
    return {"ok": True}


@broker.subscriber(stream=stream("nap"), **AT_ONCE)
@broker.publisher(stream="results")
async def nap(n: int) -> dict[str, bool]:
    await asyncio.sleep(NAP)
    return {"ok": True}


@broker.subscriber(stream=stream("clock"), **AT_ONCE)
async def clock(n: int) -> float:
    return time.time()


async def prepare() -> None:
    """The groups that its worker makes at "$": what is sent earlier would never be delivered."""
    async with Redis.from_url(URL) as redis:
        for name in ("noop", "nap", "clock"):
            await redis.xgroup_create(name, "bench", id="0", mkstream=True)


@contextlib.asynccontextmanager
async def connect() -> AsyncIterator[None]:
    await broker.connect()
    yield
    await broker.stop()


async def send(name: str) -> None:
    await broker.publish(1, stream=name)


async def send_batch(name: str, count: int) -> None:
    connection = await broker.connect()
    async with connection.pipeline(transaction=False) as pipeline:
        for n in range(count):
            await broker.publish(n, stream=name, pipeline=pipeline)
        await pipeline.execute()


async def ask() -> float:
    answer = await broker.request(1, stream="clock", timeout=30)
    return float(await answer.decode())


PEER = Peer(
    worker=["-m", "faststream", "run", "on_faststream:app", "--log-level", "warning"],
    connect=connect,
    send=send,
    ask=ask,
    send_batch=send_batch,
    prepare=prepare,
)
