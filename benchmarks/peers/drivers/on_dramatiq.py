"""Dramatiq, on gevent."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from harness import CONSUMERS, NAP, URL, Peer

broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL), store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(n: int) -> dict[str, bool]:
    return {"ok": True}


@dramatiq.actor
def nap(n: int) -> dict[str, bool]:
    time.sleep(NAP)
    return {"ok": True}


@dramatiq.actor
def clock() -> float:
    return time.time()


COMMAND = str(Path(sys.executable).with_name("dramatiq-gevent"))
TASKS = {"noop": noop, "nap": nap}


def send(name: str) -> None:
    TASKS[name].send(1)


def ask() -> float:
    started: float = clock.send().get_result(block=True, timeout=30_000)
    return started


PEER = Peer(
    worker=[COMMAND, "on_dramatiq", "-p", "1", "-t", str(CONSUMERS)],
    connect=contextlib.nullcontext,
    send=send,
    ask=ask,
)
