"""OmniDaemon of this checkout."""

from __future__ import annotations

import time
from typing import Any

import anyio
from harness import CONSUMERS, NAP, URL, Peer

from omnidaemon import App

app = App("bench", transport=URL)


@app.agent("noop", consumers=CONSUMERS)
async def noop(content: Any) -> dict[str, bool]:
    return {"ok": True}


@app.agent("nap", consumers=CONSUMERS)
async def nap(content: Any) -> dict[str, bool]:
    await anyio.sleep(NAP)
    return {"ok": True}


@app.agent("clock", consumers=CONSUMERS)
async def clock(content: Any) -> float:
    return time.time()


async def send(name: str) -> None:
    await app.send(name, {"n": 1})


async def send_batch(name: str, count: int) -> None:
    await app.send_many([(name, {"n": n}) for n in range(count)])


async def ask() -> float:
    started: float = await app.request("clock", None, timeout=30)
    return started


PEER = Peer(
    worker=["-m", "omnidaemon", "worker", "on_omnidaemon:app"],
    connect=lambda: app,
    send=send,
    ask=ask,
    send_batch=send_batch,
)
