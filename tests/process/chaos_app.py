"""The app that the crash tests kill: two agents on one topic, and a reply from each."""

import os
import random
import time
from typing import Any

import anyio

from omnidaemon import App, Backoff, Context

if "CHAOS_SILENT" in os.environ:  # a dead connection is noticed sooner than users want it to be
    from omnidaemon.drivers import redis, redis_address, redis_ears

    redis.SILENT_SECONDS = redis_ears.SILENT_SECONDS = float(os.environ["CHAOS_SILENT"])
    redis_address.CONNECT_SECONDS = redis.SILENT_SECONDS / 2

app = App("chaos", transport=os.environ.get("CHAOS_URL", "memory"))


@app.agent("chaos.work", consumers=10, lease=2, backoff=Backoff(initial=0.1, maximum=0.2))
async def work(n: int, ctx: Context) -> Any:
    """Takes up to 20 ms; every tenth event fails on its first run. -5 takes five seconds."""
    await anyio.sleep(-n if n < 0 else random.random() * 0.02)
    if n % 10 == 0 and ctx.attempt == 1:
        raise ValueError("fails once")
    return {"n": n, "agent": "work"}


@app.agent("chaos.work", consumers=2, lease=2)
def compute(n: int) -> Any:
    """Computes in a thread for a moment."""
    until = time.perf_counter() + 0.001
    while time.perf_counter() < until:
        pass
    return {"n": n, "agent": "compute"}
