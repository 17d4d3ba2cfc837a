"""Who takes part: packages, settings, limits, and how settled tasks are counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

# (client, number of tasks sent, their name) -> how many of them are settled, by an O(1) command
Settled = Callable[[Any, int, str], int]


@dataclass(frozen=True)
class Entry:
    """One who takes part.

    Args:
        name: As the tables call it; its driver is `drivers/on_NAME.py`.
        packages: What pip installs.
        settled: Counts tasks that are done for good: result stored and message acknowledged.
        results: Pattern of its keys that hold one result each, or the one hash of all; None
            where `settled` counts results.
        settings: What it was given for throughput, in words.
        kind: "ours", "peer" or "raw"; ratios are to the best peer and to raw.
        levels: How many tasks at once its worker can be set to run.
        batch: It can send many tasks in one round trip.
        measures: What it is measured in; empty for all.
        most: The most messages that it holds without dropping some, 0 for no bound.
    """

    name: str
    packages: tuple[str, ...]
    settled: Settled
    results: str | None
    settings: str
    kind: str = "peer"
    levels: tuple[int, ...] = (100, 3, 1)
    batch: bool = False
    measures: tuple[str, ...] = ()
    most: int = 0

    def takes_part(self, measure: str, level: int = 0) -> bool:
        """Whether it is measured in this, with so many tasks at once."""
        if self.measures and measure not in self.measures:
            return False
        if measure == "enqueue batch" and not self.batch:
            return False
        return not level or level in self.levels


def acknowledged(stream: str, group: str) -> Settled:
    """Entries of a stream that its group has read and acknowledged; {task} in names is the task."""

    def count(client: Any, sent: int, task: str) -> int:
        key, name = stream.format(task=task), group.format(task=task)
        if not client.exists(key):
            return 0
        for found in client.xinfo_groups(key):
            if found["name"] == name.encode():
                return int(found["entries-read"] or 0) - int(found["pending"])
        return 0

    return count


def gone(command: str, *keys: str) -> Settled:
    """Tasks that are no longer in what holds the unsettled ones."""
    return lambda client, sent, task: (
        sent - sum(client.execute_command(command, key) for key in keys)
    )


def kept(command: str, key: str) -> Settled:
    """Tasks that are in what holds the settled ones."""
    return lambda client, sent, task: int(client.execute_command(command, key))


def celery(client: Any, sent: int, task: str) -> int:
    """With late acknowledgement a task is in the queue or unacknowledged until it is settled."""
    with client.pipeline() as pipeline:  # at one moment: a task moves from one to the other
        return sent - int(sum(pipeline.llen("celery").hlen("unacked").execute()))


FAST = ("redis", "hiredis", "uvloop")

ENTRIES = (
    Entry(
        "omnidaemon",
        ("-e", f"{ROOT}[redis,fast]"),
        acknowledged("omni-stream:{task}", "{task}"),
        "omni-records:results",
        "this checkout with the extras redis and fast; `omnidaemon worker`, consumers=N",
        kind="ours",
        batch=True,
    ),
    Entry(
        "omnidaemon_0_1",
        ("omnidaemon==0.1.1", "redis<8", "hiredis", "uvloop"),
        acknowledged("omni-stream:{task}", "group:{task}:{task}"),
        "omni:result:*",
        "Redis for results too; redis-py below 8, whose time limit breaks its blocking reads; "
        "consumer_count=10, which runs 100 at once, and 10 is the fewest; uvloop; keeps 10,000 "
        "messages at most",
        levels=(100,),
        most=10_000,
    ),
    Entry(
        "taskiq",
        ("taskiq[orjson,uv]", "taskiq-redis", *FAST),
        acknowledged("taskiq", "taskiq"),
        "????????????????????????????????",
        "stream broker, xread_count=100, ORJSONSerializer, result_ex_time=3600; --workers 1 "
        "--no-parse --max-async-tasks N --max-prefetch 100; uvloop; results asked for each 1 ms",
    ),
    Entry(
        "streaq",
        ("streaq", *FAST),
        kept("ZCARD", "streaq:default:index:results"),
        "streaq:default:task:results:*",
        "concurrency=N (it prefetches as many again), silent tasks, ttl=3600; uvloop",
        batch=True,
    ),
    Entry(
        "saq",
        ("saq[redis,hiredis]", "typing_extensions", "redis", "uvloop"),
        gone("ZCARD", "saq:default:incomplete"),
        "saq:job:default:*",
        "concurrency=N, max_concurrent_ops=100, ttl=3600; uvloop",
    ),
    Entry(
        "arq",
        ("arq", "hiredis", "uvloop"),
        gone("ZCARD", "arq:queue"),
        "arq:result:*",
        "max_jobs=N, poll_delay=0.01 (0.5 by default), queue_read_limit=5N (at least 100), "
        "log_results=False, keep_result=3600; uvloop; results asked for each 1 ms",
    ),
    Entry(
        "dramatiq",
        ("dramatiq[redis,gevent]", "redis", "hiredis"),
        gone("HLEN", "dramatiq:default.msgs"),
        "????????????????????????????????",
        "dramatiq-gevent -p 1 -t N (it prefetches twice as many), Results with RedisBackend",
    ),
    Entry(
        "celery",
        ("celery[redis]", "hiredis"),
        celery,
        "celery-task-meta-*",
        "--pool threads -c N (solo for 1), prefetch multiplier 10 (128 for 1), acks_late, without "
        "gossip, mingle and heartbeat; result_expires=3600",
    ),
    Entry(
        "faststream",
        ("faststream[redis,cli]", *FAST),
        kept("XLEN", "results"),
        None,
        "stream subscriber in a group, max_workers=N, max_records=100, return values published "
        "to a stream; batches by a pipeline; uvloop",
        batch=True,
    ),
    Entry(
        "huey",
        ("huey", "gevent", "redis", "hiredis"),
        kept("HLEN", "huey.results.bench"),
        None,
        "-k greenlet -w N (one thread for 1), blocking pop, notify_result, --no-periodic",
    ),
    Entry(
        "rq",
        ("rq", "redis", "hiredis"),
        kept("ZCARD", "rq:finished:bench"),
        "rq:results:*",
        "SimpleWorker (no fork for each task); it has one at a time only; result_ttl=3600",
        levels=(1,),
        batch=True,
    ),
    Entry(
        "docket",
        ("pydocket", *FAST),
        acknowledged("bench:stream", "docket-workers"),
        "bench:results:*",
        "concurrency=N, message_batch=1000 (its default), minimum_check_interval of 10 ms, 500 "
        "connections; uvloop; add_many for batches",
        batch=True,
    ),
    Entry(
        "raw",
        ("msgspec", *FAST),
        acknowledged("raw", "bench"),
        "result:*",
        "by hand: XREADGROUP COUNT 100, msgspec, the handler, SET EX and XACK in one pipeline",
        kind="raw",
        levels=(100,),
        batch=True,
        measures=("drain", "enqueue single", "enqueue 100", "enqueue batch", "latency", "start"),
    ),
    Entry(
        "raw_read",
        ("msgspec", *FAST),
        acknowledged("raw", "bench"),
        None,
        "XREADGROUP COUNT 100 and XACK, nothing decoded, run or stored",
        kind="limit",
        levels=(100,),
        batch=True,
        measures=("drain",),
    ),
)
