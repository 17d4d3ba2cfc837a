"""The admin API as it is served from a process: over a real socket, beside other work."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import httpx
import msgspec
import pytest

from omnidaemon import App
from omnidaemon.admin import ApiServer, serve_api
from omnidaemon.admin.events import Mark
from omnidaemon.errors import ConfigurationError, InvalidSettings
from omnidaemon.testing import serve
from tests.unit.admin_client import KEYS, shop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The server runs on asyncio in any case."""
    return "asyncio"


@pytest.fixture
def stopping() -> Iterator[list[ApiServer]]:
    """Stops what is put into it."""
    servers: list[ApiServer] = []
    yield servers
    for server in servers:
        server.stop()
        assert not server.alive


# Serving


async def test_it_serves_beside_a_loop_that_is_blocked(stopping: list[ApiServer]) -> None:
    app = shop()
    async with serve(app):
        server = serve_api(app, port=0)
        stopping.append(server)
        # This very thread runs the worker; nothing else of it moves while the answer comes.
        answer = httpx.get(f"{server.url}/health", timeout=5)  # noqa: ASYNC210  on purpose
        assert answer.json()["status"] == "running"


def test_a_second_start_joins_the_first(stopping: list[ApiServer]) -> None:
    first = serve_api(shop(), port=0)
    stopping.append(first)
    assert serve_api(shop(), port=0) is first
    assert serve_api(App("other", transport="memory"), host="0.0.0.0") is first


def test_it_can_be_started_again_once_it_has_been_stopped(stopping: list[ApiServer]) -> None:
    first = serve_api(shop(), port=0)
    first.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{first.url}/livez")
    second = serve_api(shop(), port=first.port)
    stopping.append(second)
    assert httpx.get(f"{second.url}/livez").status_code == 200


def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"port {port} of 127\.0\.0\.1.*--api-port"):
            serve_api(shop(), port=port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_without_keys_other_machines_are_kept_out(host: str) -> None:
    with pytest.raises(InvalidSettings, match=r"Set OMNIDAEMON_API_KEYS=key:scope"):
        serve_api(shop(), host=host, port=0)


def test_with_keys_it_may_be_open_to_other_machines(stopping: list[ApiServer]) -> None:
    server = serve_api(shop(), host="0.0.0.0", port=0, keys=KEYS)
    stopping.append(server)
    url = f"http://127.0.0.1:{server.port}/agents"
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"Authorization": "Bearer reader-key"}).status_code == 200


def test_an_address_that_is_not_ours_is_one_clear_line() -> None:
    with pytest.raises(ConfigurationError, match="OMNIDAEMON_API_HOST"):
        serve_api(shop(), host="no such host", port=0)


