"""The admin API over a Redis that goes away, hangs, and comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator

import anyio
import httpx
import pytest

from omnidaemon import App
from omnidaemon.admin import Admin
from omnidaemon.drivers import redis
from tests.redis.servers import RedisServer
from tests.unit.admin_client import client

pytestmark = pytest.mark.anyio

ASKED = (
    ("GET", "/health"),
    ("GET", "/readyz"),
    ("GET", "/agents"),
    ("GET", "/tasks"),
    ("GET", "/tasks/x"),
    ("GET", "/metrics"),
    ("GET", "/bus/stats"),
    ("GET", "/storage/health"),
    ("GET", "/config"),
    ("POST", "/tasks"),
    ("POST", "/agents/orders/charge/unsubscribe"),
    ("DELETE", "/bus/dlq/orders"),
    ("DELETE", "/storage/all"),
)


@pytest.fixture
async def http(server: RedisServer, anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API over the server."""
    async with App("x", transport=server.url) as app, client(Admin(app, auth="none")) as made:
        yield made


async def ask_all(http: httpx.AsyncClient) -> None:
    for method, path in ASKED:
        body = {"topic": "orders", "payload": 1} if (method, path) == ("POST", "/tasks") else None
        answer = await http.request(method, path, json=body, timeout=60)
        assert answer.status_code == 503, (method, path, answer.text)


async def test_a_broker_that_is_gone_is_a_503(http: httpx.AsyncClient, server: RedisServer) -> None:
    assert (await http.get("/readyz")).status_code == 200
    server.stop()
    await ask_all(http)
    assert (await http.get("/livez")).status_code == 200
    server.start()
    with anyio.fail_after(60):
        while (await http.get("/readyz")).status_code != 200:
            await anyio.sleep(0.05)
    assert (await http.get("/health")).json()["event_bus_connected"] is True


async def test_a_broker_that_hangs_is_a_503_as_well(
    http: httpx.AsyncClient, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "SILENT_SECONDS", 600.0)  # the connection itself does not say so
    assert (await http.get("/readyz")).status_code == 200
    os.kill(server.pid, signal.SIGSTOP)
    try:
        for method, path in (("GET", "/tasks"), ("DELETE", "/storage/all"), ("GET", "/health")):
            with anyio.fail_after(60):
                assert (await http.request(method, path, timeout=60)).status_code == 503
    finally:
        os.kill(server.pid, signal.SIGCONT)
    with anyio.fail_after(60):
        while (await http.get("/readyz")).status_code != 200:
            await anyio.sleep(0.05)
