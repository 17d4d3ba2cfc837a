"""Workers killed at any moment: every event ends settled exactly once per group."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import anyio
import pytest

from omnidaemon import App
from omnidaemon.envelope import Envelope, decode, load
from omnidaemon.records import RESULTS, Metrics

# SOAK_SECONDS=3600 kills for an hour, as `nox -s soak` does.
SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "0"))
ROUND_SECONDS = 15.0

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180 + 2 * SOAK_SECONDS)]
ROOT = Path(__file__).parent.parent.parent
AGENTS = ("work", "compute")


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def start_worker(tmp_path):
    """Starts workers, and ends those that still live after the test."""
    started = []

    def start(url):
        command = [sys.executable, "-m", "omnidaemon", "worker", "tests.process.chaos_app:app"]
        with (tmp_path / f"worker-{len(started)}.log").open("wb") as log:
            worker = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, "CHAOS_URL": url}, stdout=log, stderr=log
            )
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.kill()
        worker.wait()


async def test_killing_workers_at_random_loses_nothing_and_settles_once(start_worker, tmp_path):
    for seed in range(1 + int(SOAK_SECONDS / ROUND_SECONDS)):
        app = App("publisher", transport=f"sqlite://{tmp_path}/chaos-{seed}.db")
        start = partial(start_worker, f"sqlite://{tmp_path}/chaos-{seed}.db")
        workers = [start() for _ in range(3)]
        await one_round(app, workers, start, random.Random(seed), events=3_000, kills=20)
        for worker in workers:
            worker.terminate()
        assert [worker.wait() for worker in workers] == [0, 0, 0]


async def one_round(app, workers, start, chance, *, events, kills):
    async with app:
        silent = await app.send_many([("chaos.work", n) for n in range(events)])
        asking = [Envelope("chaos.work", n, reply_to="chaos.replies") for n in range(events // 5)]
        replying = {task.id for task in await app.send_many(asking)}
        expected = {task.id for task in silent} | replying
        for _ in range(kills):
            await anyio.sleep(chance.uniform(0.05, 0.4))  # lets them get somewhere; proves nothing
            victim = chance.randrange(len(workers))
            workers[victim].send_signal(signal.SIGKILL)
            workers[victim].wait()
            workers[victim] = start()
        await settled(app, workers)

        for agent in AGENTS:
            letters = await app.transport.dead_letters("chaos.work", agent, limit=10_000)
            totals = (await Metrics(app.store).totals("chaos.work"))["chaos.work"][agent]
            # A counter moves inside its settlement: twice settled would be counted twice.
            assert totals.processed + totals.dead == len(expected)
            assert len(letters) == totals.dead
        records = await app.store.browse(RESULTS, limit=10 * events)
        counts = Counter(record.key for record in records)
        assert set(counts.values()) == {1}
        assert {key.split("/")[0] for key in counts} == expected
        assert len(counts) == 2 * len(expected)
        replies = Counter()
        for event in await app.transport.browse("chaos.replies", limit=10 * events):
            envelope = decode(event.body)
            replies[envelope.causation_id, load(envelope.content)["agent"]] += 1
        dead = {letter.id for letter in await app.transport.dead_letters("chaos.work", limit=999)}
        assert set(replies.values()) == {1}
        assert {(task, agent) for task in replying - dead for agent in AGENTS} <= set(replies)


async def settled(app, workers):
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        groups = await app.transport.groups("chaos.work")
        if len(groups) == 2 and not any(g.lag or g.leased or g.waiting for g in groups):
            return
        assert all(worker.poll() is None for worker in workers), "a worker ended by itself"
        await anyio.sleep(0.1)
    raise AssertionError(f"not settled in time: {groups}")
