"""Real processes of the command line, each test in a folder of its own."""

from __future__ import annotations

import os
import queue
import signal
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

SECONDS = 15.0
OURS = ("OMNIDAEMON_", "EVENT_BUS_", "STORAGE_", "REDIS_", "JSON_STORAGE_", "LOG_")


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without settings of ours, and with these."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return {**env, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", **changes}


class Started:
    """A running program, whose lines (of both streams) can be waited for."""

    def __init__(self, folder: Path, command: tuple[str, ...], env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.pid = self.process.pid
        self.lines: list[str] = []
        self._coming: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._coming.put(line.rstrip("\n"))
        self._coming.put(None)

    def line(self, *words: str) -> str:
        """The next line that has all the words; what comes before it is passed over."""
        deadline = time.monotonic() + SECONDS
        while True:
            line = self._next(deadline, f"no line with {words}")
            if line is None:
                pytest.fail(f"ended without a line with {words}:\n" + "\n".join(self.lines))
            if all(word in line for word in words):
                return line

    def _next(self, deadline: float, what: str) -> str | None:
        try:
            line = self._coming.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            pytest.fail(f"{what} within {SECONDS} s:\n" + "\n".join(self.lines))
        if line is not None:
            self.lines.append(line)
        return line

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def send_group(self, number: signal.Signals) -> None:
        """Signals the whole process group, as a terminal does."""
        os.killpg(self.pid, number)

    def ended(self) -> int:
        """Waits for the end of it and of all that writes to its streams; the exit code."""
        deadline = time.monotonic() + SECONDS
        while self._next(deadline, "no end") is not None:
            pass
        return self.process.wait(SECONDS)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def clean_up(self) -> None:
        self.process.kill()  # a supervisor's children drain then
        self.process.wait()
        self._reader.join(SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()


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
