"""Redis goes away, hangs, and cuts its clients off: workers resume by themselves."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from omnidaemon import App
from omnidaemon.records import Metrics
from tests.process.chaos import (
    AGENTS,
    NOISE_SECONDS,
    RESUME_SECONDS,
    SETTLED_SECONDS,
    TOPIC,
    Load,
    Workers,
    resumed,
)
from tests.redis.servers import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]
FAILS = "fails, and is tried again"
LEASE_SECONDS = 2.0
Record = Callable[[str, object], None]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def check_soon(seconds: float, record_property: Record) -> None:
    """The broker is back, and workers work again so many seconds later."""
    record_property("resumed after seconds", round(seconds, 3))
    print(f"resumed after {seconds:.2f} s")
    assert seconds < RESUME_SECONDS + NOISE_SECONDS


def health(run: Any, server: RedisServer) -> tuple[int, str]:
    ended = run("health", "--json", REDIS_URL=server.url)
    return ended.returncode, json.loads(ended.stdout)["status"]


async def until_leased(app: App, runs: int) -> None:
    """Waits until the agent `work` has so many runs in progress."""
    deadline = time.monotonic() + SETTLED_SECONDS
    while True:
        leased = {group.name: group.leased for group in await app.transport.groups(TOPIC)}
        if leased.get("work") == runs:
            return
        assert time.monotonic() < deadline, leased
        await anyio.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_idle_workers_resume_after_a_restart_and_health_tells_of_it(
    number: signal.Signals,
    server: RedisServer,
    workers: Workers,
    app: App,
    run: Any,
    record_property: Record,
) -> None:
    workers.start()
    await workers.ready()
    load = Load(app)
    await load.publish(5)
    await load.settled(workers)
    server.stop(number)
    assert health(run, server) == (1, "degraded")
    await workers.said(FAILS)
    server.start()
    check_soon(await resumed(app, workers), record_property)
    began = time.monotonic()
    while health(run, server) != (0, "running"):
        assert time.monotonic() - began < 30
    record_property("running after seconds", round(time.monotonic() - began, 3))
    print(f"running after {time.monotonic() - began:.2f} s")
    workers.drain()


async def test_restarts_under_load_lose_nothing_and_settle_once(
    server: RedisServer, workers: Workers, app: App, record_property: Record
) -> None:
    workers.start(2)
    await workers.ready()
    load = Load(app)
    await load.publish(1_500)
    for turn, number in enumerate([signal.SIGKILL, signal.SIGTERM, signal.SIGKILL]):
        await load.progress(300 * turn + 100, workers)
        server.stop(number)
        await workers.said(FAILS, 2 * turn + 2)
        # Once for so long that the pauses between tries are at their longest.
        await anyio.sleep(4 if number is signal.SIGTERM else 0)
        server.start()
        check_soon(await load.moves(workers), record_property)
    await load.settled(workers)
    await load.check()
    workers.drain()


async def test_cut_clients_under_load_lose_nothing_and_settle_once(
    workers: Workers, app: App, client: Any, record_property: Record
) -> None:
    workers.start(2)
    await workers.ready()
    load = Load(app)
    await load.publish(1_500)
    cut = 0
    for turn in range(40):
        await load.progress(30 * turn, workers)
        kind = "pubsub" if turn % 4 == 3 else "normal"
        cut += await client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    assert cut > 40
    check_soon(await load.moves(workers), record_property)
    await load.settled(workers)
    await load.check()
    workers.drain()


async def test_a_server_that_hangs_for_longer_than_the_lease_loses_nothing_and_settles_once(
    server: RedisServer, workers: Workers, app: App, client: Any, record_property: Record
) -> None:
    workers.start(2)
    await workers.ready()
    load = Load(app)
    await load.publish(1_500)
    await load.progress(300, workers)
    await client.execute_command("DEBUG", "SLEEP", str(LEASE_SECONDS + 0.5))
    check_soon(await load.moves(workers), record_property)
    await load.progress(700, workers)
    server.send(signal.SIGSTOP)
    try:
        await anyio.sleep(LEASE_SECONDS + 0.5)  # what is tested is the time that passes
    finally:
        server.send(signal.SIGCONT)
    check_soon(await load.moves(workers), record_property)
    await load.settled(workers)
    await load.check()
    workers.drain()


async def until_renewed(client: Any) -> None:
    """Waits until the leases of both agents were renewed from now on, and nobody joined later."""
    now = time.time() * 1000
    for agent in AGENTS:
        while float(await client.hget(f"omni-topic:{TOPIC}", f"renewed/{agent}") or 0) < now:
            await anyio.sleep(0.02)


async def test_runs_that_outlast_an_outage_stay_with_their_workers(
    server: RedisServer, workers: Workers, app: App, client: Any
) -> None:
    workers.start(3)
    await workers.ready()
    load = Load(app)
    await load.publish(0, *[-9] * 12)
    await until_leased(app, 12)
    await until_renewed(client)
    server.send(signal.SIGSTOP)
    try:
        await anyio.sleep(LEASE_SECONDS + 1)  # all leases end, as the server's clock has it
    finally:
        server.send(signal.SIGCONT)
    await resumed(app, workers)
    server.stop()
    await anyio.sleep(LEASE_SECONDS + 1)
    server.start()
    await load.settled(workers)
    workers.drain()
    # Nobody lost a lease to another, or to itself: no run was repeated, and none charged.
    assert " lease " not in workers.logs
    records = await app.store.browse("results", limit=100)
    totals = (await Metrics(app.store).totals(TOPIC))[TOPIC]["work"]
    assert (totals.processed, totals.failed) == (12 + 1, 0)
    assert len(records) == 2 * (12 + 1)
