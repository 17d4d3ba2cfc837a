"""The apps that the benchmarks run, in workers of their own."""

from __future__ import annotations

import os
import time
from typing import Any

from omnidaemon import App

url = os.environ.get("BENCH_URL", "memory")
app = App("bench", transport=url)
many = App("many", transport=url)


@app.agent("noop", consumers=int(os.environ.get("BENCH_CONSUMERS", "100")))
async def noop(content: Any) -> dict[str, bool]:
    """Does nothing, and returns something to be stored."""
    return {"ok": True}


@app.agent("clock", consumers=10)
async def clock(content: Any) -> float:
    """Returns when it started."""
    return time.time()


for number in range(200):
    many.agent(f"idle.{number}", name="idle")(noop)
