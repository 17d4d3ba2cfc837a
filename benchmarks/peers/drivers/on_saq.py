"""SAQ."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from harness import CONSUMERS, NAP, URL, Peer, use_uvloop
from saq import Queue

use_uvloop()
queue = Queue.from_url(URL, max_concurrent_ops=100)


async def noop(ctx: Any, *, n: int) -> dict[str, bool]:
    return {"ok": True}


async def nap(ctx: Any, *, n: int) -> dict[str, bool]:
    await asyncio.sleep(NAP)
    return {"ok": True}


async def clock(ctx: Any) -> float:
    return time.time()


settings = {"queue": queue, "functions": [noop, nap, clock], "concurrency": CONSUMERS}


@contextlib.asynccontextmanager
async def connect() -> AsyncIterator[None]:
    await queue.connect()
    yield
    await queue.disconnect()


async def send(name: str) -> None:
    await queue.enqueue(name, n=1, ttl=3600)


async def ask() -> float:
    started: float = await queue.apply("clock", timeout=30)
    return started


PEER = Peer(worker=["-m", "saq", "on_saq.settings"], connect=connect, send=send, ask=ask)
