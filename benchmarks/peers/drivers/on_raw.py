"""No framework: what an expert writes by hand on redis-py, with results."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from harness import URL, Peer
from redis.asyncio import Redis
from redis.exceptions import ResponseError

encode, decode = msgspec.msgpack.encode, msgspec.msgpack.decode
clients: list[Any] = []
numbers = itertools.count()


async def noop(content: Any) -> dict[str, bool]:
    return {"ok": True}


async def clock(content: Any) -> float:
    return time.time()


HANDLERS = {"noop": noop, "clock": clock}


async def group(redis: Any) -> None:
    try:
        await redis.xgroup_create("raw", "bench", id="0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


async def work() -> None:
    """Reads 100, runs each, stores all results and acknowledges in one round trip."""
    redis: Any = Redis.from_url(URL, socket_timeout=None)
    await group(redis)
    while True:
        found = await redis.xreadgroup("bench", "one", {"raw": ">"}, count=100, block=5000)
        for _, entries in found or ():
            pipeline = redis.pipeline(transaction=False)
            for _, fields in entries:
                body = decode(fields[b"d"])
                result = encode(await HANDLERS[body["name"]](body["content"]))
                pipeline.set(f"result:{body['id']}", result, ex=3600)
                if body["reply"]:
                    pipeline.rpush(body["reply"], result)
            pipeline.xack("raw", "bench", *[entry for entry, _ in entries])
            await pipeline.execute()


async def read() -> None:
    """Reads 100 and acknowledges them; nothing else."""
    redis: Any = Redis.from_url(URL, socket_timeout=None)
    await group(redis)
    while True:
        found = await redis.xreadgroup("bench", "one", {"raw": ">"}, count=100, block=5000)
        for _, entries in found or ():
            await redis.xack("raw", "bench", *[entry for entry, _ in entries])


@contextlib.asynccontextmanager
async def connect() -> AsyncIterator[None]:
    async with Redis.from_url(URL, max_connections=200) as redis:
        clients.append(redis)
        yield


def body(name: str, reply: str = "") -> dict[str, bytes]:
    return {"d": encode({"id": next(numbers), "name": name, "content": {"n": 1}, "reply": reply})}


async def send(name: str) -> None:
    await clients[0].xadd("raw", body(name))


async def send_batch(name: str, count: int) -> None:
    pipeline = clients[0].pipeline(transaction=False)
    for _ in range(count):
        pipeline.xadd("raw", body(name))
    await pipeline.execute()


async def ask() -> float:
    reply = f"reply:{next(numbers)}"
    await clients[0].xadd("raw", body("clock", reply))
    answer = await asyncio.wait_for(clients[0].blpop(reply), 30)
    started: float = decode(answer[1])
    return started


PEER = Peer(
    worker=["-c", "import uvloop, on_raw; uvloop.run(on_raw.work())"],
    connect=connect,
    send=send,
    ask=ask,
    send_batch=send_batch,
)
