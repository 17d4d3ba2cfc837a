"""A server of its own for each test that stops, fills or cuts one, and a proxy that cuts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import redis.asyncio

from omnidaemon.transports.redis import RedisTransport
from tests.redis.servers import Cluster, RedisServer, Sentinels, binaries


@pytest.fixture
def anyio_backend() -> str:
    """redis-py knows asyncio alone."""
    return "asyncio"


@pytest.fixture
def server(tmp_path: Path, no_server: Callable[[str], NoReturn]) -> Iterator[RedisServer]:
    """The newest server there is, with an append-only file."""
    if not binaries():
        no_server("there is no redis-server")
    made = RedisServer(binaries()[max(binaries())], tmp_path, "--appendonly", "yes")
    made.start()
    yield made
    made.stop()


@pytest.fixture(params=["7.0", "6.2"])
def sentinels(
    request: pytest.FixtureRequest, tmp_path: Path, no_server: Callable[[str], NoReturn]
) -> Iterator[Sentinels]:
    """A primary and a replica under a sentinel."""
    # In both: what a replica says to a script that writes differs.
    if request.param not in binaries():
        no_server(f"there is no redis-server {request.param}")
    made = Sentinels(binaries()[request.param], tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def cluster(tmp_path: Path, no_server: Callable[[str], NoReturn]) -> Iterator[Cluster]:
    """A cluster of three masters of its own, the first with a replica."""
    if not binaries():
        no_server("there is no redis-server")
    quick = ("--cluster-node-timeout", "1000")
    made = Cluster(binaries()[max(binaries())], tmp_path, *quick, replica=True)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
async def client(server: RedisServer, anyio_backend: str) -> AsyncIterator[Any]:
    """What a person with redis-cli has."""
    async with redis.asyncio.Redis(port=server.port, decode_responses=True) as made:
        yield made


@pytest.fixture
async def transport(server: RedisServer, anyio_backend: str) -> AsyncIterator[RedisTransport]:
    """A transport on the server."""
    async with RedisTransport(server.url) as made:
        yield made


class Proxy:
    """Stands between a transport and the server, and can cut replies off.

    Attributes:
        url: Where it listens.
    """

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._word = b""
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""
        self.cuts = 0

    def cut_reply_to(self, word: bytes) -> None:
        """The next command with this word is executed, and its connection ends without a reply."""
        self._word = word

    async def __aenter__(self) -> Proxy:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for writer in self._writers:
            writer.close()
        await asyncio.sleep(0.05)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self._server.port)
        self._writers |= {writer, forth}
        cut = asyncio.Event()

        async def replies() -> None:
            while data := await back.read(65_536):
                if cut.is_set():
                    self.cuts += 1
                    break
                writer.write(data)
            writer.close()

        task = asyncio.create_task(replies())
        while data := await reader.read(65_536):
            if self._word and self._word in data:
                self._word = b""
                cut.set()
            forth.write(data)
        forth.close()
        await task


@pytest.fixture
async def proxy(server: RedisServer, anyio_backend: str) -> AsyncIterator[Proxy]:
    """A proxy in front of the server."""
    async with Proxy(server) as made:
        yield made
