"""Streaq."""

from __future__ import annotations

import time

import anyio
from harness import CONSUMERS, NAP, URL, Peer
from streaq import Worker

worker: Worker[None] = Worker(
    redis_url=URL, concurrency=CONSUMERS, anyio_kwargs={"use_uvloop": True}
)


@worker.task(silent=True, ttl=3600)
async def noop(n: int) -> dict[str, bool]:
    return {"ok": True}


@worker.task(silent=True, ttl=3600)
async def nap(n: int) -> dict[str, bool]:
    await anyio.sleep(NAP)
    return {"ok": True}


@worker.task(silent=True, ttl=3600)
async def clock() -> float:
    return time.time()


TASKS = {"noop": noop, "nap": nap}


async def send(name: str) -> None:
    await TASKS[name].enqueue(1)


async def send_batch(name: str, count: int) -> None:
    await worker.enqueue_many([TASKS[name].enqueue(n) for n in range(count)])


async def ask() -> float:
    task = await clock.enqueue()
    started: float = (await task.result(30)).result
    return started


PEER = Peer(
    worker=["-m", "streaq", "run", "on_streaq:worker"],
    connect=lambda: worker,
    send=send,
    ask=ask,
    send_batch=send_batch,
)
