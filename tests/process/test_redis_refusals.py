"""Redis answers and refuses: workers and senders say why, try again, and recover."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import redis.asyncio

from omnidaemon import App
from omnidaemon.errors import ConnectionLost
from tests.process.chaos import NOISE_SECONDS, RESUME_SECONDS, SETTLED_SECONDS, TOPIC, Load, Workers
from tests.process.cutting_proxy import CuttingProxy
from tests.redis.servers import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]
Recover = Callable[[], Awaitable[object]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def check_refused(
    app: App, workers: Workers, load: Load, code: str, recover: Recover
) -> None:
    """The server refuses now; `recover` ends that. Says so meanwhile, and loses nothing."""
    said = f"Redis says {code}: "
    await workers.said(said)
    began = time.monotonic()
    with pytest.raises(ConnectionLost, match=f"{said}.*the event is not stored") as refused:
        await app.send(TOPIC, 1, timeout=0.5)
    assert not refused.value.may_be_stored
    assert time.monotonic() - began >= 0.2  # it was tried again
    tasks = []

    async def send() -> None:
        tasks.append(await app.send(TOPIC, 1, timeout=SETTLED_SECONDS))

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        await anyio.sleep(0.1)
        assert tasks == []
        await recover()
    load.expected.add(tasks[0].id)
    assert await load.moves(workers) < RESUME_SECONDS + NOISE_SECONDS
    await load.settled(workers)
    await load.check()
    workers.drain()


async def under_load(app: App, workers: Workers, *others: int) -> Load:
    workers.start(2)
    await workers.ready()
    load = Load(app)
    await load.publish(800, *others)
    await load.progress(100, workers)
    return load


@pytest.mark.parametrize("code", ["READONLY", "MASTERDOWN"])
async def test_a_server_that_became_a_replica_is_said_and_outlasted(
    code: str, workers: Workers, app: App, client: Any
) -> None:
    load = await under_load(app, workers)
    stale = "yes" if code == "READONLY" else "no"
    await client.config_set("replica-serve-stale-data", stale)
    # Of a server that does not exist: what it has stays.
    await client.replicaof("127.0.0.1", 1)
    await check_refused(app, workers, load, code, lambda: client.replicaof("NO", "ONE"))


async def test_a_full_server_takes_no_events_and_lets_go_of_those_it_has(
    workers: Workers, app: App, client: Any
) -> None:
    load = await under_load(app, workers, -5)
    await client.config_set("maxmemory", "1")
    with pytest.raises(ConnectionLost, match=r"Redis says OOM: .*maxmemory") as refused:
        await app.send(TOPIC, 1, timeout=0.5)
    assert not refused.value.may_be_stored
    await load.settled(workers)
    await load.check()
    workers.drain()
    # One run took longer than two leases: it was renewed, and nothing was taken from who held it.
    assert " lease " not in workers.logs


async def test_a_server_that_loads_its_data_is_said_and_outlasted(
    server: RedisServer, workers: Workers, app: App, proxy: CuttingProxy
) -> None:
    await app.send_many([("ballast", n) for n in range(12_000)])
    load = await under_load(app, workers)
    server.stop()
    # It answers LOADING until it has read its file: three seconds, if nobody makes it faster.
    server.launch("--key-load-delay", "250")

    async def loaded() -> None:
        async with redis.asyncio.Redis(port=server.port) as client:
            await client.config_set("key-load-delay", 0)
            while (await client.info("persistence"))["loading"]:
                await anyio.sleep(0.02)

    await check_refused(app, workers, load, "LOADING", loaded)
