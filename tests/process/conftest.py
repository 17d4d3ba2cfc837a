"""Real processes of the command line, each test in a folder of its own."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import redis.asyncio

from omnidaemon import App
from omnidaemon.settings import Settings
from tests.process.chaos import Workers
from tests.process.cutting_proxy import CuttingProxy
from tests.redis.servers import RedisServer, binaries
from tests.started import OURS as OURS
from tests.started import SECONDS, Started, environment

Start = Callable[..., Started]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `omnidaemon ...` in the test's folder."""
    started: list[Started] = []

    def start(*arguments: str, **changes: str) -> Started:
        command = (sys.executable, "-m", "omnidaemon", *arguments)
        started.append(Started(tmp_path, command, environment(**changes)))
        return started[-1]

    yield start
    for process in started:
        process.clean_up()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `omnidaemon ...` in the test's folder to its end."""

    def run(
        *arguments: str, stdin: str | None = None, **changes: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "omnidaemon", *arguments],
            cwd=tmp_path,
            env=environment(**changes),
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    return run


@pytest.fixture
def wait_for() -> Callable[[Path], None]:
    """Waits for a file, by which handlers in other processes say where they are."""

    def wait(file: Path) -> None:
        deadline = time.monotonic() + SECONDS
        while not file.exists():
            assert time.monotonic() < deadline, f"no {file.name} within {SECONDS} s"
            threading.Event().wait(0.01)

    return wait


@pytest.fixture
def server(tmp_path: Path, no_server: Callable[[str], NoReturn]) -> Iterator[RedisServer]:
    """The newest Redis server there is, which writes all that it acknowledges to its file."""
    if not binaries():
        no_server("there is no redis-server")
    version = max(binaries())
    options = ["--appendonly", "yes", "--appendfsync", "always"]
    if version >= "7":  # older ones allow it without being asked
        options += ["--enable-debug-command", "yes"]
    made = RedisServer(binaries()[version], tmp_path, *options)
    made.start()
    yield made
    made.stop()


@pytest.fixture
async def client(server: RedisServer, anyio_backend: Any) -> AsyncIterator[Any]:
    """What a person with redis-cli has."""
    async with redis.asyncio.Redis(port=server.port, decode_responses=True) as made:
        yield made


@pytest.fixture
def workers(tmp_path: Path, server: RedisServer) -> Iterator[Workers]:
    """Workers of the chaos app on the server; none runs yet."""
    made = Workers(tmp_path, server.url)
    yield made
    made.clean_up()


@pytest.fixture
async def app(server: RedisServer, anyio_backend: Any) -> AsyncIterator[App]:
    """Publishes to the workers and reads what they wrote, by a connection of its own."""
    async with App("observer", transport=server.url, settings=Settings()) as made:
        yield made


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[CuttingProxy]:
    """Stands in front of the server."""
    made = CuttingProxy(server.port)
    made.start()
    yield made
    made.stop()


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The URL of a transport that processes share, a fresh one for each test."""
    if request.param == "redis":
        return request.getfixturevalue("server").url
    return f"sqlite://{tmp_path}/shared"
