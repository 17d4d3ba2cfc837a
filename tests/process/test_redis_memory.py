"""Memory of Redis and of a worker stays flat, in every key that is written, however much passes."""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec import Struct

from omnidaemon import App
from omnidaemon.envelope import Envelope
from omnidaemon.records import RESULTS, TENANT_RESULTS, Metrics
from omnidaemon.run_index import CAUSES, CORRELATIONS, FAILURES
from tests.redis.servers import RedisServer

SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "0"))
EVENTS = 200_000 if SOAK_SECONDS else 20_000
LAPS = 4
BATCH = 250
AHEAD = 2_000
RETENTION = 200
SECONDS = 120.0 + SOAK_SECONDS

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(2 * SECONDS)]

MODULE = """
from omnidaemon import App, Backoff, Context

app = App("flat")

pause = Backoff(initial=0.05)

@app.agent("flat.work", name="work", lease=9, consumers=50, retries=1, backoff=pause)
async def work(n: int, ctx: Context):
    if n % 50 == 7 and ctx.attempt == 1:
        raise ValueError("fails once")
    if n % 50 == 9:
        raise ValueError("fails twice")
    return {"n": n}

@app.agent("flat.work", name="sync", lease=9, consumers=4)
def sync(n: int):
    return n

@app.agent("flat.replies", name="listener", lease=9, consumers=50)
async def listener(content):
    return None
"""


class Sample(Struct):
    """What is held when nothing is under way.

    Attributes:
        keys: Bytes by kind of key, such as `omni-stream:flat.work`.
        count: How many keys there are.
        redis: Bytes of Redis's data.
        worker: Bytes of the worker that are in memory.
    """

    keys: dict[str, int]
    count: int
    redis: int
    worker: int


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_memory_stays_flat_in_every_key_and_in_the_worker(
    tmp_path: Path,
    start: Any,
    server: RedisServer,
    app: App,
    client: Any,
    record_property: Callable[[str, object], None],
) -> None:
    (tmp_path / "flat.py").write_text(MODULE, "utf-8")
    worker = start(
        "worker",
        "flat:app",
        REDIS_URL=server.url,
        OMNIDAEMON_RETENTION=str(RETENTION),
        OMNIDAEMON_RESULT_TTL="1",
        LOG_LEVEL="CRITICAL",
    )
    samples: list[Sample] = []
    for lap in range(LAPS):
        await drive(app, lap * EVENTS // LAPS, EVENTS // LAPS)
        samples.append(await at_rest(app, client, worker.pid))
    first, last = samples[0], samples[-1]
    for sample in samples:
        record_property("sample", repr(sample))
        print(sample)
    totals = (await Metrics(app.store).totals("flat.work"))["flat.work"]
    assert totals["sync"].processed == EVENTS  # it did pass through
    assert totals["work"].processed + totals["work"].dead == EVENTS
    assert totals["work"].failed == 3 * EVENTS // 50
    assert last.count <= first.count
    grown = {
        kind: (first.keys.get(kind, 0), size)
        for kind, size in last.keys.items()
        # A stream's last node and a hash table's size vary; what leaks grows by every event.
        if size > 1.5 * first.keys.get(kind, 0) + 16_384
    }
    assert grown == {}
    assert last.redis <= 1.25 * first.redis + 200_000
    assert last.worker <= 1.15 * first.worker + 4_000_000


async def drive(app: App, first: int, events: int) -> None:
    """Publishes so many, never too far ahead, at once and delayed, with and without replies."""
    for start in range(first, first + events, BATCH):
        batch = [
            Envelope("flat.work", n, reply_to="flat.replies" if n % 10 == 0 else None)
            for n in range(start, start + BATCH)
        ]
        await app.send_many(batch, delay=0.05 if start // BATCH % 10 == 3 else None)
        await until_less(app, AHEAD)
    await until_less(app, 1)


async def until_less(app: App, most: int) -> None:
    """Waits until no group has so many to do."""
    deadline = time.monotonic() + SECONDS
    while True:
        found = [*await app.transport.groups("flat.work")]
        found += await app.transport.groups("flat.replies")
        delayed = sum(topic.delayed for topic in await app.transport.topics())
        open_ = [delayed + group.lag + group.leased + group.waiting for group in found]
        if found and max(open_) < most:
            return
        assert time.monotonic() < deadline, found
        await anyio.sleep(0.01)


async def swept(client: Any, collection: str) -> int:
    """How many of its keys are left, expired or not."""
    left: int = await client.zcard(f"omni-keys:{collection}")
    return left


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text("utf-8")


async def at_rest(app: App, client: Any, worker: int) -> Sample:
    """What is held once dead letters are removed and results have expired."""
    await app.transport.discard("flat.work")
    deadline = time.monotonic() + SECONDS
    for collection in (RESULTS, TENANT_RESULTS, CAUSES, CORRELATIONS, FAILURES):
        # An index is swept a part at a time by those who use it: until nothing of it is left.
        while await app.store.browse(collection, limit=1) or await swept(client, collection):
            assert time.monotonic() < deadline, f"{collection} do not expire"
            await anyio.sleep(0.05)
    for topic in ("flat.work", "flat.replies"):  # within a third of a lease
        while (kept := await client.xlen(f"omni-stream:{topic}")) > 1.1 * RETENTION:
            assert time.monotonic() < deadline, f"{kept} events of {topic}"
            await anyio.sleep(0.05)
    sizes: defaultdict[str, int] = defaultdict(int)
    count = 0
    async for key in client.scan_iter(count=1000):
        size = await client.memory_usage(key, samples=0)
        if size is not None:  # else it has expired since
            count += 1
            # One key per consumer or publisher is one kind.
            sizes[re.sub(r"[0-9a-f]{16}|\b\d+-", "*", key)] += size
    data = (await client.info("memory"))["used_memory_dataset"]
    resident = re.search(r"VmRSS:\s+(\d+) kB", status_of(worker))
    assert resident
    return Sample(dict(sizes), count, int(data), int(resident[1]) * 1024)
