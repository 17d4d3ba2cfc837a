"""Connections by TLS and by a Unix socket, on both event loops: replies are read off each."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import anyio
import pytest
import trustme

from omnidaemon.messages import Message
from omnidaemon.transports.redis import RedisTransport
from tests.redis.servers import RedisServer, binaries

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """A socket's transport is another class on each."""
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


class Way(NamedTuple):
    """A server, and the URL of one way in."""

    server: RedisServer
    url: str


@pytest.fixture(params=["tls", "unix"])
def way(
    request: pytest.FixtureRequest, tmp_path: Path, no_server: Callable[[str], NoReturn]
) -> Iterator[Way]:
    """One way into a server of its own."""
    if not binaries():
        no_server("there is no redis-server")
    authority, folder = trustme.CA(), tmp_path
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--unixsocket", str(folder / "redis.sock")]
    if request.param == "tls":
        options += ["--tls-port", str(port), "--tls-auth-clients", "no"]
        for what, file in (("cert", "cert"), ("key", "key"), ("ca-cert", "ca")):
            options += [f"--tls-{what}-file", str(folder / f"{file}.pem")]
    server = RedisServer(binaries()[max(binaries())], folder, *options)
    server.start()
    if request.param == "tls":
        yield Way(server, f"rediss://localhost:{port}/0?ssl_ca_certs={folder}/ca.pem")
    else:
        yield Way(server, f"unix://{folder}/redis.sock?db=0")
    server.stop()


async def test_small_and_large_replies_come_by_it(way: Way) -> None:
    bodies = [b"x" * size for size in (1, 300_000, 10)]
    async with RedisTransport(way.url) as transport:
        await transport.publish(*[Message("t", f"e{n}", body) for n, body in enumerate(bodies)])
        async with transport.subscribe("t", "mail", lease=5) as mail:
            held = await mail.receive(3, wait=5)
            assert [delivery.body for delivery in held] == bodies
            assert await transport.renew(mail.consumer, held) == []


async def test_who_leaves_waits_for_no_goodbye(way: Way) -> None:
    """TLS asks for one, and the loop may end before it comes: uvloop calls that a leak."""
    async with RedisTransport(way.url) as transport:
        async with transport.subscribe("t", "mail", lease=5) as mail:
            assert await mail.receive(1, wait=0) == []
        way.server.send(signal.SIGSTOP)


async def test_a_connection_that_is_not_made_yet_is_given_up(way: Way) -> None:
    """It is in the midst of TLS's greeting, perhaps."""
    async with RedisTransport(way.url) as transport:
        way.server.send(signal.SIGSTOP)
        with anyio.move_on_after(0.3):
            async with transport.watch("e0") as watch:  # on a connection of its own
                await watch.wait(60)
