"""Huey: greenlets, and one thread for one task at a time."""

from __future__ import annotations

import contextlib
import os
import time

from harness import CONSUMERS, NAP, URL, Peer

if os.environ.get("BENCH_GREENLETS"):
    from gevent import monkey

    monkey.patch_all()

from huey import RedisHuey

huey = RedisHuey("bench", url=URL, notify_result=True)


@huey.task()
def noop(n: int) -> dict[str, bool]:
    return {"ok": True}


@huey.task()
def nap(n: int) -> dict[str, bool]:
    time.sleep(NAP)
    return {"ok": True}


@huey.task()
def clock() -> float:
    return time.time()


TASKS = {"noop": noop, "nap": nap}
MANY = CONSUMERS > 1
KIND = ["-k", "greenlet", "-w", str(CONSUMERS)] if MANY else ["-k", "thread", "-w", "1"]


def send(name: str) -> None:
    TASKS[name](1)


def ask() -> float:
    started: float = clock().get(blocking=True, timeout=30)
    return started


PEER = Peer(
    worker=["-m", "huey.bin.huey_consumer", "on_huey.huey", *KIND, "--no-periodic", "--quiet"],
    connect=contextlib.nullcontext,
    send=send,
    ask=ask,
    environment=(("BENCH_GREENLETS", "1"),) if MANY else (),
)
