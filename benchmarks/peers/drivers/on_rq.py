"""RQ: its SimpleWorker, which does not fork for each task; one at a time is all it has."""

from __future__ import annotations

import contextlib
import time

from harness import URL, Peer
from redis import Redis
from rq import Queue
from rq.results import Result

queue = Queue("bench", connection=Redis.from_url(URL))


def noop(n: int) -> dict[str, bool]:
    return {"ok": True}


def clock() -> float:
    return time.time()


TASKS = {"noop": noop}


def send(name: str) -> None:
    queue.enqueue(TASKS[name], 1, result_ttl=3600)


def send_batch(name: str, count: int) -> None:
    function = TASKS[name]
    queue.enqueue_many([Queue.prepare_data(function, (n,), result_ttl=3600) for n in range(count)])


def ask() -> float:
    task = queue.enqueue(clock, result_ttl=3600)
    result = Result.fetch_latest(task, timeout=30)
    assert result is not None
    started: float = result.return_value
    return started


PEER = Peer(
    worker=[
        *("-m", "rq.cli", "worker", "bench", "--url", URL, "--worker-class", "rq.SimpleWorker"),
        *("--quiet", "--disable-job-desc-logging"),
    ],
    connect=contextlib.nullcontext,
    send=send,
    ask=ask,
    send_batch=send_batch,
)
