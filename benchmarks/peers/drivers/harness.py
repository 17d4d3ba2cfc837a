"""What a driver is: how one peer is started, sent to and asked; imports no package."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Any

URL = os.environ.get("BENCH_URL", "redis://127.0.0.1:6379/0")
CONSUMERS = int(os.environ.get("BENCH_CONSUMERS", "100"))
NAP = 0.05  # seconds a "nap" takes

Context = AbstractAsyncContextManager[Any] | AbstractContextManager[Any]


@dataclass(frozen=True)
class Peer:
    """One peer; its functions are all async or all not.

    Args:
        worker: What follows `python` on the command line of a worker, CONSUMERS tasks at once.
        connect: Opens what `send` and `ask` use.
        send: Sends one task, "noop" or "nap", and returns when it is stored.
        ask: Sends a "clock" task, waits for its result: the time at which the handler started.
        send_batch: The same as `send` for many tasks in as few round trips as the API allows.
        prepare: Run once before anything is sent, where a peer needs that.
        environment: Variables of the worker.
    """

    worker: Sequence[str]
    connect: Callable[[], Context]
    send: Callable[[str], Any]
    ask: Callable[[], Any]
    send_batch: Callable[[str, int], Any] | None = None
    prepare: Callable[[], Any] | None = None
    environment: tuple[tuple[str, str], ...] = ()


def use_uvloop() -> None:
    """For workers whose command has no switch for it: uvloop is what asyncio makes from now on."""
    if importlib.util.find_spec("uvloop"):
        uvloop = importlib.import_module("uvloop")
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
