"""Docket (the package pydocket)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import timedelta

from docket import Docket, Worker
from harness import CONSUMERS, NAP, URL, Peer

# The 100 connections that redis-py 8 allows by default are too few for 100 tasks at once.
ROOMY = URL + "?max_connections=500"
dockets: list[Docket] = []


async def noop(n: int) -> dict[str, bool]:
    return {"ok": True}


async def nap(n: int) -> dict[str, bool]:
    await asyncio.sleep(NAP)
    return {"ok": True}


async def clock() -> float:
    return time.time()


tasks = [noop, nap, clock]
TASKS = {"noop": noop, "nap": nap}


@contextlib.asynccontextmanager
async def connect() -> AsyncIterator[None]:
    async with Docket(name="bench", url=ROOMY) as docket:
        dockets.append(docket)
        for function in tasks:
            docket.register(function)
        yield


async def send(name: str) -> None:
    await dockets[0].add(TASKS[name])(1)


async def send_batch(name: str, count: int) -> None:
    await dockets[0].add_many([dockets[0].call(TASKS[name])(n) for n in range(count)])


async def ask() -> float:
    execution = await dockets[0].add(clock)()
    started: float = await execution.get_result(timeout=timedelta(seconds=30))
    return started


async def work() -> None:
    """What its command calls; the command takes no interval below a second."""
    await Worker.run(
        docket_name="bench",
        url=ROOMY,
        concurrency=CONSUMERS,
        minimum_check_interval=timedelta(milliseconds=10),
        tasks=["on_docket:tasks"],
    )


PEER = Peer(
    worker=["-c", "import uvloop, on_docket; uvloop.run(on_docket.work())"],
    connect=connect,
    send=send,
    ask=ask,
    send_batch=send_batch,
)