def test_signals_stay_with_those_who_handle_them(stopping: list[ApiServer]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    stopping.append(serve_api(shop(), port=0))
    assert httpx.get(f"{stopping[0].url}/livez").status_code == 200  # it is up and running
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_it_answers_under_the_names_of_this_machine_alone(stopping: list[ApiServer]) -> None:
    server = serve_api(shop(), port=0)
    stopping.append(server)
    with socket.create_connection(("127.0.0.1", server.port), 5) as peer:
        peer.sendall(b"GET /agents HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert peer.recv(100).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("keys", [(), KEYS])
def test_a_body_without_end_is_cut_off(stopping: list[ApiServer], keys: tuple[str, ...]) -> None:
    server = serve_api(shop(), port=0, keys=keys)
    stopping.append(server)
    sent = 0
    with socket.create_connection(("127.0.0.1", server.port), 10) as peer:
        peer.sendall(
            b"POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        try:
            while sent < 100_000_000:
                peer.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass  # hung up on, as it should be
        assert sent < 50_000_000


# Events


class Stream:
    """Server-sent events as they are read."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines

    async def next(self) -> dict[str, Any]:
        """The next event's fields, its data decoded; comments are passed over."""
        fields: dict[str, Any] = {}
        with anyio.fail_after(60):
            async for line in self._lines:
                if not line and "event" in fields:
                    fields["data"] = msgspec.json.decode(fields["data"])
                    return fields
                name, _, value = line.partition(": ")
                if name and line:
                    fields[name] = value
        raise AssertionError("the stream ended")


@asynccontextmanager
async def listening(url: str, key: str | None = None, last: str | None = None) -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if last is not None:
        headers["Last-Event-ID"] = last
    async with (
        httpx.AsyncClient(headers=headers, timeout=10) as http,
        http.stream("GET", url) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith(":")  # it has begun
        yield Stream(lines)


async def test_runs_are_streamed_as_they_end(stopping: list[ApiServer]) -> None:
    app = shop()
    async with serve(app) as served:
        before = await app.send("orders", 0)
        await served.settled()
        server = serve_api(app, port=0)
        stopping.append(server)
        async with listening(f"{server.url}/events") as stream:
            fine = await app.send("orders", 1, tenant_id="a", correlation_id="c")
            await served.settled()
            bad = await app.send("orders", "bad")
            first, second = await stream.next(), await stream.next()
        assert first["event"] == "run"
        assert before.id != first["data"]["task_id"] == fine.id
        assert first["data"]["status"] == "succeeded"
        assert (first["data"]["tenant_id"], first["data"]["correlation_id"]) == ("a", "c")
        assert (second["data"]["task_id"], second["data"]["status"]) == (bad.id, "dead")
        assert "no money" in second["data"]["error"]
        assert "result" not in second["data"]


async def test_a_stream_goes_on_after_the_last_event_that_was_seen(
    stopping: list[ApiServer],
) -> None:
    app = shop()
    async with serve(app) as served:
        server = serve_api(app, port=0)
        stopping.append(server)
        tasks = []
        async with listening(f"{server.url}/events?topic=orders") as stream:
            for n in range(3):
                tasks.append(await app.send("orders", n))
                await app.send("mails", n)
                await served.settled()
            last = (await stream.next())["id"]
        async with listening(f"{server.url}/events?topic=orders", last=last) as stream:
            seen = [(await stream.next())["data"]["task_id"] for _ in range(2)]
        assert seen == [task.id for task in tasks[1:]]
        async with httpx.AsyncClient() as http:
            answer = await http.get(f"{server.url}/events", headers={"Last-Event-ID": "yesterday"})
        assert answer.status_code == 422


async def test_a_tenants_stream_has_its_own_runs_alone(stopping: list[ApiServer]) -> None:
    app = shop()
    async with serve(app):
        server = serve_api(app, port=0, keys=KEYS)
        stopping.append(server)
        async with listening(f"{server.url}/events", "a-key") as stream:
            await app.send("orders", 1, tenant_id="b")
            await app.send("orders", 1)
            own = await app.send("orders", 1, tenant_id="a")
            assert (await stream.next())["data"]["task_id"] == own.id
        async with httpx.AsyncClient(headers={"Authorization": "Bearer a-key"}) as http:
            refused = await http.get(f"{server.url}/events?tenant_id=b")
        assert refused.status_code == 403


async def test_a_stream_that_cannot_follow_says_so(stopping: list[ApiServer]) -> None:
    app = shop()
    async with serve(app) as served:
        await app.send_many([("orders", n) for n in range(1100)])
        await served.settled()
        server = serve_api(app, port=0)
        stopping.append(server)
        async with listening(f"{server.url}/events", last=str(Mark(0, ""))) as stream:
            assert (await stream.next())["event"] == "gap"
            assert [(await stream.next())["event"] for _ in range(1000)] == ["run"] * 1000


async def test_open_streams_do_not_hold_up_the_end(stopping: list[ApiServer]) -> None:
    server = serve_api(shop(), port=0)
    stopping.append(server)
    async with listening(f"{server.url}/events"):
        with anyio.fail_after(60):
            await anyio.to_thread.run_sync(server.stop)
    assert not server.alive
    assert "omnidaemon-api" not in [thread.name for thread in threading.enumerate()]


async def test_so_many_streams_are_open_at_a_time_and_no_more(
    stopping: list[ApiServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omnidaemon.admin.events.MOST_STREAMS", 2)
    server = serve_api(shop(), port=0)
    stopping.append(server)
    url = f"{server.url}/events"
    async with listening(url), listening(url), httpx.AsyncClient(timeout=30) as http:
        refused = await http.get(url)
        assert refused.status_code == 503
        assert "close one" in refused.json()["detail"]
    with anyio.fail_after(60):
        while True:  # until the server has heard that both are gone
            async with httpx.AsyncClient() as http, http.stream("GET", url) as answer:
                if answer.status_code == 200:
                    break
                await anyio.sleep(0.01)
