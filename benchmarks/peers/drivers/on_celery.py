"""Celery: the thread pool, and the solo pool for one task at a time."""

from __future__ import annotations

import contextlib
import time

from celery import Celery
from harness import CONSUMERS, NAP, URL, Peer

app = Celery("bench", broker=URL, backend=URL)
app.conf.update(
    task_acks_late=True,  # at least once, as the others
    worker_prefetch_multiplier=128 if CONSUMERS == 1 else 10,
    result_expires=3600,
    broker_connection_retry_on_startup=True,
    broker_pool_limit=100,
    redis_max_connections=1000,
    worker_hijack_root_logger=False,
)


@app.task(name="noop")
def noop(n: int) -> dict[str, bool]:
    return {"ok": True}


@app.task(name="nap")
def nap(n: int) -> dict[str, bool]:
    time.sleep(NAP)
    return {"ok": True}


@app.task(name="clock")
def clock() -> float:
    return time.time()


TASKS = {"noop": noop, "nap": nap}
POOL = ["--pool", "solo"] if CONSUMERS == 1 else ["--pool", "threads", "-c", str(CONSUMERS)]


def send(name: str) -> None:
    TASKS[name].delay(1)


def ask() -> float:
    started: float = clock.delay().get(timeout=30)
    return started


PEER = Peer(
    worker=[
        *("-m", "celery", "-A", "on_celery", "worker", *POOL, "--loglevel", "WARNING"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ],
    connect=contextlib.nullcontext,
    send=send,
    ask=ask,
)
