"""Runs one driver: `python run.py on_saq worker|prepare|preload|enqueue|latency …`; prints JSON."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from harness import Peer, use_uvloop

SENDERS = 100
BATCH = 500
WARM_UP = 20
PAUSE = 0.02  # seconds between two questions: low load


async def value(result: Any) -> Any:
    """The result of a function that may be async."""
    return await result if inspect.isawaitable(result) else result


async def preload(peer: Peer, name: str, count: int) -> dict[str, float]:
    """Sends so many tasks by the quickest way that the peer offers."""
    if peer.send_batch:
        for start in range(0, count, BATCH):
            await value(peer.send_batch(name, min(BATCH, count - start)))
        return {}
    if not inspect.iscoroutinefunction(peer.send):
        for _ in range(count):
            peer.send(name)
        return {}
    left = iter(range(count))

    async def sender() -> None:
        for _ in left:
            await peer.send(name)

    await asyncio.gather(*(sender() for _ in range(SENDERS)))
    return {}


async def enqueue(peer: Peer, mode: str, seconds: float) -> dict[str, float]:
    """Tasks stored per second: one by one, by 100 senders at once, or in batches of 500."""
    await value(peer.send("noop"))  # connections, scripts
    began = time.perf_counter()
    end = began + seconds
    if mode == "single":
        count = await _one_by_one(peer, end)
    elif mode == "batch":
        assert peer.send_batch is not None
        count = 0
        while time.perf_counter() < end:
            await value(peer.send_batch("noop", BATCH))
            count += BATCH
    elif inspect.iscoroutinefunction(peer.send):
        count = sum(await asyncio.gather(*(_one_by_one(peer, end) for _ in range(SENDERS))))
    else:
        with ThreadPoolExecutor(SENDERS) as threads:
            count = sum(threads.map(_blocking, [peer] * SENDERS, [end] * SENDERS))
    return {"per_second": count / (time.perf_counter() - began)}


async def _one_by_one(peer: Peer, end: float) -> int:
    if not inspect.iscoroutinefunction(peer.send):
        return _blocking(peer, end)
    count = 0
    while time.perf_counter() < end:
        await peer.send("noop")
        count += 1
    return count


def _blocking(peer: Peer, end: float) -> int:
    count = 0
    while time.perf_counter() < end:
        peer.send("noop")
        count += 1
    return count


async def latency(peer: Peer, count: int) -> dict[str, list[float]]:
    """Seconds until the handler starts, and until its result is here, for each of so many."""
    for _ in range(WARM_UP):
        await value(peer.ask())
    starts, ends = [], []
    for _ in range(count):
        await asyncio.sleep(PAUSE)
        sent = time.time()
        started = await value(peer.ask())
        ends.append(time.time() - sent)
        starts.append(started - sent)
    return {"starts": starts, "ends": ends}


async def connected(peer: Peer, command: str, arguments: list[str]) -> Any:
    """Runs one command while the peer's client is open."""
    async with contextlib.AsyncExitStack() as stack:
        context = peer.connect()
        if isinstance(context, contextlib.AbstractAsyncContextManager):
            await stack.enter_async_context(context)
        else:
            stack.enter_context(context)
        if command == "preload":
            return await preload(peer, arguments[0], int(arguments[1]))
        if command == "enqueue":
            return await enqueue(peer, arguments[0], float(arguments[1]))
        if command == "latency":
            return await latency(peer, int(arguments[0]))
        assert command == "prepare"
        return await value(peer.prepare()) if peer.prepare else None


def main() -> None:
    """Reads the command line."""
    module, command, *arguments = sys.argv[1:]
    peer: Peer = importlib.import_module(module).PEER
    if command == "worker":
        # In place of this process: the worker is what is measured, and what gets the signals.
        environment = {**os.environ, **dict(peer.environment)}
        os.execve(sys.executable, [sys.executable, *peer.worker], environment)
    use_uvloop()
    print(json.dumps(asyncio.run(connected(peer, command, arguments))))


if __name__ == "__main__":
    main()
