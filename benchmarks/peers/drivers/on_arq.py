"""Arq."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from harness import CONSUMERS, NAP, URL, Peer, use_uvloop

use_uvloop()
pools: list[ArqRedis] = []


async def noop(ctx: Any, n: int) -> dict[str, bool]:
    return {"ok": True}


async def nap(ctx: Any, n: int) -> dict[str, bool]:
    await asyncio.sleep(NAP)
    return {"ok": True}


async def clock(ctx: Any) -> float:
    return time.time()


class Settings:
    functions = (noop, nap, clock)
    redis_settings = RedisSettings.from_dsn(URL)
    max_jobs = CONSUMERS
    keep_result = 3600
    log_results = False
    poll_delay = 0.01  # 0.5 s by default, which is what its latency would be
    queue_read_limit = max(100, 5 * CONSUMERS)


@contextlib.asynccontextmanager
async def connect() -> AsyncIterator[None]:
    pools.append(await create_pool(RedisSettings.from_dsn(URL)))
    yield
    await pools.pop().aclose()


async def send(name: str) -> None:
    await pools[0].enqueue_job(name, 1)


async def ask() -> float:
    task = await pools[0].enqueue_job("clock")
    assert task is not None
    started: float = await task.result(timeout=30, poll_delay=0.001)
    return started


PEER = Peer(worker=["-m", "arq", "on_arq.Settings"], connect=connect, send=send, ask=ask)
