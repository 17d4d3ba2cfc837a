"""Taskiq, with the stream broker and the result backend of taskiq-redis."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from harness import CONSUMERS, NAP, URL, Peer
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

broker = (
    RedisStreamBroker(URL, xread_count=100)
    .with_result_backend(RedisAsyncResultBackend(URL, result_ex_time=3600))
    .with_serializer(ORJSONSerializer())
)


@broker.task(task_name="noop")
async def noop(n: int) -> dict[str, bool]:
    return {"ok": True}


@broker.task(task_name="nap")
async def nap(n: int) -> dict[str, bool]:
    await asyncio.sleep(NAP)
    return {"ok": True}


@broker.task(task_name="clock")
async def clock() -> float:
    return time.time()


TASKS = {"noop": noop, "nap": nap}


@contextlib.asynccontextmanager
async def connect() -> AsyncIterator[None]:
    await broker.startup()
    yield
    await broker.shutdown()


async def send(name: str) -> None:
    await TASKS[name].kiq(1)


async def ask() -> float:
    task = await clock.kiq()
    started: float = (await task.wait_result(check_interval=0.001, timeout=30)).return_value
    return started


PEER = Peer(
    worker=[
        *("-m", "taskiq", "worker", "on_taskiq:broker", "--workers", "1", "--no-parse"),
        *("--max-async-tasks", str(CONSUMERS), "--max-prefetch", "100", "--log-level", "WARNING"),
    ],
    connect=connect,
    send=send,
    ask=ask,
)
